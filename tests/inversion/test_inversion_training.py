"""Learning by dynamic inversion: published trainings repeated, one step by hand, and runs that are stopped and go on."""

import copy

import numpy as np
import pytest
from reference_files import RESOURCES

import dfc_numba as dfc
from dfc_numba.configuration.config_file import load_config
from dfc_numba.data.dataset import DataSet, Split
from dfc_numba.errors import ConfigurationError
from dfc_numba.inversion.loop_stability import inversion_stability
from dfc_numba.learning import methods
from dfc_numba.learning.inversion_methods import create_backward
from dfc_numba.learning.training import Trainer
from dfc_numba.runs import checkpoint
from dfc_numba.runs.experiment import create_network

BOUND = 1e-9
INVERSION_METHODS = ("di", "sldi", "ndi", "fa", "pbp")


def arrays(name):
    return dict(np.load(RESOURCES / "inversion" / "training" / f"{name}.npz"))


def deviation(ours, theirs):
    """Largest difference, relative to the largest published value."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def configuration(method, *overrides, alpha=0.0, **training):
    """A configuration of plain gradient descent without anything that the method does not use."""
    given = [f"training.method={method}", "optimizer.name=sgd", *overrides]
    given += [f"training.{key}={value}" for key, value in training.items()]
    return load_config(None, given + ([f"inversion.alpha={alpha}"] if alpha else []))[0]


def regression(x, y, test=None):
    split = Split(np.ascontiguousarray(x), np.ascontiguousarray(y))
    return DataSet("published", "regression", split, None, test or split, y.shape[1], "published")


def network(weights, biases, backward, hidden="tanh"):
    sizes = [len(w) for w in weights]
    feedback = [np.zeros((n, sizes[-1])) for n in sizes]
    return dfc.Network(
        weights=weights, biases=biases, feedback=feedback, hidden_activation=hidden, backward=backward
    )


class After:
    """An observer that calls a function after each minibatch."""

    def __init__(self, function):
        self.on_minibatch = lambda progress: function()


def trained(net, dataset, config, order, after=lambda: None):
    outcome = Trainer(net, dataset, config, observers=[After(after)], minibatches=order).run()
    assert outcome.status == "done", outcome.message


# --- published trainings ---------------------------------------------------------------------------------


def angle(a, b):
    """Degrees between two arrays."""
    return np.degrees(np.arccos(min(1.0, np.sum(a * b) / (np.linalg.norm(a) * np.linalg.norm(b)))))


LEAKS = {"": 0.01, "2": 0.001, "3": 0.01}
LINEAR = ["BP", "FA", "FA2", "PBP", *(f"{rule}{kind}" for rule in ("NDI", "DI") for kind in LEAKS)]


def linear_model(name, file):
    """(method, leak, feedback) of a model of the linear regression."""
    method, w = name.rstrip("23").lower(), file["W1_init"]
    feedback = {"FA": file["B_rand"], "FA2": -50 * w.T, "BP": None, "PBP": None}
    kind = name.removeprefix(method.upper())
    matrix = feedback[name] if name in feedback else file["B_optim"] if kind == "3" else -w.T
    return method, 0.0 if name in feedback else LEAKS[kind], None if matrix is None else [matrix]


@pytest.mark.parametrize("name", LINEAR)
def test_the_published_linear_regression(name):
    """Errors after each step, end weights, and with dynamics the stability and the angles of feedback and errors."""
    file = arrays("03_linear_online")
    x, y, steps = file["X"].T, file["Y"].T, range(60)
    method, leak, backward = linear_model(name, file)
    watch = ["inversion.restabilise=continuous"] if method == "di" else []
    config = configuration(
        method, "target.loss=mse", "network.hidden=[20]", "network.hidden_activation=linear", "network.bias=false",
        "optimizer.learning_rate=0.05", *watch, alpha=leak, clip_error=10.0, batch_size=1, epochs=1,
    )  # fmt: skip
    net = network([file["W0_init"], file["W1_init"]], None, backward, hidden="linear")
    states = [net.copy()]
    # the published first step makes no update
    trained(net, regression(x, y), config, [[i] for i in steps[1:]], lambda: states.append(net.copy()))
    errors = [np.sum((y - state.predict(x)) ** 2) for state in states]
    assert deviation(errors, file[f"err__{name}"]) < BOUND
    assert max(deviation(net.weights[i], file[f"W{i}_end__{name}"]) for i in (0, 1)) < BOUND
    if method != "di":
        return
    found = [inversion_stability(state.weights, state.backward, leak).abscissa[0] for state in states]
    assert deviation(found, file[f"stab__{name}"]) < BOUND
    angles = np.array([published_angles(states, x, y, i, leak) for i in steps])
    assert np.abs(angles - file[f"ang__{name}"]).max() < 1e-5


def published_angles(states, x, y, step, leak):
    """Degrees of B to -W^T, and of the error of a step to those of NDI and PBP, which take the weights after it."""
    before, after = states[max(0, step - 1)], states[step]
    delta = (y - before.predict(x))[step : step + 1]

    def error(net, rule, alpha=0.0):
        return dfc.backward_errors(net.weights, before.backward, None, delta, rule=rule, alpha=alpha)[0]

    ours = error(before, "di", leak)
    others = (error(after, "ndi", leak), error(after, "pbp"))
    return [angle(before.backward[0], -after.weights[1].T), *(angle(ours, other) for other in others)]


@pytest.mark.parametrize(("name", "leak"), [("BP", 0), ("FA", 0), ("PBP", 0), ("NDI", 0), ("NDI2", 0.01)])
def test_the_published_classification_is_repeated(name, leak):
    """Two epochs of single samples, with the decay that is not multiplied by the learning rate."""
    file = arrays("07_classif_online")
    splits = {part: Split(np.ascontiguousarray(file[f"X_{part}"].T), file[f"lab_{part}"].astype(np.int64).ravel())
              for part in ("train", "test")}  # fmt: skip
    dataset = DataSet("published", "classification", splits["train"], None, splits["test"], 10, "published")
    config = configuration(
        name.rstrip("2").lower(), "network.hidden=[30]", "optimizer.learning_rate=0.001", "optimizer.weight_decay=0.001",
        alpha=leak, batch_size=1, epochs=1,
    )  # fmt: skip
    w = [file["W0_init"], file["W1_init"]]
    backward = {"FA": [file["B_rand"]], "NDI": [-w[1].T], "NDI2": [-w[1].T]}.get(name)
    net = network(w, [np.zeros(30), np.zeros(10)], backward)
    wrong = {part: [] for part in splits}

    def measure():
        for part, split in splits.items():
            wrong[part].append(np.mean(np.argmax(net.predict(split.x), axis=1) != split.y))

    trained(net, dataset, config, [[i] for i in file["order"].ravel()], measure)
    for i in (0, 1):
        assert deviation(net.weights[i], file[f"W{i}_end__{name}"]) < BOUND
        assert deviation(net.biases[i], file[f"b{i}_end__{name}"]) < BOUND
    evaluated = [epoch * 25 + step for epoch in (0, 1) for step in range(0, 25, 5)]
    for part in splits:
        assert np.array_equal(np.array(wrong[part])[evaluated], file[f"{part}_err__{name}"])


AUTOENCODER = ["tanh", "tanh", "linear", "tanh", "tanh"]


def autoencoder(file, method, weights, biases, backward, leak, eta, decay, batch):
    """(network, configuration) of the small autoencoders."""
    rate = float(eta) * batch * weights[-1].shape[0] / 2
    config = configuration(
        method, "target.loss=mse", "network.hidden=[8,5,3,5,8]", f"network.hidden_activation={AUTOENCODER}",
        f"optimizer.learning_rate={rate!r}", f"optimizer.weight_decay={float(decay) / rate!r}",
        alpha=leak, batch_size=batch, epochs=1,
    )  # fmt: skip
    return network(weights, biases, backward, hidden=AUTOENCODER), config


@pytest.mark.parametrize(("name", "leak"), [("BP", 0), ("FA", 0), ("PBP", 0), ("NDI", 0), ("NDI2", 0.01)])
def test_the_published_autoencoder_is_repeated(name, leak):
    file = arrays("06c_autoenc_online_normal")
    x, test = (file[f"img_{part}"] / 255.0 for part in ("train", "test"))
    weights = [file[f"W{i}_init"] for i in range(6)]
    backward = {"FA": [file[f"B{i}_rand"] for i in range(1, 6)], "BP": None, "PBP": None}
    backward = backward.get(name, [-w.T for w in weights[1:]])
    net, config = autoencoder(
        file, name.rstrip("2").lower(), weights, [np.zeros(len(w)) for w in weights], backward, leak,
        file["eta"], file["w_decay"], 6,
    )  # fmt: skip
    first, second = file["order"]  # the second permutes what the first has made
    order = [part for epoch in (first, first[second]) for part in np.split(epoch, 4)]
    found = {"train": [], "test": []}

    def measure():
        for part, images in (("train", x), ("test", test)):
            found[part].append(np.mean((images - net.predict(images)) ** 2))

    trained(net, regression(x, x, Split(test, test)), config, order, measure)
    for i in range(6):
        assert deviation(net.weights[i], file[f"W{i}_end__{name}"]) < BOUND
        assert deviation(net.biases[i], file[f"b{i}_end__{name}"]) < BOUND
    for part, values in found.items():
        assert deviation(values[1::2], file[f"{part}_err__{name}"]) < BOUND


@pytest.mark.parametrize("name", ["BP", "FA__rand", "PBP", "NDI__stale__a0.01"])
def test_a_published_minibatch_is_repeated(name):
    """One step of an autoencoder of trained size, through narrowing and widening layers."""
    file = arrays("06_autoenc_small")
    rule, *which = name.split("__")
    weights, biases = ([file[f"{letter}{i}"] for i in range(6)] for letter in "Wb")
    backward = [file[f"B{i}_{which[0]}"] for i in range(1, 6)] if which else None
    leak = float(which[1][1:]) if len(which) > 1 else 0.0
    net, config = autoencoder(
        file, rule.lower(), weights, biases, backward, leak, file["eta"], file["w_decay"], 6
    )
    x = file["X"].T
    trained(net, regression(x, x), config, [np.arange(6)])
    for i in range(6):
        assert deviation(net.weights[i], file[f"W{i}_new__{name}"]) < BOUND
        assert deviation(net.biases[i], file[f"b{i}_new__{name}"]) < BOUND


# --- one step by hand ------------------------------------------------------------------------------------


def problem(method, *overrides, sizes=(5, 4, 3, 2), seed=0, dtype="float64", **training):
    """(network, data set, configuration) of a small regression."""
    rng = np.random.default_rng(seed)
    config = configuration(
        method, "target.loss=mse", f"network.hidden={list(sizes[1:-1])}", *overrides, dtype=dtype,
        **{"batch_size": 4, "epochs": 2, **training},
    )  # fmt: skip
    x, y = (rng.normal(size=(12, n)).astype(dtype) for n in (sizes[0], sizes[-1]))
    dataset = regression(x, y)
    return create_network(config, dataset), dataset, config


def minibatch(dataset, samples=slice(0, 4)):
    x, y = dataset.train.x[samples], dataset.train.y[samples]
    where = {"phase": "forward", "epoch": 1, "position": 1, "number": 0}
    return methods.Minibatch(**where, indices=np.arange(len(x)), x=x, y=y)


def gradients(net, dataset, config, samples=slice(0, 4)):
    return methods.find(config.training.method).gradients(net, minibatch(dataset, samples), config)


@pytest.mark.parametrize("method", INVERSION_METHODS)
def test_a_step_by_hand_has_the_derivative_once(method):
    """The published script multiplies by phi' twice, which a network with large inputs shows."""
    net, dataset, config = problem(method)
    if method != "pbp":
        net.backward = [0.5 * b for b in net.backward]
    ours = gradients(net, dataset, config)
    x, y = dataset.train.x[:4], dataset.train.y[:4]
    activity = net.forward(x)
    delta, rates = y - activity.r[-1], [x, *activity.r]
    slopes = [1 - np.tanh(v) ** 2 for v in activity.v[:-1]]
    hidden = dfc.backward_errors(net.weights, net.backward, slopes, delta, rule=method)
    twice = [slope * error for slope, error in zip(slopes, hidden, strict=True)]
    for i, error in enumerate([*hidden, delta]):
        np.testing.assert_allclose(ours.weights[i], -(error.T @ rates[i]) / 4, rtol=1e-10)  # 2 / outputs is 1
        np.testing.assert_allclose(ours.biases[i], -error.sum(axis=0) / 4, rtol=1e-10)
        if i < len(hidden):
            published = -(twice[i].T @ rates[i]) / 4
            assert np.abs(ours.weights[i] - published).max() > 0.02 * np.abs(published).max()


@pytest.mark.parametrize("method", ["bp", "dfa", *INVERSION_METHODS])
def test_errors_are_clipped_and_updates_normalised_sample_by_sample(method):
    net, dataset, config = problem(method, "training.clip_error=0.05")
    plain = config.model_copy(update={"training": config.training.model_copy(update={"clip_error": None})})
    clipped = [gradients(net, dataset, config, slice(i, i + 1)) for i in range(4)]
    whole = [gradients(net, dataset, plain, slice(i, i + 1)) for i in range(4)]
    shortened = 0
    for ours, free in zip(clipped, whole, strict=True):
        for layer in range(3):
            norm = np.linalg.norm(free.biases[layer])  # of the error: 2 / outputs is 1
            factor = min(1.0, 0.05 / norm) if layer < 2 else 1.0
            shortened += factor < 1
            np.testing.assert_allclose(ours.weights[layer], factor * free.weights[layer], rtol=1e-10)
    assert shortened
    both = gradients(net, dataset, config)
    np.testing.assert_allclose(both.weights[0], sum(one.weights[0] for one in clipped) / 4, rtol=1e-9)
    normal = config.training.model_copy(update={"clip_error": None, "normalise_updates": True})
    ours = gradients(net, dataset, config.model_copy(update={"training": normal}))
    for layer in range(3):
        units = [free.weights[layer] / np.linalg.norm(free.weights[layer]) for free in whole]
        np.testing.assert_allclose(ours.weights[layer], sum(units) / 4, rtol=1e-9)


def test_a_sample_without_error_has_no_normalised_update():
    net, dataset, config = problem("bp", normalise_updates="true")
    silent = copy.copy(dataset.train)
    object.__setattr__(silent, "y", net.predict(silent.x))
    found = methods.find("bp").gradients(net, minibatch(regression(silent.x, silent.y)), config)
    assert all(not array.any() for array in (*found.weights, *found.biases))


def test_dynamics_at_rest_learn_like_their_closed_form():
    ends = []
    for method in ("di", "ndi"):
        net, dataset, config = problem(method, "inversion.alpha=0.1", "optimizer.learning_rate=0.05")
        assert Trainer(net, dataset, config).run().status == "done"
        ends.append(net.weights)
    for di, ndi in zip(*ends, strict=True):
        np.testing.assert_allclose(di, ndi, atol=1e-9)


@pytest.mark.parametrize("method", INVERSION_METHODS)
def test_float32_stays_float32_and_the_loss_falls(method):
    stable = ["inversion.alpha=0.5"] if method in ("di", "sldi", "ndi") else []
    if method == "fa":
        stable = ["inversion.feedback_scale=1.0"]
    net, dataset, config = problem(
        method, "optimizer.learning_rate=0.05", *stable, dtype="float32", epochs=20
    )
    run = Trainer(net, dataset, config)
    assert run.run().status == "done" and net.weights[0].dtype == np.float32
    assert run.rows[-1]["train_loss"] < 0.9 * run.rows[0]["train_loss"]


# --- runs ------------------------------------------------------------------------------------------------


GROWING = ["inversion.feedback=random", "inversion.feedback_range=0.3", "inversion.alpha=0.01",
           "inversion.stabilising_iterations=2000", "optimizer.learning_rate=0.05"]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "criterion"), [("di", "continuous"), ("di", "euler"), ("sldi", "continuous")]
)
def test_unstable_feedback_is_made_stable_after_a_step_and_a_checkpoint_has_it(tmp_path, method, criterion):
    def run():
        net, dataset, config = problem(
            method, *GROWING, f"inversion.restabilise={criterion}", "inversion.steps=20", seed=4
        )
        return Trainer(net, dataset, config)

    whole, stopped = run(), run()
    start = [b.copy() for b in whole.network.backward]
    loop = "single" if method == "sldi" else "sequential"
    assert not inversion_stability(whole.network.weights, start, 0.01, loop=loop).stable
    seen = []
    whole.observers = [After(lambda: seen.append([b.copy() for b in whole.network.backward]))]
    assert whole.run().status == "done"
    found = inversion_stability(whole.network.weights, whole.network.backward, 0.01, loop=loop)
    assert found.stable if criterion == "continuous" else found.euler_stable
    assert not all(np.array_equal(a, b) for a, b in zip(start, seen[0], strict=True))
    stopped.observers = [
        After(lambda: stopped.request_stop("enough") if stopped.counters.minibatches == 2 else None)
    ]
    stopped.run()
    checkpoint.save(stopped, tmp_path / "checkpoint.h5")
    resumed = run()
    checkpoint.restore(resumed, tmp_path / "checkpoint.h5")
    for ours, theirs in zip(resumed.network.backward, seen[1], strict=True):
        assert np.array_equal(ours, theirs)
    assert resumed.run().status == "done"
    for kind in ("weights", "backward"):
        for ours, theirs in zip(getattr(resumed.network, kind), getattr(whole.network, kind), strict=True):
            assert np.array_equal(ours, theirs)


def test_feedback_that_cannot_be_made_stable_ends_the_run_and_says_what_to_change():
    net, dataset, config = problem(
        "di", *GROWING[:3], "inversion.restabilise=continuous", "inversion.stabilising_iterations=1",
        "inversion.stabilising_rate=1e-9", "inversion.steps=20", seed=4,
    )  # fmt: skip
    outcome = Trainer(net, dataset, config).run()
    assert outcome.status == "diverged" and "not stable after 1 iterations" in outcome.message
    assert "inversion.alpha" in outcome.message
    with pytest.raises(
        ConfigurationError, match="inversion.feedback = 'stable': .* not stable after 1 iterations"
    ):
        problem(
            "ndi",
            "inversion.feedback=stable",
            "inversion.stabilising_iterations=1",
            "inversion.stabilising_rate=1e-9",
        )


def test_a_leak_makes_stable_feedback_past_a_bottleneck():
    rng = np.random.default_rng(0)
    net = network([rng.standard_normal(shape) for shape in ((10, 4), (3, 10), (6, 3))], None, None)
    create_backward(net, configuration("sldi", "inversion.feedback=stable", alpha=0.05))
    found = inversion_stability(net.weights, net.backward, loop="single", alpha=0.05, dt=0.1)
    assert found.stable
    with pytest.raises(RuntimeError, match="alpha > 0"):
        create_backward(net, configuration("sldi", "inversion.feedback=stable"))


def test_an_unstable_loop_ends_the_run():
    net, dataset, config = problem("di", "inversion.feedback_scale=50.0")
    outcome = Trainer(net, dataset, config).run()
    assert outcome.status == "diverged" and "unstable" in outcome.message


@pytest.mark.parametrize("method", ["bp", "dfa", *INVERSION_METHODS])
def test_a_run_has_the_feedback_matrices_of_its_method(method):
    net, _, _ = problem(method)
    chain = [(4, 3), (3, 2)]
    shapes = {"di": chain, "ndi": chain, "fa": chain, "sldi": [(4, 2)]}.get(method)
    assert (net.backward and [b.shape for b in net.backward]) == shapes


def test_the_seed_draws_random_feedback():
    first, again, other = (
        problem("fa", "inversion.feedback=random", f"training.seed={seed}")[0].backward for seed in (1, 1, 2)
    )
    assert np.array_equal(first[0], again[0]) and not np.array_equal(first[0], other[0])


@pytest.mark.parametrize(
    ("method", "used"),
    [
        ("bp", set()), ("pbp", set()), ("fa", {"feedback", "feedback_scale"}),
        ("ndi", {"alpha", "feedback", "feedback_scale"}),
        ("di", {"alpha", "dt", "steps", "nonlinearity", "feedback", "feedback_scale", "restabilise"}),
        ("dfc", set()),
    ],
)  # fmt: skip
def test_a_method_uses_its_keys_of_the_configuration(method, used):
    config = load_config(None, [f"training.method={method}"])[0]
    keys = {f"inversion.{key}" for key in type(config.inversion).model_fields}
    assert keys - set(config.unused_keys()) == {f"inversion.{key}" for key in used}
    assert ("training.clip_error" in config.unused_keys()) == (method == "dfc")
