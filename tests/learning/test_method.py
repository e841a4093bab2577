"""Methods from outside: what is refused when they are registered, their options, and arrays of their own."""

import numpy as np
import pytest
from small_runs import configuration, dataset, network, train

import dfc_numba as dfc
from dfc_numba.configuration.config_file import load_config, to_toml, used_values
from dfc_numba.dynamics.plasticity import forward_update
from dfc_numba.errors import ConfigurationError
from dfc_numba.learning.baselines import backpropagation
from dfc_numba.registry import METHODS
from dfc_numba.runs import checkpoint


def register(*arguments, **options):
    method = dfc.Method(*arguments, **options)
    dfc.register(method)
    return method


def descend(network, minibatch, config, arrays=None):
    return backpropagation(network, minibatch.x, minibatch.y, loss=config.target.loss)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"forward": None}, "has forward = None; it needs to be a function"),
        ({"forward": lambda network: None}, r"forward is called with \(network, minibatch, config\)"),
        ({"after_step": lambda network: None}, r"after_step is called with \(network, config\)"),
        ({"reads": ["controler"]}, "reads 'controler'; allowed are controller, feedback"),
        ({"phases": ["forward", "dreaming"]}, "has the phases .*'dreaming'"),
        ({"phases": ["feedback", "forward"]}, "no function `feedback` for them"),
        ({"feedback": descend}, "no phase that calls it"),
        ({"simulations": {"forward": "controller"}}, "simulates 'controller'.* has to be in `reads`"),
        ({"options": [dfc.Option("rate", 0.1), dfc.Option("rate", 0.2)]}, "each name once"),
        ({"error_path": "upwards"}, "has error_path = 'upwards'; allowed are 'chain', 'direct' and None"),
    ],
)
def test_a_wrong_method_is_refused_when_it_is_registered(options, message):
    with pytest.raises(ValueError, match=message):
        register("mine", **{"forward": descend, **options})
    assert "mine" not in METHODS


def test_a_method_learns_by_its_name():
    register("mine", forward=descend)
    net, reference = network(), network()
    _, _, outcome = train(configuration(training={"method": "mine"}), net=net)
    train(configuration(training={"method": "bp"}), net=reference)
    assert outcome.status == "done"
    assert all(np.array_equal(a, b) for a, b in zip(net.weights, reference.weights, strict=True))


@pytest.mark.parametrize("kind, length", [("weights", 1), ("biases", 1), ("own", 0)])
def test_gradients_of_other_shapes_are_refused_with_a_sentence(kind, length):
    def forward(network, minibatch, config):
        gradients = descend(network, minibatch, config)
        wrong = {"other": np.ones(2)} if kind == "own" else getattr(gradients, kind)[:length]
        return dfc.Gradients(**{"weights": gradients.weights, "biases": gradients.biases, kind: wrong})

    register("mine", forward=forward)
    with pytest.raises(ValueError, match=f"method 'mine' returns gradients `{kind}` of shapes"):
        train(configuration(training={"method": "mine"}))


OPTIONS = [
    dfc.Option("rate", 0.1, "learning rate of the inverse weights", least=0, exclusive=True),
    dfc.Option("mode", "all", "which layers", choices=("all", "one")),
    dfc.Option("limit", None, "largest norm", type=float),
]


def test_the_options_of_a_method_are_a_section_that_the_configuration_checks_and_documents():
    register("mine", forward=descend, options=OPTIONS)
    config, _ = load_config(None, ["training.method=mine", "method.rate=2", "method.limit=none"])
    assert config.method == {"rate": 2.0, "mode": "all", "limit": None} and config.method.rate == 2.0
    text = to_toml(config)
    assert "[method]\nrate = 2.0                              # learning rate of the inverse weights" in text
    assert used_values(config)["method.mode"] == "all"
    with pytest.raises(AttributeError, match="no option 'size'; its options are rate, mode, limit"):
        config.method.size


@pytest.mark.parametrize(
    "override, message",
    [
        ("method.rate=0", "method.rate = 0: must be a number > 0"),
        ("method.mode=al", "must be one of 'all', 'one'; did you mean 'all'"),
        ("method.rat=1", "has no such option; did you mean 'rate'"),
        ("controller.dt=0.01", "training.method = 'mine' runs no controller"),
    ],
)
def test_wrong_options_of_a_method_are_refused(override, message):
    register("mine", forward=descend, options=OPTIONS)
    with pytest.raises(ConfigurationError, match=message):
        load_config(None, ["training.method=mine", override])


def test_a_method_that_reads_a_key_that_does_not_exist_is_refused():
    register("mine", forward=descend, reads=["controller.kp"])
    with pytest.raises(
        ConfigurationError, match="method 'mine' reads controller.kp, which is not a key; keys of"
    ):
        load_config(None, ["training.method=mine"])


def test_a_method_without_options_refuses_any():
    with pytest.raises(
        ConfigurationError, match="method.rate: not used, because training.method = 'bp' has no"
    ):
        load_config(None, ["training.method=bp", "method.rate=1"])


def test_an_option_without_default_has_to_be_stated():
    register("mine", forward=descend, options=[dfc.Option("size", dfc.Option.REQUIRED, type=int)])
    with pytest.raises(ConfigurationError, match="method.size has to be stated: an integer"):
        load_config(None, ["training.method=mine"])


def test_rules_of_a_method_refuse_contradictions():
    register(
        "mine", forward=descend, rules=lambda config: [(config.target.loss == "mse", "mine: use classes")]
    )
    with pytest.raises(ConfigurationError, match="mine: use classes"):
        load_config(None, ["training.method=mine", "target.loss=mse"])


def _feedback(network, minibatch, config, arrays):
    arrays["count"][0] += 1
    return dfc.Gradients(own={"inverse": np.ones_like(arrays["inverse"])})


def _with_arrays():
    return register(
        "mine", forward=descend, feedback=_feedback, phases=["pretraining", "feedback", "forward"],
        parameters=lambda network, config: {"inverse": np.zeros((3, 7), network.dtype)},
        state=lambda network, config: {"count": np.zeros(1, np.int64)},
    )  # fmt: skip


SETTINGS = {
    "training": {"method": "mine", "epochs": 2},
    "feedback": {"pretraining_epochs": 1, "epochs": 1},
    "feedback_optimizer": {
        "name": "sgd",
        "learning_rate": 0.5,
        "pretraining_learning_rate": 0.25,
        "weight_decay": 0.0,
    },
}


def test_parameters_of_a_method_are_stepped_by_the_feedback_optimizer():
    _with_arrays()
    trainer, _, _ = train(configuration(**SETTINGS), dataset(n_train=8))
    minibatches = trainer.method_state["count"][0] // 3
    assert np.allclose(trainer.parameters["inverse"], -minibatches * (0.25 + 2 * 0.5))


def test_arrays_of_a_method_are_in_checkpoints(tmp_path):
    _with_arrays()
    trainer, _, _ = train(configuration(**SETTINGS))
    checkpoint.save(trainer, tmp_path / "checkpoint.h5")
    other, _, _ = train(configuration(**{**SETTINGS, "training": {"method": "mine", "epochs": 1}}))
    other.schedule = trainer.schedule
    found = checkpoint.load(tmp_path / "checkpoint.h5").state
    assert set(found.method) == {"inverse", "count"}
    other.restore(found)
    assert np.array_equal(other.own["inverse"], trainer.own["inverse"])


def test_a_planned_update_is_recorded_by_whoever_computes_it():
    seen = []

    def forward(network, minibatch, config):
        target = dfc.output_target(network, minibatch.x, minibatch.y, loss=config.target.loss)
        return dfc.PlannedUpdate(forward_update, gradients, (target, config.controller), {"readout": "final"})

    def gradients(update):
        return dfc.Gradients(*([-2 * array for array in kind] for kind in (update.weights, update.biases)))

    method = register("mine", forward=forward, reads=["controller"], simulations={"forward": "controller"})
    net = network()
    trainer, _, _ = train(configuration(training={"method": "mine"}), net=net)
    minibatch = trainer._take(trainer.schedule[0], [np.arange(4)])

    def compute(planned, minibatch):
        seen.append(planned.function.__name__)
        return planned.compute(net, minibatch)

    found = method.gradients(net, minibatch, trainer.config, compute=compute)
    assert seen == ["forward_update"] and len(found.weights) == len(net.weights)


def test_registering_a_method_of_the_same_code_again_is_silent():
    register("mine", forward=descend)
    dfc.register(dfc.Method("mine", forward=descend))
    with pytest.raises(ValueError, match="another method is called 'mine'"):
        dfc.register(dfc.Method("mine", forward=descend, summary="another"))
    with pytest.raises(ValueError, match="another method is called 'bp'.*built in"):
        dfc.register(dfc.Method("bp", forward=descend))
