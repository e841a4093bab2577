"""The steady state with transposed Jacobian feedback, without simulating: beside the simulation, and in training."""

import numpy as np
import pytest

import dfc_numba as dfc
from dfc_numba.configuration.config import Config
from dfc_numba.learning.training import Trainer
from dfc_numba.runs.experiment import create_network, load_data


def problem(count=12, **options):
    net = dfc.Network.create([8, 12, 9, 4], seed=1)
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((count, 8)), rng.integers(0, 4, count)
    controller = dfc.Controller(jacobian_feedback=True, k_p=0.0, dt=0.02, steps=6000, tau_v=0.2, **options)
    if options.get("error") == "softmax":
        return net, x, 0.01 + 0.96 * np.eye(4)[y], controller
    return net, x, dfc.output_target(net, x, y, loss="cross_entropy", step=0.3), controller


@pytest.mark.parametrize(
    "options", [{"alpha": 0.1}, {"alpha": 1.0, "error": "softmax"}, {"alpha": 0.3, "leak": "integral"}]
)
def test_simulations_end_at_the_transposed_steady_state(options):
    net, x, target, controller = problem(**options)
    rest = dfc.steady_state(net, x, target, controller, method="newton")
    assert rest.converged.all()
    assert (rest.status == "converged").all()
    end = dfc.simulate(net, x, target, controller, record=dfc.Record(every=6000))
    assert np.allclose(end.u[-1], rest.u, atol=1e-7)
    for i in range(3):
        assert np.allclose(end.v[i][-1], rest.v[i], atol=1e-7)


def test_the_update_is_that_of_the_final_state():
    net, x, target, controller = problem(alpha=0.1)
    for rule in ("nonlinear_difference", "voltage_difference"):
        exact = dfc.forward_update(net, x, target, controller, readout="newton", rule=rule)
        final = dfc.forward_update(net, x, target, controller, readout="final", rule=rule)
        for a, b in zip(exact.weights, final.weights, strict=True):
            assert np.allclose(a, b, rtol=1e-5, atol=1e-9)


def test_a_sample_that_has_not_converged_is_flagged_and_can_be_left_out():
    net, x, target, controller = problem(alpha=0.001, error="softmax")
    for w in net.weights:
        w *= 4.0
    rest = dfc.steady_state(net, x, target, controller, method="newton", max_iterations=4)
    assert not rest.converged.all()
    assert set(rest.status) <= {"converged", "out of iterations", "not finite"}
    update = dfc.forward_update(net, x, target, controller, readout="newton", samples="converged")
    assert all(np.isfinite(w).all() for w in update.weights)


def test_dfc_ss_newton_trains_with_transposed_feedback():
    config = Config.model_validate(
        {
            "training": {"method": "dfc-ss-newton", "epochs": 2, "rule": "voltage_difference"},
            "controller": {"jacobian_feedback": True, "alpha": 0.1},
            "feedback": {"train": False},
        }
    )
    data = load_data(config)
    run = Trainer(create_network(config, data), data, config)
    assert run.run().status == "done"
    assert run.rows[-1]["train_accuracy"] > 0.9
