"""The selection of what a simulation records, the recipe that determines it, and how it is stored."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeAlias, get_args

import numpy as np
from pydantic import AfterValidator
from typing_extensions import Self

from dfc_numba import registry
from dfc_numba.model.controller import Controller
from dfc_numba.model.network import Network
from dfc_numba.model.noise_key import Noise
from dfc_numba.support import filing
from dfc_numba.support.array_types import Array, DTypeLike, Layers, PathLike
from dfc_numba.support.options import options
from dfc_numba.support.ranges import Count, Position
from dfc_numba.support.shapes import html_repr, short_repr
from dfc_numba.support.wording import nearest

Variable = Literal["u", "u_int", "e", "error", "v", "v_ff", "v_fb", "r", "noise"]
InversionVariable = Literal["r_x", "r_y"]
EquilibriumVariable = Literal["s", "s_minus"]
Compression: TypeAlias = Literal["none", "gzip", "zstd", "blosc"]
VARIABLES = get_args(Variable)[:-1]  # what the kernel of a feedback phase records


def _known_variable(name):
    """Return the name if it is a variable of any simulation, built-in or registered; else raise a ValueError."""
    names = (*get_args(Variable), *get_args(InversionVariable), *get_args(EquilibriumVariable))
    if name not in names and name not in registry.VARIABLES:
        names = (*names, *registry.VARIABLES)
        raise ValueError(f"must be {', '.join(map(repr, names))}{nearest(name, names)}")
    return name


VariableName = Annotated[str, AfterValidator(_known_variable)]


@options
class Record:
    """The selection of what a simulation records.

    Args:
        variables: some of "u", "u_int", "e", "error", "v", "v_ff", "v_fb", "r", "noise", or of a dynamic inversion "r_x",
            "r_y", of equilibrium propagation "s", "s_minus", or the name of a registered `dfc.Variable`; None keeps all
            that is built in but the noise.
        samples: different positions of samples in the minibatch, in the order wanted; None keeps all.
        every: keep every n-th time point, beginning with the initial state.

    Raises:
        ValueError: for an unknown variable, or numbers that are not allowed.
    """

    variables: tuple[VariableName, ...] | None = None
    samples: tuple[Position, ...] | None = None
    every: Count = 1

    def names(self, there: tuple[str, ...] = VARIABLES) -> tuple[str, ...]:
        """Return the names of the variables that are kept, of those that there are."""
        return there if self.variables is None else self.variables

    def require_only(self, there: tuple[str, ...], what: str) -> None:
        """Raise a ValueError for a variable that is not among those that a simulation has."""
        others = [name for name in self.names(there) if name not in there]
        if others:
            raise ValueError(f"Record.variables has {others[0]!r}; {what} has {', '.join(there)}")

    def positions(self, count: int) -> Array:
        """Return the positions of the samples that are kept of a minibatch of `count`; ValueError for others than it has."""
        if self.samples is None:
            return np.arange(count)
        chosen = np.asarray(self.samples, np.int64)
        distinct = 0 < len(chosen) == len({*self.samples})
        if not distinct or chosen.min() < 0 or chosen.max() >= count:
            raise ValueError(
                f"Record.samples is {self.samples}; different positions from 0 to {count - 1} are allowed"
            )
        return chosen


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that determines a simulated minibatch, and where in a run it was met.

    Attributes:
        network: the `Network` before the update. controller: the `Controller`; inversion: the `Inversion`; equilibrium: the
            `EquilibriumPropagation`. One of them, or none where nothing is simulated.
        x: inputs (B, n_0). target: output target r*, (B, n_L), float64; for an inversion or equilibrium propagation what the
            outputs should be.
        noise: None, an int seed, a `NoiseKey`, or a list of draws (T, B, n_i), for the one-shot rule (B, n_i).
        labels: (B, n_L) what the samples should give, where that is known.
        indices: (B,) which samples of the training set these are, where they come from one.
        phase: "simulation", or the phase of training: "pretraining", "feedback", "forward", "extra feedback".
        epoch: from 1. minibatch: number in its pass, from 1. number: running number in the run, from 0.
        update: options of the update that was made of it, as plain values; they are the same for all records of a phase.
    """

    __repr__, _repr_html_ = short_repr, html_repr

    network: Network
    x: Array
    target: Array
    controller: Controller | None = None
    inversion: Any = None
    equilibrium: Any = None
    noise: Noise = None
    labels: Array | None = None
    indices: Array | None = None
    phase: str = "simulation"
    epoch: int = 0
    minibatch: int = 0
    number: int = 0
    update: dict[str, Any] = field(default_factory=dict)

    @property
    def dynamics(self) -> Any:
        """The options of what is simulated, of one of the three kinds; None where nothing is."""
        return next(
            (one for one in (self.controller, self.inversion, self.equilibrium) if one is not None), None
        )


@dataclass(frozen=True, kw_only=True)
class StoredUpdate:
    """An update per unit learning rate: lists with an array per layer, None for what did not learn."""

    __repr__, _repr_html_ = short_repr, html_repr

    weights: Layers | None = None
    biases: Layers | None = None
    feedback: Layers | None = None
    backward: Layers | None = None


class Storable:
    """A recorded trajectory, which goes into an HDF5 file and comes back as the same bits."""

    def first_layer(self, name: str) -> int:
        """Return the number of the layer, from 1, of the first array of a list."""
        return 1

    def save(
        self, path: PathLike, *, compression: Compression = "none", dtype: DTypeLike | None = None
    ) -> None:
        """Write the trajectory, with what it was made of, to an HDF5 file; an older file of that name is replaced.

        Args:
            compression: "none", "gzip", "zstd" or "blosc". The latter two need the extra `compression`.
            dtype: "float32" or "float64", to store the variables in; None stores the same bits.

        Raises:
            OSError: if the file cannot be written. ValueError: for an unknown compression or dtype.
        """
        filing.save("trajectory", self, path, compression=compression, dtype=dtype)

    def to_xarray(self) -> Any:
        """Return the trajectory as an `xarray.Dataset`, with the names, dimensions, units and meanings of trajectory files.

        Variables such as "u" (step, sample, output) and "v_2" (step, sample, unit_2); coordinates step, time in units of the time
        constant, and position of the sample in its minibatch. Needs the extra `xarray`.

        Raises:
            MissingExtra: xarray is not installed.
        """
        return filing.export("trajectory", self)

    @classmethod
    def load(cls, path: PathLike, *, phase: str | None = None, record: int | None = None) -> Self:
        """Read a trajectory, from a file that `save` wrote or from a record of any trajectory file.

        Args:
            path: of a file or run directory. phase: name of a phase, if it holds several.
            record: number of the record in this phase, from 0, if it holds several; -1 is the last one.

        Raises:
            OSError: if the file cannot be read, or is damaged. ValueError: for a file of another kind, or several records
                of which none is chosen.
        """
        return filing.load("trajectory", path, kind=cls, phase=phase, record=record)
