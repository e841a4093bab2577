"""Optimisers, losses, data sets and measures from outside: what is refused, and where each is used."""

import numpy as np
import pytest
from small_runs import configuration, dataset, network, train

import dfc_numba as dfc
from dfc_numba import data
from dfc_numba.configuration.config_file import load_config, to_toml
from dfc_numba.data import DataSet, Split
from dfc_numba.errors import ConfigurationError
from dfc_numba.learning.descent import Descent
from dfc_numba.registry import DATA_SOURCES, LOSSES, MEASURES, OPTIMIZERS
from dfc_numba.runs import checkpoint

# --- optimisers -------------------------------------------------------------------------------------------


def momentum(theta, gradient, state, rate, number, options):
    state["buffer"][...] = options["momentum"] * state["buffer"] + gradient
    theta -= theta.dtype.type(rate) * state["buffer"]


def optimizer(**changes):
    return dfc.Optimizer("mine", **{"step": momentum, "state": ("buffer",), "keys": ("momentum",), **changes})


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"step": None}, "has step = None; it needs to be a function"),
        ({"step": lambda theta, gradient: None}, r"step is called with \(theta, gradient, state, rate"),
        (
            {"step": lambda theta, gradient, *rest: 1 / 0},
            "step fails for arrays of float64: ZeroDivisionError",
        ),
        ({"step": lambda theta, gradient, *rest: theta - gradient}, "step does not change theta"),
        ({"keys": ("momentun",)}, "allowed keys are momentum, beta1"),
        (
            {"step": lambda theta, gradient, state, *rest: state.update(buffer=gradient)},
            "step replaces arrays of its state",
        ),
        ({"state": ()}, "step fails for arrays of float64: KeyError: 'buffer'"),
    ],
)
def test_a_wrong_optimizer_is_refused_when_it_is_registered(changes, message):
    with pytest.raises(ValueError, match=message):
        dfc.register(optimizer(**changes))
    assert "mine" not in OPTIMIZERS


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_an_own_optimizer_steps_like_the_built_in_of_the_same_formula(dtype):
    dfc.register(optimizer())
    settings = {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.01, "clip_norm": 0.5}
    nets = []
    for name in ("sgd", "mine"):
        options = configuration(optimizer={"name": name, **settings}).optimizer
        net = network(dtype=dtype)
        descent = Descent([[w] for w in net.weights], options)
        for _ in range(3):
            descent.step([[np.cos(w)] for w in net.weights])
        nets.append(net)
    epsilon = np.finfo(dtype).eps
    for ours, theirs in zip(nets[1].weights, nets[0].weights, strict=True):
        assert ours.dtype == dtype and np.allclose(ours, theirs, rtol=20 * epsilon, atol=20 * epsilon)


def test_options_of_an_optimizer_are_checked_completed_and_documented():
    dfc.register(optimizer(options=[dfc.Option("warmup", 10, "steps", least=0)], defaults={"momentum": 0.5}))
    config, _ = load_config(None, ["optimizer.name=mine", "optimizer.options.warmup=3"])
    assert config.optimizer.options == {"warmup": 3} and config.optimizer.momentum == 0.5
    assert "options = { warmup = 3 }" in to_toml(config)
    assert "momentum = 0.5" in to_toml(config) and "beta1" not in to_toml(config).split("[feedback_opt")[0]
    for override, message in (
        ("optimizer.options.warm=3", "optimizer 'mine' has no such option; did you mean 'warmup'"),
        ("optimizer.options.warmup=-1", "must be an integer >= 0"),
        ("optimizer.beta1=0.5", "optimizer.beta1: not used, because optimizer.name = 'mine'"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            load_config(None, ["optimizer.name=mine", override])


def test_the_state_of_an_own_optimizer_is_in_checkpoints(tmp_path):
    dfc.register(optimizer())
    config = configuration(training={"method": "bp"}, optimizer={"name": "mine", "momentum": 0.9})
    trainer, _, _ = train(config)
    checkpoint.save(trainer, tmp_path / "checkpoint.h5")
    arrays = checkpoint.load(tmp_path / "checkpoint.h5").state.optimizers["forward"]
    assert any(name.startswith("buffer/") and array.any() for name, array in arrays.items())


# --- losses -----------------------------------------------------------------------------------------------


def value(output, y):
    return np.mean(np.sum((output - y) ** 4, axis=1))


def gradient(output, y):
    return 4 * (output - y) ** 3 / len(output)


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"gradient": lambda output, y: 4 * (output - y) ** 3},
            "gradient differs from finite differences of value",
        ),
        ({"gradient": lambda output, y: output.sum()}, r"gradient returns shape \(\)"),
        ({"value": lambda output, y: output - y}, "a finite number is needed, the mean over samples"),
        ({"value": lambda output: 0.0}, r"value\(output, y\) fails for arrays"),
    ],
)
def test_a_wrong_loss_is_refused_when_it_is_registered(changes, message):
    with pytest.raises(ValueError, match=message):
        dfc.register(dfc.Loss("mine", **{"value": value, "gradient": gradient, **changes}))
    assert "mine" not in LOSSES


def test_an_own_loss_is_that_of_targets_training_and_evaluation():
    dfc.register(dfc.Loss("mine", value=value, gradient=gradient))
    net, split = network(), dataset("regression").train
    target = dfc.output_target(net, split.x, split.y, loss="mine", step=0.1)
    output = net.predict(split.x)
    assert np.allclose(target, output - 0.1 * 4 * (output - split.y) ** 3)
    trainer, _, outcome = train(
        configuration(target={"loss": "mine"}, training={"method": "bp"}), dataset("regression"), net
    )
    assert outcome.status == "done"
    validation = trainer.dataset.validation
    expected = value(net.predict(validation.x), validation.y)
    assert trainer.rows[-1]["val_loss"] == pytest.approx(expected, rel=1e-12)


def test_a_loss_for_classes_refuses_a_regression():
    dfc.register(dfc.Loss("mine", value=value, gradient=gradient, classes=True))
    with pytest.raises(ValueError, match="target.loss = 'mine' needs classes"):
        train(configuration(target={"loss": "mine"}), dataset("regression"))


# --- data sets --------------------------------------------------------------------------------------------


def load(*, dtype, samples=20):
    """Points on a line."""
    random = np.random.RandomState(0)
    x = random.normal(size=(samples, 3)).astype(dtype)
    parts = {name: Split(x, x.sum(axis=1, keepdims=True)) for name in ("train", "validation", "test")}
    return DataSet(name="mine", task="regression", n_outputs=1, source="drawn", **parts)


def test_a_data_set_is_loaded_by_its_name_with_checked_options():
    dfc.register(dfc.DataSource("mine", load=load, options=[dfc.Option("samples", 20, "points", least=5)]))
    assert (
        len(data.load("mine", samples=7).train) == 7
        and data.load("mine", dtype="float32").train.x.dtype == "f4"
    )
    assert data.options("mine") == {"samples": 20} and "samples = 20  # points" in data.describe("mine")
    for options, message in (
        ({"samples": 2}, "must be an integer >= 5"),
        ({"sample": 9}, "Did you mean 'samples'"),
    ):
        with pytest.raises(ValueError, match=message):
            data.check_options("mine", options)


def test_options_of_a_data_set_are_the_arguments_of_its_function_if_none_are_listed():
    dfc.register(dfc.DataSource("mine", load=load))
    assert data.options("mine") == {"samples": 20} and DATA_SOURCES["mine"].summary == "Points on a line."


@pytest.mark.parametrize(
    "options, message",
    [
        ({"load": None}, "has load = None; it needs to be a function"),
        ({"load": lambda samples=3: None}, r"load is called as load\(dtype=...,"),
        (
            {"load": load, "options": [dfc.Option("size", 3)]},
            r"load\(dtype=..., size=...\), which it does not take",
        ),
    ],
)
def test_a_wrong_data_set_is_refused_when_it_is_registered(options, message):
    with pytest.raises(ValueError, match=message):
        dfc.register(dfc.DataSource("mine", **options))


def test_a_function_that_returns_something_else_is_told():
    dfc.register(dfc.DataSource("mine", load=lambda *, dtype: 3))
    with pytest.raises(
        ValueError, match="data set 'mine': load returns int; it has to be a dfc_numba.data.DataSet"
    ):
        data.load("mine")


# --- measures ---------------------------------------------------------------------------------------------


def largest(probe):
    layers = np.array([abs(w).max() for w in probe.update.weights])
    return layers.max(), layers


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "neither of = a function nor columns"),
        ({"of": largest, "needs": ["labels"]}, "needs 'labels'; a probe has 'update'"),
        ({"of": largest, "along": "unit"}, "along 'layer', 'sample' or None"),
        (
            {"columns": {"angle_bp": dfc.Measurement(long_name="", units="1", of=largest)}},
            "'alignment' has already",
        ),
        (
            {"columns": {"train_loss": dfc.Measurement(long_name="", units="1", of=largest)}},
            "metrics.csv has already",
        ),
        ({"columns": {"a_layer": dfc.Measurement(long_name="", units="1", of=largest)}}, "no ending _layer"),
    ],
)
def test_a_wrong_measure_is_refused_when_it_is_registered(options, message):
    with pytest.raises(ValueError, match=message):
        dfc.register(dfc.Measure("mine", **options))
    assert "mine" not in MEASURES


def test_a_measure_is_asked_for_by_its_name():
    dfc.register(dfc.Measure("mine", of=largest, along="layer", needs=["update"]))
    assert load_config(None, ["analysis.every=1", "analysis.what=[mine]"])[0].analysis.what == ("mine",)
    with pytest.raises(
        ConfigurationError, match="lists mine, which training.freeze_forward = true does not have"
    ):
        load_config(None, ["analysis.every=1", "analysis.what=[mine]", "training.freeze_forward=true"])
