"""The configuration: keys described, TOML there and back, overrides, a clear sentence for every refusal."""

import re

import pytest
from pydantic import ValidationError

from dfc_numba.configuration.config import Config, key_paths, section_keys
from dfc_numba.configuration.config_file import (
    descriptions,
    load_config,
    parsed_value,
    preset_names,
    preset_text,
    preset_title,
    to_toml,
    tomllib,
    validated,
)
from dfc_numba.errors import ConfigurationError
from dfc_numba.registry import METHODS, OPTIMIZERS

ALL_PATHS = [f"{section}.{key}" for section in Config.model_fields for key in section_keys(section)]
OFF_BY_DEFAULT = {
    "optimizer.modulation", "optimizer.cosine_to", "feedback_optimizer.cosine_to", "log.on", "analysis.every",
    "training.clip_error", "training.normalise_updates",
    "controller.integrator", "controller.terms", "feedback_controller.terms",
}  # fmt: skip


def refusal(*overrides, source=None):
    """The message with which a configuration is refused."""
    with pytest.raises(ConfigurationError) as caught:
        load_config(source, overrides)
    return str(caught.value)


def test_defaults_are_the_digits_preset():
    assert Config() == load_config("digits")[0] == load_config()[0]


@pytest.mark.parametrize("section", Config.model_fields)
def test_every_key_has_a_description(section):
    texts = descriptions(section, Config())
    assert set(texts) == set(section_keys(section))
    assert all(texts.values())


def test_every_method_of_the_family_runs_a_controller_and_has_feedback_phases():
    family = {name for name in METHODS if name.split("-")[0] == "dfc"}
    assert {name for name, method in METHODS.items() if method.controlled} == family
    assert {name for name, method in METHODS.items() if method.feedback and not method.parameters} == family


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_states_every_key_that_it_uses_and_no_other(name):
    config, _ = load_config(name)
    stated = set(key_paths(tomllib.loads(preset_text(name))))
    used = {*ALL_PATHS, *(f"method.{key}" for key in config.method)} - set(config.unused_keys())
    assert used - OFF_BY_DEFAULT <= stated <= used


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_names_itself_and_its_source(name):
    assert preset_text(name).startswith("# ") and len(preset_title(name)) > 20
    assert re.search(r"arXiv:|chosen by us", preset_text(name))


@pytest.mark.parametrize("name", preset_names())
def test_toml_there_and_back(name):
    config, _ = load_config(name)
    assert validated(tomllib.loads(to_toml(config, "two\nlines"))) == config


def test_toml_keeps_lists_nested_options_and_none():
    overrides = ["data.name=file", 'data.options={path="a b.npz", deep={"odd key"=[1, [2.5, true]]}}']
    overrides += [
        "optimizer.learning_rate=[0.1,0.2,0.3]",
        "network.hidden=[3,4]",
        "network.hidden_activation=[tanh,relu]",
    ]
    config, _ = load_config(None, [*overrides, "controller.tau_apical=0.5", "optimizer.clip_norm=none"])
    assert config.data.options == {"path": "a b.npz", "deep": {"odd key": [1, [2.5, True]]}}
    assert config.optimizer.learning_rate == (0.1, 0.2, 0.3) and config.optimizer.clip_norm is None
    assert validated(tomllib.loads(to_toml(config))) == config


def test_json_there_and_back():
    overrides = [
        "optimizer.learning_rate=[0.1,0.2,0.3]",
        "network.hidden_activation=[tanh,relu]",
        "log.samples=[3,1]",
    ]
    for config in (Config(), load_config(None, overrides)[0]):
        assert (
            Config.model_validate_json(config.model_dump_json(), context={"refuse_unused": False}) == config
        )


def test_a_file_needs_to_state_only_what_it_changes(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[controller]\nk_p = 1.0\n[training]\nepochs = 7\n")
    config, _ = load_config(path)
    assert (config.controller.k_p, config.training.epochs) == (1.0, 7)
    assert config.controller.steps == Config().controller.steps and config.network == Config().network


@pytest.mark.parametrize("path", ALL_PATHS)
def test_set_reaches_every_key(path):
    """Each key, set to the value that it has already, is found and validated, or refused as unused."""
    section, key = path.split(".")
    value = getattr(getattr(Config(), section), key)
    text = to_toml(Config()).partition(f"[{section}]")[2].split("\n[")[0]
    line = re.search(rf"^{key} = (.*?)(?:  #|$)", text, flags=re.MULTILINE)
    if line is None:
        off = ["log.on=false"] if section == "log" else []  # which stating a key of it switches on
        assert "not used" in refusal(f"{path}={value}", *off)
    else:
        assert load_config(None, [f"{path}={line[1].strip()}"])[0] == Config()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3), ("1e-3", 0.001), (".5", 0.5), ("true", True), ("True", True), ("None", "none"), ("mnist", "mnist"),
        ('"3"', "3"), ("[1, 2]", [1, 2]), ("[tanh,relu]", ["tanh", "relu"]), ("/a/b.h5", "/a/b.h5"), ("", ""),
        ("{a = 1}", {"a": 1}), ("[1, 2", "[1, 2"),
    ],
)  # fmt: skip
def test_values_are_written_as_in_toml_or_python_or_plainly(text, value):
    assert parsed_value(text) == value


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epoch=3", "training.epoch: no such key; did you mean 'epochs'?"),
        ("trainin.epochs=3", r"\[trainin\]: no such section; did you mean 'training'?"),
        ("training.momentum=0.5", r"training.momentum: no such key \(optimizer.momentum exists\)"),
        ("training.epochs=0", "training.epochs = 0: must be greater than or equal to 1"),
        ("training.epochs=many", 'training.epochs = "many": must be an integer'),
        ("training.epochs=2.5", "training.epochs = 2.5: must be an integer"),
        ("training.epochs=true", "training.epochs = true: must be an integer"),
        ("training.epochs.deep=3", "training.epochs = { deep = 3 }: must be an integer"),
        ("training.freeze_forward=1", "training.freeze_forward = 1: must be true or false"),
        ("training.method=dfx", "must be 'dfc', .*; did you mean 'dfc'?"),
        ("target.feedback=week", "target.feedback = \"week\": must be 'weak' or 'strong'; did you mean 'weak'?"),
        ("target.class_value=1.5", "target.class_value = 1.5: must be less than or equal to 1"),
        ("network.hidden=[]", r"network.hidden = \[\]: must have at least one entry"),
        ("network.hidden=[3,0]", r"network.hidden\[1\] = 0: must be greater than or equal to 1"),
        ("network.hidden=5", "network.hidden = 5: must be a list"),
        ("network.hidden_activation=step", "network.hidden_activation = \"step\": must be one of linear, tanh"),
        ("network.hidden_activation=[tanh]", "network.hidden_activation lists 1 values, .* it needs"),
        ("optimizer.learning_rate=fast", "must be a number greater than 0, or a list of them, one per layer"),
        ("optimizer.learning_rate=[0.1]", "optimizer.learning_rate lists 1 values, .* it needs"),
        ("optimizer.learning_rate=-1", "must be a number greater than 0"),
        ("optimizer.epsilon=nan", "optimizer.epsilon = nan: must be a number greater than 0"),
        ("controller.sigma=nan", "controller.sigma = nan: must be a finite number"),
        ("controller.steps=0", "controller.steps = 0: must be greater than or equal to 1"),
        ("controller.dt=3", "controller: dt = 3 is larger than tau_v"),
        ("controller.alpha=none", 'controller.alpha = "none": must be a number'),
        ("controller.kp=1", "controller.kp: no such key; did you mean 'k_p'?"),
        ("data.options=3", "data.options = 3: must be a table of keys"),
        ("data.validation_size=9", r"validation_size: no such key \(data.options.validation_size exists\)"),
        ("split_seed=9", "such as data.options.split_seed=..."),
        ("epochs=3", "write it as section.key=value, such as training.epochs=..."),
        ("training.epochs", "write it as section.key=value"),
        (".epochs=3", "write it as section.key=value"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_with_those_allowed(override, message):
    assert re.search(message, refusal(override))


@pytest.mark.parametrize("override", ["analysis.what=[foo]", "network.hidden=[0]", "log.phases=[sleep]"])
def test_a_list_with_a_wrong_entry_is_not_called_too_short(override):
    assert len(refusal(override).splitlines()) == 1


def test_the_names_of_phases_are_also_those_in_files():
    overrides = ["feedback.extra_epochs=1", "log.phases=[forward, extra_feedback]"]
    assert load_config("digits", overrides)[0].log.phases == ("forward", "extra feedback")


@pytest.mark.parametrize("name", ["ok.npz", "folder/ok.H5"])
def test_data_in_place_of_a_configuration_are_told_where_they_go(name):
    text = refusal(source=name)
    assert text == f"{name}: is not a TOML file; to train on data of your own: --set data.name={name}"


@pytest.mark.parametrize(
    ("override", "left_out"),
    [
        (
            "training.method=bp",
            {"controller", "feedback", "feedback_controller", "feedback_optimizer", "training.rule"},
        ),
        ("feedback.train=false", {"feedback_controller", "feedback_optimizer", "feedback.epochs"}),
        ("optimizer.name=sgd", {"optimizer.beta1", "optimizer.beta2", "optimizer.epsilon"}),
    ],
)
def test_what_an_override_makes_meaningless_in_a_preset_is_left_out(override, left_out):
    config, dropped = load_config("digits", [override])
    assert left_out <= set(dropped)
    assert not set(key_paths(tomllib.loads(to_toml(config)))) & set(config.unused_keys())


def test_another_data_set_does_not_inherit_the_options_of_the_first():
    config, _ = load_config("student-teacher", ["data.name=digits", "target.loss=cross_entropy"])
    assert config.data.options == {}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_optimisers_are_those_of_the_configuration(name):
    assert load_config(None, [f"optimizer.name={name}"])[0].optimizer.name == name


def test_a_table_of_the_python_interface_is_checked_alike():
    with pytest.raises(ValidationError, match="not used, because"):
        Config.model_validate({"training": {"method": "bp"}, "controller": {"dt": 0.01}})


def test_an_unknown_preset_is_refused_with_the_nearest():
    text = refusal(source="digit")
    assert "did you mean 'digits'?" in text and all(name in text for name in preset_names())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[training\nepochs = 3", "is not a TOML file"),
        (b"\xff\xfe", "is not a TOML file"),
        (b"training = 3", "training = 3: must be a section with keys"),
        (b"controller = 3", "controller = 3: must be a section with keys"),
        (b"[training]\nepochs = 'x'\nseed = -1", 'epochs = "x": must be an integer'),
    ],
)
def test_a_file_that_is_wrong_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    text = refusal(source=str(path))
    assert message in text and all(line.startswith(f"{path}: ") for line in text.splitlines())


def test_a_file_that_is_not_there_is_refused(tmp_path):
    assert "cannot be read (No such file or directory)" in refusal(source=str(tmp_path / "none.toml"))


def test_published_presets_reproduce_the_published_numbers():
    dfc, bp = load_config("mnist-dfc")[0], load_config("mnist-bp")[0]
    nudge = dfc.target.step / dfc.training.batch_size
    assert dfc.target.step_per == "minibatch" and nudge == pytest.approx(6.0894e-4, rel=1e-4)
    assert dfc.optimizer.learning_rate / dfc.target.step == pytest.approx(1.18879e-3, rel=1e-5)
    assert bp.optimizer.learning_rate / bp.target.step == pytest.approx(2.977646e-4, rel=1e-6)
    assert dfc.optimizer.divide_by_step and bp.optimizer.divide_by_step
    assert (dfc.optimizer.clip_scope, dfc.feedback_optimizer.clip_scope) == ("tensor", "all")
    assert (dfc.controller.steps, dfc.feedback_controller.steps, dfc.feedback_controller.proactive) == (
        999,
        47,
        False,
    )


def test_resolved_toml_is_aligned_and_short():
    lines = to_toml(Config()).splitlines()
    assert max(map(len, lines)) <= 125


def test_rmsprop_has_the_published_constants_unless_told_otherwise():
    chosen = Config.model_validate({"optimizer": {"name": "rmsprop"}}).optimizer
    assert (chosen.beta2, chosen.epsilon) == (0.95, 0.03)
    stated = Config.model_validate({"optimizer": {"name": "rmsprop", "beta2": 0.9}}).optimizer
    assert (stated.beta2, stated.epsilon) == (0.9, 0.03)


def test_a_path_that_is_not_utf_8_is_refused():
    with pytest.raises(ConfigurationError, match="network.start_from = .* not valid UTF-8, .* another name"):
        load_config(None, ["network.start_from=na\udcefve.h5"])


@pytest.mark.parametrize("text", ['a"b', "a\\b", "a\tb\x7f\x01", "café", "none", "it's", "a\nb", ""])
def test_any_text_survives_as_toml(tmp_path, text):
    (tmp_path / "a.toml").write_text(
        to_toml(Config(data={"options": {"path": text, "a b": [text, 1e-08, True, -3]}}))
    )
    options = load_config(str(tmp_path / "a.toml"))[0].data.options
    assert options == {"path": text, "a b": [text, 1e-08, True, -3]}
