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
RECURRENT = {
    "network.hidden": [24],
    "optimizer.learning_rate": 5e-3,
    "method.steps": 40,
    "method.tolerance": 1e-3,
}
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
    "lcp-rnn-di": (RECURRENT, 0.85),
    "lcp-rnn-kp": ({**RECURRENT, **SEPARATE, "network.bias": False}, 0.45),
    "lcp-rnn-lf": (
        {**RECURRENT, "feedback_optimizer.name": "sgd", "feedback_optimizer.learning_rate": 1e-5, "optimizer.cosine_to": 0.1},
        0.45,
    ),
    "recurrent-bp": ({**RECURRENT, "method.clip": 10.0}, 0.85),
    "grapes-bp": ({**GRAPES, "method.keep": 0.9}, 0.9),
    "grapes-fa": (
        {**GRAPES, "network.output_activation": "sigmoid", "target.loss": "elementwise_cross_entropy",
         "optimizer.name": "nesterov", "optimizer.momentum": 0.5, "optimizer.learning_rate": 0.05},
        0.65,
    ),
    "grapes-dfa": (GRAPES, 0.7),
}  # fmt: skip


def configuration(name, epochs=3, **more):
    settings = {"network.hidden": [64, 32], **CASES.get(name, ({},))[0], **more}
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
        pairs = (getattr(run.network, kind) or [] for run in (first, second))
        assert all(map(np.array_equal, *pairs))
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


class Warnings:
    """Keeps the warnings of a run."""

    def __init__(self):
        self.texts = []

    def on_divergence(self, epoch, tally):
        self.texts.append(tally.text(epoch))


@pytest.mark.parametrize(
    ("name", "more", "text"),
    [
        (
            "ep",
            {"method.free_steps": 2},
            "samples (100 %) did not settle; try more method.free_steps",
        ),
        ("lcp-di", {"method.passes": 2}, "did not come to rest"),
        ("lcp-rnn-di", {"network.init": "uniform", "network.init_range": 3.0}, "did not come to rest"),
        (
            "ddtp-linear",
            {
                "network.output_activation": "sigmoid",
                "target.loss": "mse",
                "target.step": 20.0,
                "target.step_per": "sample",
            },
            "leaves the range of the sigmoid output",
        ),
    ],
)
def test_samples_that_did_not_settle_are_told(name, more, text):
    warnings = Warnings()
    trainer(configuration(name, epochs=1, **more), observers=[warnings]).run()
    assert len(warnings.texts) == 1
    assert text in warnings.texts[0]


def test_proportional_control_alone_is_accepted():
    for name in ("lcp-di", "lcp-lf", "lcp-rnn-di"):
        assert configuration(name, **{"method.k_i": 0.0, "method.k_p": 0.1}).method.k_p == 0.1


def test_parameters_of_a_layer_learn_with_its_weights():
    run = trainer(configuration("lcp-rnn-kp", epochs=1))
    assert [len(layer) for layer in run.optimizers["forward"]._layers] == [2, 1]
    assert list(run.optimizers) == ["forward", "own_pretraining", "own"]
    before = {name: array.copy() for name, array in run.own.items()}
    run.run()
    assert not any(np.array_equal(run.own[name], array) for name, array in before.items())


def test_the_learning_rate_falls_along_a_cosine():
    run, rates = trainer(configuration("gnt", epochs=4, **{"optimizer.cosine_to": 0.2})), []
    step = run.optimizers["forward"].step
    run.optimizers["forward"].step = lambda layers, scale: rates.append(scale) or step(layers, scale)
    run.run()
    expected = [0.2 + 0.8 * (1 + np.cos(np.pi * epoch / 4)) / 2 for epoch in range(4)]
    assert np.allclose([*dict.fromkeys(rates)], expected)


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
    run.optimizers["forward"].step = lambda layers, scale: steps.append(layers)
    run.run()
    plain = trainer(Config.model_validate({**table, "optimizer": {"name": "sgd", "learning_rate": 0.01}}))
    seen = []
    plain.optimizers["forward"].step = lambda layers, scale: seen.append(layers)
    plain.run()
    for scaled, gradients in zip(steps, seen, strict=True):
        expected = modulated([layer[0] for layer in gradients], run.network.weights, clip=clip)
        assert all(map(np.array_equal, [layer[0] for layer in scaled], expected))


@pytest.mark.parametrize("method", ["ddtp-linear", "dtp"])
def test_alternating_epochs_leave_the_others_weights_alone(method):
    more = {"feedback.pretraining_epochs": 1, "feedback.extra_epochs": 2, "method.schedule": "alternating"}
    run = trainer(configuration(method, epochs=2, **more))
    seen = []

    def follow(name):
        step = run.optimizers[name].step

        def stepped(layers, scale):
            seen.append((run.phase_of_test, name))
            step(layers, scale)

        run.optimizers[name].step = stepped

    for name in run.optimizers:
        follow(name)
    learn = run._learn

    def in_phase(minibatch, count):
        run.phase_of_test = minibatch.phase
        learn(minibatch, count)

    run._learn = in_phase
    run.run()
    assert {*seen} == {("pretraining", "own_pretraining"), ("forward", "forward"), ("extra feedback", "own")}
    assert seen.count(("extra feedback", "own")) == 2 * seen.count(("forward", "forward"))


def first_steps(method, modulation=None, **method_options):
    """Return the modulated gradients of three minibatches, and the run, without stepping the weights."""
    optimizer = {"name": "sgd", "learning_rate": 0.01}
    if modulation is not None:
        optimizer["modulation"] = modulation
    table = {"training": {"method": method, "epochs": 1, "batch_size": 500}, "optimizer": optimizer}
    table["network"] = {"hidden": [12, 11, 9]}
    if method.startswith("dfc"):
        table["feedback"] = {"train": False}
    if method_options:
        table["method"] = method_options
    run, steps = trainer(Config.model_validate(table)), []
    run.optimizers["forward"].step = lambda layers, scale: steps.append(layers)
    run.run()
    return [[array for layer in layers for array in layer] for layers in steps], run


@pytest.mark.parametrize("clip", [None, (1.0, 2.0)])
def test_propagating_modulation_of_backpropagation_is_the_published_rule(clip):
    ending = "" if clip is None else "-clipped"
    modulated, _ = first_steps("bp", f"grapes-propagating{ending}")
    published, _ = first_steps("grapes-bp", clip=clip or "none")
    plain, _ = first_steps("bp")
    assert len(modulated) == len(published) > 1
    for ours, theirs, before in zip(modulated, published, plain, strict=True):
        for one, two in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-10, atol=1e-14)
        assert not np.allclose(ours[0], before[0], rtol=1e-2)


@pytest.mark.parametrize("method", ["fa", "pbp"])
def test_factors_multiply_up_on_the_way_from_layer_to_layer(method):
    from dfc_numba.relatives.grapes import factors_of

    modulated, run = first_steps(method, "grapes-propagating")
    plain, _ = first_steps(method)
    factors = factors_of(run.network.weights)
    for ours, before in zip(modulated, plain, strict=True):
        np.testing.assert_array_equal(ours[6], before[6])  # the output's weights
        np.testing.assert_allclose(ours[4], factors[2][:, None] * before[4], rtol=1e-12)
        assert not np.allclose(ours[2], factors[1][:, None] * before[2], rtol=1e-3)


@pytest.mark.parametrize("method", ["dfa", "dfc-ssa"])
@pytest.mark.parametrize("clip", [None, (1.0, 2.0)])
def test_errors_straight_from_the_output_are_modulated_by_senders(method, clip):
    from dfc_numba.relatives.grapes import Grapes, grapes_update

    modulated, run = first_steps(method, "grapes-propagating" + ("" if clip is None else "-clipped"))
    plain, _ = first_steps(method)
    net, split = run.network, run.dataset.train
    feedback = net.feedback[:-1]
    found = {}
    for form in ("none", "propagating"):
        options = Grapes(rule="dfa", form=form, clip=clip)
        found[form] = grapes_update(net, split.x, split.y, options, feedback=feedback)
    for ours, before in zip(modulated, plain, strict=True):
        for i, (one, two) in enumerate(zip(ours, before, strict=True)):
            kind = "weights" if i % 2 == 0 else "biases"
            published, alone = (getattr(found[form], kind)[i // 2] for form in ("propagating", "none"))
            np.testing.assert_allclose(one * alone, two * published, rtol=1e-9, atol=1e-15)
        np.testing.assert_array_equal(ours[0], before[0])
        assert not np.allclose(ours[2], before[2], rtol=1e-2)


def test_further_arrays_of_a_layer_are_modulated_like_its_biases():
    from dfc_numba.learning.modulation import modulated

    rng = np.random.default_rng(0)
    weights = [rng.normal(size=shape) for shape in ((5, 4), (6, 5), (3, 6))]
    own = rng.normal(size=(6, 2))
    layers = [
        [weights[0], weights[0][:, 0]],
        [weights[1], weights[1][:, 0], own],
        [weights[2], weights[2][:, 0]],
    ]
    found = modulated(layers, [[w] for w in weights], (True, None), "direct")
    assert [[g.shape for g in layer] for layer in found] == [[g.shape for g in layer] for layer in layers]
    np.testing.assert_allclose(
        found[1][2] / own, np.outer(found[1][1] / weights[1][:, 0], np.ones(2)), rtol=1e-12
    )


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        (
            "dtp",
            {"method.schedule": "alternating", "feedback.extra_epochs": 0},
            "feedback.extra_epochs to 1 or more",
        ),
        ("ep", {"optimizer.modulation": "grapes-propagating"}, "does not send down"),
        (
            "grapes-fa",
            {"optimizer.modulation": "grapes-propagating", "method.form": "none"},
            "does not send down",
        ),
        ("di", {"optimizer.modulation": "grapes-propagating-clipped"}, "set it to 'grapes', the local form"),
        ("ep", {"method.beta": 0.0}, "leaves nothing to divide by"),
        ("ep", {"method.bta": 0.1}, "did you mean 'beta'"),
        ("ep", {"network.hidden_activation": "leakyrelu"}, "one nonlinearity for all layers"),
        ("ddtp-linear", {"network.output_activation": "relu"}, "has no inverse here"),
        ("ddtp-linear", {"method.sigma": 0.0}, "must be a finite number > 0"),
        ("dtp", {"method.units": 3}, "no such option"),
        ("lcp-di", {"network.output_activation": "tanh"}, "reads out linearly"),
        ("lcp-di", {"method.k_i": 0.0}, "method.k_i = method.k_p = 0 exerts no control"),
        ("lcp-kp", {"method.k_i": 0}, "method.k_i = method.k_p = 0 exerts no control"),
        ("lcp-lf", {"method.k_i": 0.0, "method.k_p": 0.0}, "method.k_i = method.k_p = 0 exerts no control"),
        ("lcp-lf", {"method.dt": 2.0}, "method.dt = 2 is larger than the time constant"),
        ("recurrent-bp", {"method.dt": 2.0}, "method.dt = 2 is larger than the time constant"),
        ("lcp-rnn-di", {"network.hidden": [8, 8]}, "one layer at equilibrium"),
        ("lcp-rnn-di", {"network.output_activation": "tanh"}, "reads out linearly"),
        ("lcp-rnn-di", {"method.k_i": 0.0}, "exerts no control"),
        ("lcp-rnn-lf", {"method.dt": 2.0}, "larger than the time constant"),
        ("recurrent-bp", {"method.alpha": 0.1}, "no such option"),
        (
            "lcp-kp",
            {"target.loss": "elementwise_cross_entropy", "network.output_activation": "sigmoid"},
            "is not for target.loss",
        ),
        ("bp", {"target.loss": "elementwise_cross_entropy"}, "is for sigmoid outputs"),
        ("lcp-di", {"controller.k_p": 1.0}, "runs no controller"),
        ("grapes-bp", {"method.clip": [2.0, 1.0]}, "low <= high"),
        ("grapes-bp", {"method.keep": 0.0}, "method.keep = 0.0: must be a finite number > 0 and <= 1"),
        ("grapes-bp", {"target.loss": "mse"}, "output - y"),
        ("grapes-bp", {"optimizer.modulation": "grapes"}, "a second time"),
        ("grapes-dfa", {"method.form": "local"}, "not for grapes-dfa"),
    ],
)
def test_what_a_method_does_not_have_is_refused(name, more, message):
    with pytest.raises(ValueError, match=message):
        configuration(name, **more)
