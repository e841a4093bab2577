"""The presets: every number is the published one, and so is the step that a trainer takes with it.

That each preset loads, names its source, states what it uses and nothing else, and survives TOML there and
back is tested in test_config.py, its listing in package/test_cli.py.
"""

from dataclasses import replace

import numpy as np
import published
import published_inversion
import published_relatives
import pytest

import dfc_numba as dfc
from dfc_numba.configuration.config import Config
from dfc_numba.configuration.config_file import load_config, preset_names, preset_text, preset_title, tomllib
from dfc_numba.data.dataset import DataSet, Split
from dfc_numba.learning.method import Gradients
from dfc_numba.learning.training import Trainer
from dfc_numba.runs.experiment import create_network

SHAPES = {
    "digits": (64, 10),
    "student_teacher": (15, 5),
    "mnist_autoencoder": (784, 784),
    "uniform_teacher": (30, 10),
}
PRESETS = [*published.ENTRIES, *published.STRONG, *published.STRONG_BP, *published_inversion.PRESETS]
SHORT = ["controller.steps=3", "feedback_controller.steps=3", "training.samples=all", "training.batch_size=4"]
SHORT += [
    "training.epochs=1",
    "feedback.pretraining_epochs=1",
    "feedback.epochs=1",
    "feedback.extra_epochs=1",
]
ONE_PER_METHOD = [
    "mnist-bp", "mnist-dfa", "mnist-dfc", "mnist-dfc-ss", "mnist-dfc-ssa", "fashion-mnist-dfc-fixed",
    "mnist-train-dfc-ss-fixed", "mnist-autoencoder-dfc", "mnist-autoencoder-dfc-ssa-fixed", "student-teacher-dfc-ssa",
    "strong-mnist-bp", "strong-fashion-mnist-dfc", "strong-mnist-single-phase", "strong-fashion-mnist-two-phase",
    "regression-linear-di", "regression-nonlinear-sldi", "inversion-mnist-ndi", "inversion-autoencoder-fa",
]  # fmt: skip


def dataset(config, n_samples, scale=1.0):
    """Random samples of the shape that the preset's data set has; `scale` is that of a regression's targets."""
    rng = np.random.default_rng(0)
    n_inputs, n_outputs = SHAPES.get(config.data.name, (784, 10))
    x = rng.normal(size=(n_samples, n_inputs)).astype(config.training.dtype)
    if config.target.loss == "cross_entropy":
        y = rng.integers(n_outputs, size=n_samples)
    else:
        y = x if n_inputs == n_outputs else scale * np.tanh(x[:, :n_outputs])
    task = "classification" if y.ndim == 1 else "regression"
    return DataSet("random", task, Split(x, y), None, Split(x, y), n_outputs, "drawn here")


def trainer(name, n_samples=4, overrides=(), scale=1.0):
    config, _ = load_config(name, overrides)
    data = dataset(config, n_samples, scale)
    order = np.arange(n_samples)
    size = config.training.batch_size
    minibatches = [order[start : start + size] for start in range(0, n_samples, size)]
    return Trainer(create_network(config, data), data, config, minibatches=minibatches, threads=1)


def forward_pass_only(run):
    """Leaves the trainer the first pass of the forward phase alone."""
    run.schedule = [current for current in run.schedule if current.phase == "forward"][:1]
    return run


def used(name, overrides):
    """The overrides of keys that the preset states."""
    stated = tomllib.loads(preset_text(name))
    return [
        text for text in overrides if text.split("=")[0].split(".")[1] in stated.get(text.split(".")[0], {})
    ]


# --- the numbers -----------------------------------------------------------------------------------


def test_every_published_configuration_has_a_preset():
    assert sorted([*PRESETS, *published_relatives.PRESETS, "digits"]) == preset_names()
    assert set(published.ENTRIES.values()) == set(published.PUBLISHED)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_states_the_published_numbers_and_nothing_else(name):
    resolved, expected = tomllib.loads(preset_text(name)), published.expected(name)
    others = {
        (section, key): value
        for section, keys in resolved.items()
        for key, value in keys.items()
        if key not in expected.get(section, {})
    }
    stated = {
        section: {key: resolved.get(section, {}).get(key) for key in keys}
        for section, keys in expected.items()
    }
    assert stated == expected
    defaults = Config().model_dump(mode="json")
    given = {path: None if value == "none" else value for path, value in others.items()}
    assert given == {(section, key): defaults[section][key] for section, key in others}


@pytest.mark.parametrize("name", published_relatives.PRESETS)
def test_a_preset_of_a_relative_states_the_published_numbers(name):
    stated = tomllib.loads(preset_text(name))
    values = {f"{section}.{key}": value for section, keys in stated.items() for key, value in keys.items()}
    assert {
        key: values.get(key) for key in published_relatives.expected(name)
    } == published_relatives.expected(name)


def test_titles_tell_the_presets_apart_and_fit_on_a_line():
    titles = [preset_title(name) for name in preset_names()]
    assert len(set(titles)) == len(titles)
    assert max(map(len, titles)) <= 90


# --- the step in effect ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "nudge", "nudge_of_two"),
    [
        ("mnist-dfc", 0.07794471150634391 / 128, 0.07794471150634391 / 2),
        ("fashion-mnist-dfc-ss-fixed", 0.1 / 128, 0.1 / 2),
        ("mnist-autoencoder-dfc-ssa", 0.02027700334158571 / 128, 0.02027700334158571 / 2),
        ("student-teacher", 0.05 / 128, 0.05 / 2),
        ("strong-fashion-mnist-dfc", 0.019957, 0.019957),
    ],
)
def test_the_nudge_of_a_sample_is_the_published_one_also_in_a_smaller_minibatch(name, nudge, nudge_of_two):
    run = forward_pass_only(trainer(name, n_samples=130))
    seen = []

    def note(network, minibatch, config):
        seen.append(minibatch.nudge)
        return Gradients()

    run.method = replace(run.method, forward=note)
    run.run()
    assert seen == [nudge, nudge_of_two]


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("mnist-bp", 2.97764587844326e-07 / 0.001),
        ("fashion-mnist-dfa", 7.67552163131779e-06 / 0.001),
        ("mnist-dfc", 9.265965477237583e-05 / 0.07794471150634391),
        ("mnist-train-dfc-ss", 9.88774546189883e-05 / 0.011058354511931722),
        ("mnist-autoencoder-dfc-ssa-fixed", 5.519455735010572e-06 / 0.1),
        ("student-teacher-dfc-ss", 1.0),
        ("strong-mnist-dfc", 1.0924e-3),
        ("strong-mnist-two-phase", 6.5602e-4),
        ("strong-fashion-mnist-single-phase", 9.5320e-4),
    ],
)
def test_the_learning_rate_in_effect_is_the_published_one(name, rate):
    run = trainer(name)
    assert run.optimizers["forward"].learning_rates == [rate] * len(run.network.weights)


def test_pretraining_and_later_epochs_have_optimisers_of_their_own():
    rates = {
        phase: optimizer.learning_rates[0] for phase, optimizer in trainer("mnist-dfc").optimizers.items()
    }
    assert (rates["pretraining"], rates["feedback"]) == (0.0003170276937521561, 0.0005265408146208675)


# --- one minibatch, the published way -------------------------------------------------------------------


def first_step(name, n_samples, scale=1.0):
    """The network before the first forward minibatch, the minibatch, and by how much W_1, b_1, W_2, ... change."""
    run = forward_pass_only(trainer(name, n_samples, scale=scale))
    start, x = run.network.copy(), run.dataset.train.x
    assert run.run().status == "done"
    changes = [after - before for before, after in zip(arrays(start), arrays(run.network), strict=True)]
    y = run.dataset.train.y
    return start, x, np.eye(start.sizes[-1])[y] if y.ndim == 1 else y, changes


def arrays(network):
    return [array for layer in zip(network.weights, network.biases, strict=True) for array in layer]


def published_feedback_alignment(network, x, output_target):
    """Gradients of the squared distances between rates and local targets h_i + Q_i (r* - y), with factor 2."""
    activity = network.forward(x)
    rates, gradients = [x, *activity.r], []
    for i, (v, q) in enumerate(zip(activity.v, network.feedback, strict=True)):
        hidden = i < len(activity.v) - 1
        towards = (output_target - activity.r[-1]) @ (q.T if hidden else np.eye(len(q)))
        error = -2 * towards * ((1 - np.tanh(v) ** 2) if hidden else 1)
        gradients += [error.T @ rates[i] / len(x), error.mean(axis=0)]
    return gradients


def clipped(gradient):
    """A gradient with a norm of at most 1, of each tensor alone."""
    return gradient * min(1.0, 1.0 / (np.linalg.norm(gradient) + 1e-6))


def adam(gradient, rate, epsilon):
    """The first step of Adam, whose moments are then g and g^2 whatever the betas."""
    return -rate * gradient / (np.abs(gradient) + epsilon)


def sgd(gradient, rate, _epsilon):
    return -rate * gradient


def published_step(name, gradients):
    """The changes that one step with the published numbers makes, given the published gradients."""
    entry = published.PUBLISHED[published.ENTRIES[name]]
    step, rate = {"Adam": adam, "SGD": sgd}[entry["optimizer"]], entry["lr"] / entry["target_stepsize"]
    return [step(clipped(gradient), rate, entry.get("epsilon")) for gradient in gradients]


def published_target(name, network, x, y):
    nudge = published.PUBLISHED[published.ENTRIES[name]]["target_stepsize"] / len(x)
    return dfc.output_target(network, x, y, loss=load_config(name)[0].target.loss, step=nudge)


def largest_deviation(ours, theirs):
    """Over all arrays, relative to the largest value of each."""
    return max(np.abs(a - b).max() / np.abs(b).max() for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("name", ["mnist-dfa", "mnist-train-dfa", "student-teacher-dfa"])
def test_feedback_alignment_takes_the_published_step(name):
    network, x, y, changes = first_step(name, n_samples=128)
    gradients = published_feedback_alignment(network, x, published_target(name, network, x, y))
    assert largest_deviation(changes, published_step(name, gradients)) < 1e-9


def test_feedback_alignment_clips_the_published_gradient():
    network, x, y, changes = first_step("student-teacher-dfa", n_samples=128, scale=1e9)
    target = published_target("student-teacher-dfa", network, x, y)
    gradients = published_feedback_alignment(network, x, target)
    assert min(map(np.linalg.norm, gradients)) > 1e3
    assert largest_deviation(changes, published_step("student-teacher-dfa", gradients)) < 1e-9


@pytest.mark.parametrize(
    "name", ["mnist-dfc-ssa", "fashion-mnist-dfc-ssa-fixed", "student-teacher-dfc-ssa-fixed"]
)
def test_dfc_takes_the_published_step(name):
    network, x, y, changes = first_step(name, n_samples=8)
    target, controller = published_target(name, network, x, y), load_config(name)[0].controller
    with dfc.limit_threads(1):  # like the trainer: the last bits of the linear algebra depend on it
        update = dfc.forward_update(network, x, target, controller, readout="analytic")
    gradients = [-2 * array for layer in zip(update.weights, update.biases, strict=True) for array in layer]
    assert largest_deviation(changes, published_step(name, gradients)) < 1e-9


def test_backpropagation_takes_the_published_step():
    network, x, y, changes = first_step("strong-mnist-bp", n_samples=16)
    activity = network.forward(x)
    delta = (np.exp(activity.r[-1]) / np.exp(activity.r[-1]).sum(axis=1, keepdims=True) - y) / 16
    gradients = [delta.T @ activity.r[-2], delta.sum(axis=0)]
    factor = min(1, 1 / np.hypot(*map(np.linalg.norm, gradients)))
    wanted = [adam(factor * gradient, 2e-3, 2e-3) for gradient in gradients]
    assert factor < 1 and largest_deviation(changes[-2:], wanted) < 1e-4  # float32, as published


# --- they run -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_a_trainer_can_be_made_of_a_preset(name):
    run = trainer(name)
    later = {"pretraining", "feedback"} if run.config.feedback.train and run.method.feedback else set()
    assert set(run.optimizers) == {"forward"} | later
    assert run.schedule[-1].epoch == run.config.training.epochs


@pytest.mark.parametrize("name", ONE_PER_METHOD)
def test_every_preset_learns_in_each_of_its_phases(name):
    run = trainer(name, overrides=used(name, SHORT))
    start = run.network.copy()
    assert run.run().status == "done"
    assert not np.array_equal(run.network.weights[0], start.weights[0])
    learns = "pretraining" in run.optimizers
    assert learns == (not np.array_equal(run.network.feedback[0], start.feedback[0]))
