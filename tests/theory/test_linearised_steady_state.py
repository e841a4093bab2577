"""For small nudges the simulation settles in the linearised steady state u = (J Q + alpha I)^{-1} (r* - r_L).

DFC (Meulemans et al. 2021), Lemma 1: what is left out is of second order in the nudge.
"""

import numpy as np
import pytest
from problems import inputs, stable_parameters

import dfc_numba as dfc

SIZES, SAMPLES = [4, 6, 5, 3], 4
NUDGES = np.array([0.08, 0.04, 0.02, 0.01, 0.005])
KINDS = {
    "integral": {"k_p": 0.0},
    "proportional": {"k_p": 0.5},
    "integral leak": {"k_p": 0.5, "leak": "integral"},
    "slow apical": {"k_p": 0.5, "tau_apical": 0.1},
    "filtered control": {"k_p": 0.5, "tau_control": 0.1},
    "retarded": {"k_p": 0.0, "instant_transmission": False, "proactive": False},
    "instant soma": {"k_p": 0.0, "instant_dynamics": True},
    "Jacobian feedback": {"k_p": 0.5, "jacobian_feedback": True},
}


def linear_control(net, x, delta, c):
    """u = (J Q + alpha I)^{-1} delta; a leak that spares k_p e is weaker by 1 + alpha k_p, J^T may replace Q."""
    jacobian = dfc.output_jacobian(net, x)
    feedback = jacobian.transpose(0, 2, 1) if c.jacobian_feedback else np.concatenate(net.feedback)
    alpha = c.alpha if c.leak == "total" else c.alpha / (1 + c.alpha * c.k_p)
    return np.linalg.solve(jacobian @ feedback + alpha * np.eye(SIZES[-1]), delta[..., None])[..., 0]


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
@pytest.mark.parametrize("kind", KINDS)
def test_distance_to_the_linear_steady_state_is_of_second_order(kind, activation):
    net = dfc.Network(**stable_parameters(SIZES, activation=activation))
    x, y = inputs(SAMPLES, SIZES[0]), inputs(SAMPLES, SIZES[-1], seed=7)
    controller = dfc.Controller(dt=0.05, steps=1500, alpha=0.1, tau_v=0.2, **KINDS[kind])
    distances = []
    for nudge in NUDGES:
        target = dfc.output_target(net, x, y, loss="mse", step=nudge)
        u = dfc.simulate(net, x, target, controller).u
        assert np.abs(u[-1] - u[-2]).max() < 1e-13
        distances.append(
            np.linalg.norm(u[-1] - linear_control(net, x, target - net.forward(x).r[-1], controller))
        )
    slope = np.polyfit(np.log(NUDGES), np.log(distances), 1)[0]
    assert slope == pytest.approx(2.0, abs=0.1)
