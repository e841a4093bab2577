"""Equilibrium propagation in training: options that are refused when the configuration is read, counts, the vector field."""

import numpy as np
import pytest

from dfc_numba.configuration.config import Config
from dfc_numba.learning.equilibrium_methods import equilibrium_of
from dfc_numba.learning.training import Trainer
from dfc_numba.relatives.continual import continual_updates
from dfc_numba.relatives.equilibrium_propagation import equilibrium_update
from dfc_numba.runs.experiment import create_network, load_data

SMALL = {
    "network.hidden": [12],
    "network.hidden_activation": "tanh",
    "target.loss": "mse",
    "data.name": "digits",
}
METHODS = ["ep", "ep-vector-field", "ep-hopfield", "ep-gaussian"]


def configuration(name, **more):
    table = {"training": {"method": name, "epochs": 1, "batch_size": 64}}
    for path, value in {**SMALL, **more}.items():
        section, key = path.split(".")
        table.setdefault(section, {})[key] = value
    return Config.model_validate(table)


def trainer(name, observers=(), **more):
    config = configuration(name, **more)
    data = load_data(config)
    return Trainer(create_network(config, data), data, config, observers=observers)


class Warnings:
    """Keeps the tallies of a run."""

    def __init__(self):
        self.tallies = []

    def on_divergence(self, epoch, tally):
        self.tallies.append(tally)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("output", ["relu", "sigmoid", "tanh"])
def test_an_output_activation_that_would_be_ignored_is_refused(name, output):
    with pytest.raises(
        ValueError, match=f"nonlinearity of network.hidden_activation .* = '{output}' would be ignored"
    ):
        configuration(name, **{"network.output_activation": output})


@pytest.mark.parametrize("name", ["ep-hopfield", "ep-gaussian"])
def test_a_step_longer_than_the_time_constant_is_refused(name):
    with pytest.raises(ValueError, match=r"dt = 0.5 is larger than tau = 0.2; choose dt <= tau"):
        configuration(name, **{"method.dt": 0.5, "method.tau": 0.2})


@pytest.mark.parametrize(("name", "beta"), [("ep-hopfield", 25.0), ("ep-gaussian", -18.5)])
def test_a_nudge_that_euler_steps_cannot_carry_is_refused(name, beta):
    with pytest.raises(ValueError, match=r"is above 2.*choose dt <= 0.0"):
        configuration(name, **{"method.beta": beta})
    configuration(name, **{"method.beta": beta, "method.dt": 0.05})
    configuration(name, **{"method.beta": beta, "target.loss": "cross_entropy"})


def test_newtons_method_takes_a_nudge_that_euler_steps_cannot_carry():
    configuration("ep-hopfield", **{"method.beta": 25.0, "method.solver": "newton"})


@pytest.mark.parametrize("tolerance", [None, 1e-9])
def test_every_sample_is_counted_once(tolerance):
    """Also without a tolerance: by the speed at the end of the free phase."""
    heard = Warnings()
    run = trainer("ep", [heard], **{"method.free_steps": 1, "method.tolerance": tolerance})
    run.run()
    assert heard.tallies[0].samples == len(run.dataset.train)
    assert heard.tallies[0].diverged == heard.tallies[0].samples
    assert "did not settle" in heard.tallies[0].text(1)


@pytest.mark.parametrize("name", ["ep", "ep-hopfield", "ep-gaussian"])
def test_samples_at_rest_raise_no_warning(name):
    heard = Warnings()
    trainer(name, [heard], **({"method.free_steps": 60} if name == "ep-hopfield" else {})).run()
    assert heard.tallies == []


def test_the_vector_field_learns_with_a_squared_error():
    run = trainer(
        "ep-vector-field",
        **{"network.hidden": [48], "training.epochs": 3, "training.batch_size": 32, "optimizer.learning_rate": 5e-3,
           "feedback_optimizer.learning_rate": 5e-3, "feedback_optimizer.weight_decay": 0.0},
    )  # fmt: skip
    run.run()
    assert run.rows[-1]["train_accuracy"] >= 0.6, run.rows[-1]


@pytest.mark.parametrize("solver", ["steps", "newton"])
def test_the_same_update_keeps_the_difference_of_forward_and_backward_weights(solver):
    """Delta B_i = Delta W_{i+1}^T: under gradient descent at one rate, their difference does not change."""
    rate = {f"{section}.{key}": value for section in ("optimizer", "feedback_optimizer")
            for key, value in (("name", "sgd"), ("learning_rate", 0.05), ("weight_decay", 0.0))}  # fmt: skip
    more = {**rate, "network.hidden": [6], "method.solver": solver, "training.batch_size": 256}
    differences, own = [], []
    for same in (True, False):
        run = trainer("ep-vector-field", **more, **{"method.same_update": same})
        before = run.network.weights[1].T - run.own["B1"]
        first = run.own["B1"].copy()
        run.run()
        differences.append(np.abs(run.network.weights[1].T - run.own["B1"] - before).max())
        own.append(np.abs(run.own["B1"] - first).max())
    assert min(own) > 1e-3
    assert differences[0] < 1e-6 < 1e-3 < differences[1]


def test_newtons_method_trains_a_vector_field_as_settled_phases_do():
    found = []
    for solver, steps in (("newton", 1), ("steps", 400)):
        more = {"method.free_steps": steps, "method.nudged_steps": steps, "training.batch_size": 256}
        run = trainer("ep-vector-field", **more, **{"network.hidden": [6], "method.solver": solver})
        for weights in run.network.weights:
            weights *= 0.3  # with one equilibrium
        minibatch = run._take(type("Pass", (), {"phase": "forward", "epoch": 1}), [np.arange(20)])
        found.append(run.method.gradients(run.network, minibatch, run.config, run.own))
    for kind in ("weights", "biases"):
        for one, two in zip(*(getattr(gradients, kind) for gradients in found), strict=True):
            assert np.allclose(one, two, rtol=1e-3, atol=1e-6)
    assert np.allclose(found[0].own["B1"], found[1].own["B1"], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["ep", "ep-vector-field", "ep-hopfield"])
def test_directions_of_a_feedforward_pass_are_not_measured(name):
    with pytest.raises(
        ValueError, match=r"analysis.what lists alignment, which training.method = .* does not have"
    ):
        configuration(name, **{"analysis.every": 1, "analysis.what": ["alignment"]})


def test_the_reason_names_the_gradient_at_the_equilibrium():
    from dfc_numba.analysis.probe import reasons

    assert "`equilibrium_gradient`" in reasons(configuration("ep"))["update"]
    assert "update" not in reasons(configuration("ep-gaussian"))


def test_a_small_nudge_of_the_gaussian_form_aligns_with_backpropagation():
    """It rests at the feedforward state, so that directions are those of its loss."""
    from dfc_numba.analysis.probe import probe_minibatch, probe_of

    run = trainer("ep-gaussian", **{"method.beta": 1e-4, "method.nudged_steps": 2000})
    probe = probe_of(
        run.network, probe_minibatch(run.network, run.dataset, run.config, samples=32), run.config
    )
    from dfc_numba.analysis.alignment import alignment

    assert alignment(probe.update, probe.reference("bp")).total < 0.1


CONTINUAL = {
    "optimizer.name": "sgd",
    "optimizer.learning_rate": 0.05,
    "method.nudged_steps": 6,
    "network.hidden": [24],
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_minibatch_of_continual_training_ends_where_its_nudged_steps_do(bias, dtype):
    run = trainer("ep-continual", **CONTINUAL, **{"network.bias": bias, "training.dtype": dtype})
    before = run.network.copy()
    minibatch = run._take(type("Pass", (), {"phase": "forward", "epoch": 1}), [np.arange(32)])
    run._learn(minibatch, 1)
    options = equilibrium_of(run.config)
    last = continual_updates(before, minibatch.x, minibatch.y, options, learning_rate=0.05)[-1]
    once = equilibrium_update(before, minibatch.x, minibatch.y, options)
    pairs = [
        (run.network.weights, last.new_weights, before.weights, once.weights),
        (run.network.biases or [], last.new_biases or [], before.biases or [], once.biases or []),
    ]
    precision = 1e-13 if dtype == "float64" else 1e-6
    for trained, expected, old, update in (four for kind in pairs for four in zip(*kind, strict=True)):
        assert np.allclose(trained, expected, rtol=precision, atol=precision)
        assert (
            np.abs(trained - old - 0.05 * update).max() > 10 * precision
        )  # not the update of both phases at once


def test_continual_training_learns_and_resumes_to_the_same_bits():
    more = {
        **CONTINUAL, "optimizer.learning_rate": 0.02, "method.beta": 1.0, "network.init": "uniform", "network.init_range": 0.1,
        "training.epochs": 3, "training.batch_size": 16,
    }  # fmt: skip
    run = trainer("ep-continual", **more)
    assert run.run().status == "done"
    assert run.rows[-1]["train_accuracy"] >= 0.6, run.rows[-1]
    parted = trainer("ep-continual", [Stopper()], **more)
    parted.observers[0].run = parted
    assert parted.run().status == "interrupted"
    again = trainer("ep-continual", **more)
    again.restore(parted.state())
    assert again.run().status == "done"
    for one, two in zip(
        run.network.weights + run.network.biases, again.network.weights + again.network.biases, strict=True
    ):
        assert np.array_equal(one, two)


class Stopper:
    """Stops a run in its second epoch."""

    def on_epoch(self, row):
        if row["epoch"] == 2:
            self.run.request_stop("for the test")


@pytest.mark.parametrize(
    ("key", "value"),
    [("name", "adam"), ("momentum", 0.9), ("weight_decay", 1e-3), ("clip_norm", 1.0), ("cosine_to", 0.1),
     ("learning_rate", [0.1, 0.2]), ("modulation", "grapes")],
)  # fmt: skip
def test_continual_training_refuses_other_optimisers(key, value):
    with pytest.raises(ValueError, match=rf"optimizer.{key} = .* would step them another way"):
        configuration("ep-continual", **{**CONTINUAL, f"optimizer.{key}": value})
