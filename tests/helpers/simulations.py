"""Short simulations of a small network, and how to compare them; for the tests of trajectories and noise."""

import numpy as np
from problems import inputs, parameters

import dfc_numba as dfc

SIZES, SAMPLES = [4, 6, 5, 3], 5
OUTPUT_VARIABLES, LAYER_VARIABLES = ("u", "u_int", "error"), ("v", "v_ff", "v_fb", "r")
SHORT = {"dt": 0.05, "steps": 30, "alpha": 0.1, "k_p": 0.5}
NOISY = {**SHORT, "sigma": 0.1, "tau_noise": 0.2}


def problem(dtype=np.float64, n_samples=SAMPLES, **options):
    """A network, inputs and a target."""
    net = dfc.Network(**parameters(SIZES, dtype=dtype, **options))
    x = inputs(n_samples, SIZES[0])
    return net, x, net.predict(x, dtype="float64") + 0.3 * inputs(n_samples, SIZES[-1], seed=5)


def simulate(options=SHORT, record=None, noise=None, **network):
    return dfc.simulate(*problem(**network), dfc.Controller(**options), noise=noise, record=record)


def variables(trajectory):
    """Name and array of everything that was recorded."""
    found = {name: getattr(trajectory, name) for name in OUTPUT_VARIABLES}
    for name in LAYER_VARIABLES:
        found |= {f"{name}[{i}]": array for i, array in enumerate(getattr(trajectory, name) or [])}
    return {name: array for name, array in found.items() if array is not None}


def assert_same_bits(found, expected):
    ours, theirs = variables(found), variables(expected)
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        assert np.array_equal(array, theirs[name], equal_nan=True), name
