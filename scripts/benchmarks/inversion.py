"""The cases on which dynamic inversion is timed, and the NumPy loop that one would write without this package."""

from dataclasses import dataclass

import numpy as np

import dfc_numba as dfc


@dataclass(frozen=True, kw_only=True)
class Case:
    """The dynamics of one minibatch.

    Args:
        name: of the case. sizes: (n_0, ..., n_L). rule: "di" or "sldi". nonlinearity: as `backward_errors` takes it.
    """

    name: str
    rule: str = "di"
    nonlinearity: str = "linear"
    sizes: tuple = (784, 1000, 10)
    batch: int = 100
    steps: int = 999

    @property
    def flop(self):
        """Floating-point operations of the matrix products, of which "di" has two per layer and step."""
        pairs = list(zip(self.sizes[1:-1], self.sizes[2:], strict=True))
        weights = sum(n * m for n, m in pairs)
        feedback = weights if self.rule == "di" else self.sizes[1] * self.sizes[-1]
        return 2 * self.batch * self.steps * (weights + feedback)

    def problem(self, dtype):
        """Return (weights, feedback, derivatives, delta_out): He et al.'s scale for the weights, and B = -W^T."""
        rng = np.random.default_rng(0)
        pairs = zip(self.sizes[1:], self.sizes[:-1], strict=True)
        weights = [(rng.standard_normal(pair) * np.sqrt(2.0 / pair[1])).astype(dtype) for pair in pairs]
        derivatives = [rng.uniform(0.5, 1.0, (self.batch, n)).astype(dtype) for n in self.sizes[1:-1]]
        delta = (0.1 * rng.standard_normal((self.batch, self.sizes[-1]))).astype(dtype)
        feedback = [np.ascontiguousarray(-w.T) for w in weights[1:]]
        if self.rule == "sldi":
            feedback = -np.linalg.multi_dot([np.eye(self.sizes[1], dtype=dtype), *(w.T for w in weights[1:])])
            feedback /= np.linalg.norm(feedback, 2)
        return weights, feedback, derivatives, delta


CASES = (
    Case(name="sequential"),
    Case(name="sequential, tanh", nonlinearity="tanh"),
    Case(name="single loop", rule="sldi"),
)
QUICK = {"sizes": (20, 30, 5), "batch": 9, "steps": 20}


# --- in a worker -------------------------------------------------------------------------------------------------------


def our_errors(case, dtype):
    """Prepare `backward_errors`, with all that it does."""
    problem = case.problem(dtype)
    options = {"rule": case.rule, "nonlinearity": case.nonlinearity, "steps": case.steps}
    return lambda: dfc.backward_errors(*problem, **options)


def numpy_errors(case, dtype):
    """Prepare the NumPy loop of a network with one hidden layer."""
    (_, w), feedback, (derivatives,), delta = case.problem(dtype)
    loop = {"di": _sequential, "sldi": _single}[case.rule]
    (b,) = feedback if case.rule == "di" else (feedback,)
    shown = np.tanh if case.nonlinearity == "tanh" else lambda r: r

    def run():
        r_x = loop(w.T, b.T, delta, shown, case.steps)
        return [derivatives * r_x if case.rule == "di" and case.nonlinearity == "linear" else r_x]

    return run


def _sequential(w, b, delta, shown, steps, dt=0.5):
    r_x, r_y = np.zeros((len(delta), len(w)), w.dtype), np.zeros_like(delta)
    for _ in range(steps):
        r_y += dt * (shown(r_x) @ w - delta)
        r_x += dt * (r_y @ b - r_x)
    return r_x


def _single(w, b, delta, shown, steps, dt=0.5):
    r_x, r_y = np.zeros((len(delta), len(w)), w.dtype), np.zeros_like(delta)
    for _ in range(steps):
        r_x += dt * (r_y @ b - r_x)
        r_y += dt * (shown(r_x) @ w - delta)
    return r_x
