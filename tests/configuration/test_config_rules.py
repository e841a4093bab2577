"""Rules between the keys of a configuration: each fires where it must, with the sentence that says what to change."""

import re

import pytest

from dfc_numba.configuration import config_rules
from dfc_numba.configuration.config import Config
from dfc_numba.configuration.config_file import load_config
from dfc_numba.configuration.config_usage import published_pursuit
from dfc_numba.errors import ConfigurationError
from dfc_numba.learning.phases import feedback_simulations, learning_phases
from dfc_numba.registry import METHODS

DFC_METHODS = [name for name, method in METHODS.items() if method.controlled]
SINGLE_PHASE = "dfc-single-phase"

STRONG = ["target.feedback=strong", "target.class_value=0.9"]
SINGLE = ["training.method=dfc-single-phase", "controller.sigma=0.05", "controller.tau_noise=0.1"]
ONE_SHOT = ["feedback.rule=one_shot"]
EXPECTED = ["feedback.rule=expected"]

CONTRADICTIONS = [
    # forward learning
    (["training.method=dfc-ssa", "target.feedback=strong"], "set target.feedback = 'weak', or training.method = 'dfc-ss'"),
    (["training.method=dfc-ssa", "controller.sigma=0.1"], "set controller.sigma = 0"),
    (["training.method=dfc-ss-newton", "controller.sigma=0.1"], "or set training.method = 'dfc-ss', which simulates"),
    (["training.method=dfc-ss-newton", "controller.sigma_output=0.1"], "and leave out controller.sigma_output"),
    (["controller.error=softmax"], "controller.error = 'softmax' needs target.feedback = 'strong'"),
    (["controller.error=softmax", "target.feedback=strong"], "choose target.class_value below 1"),
    (["training.method=dfc-ss-newton", "controller.error=softmax", "target.feedback=strong"], "choose target.class_value"),
    ([*STRONG, "controller.error=softmax", "training.samples=converged"], "would discard every sample"),
    (["controller.integrator=waveform", "controller.rtol=1e-5", "training.dtype=float32"], "set controller.rtol to at least"),
    (["target.loss=binary_cross_entropy", "target.feedback=strong"], "are logits; set target.feedback = 'weak'"),
    # feedback learning
    (["feedback_controller.error=softmax"], "feedback_controller.error = 'softmax' needs target.feedback = 'strong'"),
    ([*STRONG, "feedback_controller.error=softmax", "feedback.pursue=output"], "set feedback.pursue = 'target'"),
    (["feedback_controller.sigma=0"], "set feedback_controller.sigma above 0, or feedback.train = false"),
    (["feedback.pretraining_epochs=0", "feedback.epochs=0", "feedback.extra_epochs=0"], "without any feedback epochs"),
    (["controller.jacobian_feedback=true"], "controller.jacobian_feedback = true replaces the feedback"),
    (["feedback_controller.jacobian_feedback=true"], "feedback_controller.jacobian_feedback = true replaces the"),
    (["feedback.scaling=true"], "set feedback_controller.tau_noise"),
    (["feedback.high_pass=0.001"], "shorter than feedback_controller.dt = 0.002"),
    ([*ONE_SHOT, "feedback_controller.sigma=0"], "feedback.rule = 'one_shot' needs noise to learn from"),
    ([*ONE_SHOT, "controller.jacobian_feedback=true"], "set feedback.train = false"),
    ([*EXPECTED, "feedback.pursue=target"], "feedback.rule = 'expected' holds around the feedforward output"),
    ([*EXPECTED, "feedback.pretraining_pursue=target"], "set feedback.pursue = 'output'"),
    ([*EXPECTED, "target.feedback=strong"], "set feedback.pursue = 'output'"),
    ([*EXPECTED, "feedback_controller.sigma=0"], "set feedback_controller.sigma above 0"),
    ([*EXPECTED, *SINGLE], "learns the feedback weights from simulations; set feedback.rule = 'noise_driven'"),
    (["feedback_optimizer.decay=homeostatic", "feedback_optimizer.weight_decay=0"], "keeps nothing; set"),
    (["network.feedback_init=jacobian_damped_pinv"], "set network.feedback_damping above 0"),
    (["training.method=di", "optimizer.modulation=grapes-propagating"], "set it to 'grapes', the local form"),
    (["target.step=0"], "target.step = 0 leaves the output where it is"),
    # single phase
    (["training.method=dfc-single-phase", "controller.tau_noise=0.1"], "learns the feedback weights from noise in"),
    (["training.method=dfc-single-phase", "controller.sigma=0.1"], "needs low-passed noise"),
    ([*SINGLE[:2], "feedback.train=false"], "needs low-passed noise"),
    ([*SINGLE, "training.freeze_forward=true"], "set training.freeze_forward = false"),
    ([*SINGLE, *ONE_SHOT], "set feedback.rule = 'noise_driven'"),
    ([*SINGLE, "controller.jacobian_feedback=true"], "set feedback.train = false"),
    ([*SINGLE, "feedback.scaling=true"], "set feedback_controller.tau_noise"),
    ([*SINGLE, "feedback_controller.sigma=0"], "set feedback_controller.sigma above 0"),
    ([*SINGLE, "feedback.high_pass=0.01"], "shorter than controller.dt = 0.05"),
    ([*SINGLE, *STRONG, "controller.error=softmax", "feedback.extra_epochs=1", "feedback.pursue=output"],
     "set feedback.pursue = 'target', or controller.error"),
    # losses
    (["training.method=bp", "target.loss=elementwise_cross_entropy"], "is for sigmoid outputs"),
    # nothing to learn
    (["training.freeze_forward=true", "feedback.train=false"], "leaves nothing to learn"),
    (["training.freeze_forward=true", "training.method=bp"], "leaves nothing to learn"),
    (["training.freeze_forward=true", "training.method=dfa"], "leaves nothing to learn"),
    # log
    (["log.last_of_epoch=false"], "[log] chooses no minibatch; set log.every"),
    (['log.phases=["extra feedback"]'], "makes updates: pretraining, feedback, forward"),
    (["log.phases=[forward]", "training.freeze_forward=true"], "makes updates: pretraining, feedback"),
    (["log.phases=[feedback]", "feedback.train=false"], "makes updates: forward"),
    ([*SINGLE, "log.phases=[feedback]"], "makes updates: pretraining, forward"),
    (["log.samples=[0,32]"], "lists the position 32, but with training.batch_size = 32"),
    (["log.phases=[forward]", "log.variables=[u,noise]"], "lists 'noise', which the controllers of the logged"),
    # analysis
    (["analysis.every=5", "analysis.what=[stability]", "training.method=bp"], "choose from: alignment, loss_decrease, null"),
    (["analysis.every=5", "analysis.what=[conditions]", "training.method=bp"], "lists conditions, which training.method ="),
    (["analysis.every=5", "analysis.what=[conditions]", "controller.jacobian_feedback=true", "feedback.train=false"],
     "lists conditions, which training.method = 'dfc' does not have"),
    (["analysis.every=5", "training.freeze_forward=true"], "training.freeze_forward = true does not have; choose from"),
    (["analysis.every=5", "analysis.what=[alignment,alignment]"], "lists a name twice"),
    # lists
    (["network.hidden_activation=[tanh]"], "network.hidden_activation lists 1 values"),
    (["feedback_optimizer.pretraining_learning_rate=[0.1,0.2]"], "pretraining_learning_rate lists 2 values"),
]  # fmt: skip

UNUSED = [
    (["training.method=bp"], "controller.dt=0.01", "training.method = 'bp' runs no controller"),
    (["training.method=dfa"], "feedback.epochs=2", "learns no feedback weights"),
    (["training.method=dfa"], "feedback.train=true", "learns no feedback weights"),
    (["training.method=bp"], "network.feedback_init=orthogonal", "no feedback weights"),
    (["training.method=bp"], "target.step=0.1", "has no output target"),
    (["training.method=dfc-ssa"], "controller.k_p=1", "simulates nothing"),
    (["training.method=dfc-ssa"], "controller.error=difference", "simulates nothing"),
    (["training.method=dfc-ssa"], "training.samples=converged", "simulates nothing that could converge"),
    (["training.method=dfc-ss-newton"], "controller.dt=0.01", "simulates nothing"),
    (["training.method=dfc-ss-newton"], "controller.steps=10", "simulates nothing"),
    (["training.method=dfc-ss-newton"], "controller.k_p=1", "simulates nothing"),
    (["training.method=dfc-ss-newton"], "controller.tau_noise=0.1", "simulates nothing"),
    (["feedback.train=false"], "feedback.epochs=2", "feedback.train = false"),
    (["feedback.train=false"], "feedback.pursue=target", "feedback.train = false"),
    (["feedback.train=false"], "feedback_controller.dt=0.001", "feedback.train = false"),
    (["feedback.train=false"], "feedback_optimizer.decay=homeostatic", "feedback.train = false"),
    (["training.freeze_forward=true"], "optimizer.momentum=0.5", "training.freeze_forward = true"),
    (["target.feedback=strong"], "target.step_per=sample", "pursues the target itself"),
    (["optimizer.name=sgd"], "optimizer.beta1=0.5", "optimizer.name = 'sgd'"),
    (["optimizer.name=adam"], "optimizer.momentum=0.5", "optimizer.name = 'adam'"),
    (["optimizer.clip_norm=none"], "optimizer.clip_scope=all", "optimizer.clip_norm = 'none'"),
    (["network.feedback_init=orthogonal"], "network.feedback_noise=0.1", "network.feedback_init = 'weight_product'"),
    (["network.feedback_init=jacobian_pinv"], "network.feedback_damping=0.1", "network.feedback_init = 'jacobian_d"),
    (["network.start_from=a.h5"], "network.init=xavier", "network.start_from is set"),
    (["network.start_from=a.h5"], "network.feedback_init=jacobian_pinv", "network.start_from is set"),
    (["controller.jacobian_feedback=true", "feedback.train=false"], "network.feedback_init=xavier", "jacobian_feedback = true"),
    (["feedback.pretraining_epochs=0"], "feedback_optimizer.pretraining_learning_rate=1", "pretraining_epochs = 0"),
    (["feedback.epochs=0", "feedback.extra_epochs=0"], "feedback_optimizer.learning_rate=1", "extra_epochs = 0"),
    (["feedback.epochs=0", "feedback.extra_epochs=0"], "feedback_controller.error=difference", "the pre-training, which"),
    (ONE_SHOT, "feedback.scaling=true", "simulates no controller"),
    (ONE_SHOT, "feedback.high_pass=0.5", "simulates no controller"),
    (ONE_SHOT, "feedback.pursue=target", "simulates no controller"),
    (ONE_SHOT, "feedback.pretraining_pursue=target", "simulates no controller"),
    (["feedback.pretraining_epochs=0"], "feedback.pretraining_pursue=target", "pretraining_epochs = 0"),
    ([*SINGLE, "feedback.pretraining_pursue=output"], "feedback.pursue=target", "no other feedback epochs pursue it"),
    (ONE_SHOT, "feedback_controller.dt=0.001", "simulates no controller"),
    (ONE_SHOT, "feedback_controller.sigma_output=0.1", "simulates no controller"),
    (["feedback_optimizer.decay=l2"], "feedback_optimizer.homeostatic_norm=2.5", "keeps no norm"),
    (SINGLE, "feedback.epochs=2", "from the simulation of the forward epochs"),
    (SINGLE, "feedback_controller.error=difference", "controls the difference"),
    ([*SINGLE, "feedback.pretraining_epochs=0"], "feedback_controller.dt=0.001", "feedback.pretraining_epochs = 0"),
    ([*SINGLE, "feedback.pretraining_epochs=0"], "feedback.pursue=target", "no other feedback epochs pursue it"),
    (["log.on=false"], "log.every=10", "log.on = false"),
    (["training.method=bp"], "log.every=10", "runs no controller that could be logged"),
    (["training.method=dfa"], "log.on=true", "runs no controller that could be logged"),
    (["log.recipe_only=true"], "log.variables=[u]", "log.recipe_only = true stores no trajectories"),
    (["log.recipe_only=true"], "log.samples=3", "log.recipe_only = true stores no trajectories"),
    (["training.method=dfc-ssa", "feedback.train=false"], "log.samples=3", "nothing is simulated in the phases that"),
    (["training.method=dfc-ss-newton", "log.phases=[forward]"], "log.every_step=2", "nothing is simulated in the"),
    ([*ONE_SHOT, "log.phases=[feedback]"], "log.dtype=float64", "nothing is simulated in the phases that are logged"),
    (["analysis.every=0"], "analysis.samples=8", "analysis.every = 0 measures nothing"),
    (["analysis.every=5", "analysis.what=[stability]"], "analysis.damping=0.1", "does not depend on it"),
]  # fmt: skip

ALLOWED = [
    [*STRONG, "training.method=dfc"],
    [*STRONG, "training.method=dfc-ss", "controller.error=softmax"],
    [*STRONG, "training.method=dfc-ss-newton", "controller.error=softmax", "controller.alpha=0.01"],
    [*STRONG, "training.method=dfc-ss-newton", "controller.error=softmax", "training.samples=converged"],
    ["training.method=dfc-ss-newton", "controller.leak=integral", "controller.k_p=1"],
    ["training.method=dfc-ssa", "controller.leak=integral", "controller.k_p=1"],
    ["training.method=dfc-ssa", "controller.leak=integral", "controller.jacobian_feedback=true", "feedback.train=false"],
    [*SINGLE, *STRONG, "controller.error=softmax", "feedback.extra_epochs=1"],
    [*SINGLE, "feedback.train=false"],
    [*SINGLE, "feedback.pretraining_epochs=0"],
    [*SINGLE, "feedback.pretraining_epochs=0", "feedback.scaling=true", "feedback.high_pass=0.5"],
    ["feedback.pursue=target", "feedback.high_pass=0.002"],
    [*STRONG, "feedback.pursue=output"],
    [*ONE_SHOT, "feedback.sigma_floor=0.02", "feedback_controller.sigma=0.1"],
    ["feedback_optimizer.decay=homeostatic", "feedback_optimizer.homeostatic_norm=none"],
    ["network.feedback_init=jacobian_damped_pinv", "network.feedback_damping=0.1", "feedback.train=false"],
    ["training.method=dfa", "network.feedback_init=jacobian_transpose"],
    ["log.on=true", "log.samples=64", "log.every_step=5", "log.variables=[noise]", "log.phases=[pretraining,forward]"],
    ["log.every=10", "log.minibatches=[0,7]", "log.last_of_epoch=true", "log.recipe_only=true", "log.updates=true"],
    ["training.method=dfc-ssa", "log.variables=[u]", "log.samples=[5,0]"],
    [*SINGLE, "log.variables=[noise]", "log.phases=[forward]"],
    ["analysis.every=5", "analysis.what=[alignment,stability]", "analysis.damping=0.1", "analysis.samples=8"],
    ["analysis.every=5", "analysis.what=[conditions]", "training.method=dfa"],
    ["analysis.every=5", "analysis.what=[conditions]", "training.freeze_forward=true"],
]  # fmt: skip


def refusal(*overrides):
    """The message with which a configuration is refused."""
    with pytest.raises(ConfigurationError) as caught:
        load_config(None, overrides)
    return str(caught.value)


@pytest.mark.parametrize(("overrides", "message"), CONTRADICTIONS)
def test_contradictions_are_refused_with_what_to_change(overrides, message):
    assert message in refusal(*overrides)


@pytest.mark.parametrize(("overrides", "path", "reason"), UNUSED)
def test_what_a_run_does_not_use_is_refused(overrides, path, reason):
    text = refusal(*overrides, path)
    assert f"{path.split('=')[0]}: not used, because" in text and reason in text


@pytest.mark.parametrize("overrides", ALLOWED)
def test_keys_that_a_run_uses_are_allowed(overrides):
    config, _ = load_config(None, overrides)
    stated = {override.split("=")[0] for override in overrides}
    assert not stated & set(config.unused_keys())


def test_every_rule_fires_in_these_tests(monkeypatch):
    real, known, fired = config_rules.rules, set(), set()

    def watched(config):
        for fires, sentence in real(config):
            sentence = re.sub(
                r"\w+\.\w+( = \S+)?|\d", "", sentence
            )  # without the names of keys, and their values
            known.add(sentence)
            fired.update({sentence} if fires else ())
            yield fires, sentence

    monkeypatch.setattr(config_rules, "rules", watched)
    for overrides, _ in CONTRADICTIONS:
        refusal(*overrides)
    assert len(known) > 15 and known == fired


@pytest.mark.parametrize("method", DFC_METHODS)
@pytest.mark.parametrize("feedback", ["weak", "strong"])
def test_feedback_epochs_pursue_what_was_published_unless_told_otherwise(method, feedback):
    sections = {"training": {"method": method}, "target": {"feedback": feedback, "class_value": 0.9}}
    if method == SINGLE_PHASE:
        sections["controller"] = {"sigma": 0.1, "tau_noise": 0.2}
    if (method, feedback) == ("dfc-ssa", "strong"):
        return
    expected = "output" if feedback == "weak" and method != SINGLE_PHASE else "target"
    config = Config.model_validate(sections)
    assert config.feedback.pursue == expected == published_pursuit(config)
    for pursue in ("output", "target"):
        assert Config.model_validate({**sections, "feedback": {"pursue": pursue}}).feedback.pursue == pursue


def test_what_feedback_epochs_pursue_is_written_down():
    from dfc_numba.configuration.config_file import to_toml

    config, _ = load_config(None, STRONG)
    assert 'pursue = "target"' in to_toml(config) and 'pursue = "output"' in to_toml(Config())


def test_an_override_of_the_method_leaves_out_what_the_new_one_does_not_use():
    config, left_out = load_config("digits", ["training.method=dfc-ss-newton"])
    assert {"controller.dt", "controller.steps", "controller.k_p"} <= set(left_out)
    assert not {"controller.alpha", "controller.error", "training.rule"} & set(left_out)


def test_the_controllers_that_the_feedback_weights_learn_from():
    def named(*overrides):
        return feedback_simulations(load_config(None, overrides)[0])

    assert named() == ["feedback_controller"] == named("training.method=dfc-ssa")
    assert named(*SINGLE) == ["controller", "feedback_controller"]
    assert named(*SINGLE, "feedback.pretraining_epochs=0") == ["controller"]
    assert named(*ONE_SHOT) == named("feedback.train=false") == named("training.method=dfa") == []


PHASES = [[], SINGLE, *([key] for key in ("feedback.extra_epochs=1", "training.freeze_forward=true",
                                          "feedback.train=false", "feedback.pretraining_epochs=0"))]  # fmt: skip


@pytest.mark.parametrize("overrides", PHASES)
def test_the_phases_that_can_be_logged_are_those_that_the_loop_runs(overrides):
    from dfc_numba.learning.methods import find
    from dfc_numba.learning.schedule import plan_passes

    config, _ = load_config(None, overrides)
    passes = plan_passes(find(config.training.method).phases, config.training, config.feedback)
    runs = {one.phase for one in passes} - ({"forward"} if config.training.freeze_forward else set())
    assert set(learning_phases(config)) == runs


def test_a_log_has_its_defaults():
    log = load_config(None, ["log.on=true"])[0].log
    assert (
        log.last_of_epoch and log.every is None and log.updates and not log.recipe_only and log.samples == 16
    )
    assert not load_config(None, ["log.every=3"])[0].log.last_of_epoch
    assert not load_config(None, ["log.minibatches=[3]"])[0].log.last_of_epoch
    assert not load_config(None, ["log.recipe_only=true"])[0].log.updates
    assert not Config().log.on
