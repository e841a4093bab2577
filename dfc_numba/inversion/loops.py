"""Loops of populations, each driven by the one before: the dynamics that invert a network's weights.

Population p = 0..P-1 is driven by what population p - 1 shows (the first by the last), and one of them by an error:

    dr_p/dt = -lambda_p r_p + M_p f_{p-1}(r_{p-1})        - delta  where p is driven

One Euler step takes the populations in their order, each with the newest values of the one before (Podlaski & Machens
2020). Everything starts at zero.
"""

from dataclasses import dataclass

import numpy as np

LINEAR, TANH, SCALED = (
    0,
    1,
    2,
)  # what a population shows: itself, its tanh, or itself divided by the derivatives


@dataclass(frozen=True)
class Loop:
    """P populations; see the equation above.

    Attributes:
        matrices: M_p, list of (n_p, n_{p-1}). leaks: lambda_p, list of floats.
        shows: per population LINEAR, TANH or SCALED. scales: per population 1/phi' (B, n_p) where SCALED, else None.
        driven: which population receives -delta.
        delta: (B, n) of that population.
    """

    matrices: list
    leaks: list
    shows: list
    scales: list
    driven: int
    delta: np.ndarray

    @property
    def sizes(self):
        """[n_0, ..., n_{P-1}]."""
        return [len(m) for m in self.matrices]

    def shown(self, p, r):
        """f_p(r)."""
        if self.shows[p] == TANH:
            return np.tanh(r)
        return r * self.scales[p] if self.shows[p] == SCALED else r


def run(loop, *, dt, steps, tolerance=None, record=False):
    """The states after `steps` Euler steps: list of (B, n_p), and with `record` lists of (T, B, n_p), T = steps + 1."""
    count, dtype = len(loop.delta), loop.delta.dtype
    r = [np.zeros((count, n), dtype) for n in loop.sizes]
    records = [np.zeros((steps + 1, count, n), dtype) for n in loop.sizes] if record else None
    for step in range(1, steps + 1):
        for p in range(len(r)):
            change = loop.shown(p - 1, r[p - 1]) @ loop.matrices[p].T - loop.leaks[p] * r[p]
            r[p] = r[p] + dt * (change - loop.delta if p == loop.driven else change)
            if record:
                records[p][step] = r[p]
    return r, records
