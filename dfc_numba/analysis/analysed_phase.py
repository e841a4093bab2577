"""A stored or recorded feedback phase, as offline analysis reads it: blocks of time points, in float64."""

import numpy as np
from scipy.special import softmax

from dfc_numba.dynamics.simulation import Trajectory
from dfc_numba.model.activations import phi
from dfc_numba.storage.stored import StoredRecord
from dfc_numba.storage.writer import trajectory_arrays

BLOCK_BYTES = 2**25  # of all layers, read at a time


class AnalysedPhase:
    """The trajectory of one minibatch.

    Args:
        source: a `StoredRecord` or a `Trajectory`, with its recipe.

    Attributes:
        recipe: the `Recipe`. network: its network. controller: its controller.
        x, target: inputs and output target of the stored samples, in float64.
        samples: (B,) their positions in the minibatch. count: B.
        step, time: (T,) of the stored time points.

    Raises:
        TypeError: for something else. ValueError: if there is no trajectory, or no recipe.
    """

    def __init__(self, source):
        if isinstance(source, Trajectory):
            self._variables, times, self.recipe = trajectory_arrays(source), source, source.recipe
        elif isinstance(source, StoredRecord):
            self._variables = {name: source.variable(name) for name in source.variables}
            times, self.recipe = source.records, source.recipe()
        else:
            raise TypeError(f"expected a StoredRecord or a Trajectory, not {type(source).__name__}")
        others = {"inversion": "a dynamic inversion", "equilibrium": "equilibrium propagation"}
        for name, what in others.items() if self.recipe is not None else ():
            if getattr(self.recipe, name) is not None:
                raise ValueError(
                    f"this is {what}; what is analysed here is the feedback phase of a controller"
                )
        if self.recipe is None or "position" not in self._variables:
            raise ValueError(
                "this is a recipe without trajectory; `dfc replay --expand` computes it"
                if self.recipe
                else "the trajectory has no recipe, which holds its network, inputs and target"
            )
        self.network, self.controller = self.recipe.network, self.recipe.controller
        self.samples = np.asarray(self._variables["position"][:])
        self.count, self.step, self.time = len(self.samples), times.step, times.time
        self.x, self.target = (
            np.asarray(array, np.float64)[self.samples] for array in (self.recipe.x, self.recipe.target)
        )

    def has(self, name, layer=None):
        """Return whether a variable was stored."""
        return (name if layer is None else f"{name}_{layer}") in self._variables

    def read(self, name, layer=None, points=slice(None), samples=slice(None)):
        """Return a variable at some time points, for some of the stored samples, in float64.

        Args:
            name: such as "u" or "v". layer: from 1, for a variable with layers.

        Raises:
            ValueError: if it was not stored.
        """
        full = name if layer is None else f"{name}_{layer}"
        if full not in self._variables:
            raise ValueError(
                f"this needs the variable {full!r}, which was not stored; log it, or compute it with `dfc replay --expand` "
                f"and --variables {name},..."
            )
        return np.asarray(self._variables[full][points, samples], np.float64)

    def flags(self, name):
        """Return `converged` or `diverged` as (B,) booleans."""
        if name not in self._variables:
            raise ValueError(f"this needs the variable {name!r}, which was not stored")
        return np.asarray(self._variables[name][:]) == 1

    def rates(self, layer, points=slice(None), samples=slice(None)):
        """Return r of a layer, computed from v where it was not stored."""
        if self.has("r", layer) or not self.has("v", layer):
            return self.read("r", layer, points, samples)
        return phi(self.network.activations[layer - 1], self.read("v", layer, points, samples))

    def errors(self, points=slice(None), samples=slice(None)):
        """Return e = r* - r_L or r* - softmax(r_L), computed from the rates where it was not stored."""
        if self.has("e"):
            return self.read("e", None, points, samples)
        output = self.rates(len(self.network.weights), points, samples)
        return self.target[samples] - (
            softmax(output, axis=-1) if self.controller.error == "softmax" else output
        )

    def blocks(self, stop=None):
        """Return slices of all time points, or of those up to `stop`, small enough to be read one by one."""
        stop = len(self.step) if stop is None else stop
        length = max(1, BLOCK_BYTES // (8 * self.count * sum(self.network.sizes)))
        return [slice(first, min(first + length, stop)) for first in range(0, stop, length)]

    def require_every_step(self, purpose):
        """Raise a ValueError unless every time point of the simulation was stored."""
        if len(self.step) != self.controller.time_points:
            raise ValueError(
                f"{purpose} needs all {self.controller.time_points} time points, of which {len(self.step)} are stored "
                f"({_steps(self.step)}); log with log.every_step = 1, or compute them with `dfc replay --expand` and "
                "--every 1"
            )

    def require_last_step(self, purpose):
        """Raise a ValueError unless the last time point of the simulation was stored."""
        if self.step[-1] != self.controller.steps:
            raise ValueError(
                f"{purpose} needs the state after step {self.controller.steps}, but the last one that is stored is that "
                f"after step {self.step[-1]}; choose a log.every_step that includes it, or compute it with "
                "`dfc replay --expand` and --every 1"
            )


def as_phase(source):
    """Return the `Source` of a `StoredRecord` or a `Trajectory`; a `Source` is one already."""
    return source if isinstance(source, AnalysedPhase) else AnalysedPhase(source)


def _steps(step):
    return "steps " + ", ".join(map(str, step[:3])) + (" ..." if len(step) > 3 else "")
