"""The linearised loops: against differences of the oracle's step, in small coordinates, and in the limit of short steps."""

from types import SimpleNamespace

import numpy as np
import oracle
import oracle_online
import pytest
from problems import inputs, label, parameters, relative_deviation

import dfc_numba as dfc
from dfc_numba.analysis import spectrum
from dfc_numba.analysis.closed_loop import EulerMap, Flow
from dfc_numba.analysis.linearisation import Layers
from dfc_numba.analysis.spectrum import abscissa, spectral_radius

SIZES, STEP = [4, 6, 5, 3], 1e-5
OPTIONS = [
    {},
    {"k_p": 0.0},
    {"alpha": 0.0},
    {"leak": "integral"},
    {"proactive": False},
    {"proactive": False, "alpha": 0.0},
    {"instant_transmission": False},
    {"instant_dynamics": True, "k_p": 0.0},
    {"instant_dynamics": True, "k_p": 0.0, "tau_apical": 0.3, "tau_control": 0.2},
    {"tau_apical": 0.3},
    {"tau_apical": 0.3, "instant_transmission": False, "proactive": False, "tau_control": 0.2},
    {"tau_control": 0.2},
    {"tau_control": 0.2, "leak": "integral", "proactive": False},
    {"error": "softmax"},
    {"error": "softmax", "tau_apical": 0.3, "proactive": False},
    {"jacobian_feedback": True},
    {"jacobian_feedback": True, "instant_dynamics": True, "k_p": 0.0},
    {"jacobian_feedback": True, "tau_apical": 0.3, "proactive": False, "error": "softmax"},
]


def controller(**options):
    return dfc.Controller(**{"dt": 0.1, "alpha": 0.3, "k_p": 0.7, "tau_v": 0.25, **options})


def network(activation=("tanh", "sigmoid"), sizes=SIZES, **options):
    return dfc.Network(**parameters(sizes, activation=activation, feedback_gain=0.8, **options))


class AtRest:
    """A network that rests, and one step of the oracle from a state beside that.

    Voltages and control are any; biases and target are such that nothing moves.
    """

    def __init__(self, c, seed=0):
        self.net, self.c = network(), c
        self.x = inputs(1, SIZES[0])
        rng = np.random.default_rng(seed)
        self.voltages = [rng.standard_normal((1, n)) for n in SIZES[1:]]
        self.control = rng.standard_normal((1, SIZES[-1]))
        self.rates = [
            oracle.ACTIVATIONS[n](v) for n, v in zip(self.net.activations, self.voltages, strict=True)
        ]
        self.drives = self._drives()
        for i, below in enumerate([self.x, *self.rates[:-1]]):
            self.net.biases[i] = (self.voltages[i] - self.drives[i] - below @ self.net.weights[i].T)[0]
        output = self.rates[-1]
        self.error = c.steady_leak * self.control
        self.target = self.error + (np.exp(oracle.log_softmax(output)) if c.error == "softmax" else output)

    def _drives(self):
        feedback = [q[None] for q in self.net.feedback]
        if self.c.jacobian_feedback:
            feedback = [j.transpose(0, 2, 1) for j in oracle.jacobian_blocks(self.net, self.voltages)]
        return [(q @ self.control[:, :, None])[:, :, 0] for q in feedback]

    def layers(self):
        return Layers(self.net, self.voltages, self.control, self.c)

    def step(self, parts):
        """Deviations after a step from the state with the deviations `parts`, by name, lists of (1, n) for "y" and "p"."""
        s = self._state(parts)
        oracle_online._step(oracle_online._Learner(self.net), s, self.x, self.target, self.c, None, None)
        integral = self.control - self.c.k_p * self.error
        after = {"w": s.u_int - integral, "u": s.u - self.control, "c": s.control - self.control}
        after["y"] = [a - b for a, b in zip(s.v, self.voltages, strict=True)]
        after["p"] = [a - b for a, b in zip(s.v_fb, self.drives, strict=True)]
        return {name: after[name] for name in parts}

    def _state(self, parts):
        """The state of the oracle; what the loop leaves out makes no difference, or follows from the rest."""
        v = [a + b for a, b in zip(self.voltages, parts["y"], strict=True)]
        r = [oracle.ACTIVATIONS[name](a) for name, a in zip(self.net.activations, v, strict=True)]
        v_fb = [a + b for a, b in zip(self.drives, parts.get("p", map(np.zeros_like, v)), strict=True)]
        u = self.control + parts.get("u", parts["w"])
        return SimpleNamespace(
            v=v, r=r, v_ff=list(v), v_fb=v_fb, coloured=v, u=u, slow=None, fresh=False,
            u_int=self.control - self.c.k_p * self.error + parts["w"],
            control=self.control + parts["c"] if "c" in parts else u,
        )  # fmt: skip


def differences(rest, loop):
    """The derivative of the oracle's step by central differences, (1, size, size)."""
    columns = []
    for deviation in STEP * np.eye(loop.size):
        ends = [loop.join(rest.step(loop.split(d[None]))) for d in (deviation, -deviation)]
        columns.append((ends[0] - ends[1]) / (2 * STEP))
    return np.stack(columns, axis=2)


@pytest.mark.parametrize("options", OPTIONS, ids=label)
def test_the_euler_map_is_the_derivative_of_the_oracles_step(options):
    c = controller(**options)
    rest = AtRest(c)
    loop = EulerMap(rest.layers(), c, c.dt)
    nothing = loop.join(rest.step(loop.split(np.zeros((1, loop.size)))))
    assert np.abs(nothing).max() < 1e-13
    assert relative_deviation(loop.matrices(), differences(rest, loop)) < 1e-9


# --- small coordinates, short steps ----------------------------------------------------------------------------------------

SHAPES = [[4, 6, 5, 3], [4, 6, 2, 3], [3, 2, 5], [4, 6, 1], [3, 2], [4, 3, 8, 8, 2]]


def layers_of(sizes, c):
    """Layers at two states, and the same in small coordinates."""
    net = dfc.Network(**parameters(sizes, feedback_gain=0.8))
    activity = net.forward(inputs(2, sizes[0]))
    control = np.zeros((2, sizes[-1]))  # for which feedback through J(v)^T has no slope of its own
    layers = Layers(net, activity.v, control, c)
    return layers, layers.reduced()


def log_polynomial(matrices, z):
    """log |det(z I - A)| of each matrix."""
    return np.linalg.slogdet(z * np.eye(matrices.shape[-1]) - matrices)[1]


@pytest.mark.parametrize("sizes", SHAPES, ids=str)
@pytest.mark.parametrize("options", OPTIONS[::3] + [{"error": "softmax", "alpha": 0.0}], ids=label)
def test_small_coordinates_leave_out_nothing_but_factors_that_are_known(sizes, options):
    """The characteristic polynomials differ by what decays by itself: known factors, once for each number left out."""
    c = controller(**options)
    layers, small = layers_of(sizes, c)
    left_out = sum(layers.widths) - sum(small.widths)
    assert small.complete == (left_out == 0)
    euler, flow = (
        (EulerMap(one, c, c.dt) for one in (layers, small)),
        (Flow(one, c) for one in (layers, small)),
    )
    for loops, known in ((euler, "hidden_factors"), (flow, "hidden_rates")):
        full, reduced = loops
        constants = getattr(reduced, known)()
        extra = full.size - reduced.size - left_out * len(constants)  # instantaneous dynamics: factors 0
        for z in (1.7 + 0.4j, -2.3 + 0.1j):
            missing = left_out * sum(np.log(abs(z - k)) for k in constants) + extra * np.log(abs(z))
            polynomials = [log_polynomial(loop.matrices(), z) for loop in (full, reduced)]
            assert np.abs(polynomials[1] + missing - polynomials[0]).max() < 1e-11


def test_wide_layers_become_small_and_narrow_ones_stay():
    assert layers_of([4, 6, 5, 3], controller())[1].widths == (3, 3, 3)
    assert layers_of([4, 6, 2, 3], controller())[1].widths == (2, 2, 3)
    assert layers_of([3, 2, 5], controller())[1].widths == (2, 5)


@pytest.mark.parametrize("options", OPTIONS, ids=label)
def test_short_steps_follow_the_flow(options):
    """log(spectral radius)/dt tends to the leading rate of the flow, with an error that halves with dt."""
    c = controller(**options)
    rest = AtRest(c)
    layers = rest.layers()
    rate = abscissa(Flow(layers, c))[0]
    errors = [np.log(spectral_radius(EulerMap(layers, c, dt))[0]) / dt - rate for dt in (2e-3, 1e-3, 5e-4)]
    assert abs(errors[0]) < 0.02
    assert np.allclose(np.array(errors[:-1]) / errors[1:], 2.0, atol=0.05)


def test_products_find_what_matrices_have(monkeypatch):
    c = controller()
    layers = layers_of([4, 6, 5, 3], c)[0].take(slice(0, 1))
    loops = EulerMap(layers, c, 0.05), Flow(layers, c)
    expected = spectral_radius(loops[0]), abscissa(loops[1])
    monkeypatch.setattr(spectrum, "DENSE_SIZE", 5)
    monkeypatch.setattr(spectrum, "VECTORS", 12)
    monkeypatch.setattr(EulerMap, "matrices", None)
    monkeypatch.setattr(Flow, "matrices", None)
    assert spectral_radius(loops[0]) == pytest.approx(expected[0], rel=1e-8)
    assert abscissa(loops[1]) == pytest.approx(expected[1], rel=1e-8)
    monkeypatch.undo()
    monkeypatch.setattr(spectrum, "DENSE_SIZE", 5)
    monkeypatch.setattr(spectrum, "VECTORS", 6)
    monkeypatch.setattr(spectrum, "RESTARTS", 1)  # no convergence: matrices after all
    assert np.array_equal(spectral_radius(loops[0]), expected[0])
