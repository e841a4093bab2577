"""Files that state what differs from a preset: `base`."""

import pytest

from dfc_numba.configuration.config_file import load_config, preset_names, preset_text, tomllib, used_values
from dfc_numba.errors import ConfigurationError


def write(folder, text):
    path = folder / "mine.toml"
    path.write_text(text)
    return str(path)


def test_a_file_over_a_base_has_its_values_and_those_of_the_base(tmp_path):
    config, left_out = load_config(write(tmp_path, 'base = "mnist-dfc"\n[training]\nepochs = 3\n'))
    expected, _ = load_config("mnist-dfc", ["training.epochs=3"])
    assert config == expected and left_out == []


def test_keys_of_the_base_that_the_file_makes_meaningless_are_left_out(tmp_path):
    config, _ = load_config(write(tmp_path, 'base = "mnist-dfc"\n[training]\nmethod = "dfc-ss-newton"\n'))
    assert "controller.dt" not in used_values(config) and config.controller.alpha == 0.0013890445062125412


@pytest.mark.parametrize(
    "text, message",
    [
        ('base = "mnist-dfx"', "base = 'mnist-dfx': must be the name of a preset; did you mean 'mnist-dfc'"),
        ("base = 3", "base = 3: must be the name of a preset"),
        (
            'base = "mnist-bp"\n[controller]\ndt = 0.01',
            "controller.dt: not used, because training.method = 'bp'",
        ),
        ('base = "mnist-bp"\n[training]\nepoch = 3', "training.epoch: no such key; did you mean 'epochs'"),
        ('base = "mnist-bp"\ntraining = 3', "training = 3: must be a section with keys"),
    ],
)
def test_a_wrong_base_or_key_is_refused_with_the_file(tmp_path, text, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        load_config(write(tmp_path, text))
    assert str(caught.value).startswith(f"{tmp_path}/mine.toml: ")


@pytest.mark.parametrize("name", preset_names())
def test_a_printed_preset_stands_for_itself(tmp_path, name):
    text = preset_text(name)
    assert "base" not in tomllib.loads(text) and text.startswith("# ")
    assert load_config(write(tmp_path, text))[0] == load_config(name)[0]
