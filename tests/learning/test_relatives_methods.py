"""The relatives as learning methods: each learns, resumes to the same bits, and refuses what it does not have."""

import numpy as np
import pytest

from dfc_numba.configuration.config import Config
from dfc_numba.learning.training import Trainer
from dfc_numba.runs.experiment import create_network, load_data

TP = {
    "optimizer.learning_rate": 2e-3, "target.step": 0.1, "target.step_per": "minibatch", "optimizer.divide_by_step": True,
    "feedback.pretraining_epochs": 2, "feedback.extra_epochs": 1, "feedback_optimizer.learning_rate": 1e-3,
    "feedback_optimizer.pretraining_learning_rate": 1e-3, "feedback_optimizer.weight_decay": 1e-5,
}  # fmt: skip
EP = {
    "network.hidden": [48], "network.hidden_activation": "tanh", "target.loss": "mse", "method.tolerance": 1e-6,
    "optimizer.learning_rate": 5e-3,
}  # fmt: skip
GRAPES = {
    "network.hidden_activation": "relu", "network.init": "he_uniform", "optimizer.name": "sgd",
    "optimizer.learning_rate": 0.1,
}  # fmt: skip
SEPARATE = {"feedback_optimizer.learning_rate": 5e-3, "feedback_optimizer.weight_decay": 0.0}
# settings, and the accuracy on the training set that the last of three epochs reaches at least (chance: 0.1)
CASES = {
    "ddtp-linear": (TP, 0.9),
    "ddtp-rhl": ({**TP, "method.units": 64}, 0.9),
    "ddtp-control": (TP, 0.9),
    "dtpdrl": (TP, 0.9),
    "dtp": (TP, 0.9),
    "gnt": ({"optimizer.learning_rate": 2e-3}, 0.85),
    "ep": (EP, 0.8),
    "ep-hopfield": (
        {**EP, "network.hidden_activation": "sigmoid", "method.beta": 1.0, "method.free_steps": 50, "method.nudged_steps": 50},
        0.6,
    ),
    "ep-gaussian": (
        {"network.hidden_activation": "sigmoid", "method.beta": 1.0, "method.nudged_steps": 20, "optimizer.learning_rate": 5e-3},
        0.8,
    ),
    "ep-vector-field": ({**EP, **SEPARATE, "target.loss": "cross_entropy"}, 0.75),
    "lcp-di": ({"optimizer.learning_rate": 2e-3}, 0.9),
    "lcp-kp": ({"optimizer.learning_rate": 2e-3, **SEPARATE}, 0.7),
    "lcp-lf": (
        {
            "optimizer.learning_rate": 5e-3, "feedback_optimizer.name": "sgd", "feedback_optimizer.learning_rate": 1e-5,
            "method.steps": 40, "network.hidden": [48],
        },
        0.6,
    ),
    "grapes-bp": ({**GRAPES, "method.keep": 0.9}, 0.9),
    "grapes-fa": (GRAPES, 0.65),
    "grapes-dfa": (GRAPES, 0.7),
}  # fmt: skip


def configuration(name, epochs=3, **more):
    settings = {"network.hidden": [64, 32], **CASES[name][0], **more}
    table = {"training": {"method": name, "epochs": epochs, "batch_size": 32}}
    for path, value in settings.items():
        section, key = path.split(".")
        table.setdefault(section, {})[key] = value
    return Config.model_validate(table)


def trainer(config, **options):
    data = load_data(config)
    return Trainer(create_network(config, data), data, config, **options)


def assert_same(first, second):
    for kind in ("weights", "biases"):
        assert all(map(np.array_equal, getattr(first.network, kind), getattr(second.network, kind)))
    for name, array in first.own.items():
        assert np.array_equal(array, second.own[name]), name


@pytest.mark.parametrize("name", CASES)
def test_the_method_learns_the_digits_and_resumes_to_the_same_bits(name):
    run = trainer(configuration(name))
    assert run.run().status == "done"
    assert run.rows[-1]["train_accuracy"] >= CASES[name][1], run.rows[-1]
    parted = trainer(configuration(name), observers=[Stopper(run, 2)], threads=2)
    parted.observers[0].run = parted
    assert parted.run().status == "interrupted"
    state = parted.state()
    again = trainer(configuration(name))
    again.restore(state)
    assert again.run().status == "done"
    assert_same(run, again)


class Stopper:
    """Stops a run after an epoch."""

    def __init__(self, run, epoch):
        self.run, self.epoch = run, epoch

    def on_epoch(self, row):
        if row["epoch"] == self.epoch:
            self.run.request_stop("for the test")


def test_accuracy_is_that_of_the_equilibrium():
    run = trainer(configuration("ep", epochs=1))
    run.run()
    test = run.dataset.test
    output = run.method.outputs(run.network, test.x, run.config)
    assert run.rows[-1]["test_accuracy"] == np.mean(np.argmax(output, axis=1) == test.y)
    assert not np.array_equal(output, run.network.predict(test.x))


@pytest.mark.parametrize("method", ["bp", "dfc-ssa", "lcp-di"])
@pytest.mark.parametrize(("modulation", "clip"), [("grapes", None), ("grapes-clipped", (1.0, 2.0))])
def test_grapes_modulates_the_rows_of_every_methods_update(method, modulation, clip):
    from dfc_numba.relatives.grapes import modulated

    table = {"training": {"method": method, "epochs": 1, "batch_size": 32}}
    table["optimizer"] = {"name": "sgd", "learning_rate": 0.01, "modulation": modulation}
    if method == "dfc-ssa":
        table["feedback"] = {"train": False}
    steps = []
    run = trainer(Config.model_validate(table))
    run.optimizers["forward"].step = steps.append
    run.run()
    plain = trainer(Config.model_validate({**table, "optimizer": {"name": "sgd", "learning_rate": 0.01}}))
    seen = []
    plain.optimizers["forward"].step = seen.append
    plain.run()
    for scaled, gradients in zip(steps, seen, strict=True):
        expected = modulated([layer[0] for layer in gradients], run.network.weights, clip=clip)
        assert all(map(np.array_equal, [layer[0] for layer in scaled], expected))


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("ep", {"method.beta": 0.0}, "leaves nothing to divide by"),
        ("ep", {"method.bta": 0.1}, "did you mean 'beta'"),
        ("ep", {"network.hidden_activation": "leakyrelu"}, "one nonlinearity for all layers"),
        ("ddtp-linear", {"network.output_activation": "relu"}, "has no inverse here"),
        ("ddtp-linear", {"method.sigma": 0.0}, "must be a number > 0"),
        ("dtp", {"method.units": 3}, "no such option"),
        ("lcp-di", {"network.output_activation": "tanh"}, "reads out linearly"),
        ("lcp-di", {"controller.k_p": 1.0}, "runs no controller"),
        ("grapes-bp", {"method.clip": [2.0, 1.0]}, "low <= high"),
        ("grapes-bp", {"target.loss": "mse"}, "softmax - y"),
    ],
)
def test_what_a_method_does_not_have_is_refused(name, more, message):
    with pytest.raises(ValueError, match=message):
        configuration(name, **more)
