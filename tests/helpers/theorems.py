"""What the tests of the papers' theorems share: how a rate is measured, and what the theorems predict, in plain NumPy.

J = d r_L / d v (stacked over the layers), delta = r* - r_L, G = J J^T; DFC: Meulemans et al. 2021, Strong-DFC: Meulemans et
al. 2022. Nothing here uses the package's own Jacobians, solvers or reference directions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps

import numpy as np
import oracle
import pytest
from problems import inputs, stable_parameters

import dfc_numba as dfc

TOLERANCE = 0.1  # of a measured exponent
FEWEST = 4  # values that a rate is measured from
RATES = []

# --- rates ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rate:
    """A claim of the form error ~ size^exponent, and the function that measures (sizes, errors), for each case."""

    claim: str
    exponent: float
    measure: Callable
    cases: tuple

    def measured(self, *case):
        sizes, errors = (np.asarray(values, float) for values in self.measure(*case))
        assert len(sizes) == len(errors) >= FEWEST and (errors > 0).all()
        return np.polyfit(np.log(sizes), np.log(errors), 1)[0]

    def rows(self):
        """(case, measured exponent) for every case."""
        return [(case, self.measured(case)) for case in self.cases] or [("", self.measured())]


def rate(claim, exponent, cases=()):
    """Makes a test of a function of one of `cases` (or of nothing) that returns sizes and errors, and notes it in RATES."""

    def decorate(function):
        found = Rate(claim, exponent, function, tuple(cases))
        RATES.append(found)

        @wraps(function)
        def test(**case):
            assert found.measured(*case.values()) == pytest.approx(exponent, abs=TOLERANCE)

        return pytest.mark.parametrize("case", cases, ids=describe)(test) if cases else test

    return decorate


def describe(case):
    """A case as text."""
    return ", ".join(map(str, case)) if isinstance(case, tuple) else str(case)


def halving(largest, count=5):
    """largest, largest / 2, largest / 4, ..."""
    return largest * 0.5 ** np.arange(count)


# --- networks ---------------------------------------------------------------------------------------------------


def one_sample(sizes=(4, 6, 5, 3), activation="tanh", samples=1):
    """A network, inputs, and a direction for the output: (B, n_0) and (B, n_L), of norm 1."""
    net = dfc.Network(**stable_parameters(list(sizes), activation=activation))
    direction = inputs(samples, sizes[-1], seed=5)
    return net, inputs(samples, sizes[0]), direction / np.linalg.norm(direction, axis=1, keepdims=True)


def linear_minibatch():
    """The same for a linear network, whose Jacobian is the same for all samples."""
    return one_sample(activation="linear", samples=7)


def set_feedback(net, stacked):
    """Puts the rows of `stacked`, (sum n_i, n_L), into the layers' feedback weights."""
    for q, part in zip(net.feedback, split(net, stacked, axis=0), strict=True):
        q[...] = part


def split(net, stacked, axis=-1):
    """The layers' parts of an array that has sum n_i entries along an axis."""
    return np.split(stacked, np.cumsum(net.sizes[1:])[:-1], axis=axis)


def stacked_feedback(net):
    return np.concatenate(net.feedback)


def jacobian(net, x):
    """J of the first sample, (n_L, sum n_i)."""
    return oracle.output_jacobian(net, x[:1])[0]


STABILISING = {
    "I": lambda g: np.eye(len(g)),
    "G^-1": np.linalg.inv,
    "damped": lambda g: np.linalg.inv(g + 0.5 * np.eye(len(g))),
    "rotating": lambda g: (
        np.linalg.inv(g) @ (np.eye(len(g)) + np.array([[0, 2, 1], [-2, 0, 3], [-1, -3, 0]]))
    ),
    "skewed": lambda g: np.linalg.inv(g) @ np.array([[1.0, 3, 2], [0, 2, -2], [0, 0, 0.7]]),
}


def feedback_in_row_space(net, x, name):
    """Q = J^T M with an M for which J Q has eigenvalues with positive real parts."""
    j = jacobian(net, x)
    q = j.T @ STABILISING[name](j @ j.T)
    assert np.linalg.eigvals(j @ q).real.min() > 0.4
    return q


# --- what the theorems predict ----------------------------------------------------------------------------------


def minimum_norm(net, x, delta, damping=0.0):
    """The voltage changes J^+ delta, or J^T (J J^T + damping I)^{-1} delta: (B, sum n_i)."""
    changes = []
    for j, d in zip(oracle.output_jacobian(net, x), delta, strict=True):
        inverse = j.T @ np.linalg.inv(j @ j.T + damping * np.eye(len(j))) if damping else np.linalg.pinv(j)
        changes.append(inverse @ d)
    return np.array(changes)


def outer(net, x, changes, rates):
    """The update mean_b dv_i r_{i-1}^T, mean_b dv_i as one vector; `rates` are those of the layers."""
    parts = split(net, changes)
    weights = [dv.T @ below / len(x) for dv, below in zip(parts, [x, *rates[:-1]], strict=True)]
    return np.concatenate([w.ravel() for w in weights] + [dv.mean(axis=0) for dv in parts])


def controlled_rates(net, x, changes):
    """The rates where the voltage changes are added to the voltages of the layers."""
    rates, below = [], x
    for w, b, name, dv in zip(net.weights, net.biases, net.activations, split(net, changes), strict=True):
        below = oracle.ACTIVATIONS[name](below @ w.T + b + dv)
        rates.append(below)
    return rates


def feedforward_rates(net, x):
    return controlled_rates(net, x, np.zeros((len(x), sum(net.sizes[1:]))))


def gauss_newton(net, x, delta, damping=0.0):
    """The Gauss-Newton step J_W^T (J_W J_W^T + damping I)^{-1} delta of one sample, J_W written out; as in `outer`."""
    blocks = split(net, jacobian(net, x))
    below = [x, *feedforward_rates(net, x)[:-1]]
    by_weights = [np.kron(block, r) for block, r in zip(blocks, below, strict=True)]
    j = np.concatenate([*by_weights, *blocks], axis=1)
    extended = np.concatenate([j, np.sqrt(damping) * np.eye(j.shape[1])])
    return np.linalg.lstsq(extended, np.concatenate([delta[0], np.zeros(j.shape[1])]), rcond=None)[0]


# --- comparing --------------------------------------------------------------------------------------------------


def vector(update):
    """Weights, then biases, as one vector."""
    return np.concatenate([a.ravel() for a in [*update.weights, *update.biases]])


def distance(ours, theirs):
    """|ours - theirs| / |theirs|"""
    return np.linalg.norm(np.subtract(ours, theirs)) / np.linalg.norm(theirs)


def between_directions(a, b):
    """The distance of the two vectors, scaled to norm 1: 2 sin(angle / 2), which keeps its digits for small angles."""
    return np.linalg.norm(a / np.linalg.norm(a) - b / np.linalg.norm(b))
