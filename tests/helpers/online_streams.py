"""Streams, options and comparisons for the tests of online plasticity."""

import numpy as np
import problems

import dfc_numba as dfc
from dfc_numba.online.learning import simulate_online

EXACT = 1e-12
SIZES = [4, 6, 5, 3]
SHORT = {"dt": 0.05, "steps": 12, "alpha": 0.1, "k_p": 0.5}
LEARNING = {"tau_w": 2.0, "tau_q": 3.0}
CONTROLLERS = {
    "plain": {},
    "integral leak": {"leak": "integral", "k_p": 0.0},
    "softmax": {"error": "softmax"},
    "slow compartments": {"tau_apical": 0.1, "tau_control": 0.2, "proactive": False},
    "delayed transmission": {"instant_transmission": False},
    "instant dynamics": {"instant_dynamics": True, "k_p": 0.0},
    "white noise": {"sigma": 0.1, "sigma_output": 0.05},
    "low-passed noise": {"sigma": 0.1, "tau_noise": 0.2, "tau_apical": 0.1},
    "jacobian": {"jacobian_feedback": True},
    "delayed jacobian": {"jacobian_feedback": True, "instant_transmission": False, "sigma": 0.1},
}
LEARNERS = {
    "forward": {"tau_w": 2.0},
    "voltages": {"tau_w": 2.0, "rule": "voltage_difference"},
    "derivatives": {"tau_w": 2.0, "rule": "derivative_matrix"},
    "feedback": {"tau_q": 3.0},
    "high-passed feedback": {"tau_q": 3.0, "high_pass": 0.4, "feedback_decay": 0.7},
    "both": {**LEARNING, "feedback_decay": 0.5, "reset": "segment"},
    "neither": {},
}
LAYER_VARIABLES, OUTPUT_VARIABLES = ("v", "v_ff", "v_fb", "r"), ("u", "u_int", "error")
PARAMETERS = ("weights", "biases", "feedback")
STATE_VARIABLES = ("difference", "noise", "u_filtered", "u_slow")


def series(steps, count, n, seed):
    """A slowly turning random series (T, B, n)."""
    turns = np.linspace(0, 1, steps)[:, None, None]
    return (1 - turns) * problems.inputs(count, n, seed) + turns * problems.inputs(count, n, seed + 1)


def make_stream(count, sizes=SIZES, steps=SHORT["steps"], seed=10):
    """Held inputs and series of either kind, targets as probabilities so that they suit any error."""
    held = [
        (problems.inputs(count, sizes[0], seed + k), problems.probabilities(count, sizes[-1], seed + k))
        for k in range(4)
    ]
    moving = np.abs(series(7, count, sizes[-1], seed + 5))
    return [
        held[0],
        held[1],
        (series(9, count, sizes[0], seed), held[2][1]),
        (held[2][0], moving),
        (series(7, count, sizes[0], seed + 2), moving),
        held[3],
    ]


def length(stream, steps=SHORT["steps"]):
    return sum(max([len(a) for a in pair if np.ndim(a) == 3], default=steps) for pair in stream)


def given_noise(steps, count, sizes=SIZES, seed=3):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(steps + 1, count, n)) for n in sizes[1:]]


def assert_close(ours, theirs, bound=EXACT, what=None):
    assert problems.relative_deviation(ours, theirs, floor=1e-3) < bound, what


def assert_same_trajectory(ours, theirs, bound=EXACT):
    for name in OUTPUT_VARIABLES:
        assert_close(getattr(ours, name), getattr(theirs, name), bound, name)
    for name in LAYER_VARIABLES:
        for a, b in zip(getattr(ours, name), getattr(theirs, name), strict=True):
            assert_close(a, b, bound, name)


def assert_same_network(ours, theirs, bound=EXACT):
    assert (ours.biases is None) == (theirs.biases is None)
    for name in PARAMETERS:
        for a, b in zip(getattr(ours, name) or [], getattr(theirs, name) or [], strict=True):
            assert_close(a, b, bound, name)


def assert_same_bits(ours, theirs):
    """Of two networks, trajectories or states."""
    for name in (*PARAMETERS, *LAYER_VARIABLES, *OUTPUT_VARIABLES, *STATE_VARIABLES):
        first, second = getattr(ours, name, None), getattr(theirs, name, None)
        assert (first is None) == (second is None)
        for a, b in zip([] if first is None else first, [] if second is None else second, strict=True):
            assert np.array_equal(a, b), name


def network(**options):
    """The small network of these tests."""
    return dfc.Network(**problems.parameters(SIZES, **options))


def call(stream=None, controller=None, net=None, **options):
    """An online simulation of a short stream with a controller of some options."""
    net, stream = network() if net is None else net, make_stream(2) if stream is None else stream
    return simulate_online(net, stream, dfc.Controller(**{**SHORT, **(controller or {})}), **options)
