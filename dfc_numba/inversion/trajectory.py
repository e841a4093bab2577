"""`InversionTrajectory`: the recorded states of the loops of dynamic inversion."""

from __future__ import annotations

from dataclasses import dataclass, field

from dfc_numba.model.recording import Recipe, Storable
from dfc_numba.support.array_types import Array, Layers
from dfc_numba.support.shapes import html_repr, short_repr


@dataclass(frozen=True, kw_only=True)
class InversionTrajectory(Storable):
    """Recorded loops of dynamic inversion: T time points, B samples, layers i = 1..L (lists are 0-based).

    Attributes:
        time: (T,) in units of the hidden layers' time constant. step: (T,) number of the Euler step.
        r_x: list of (T, B, n_i), one per hidden layer, before any factor phi'.
        r_y: list of (T, B, n): with "di" the error population of each hidden layer, n = n_{i+1}; with "sldi" that of the
            output alone.
        depth: L, so that the last array of r_y is that of layer L.
        diverged: (B,) whether some state of a sample is not finite at the end.
        samples: (B,) positions of the samples in the minibatch.
        recipe: the `Recipe` of the simulation, with copies of the parameters; None if it is not known.

    A variable that was not recorded is None.
    """

    __repr__, _repr_html_ = short_repr, html_repr

    time: Array
    step: Array
    r_x: Layers | None
    r_y: Layers | None
    depth: int
    diverged: Array
    samples: Array | None = None
    recipe: Recipe | None = field(default=None, repr=False)

    def first_layer(self, name: str) -> int:
        """Return the number of the layer, from 1, of the first array of a list; those of r_y end at layer L."""
        return 1 if name == "r_x" or self.r_y is None else self.depth - len(self.r_y) + 1
