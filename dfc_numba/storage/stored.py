"""Stored data, read lazily: variables, their parts in several files, and records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dfc_numba.errors import DamagedFileError
from dfc_numba.model.recording import Recipe, StoredUpdate
from dfc_numba.storage import schema
from dfc_numba.storage.recipes import noise_of
from dfc_numba.support import memory
from dfc_numba.support.array_types import Array

# --- variables ----------------------------------------------------------------------------------------------

SMALL_BYTES = 2**20  # that always fit into memory


@dataclass(frozen=True)
class Part:
    """The data set of a variable in one of the files.

    Attributes:
        open: function that returns it, open. path: of the file.
        shape, dtype: of the data set; its first dimension is as long as the part.
    """

    open: Callable
    path: Path
    shape: tuple
    dtype: np.dtype


class Lazy:
    """An array-like that is read when it is indexed: a class with `shape`, `dtype` and `__getitem__`.

    Indices may be numbers, slices, and lists or arrays of numbers (or booleans), each for its own dimension.
    `np.asarray` reads all of it.

    Attributes:
        name: in the file. dims: names of the dimensions. long_name, units: what it is.
        shape, dtype, ndim, size: as of an array.
    """

    @property
    def ndim(self):
        """Number of dimensions."""
        return len(self.shape)

    @property
    def size(self):
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __len__(self):
        return self.shape[0]

    def __repr__(self):
        sizes = ", ".join(f"{dim}: {length}" for dim, length in zip(self.dims, self.shape, strict=True))
        return f"<{self.name} ({sizes}) {self.dtype}: {self.long_name}, in {self.units}>"

    def __array__(self, dtype=None, copy=None):
        if copy is False:
            raise ValueError("a stored variable is read from its file, which makes a copy")
        return self[...].astype(self.dtype if dtype is None else dtype, copy=False)


class StoredVariable(Lazy):
    """A variable over all records, of one file or several; in the units of the schema, or in others."""

    def __init__(self, name, parts, units=None):
        self.name, self._parts = name, parts
        about = schema.variable(name)
        self.dims, self.long_name, self.units = about.dims, about.long_name, units or about.units
        self.dtype = parts[0].dtype
        self._starts = np.cumsum([0, *(part.shape[0] for part in parts)])
        # files may differ in the number of samples
        rest = np.array([part.shape[1:] for part in parts], int).max(axis=0)
        self.shape = (int(self._starts[-1]), *(int(length) for length in rest))

    def __getitem__(self, key: Any) -> Array:
        indices = index_arrays(key, self.shape)
        rows, *rest = (np.atleast_1d(one) for one in indices)
        shape = len(rows), *map(len, rest)
        size = int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize
        if size > SMALL_BYTES:
            memory.require(size, f"{self.name} of shape {shape}", "read less of it at a time")
        blocks = list(self._blocks(rows, rest))
        found = self._joined(shape, blocks)
        return found[tuple(0 if one.ndim == 0 else slice(None) for one in indices)]

    def _blocks(self, rows, rest):
        """Yield what the files hold of these indices: pairs of the position in the result and the function that reads it."""
        places = np.searchsorted(self._starts[1:], rows, side="right")
        for number in np.unique(places):
            here, start, part = np.flatnonzero(places == number), self._starts[number], self._parts[number]
            within = [np.flatnonzero(one < length) for one, length in zip(rest, part.shape[1:], strict=True)]
            if all(map(len, within)):
                inner = [one[places] for one, places in zip(rest, within, strict=True)]
                for run in _runs(rows[here]):
                    yield [here[run], *within], partial(self._read, part, int(start), rows[here[run]], inner)

    def _joined(self, shape, blocks):
        """Put the blocks at their positions, and fill what no file holds as missing."""
        if len(blocks) == 1 and tuple(map(len, blocks[0][0])) == shape:
            return blocks[0][1]()
        found = np.full(shape, schema.FILL[self.dtype.kind], self.dtype)
        for places, read in blocks:
            found[np.ix_(*places)] = read()
        return found

    def _read(self, part, start, rows, inner):
        """Read rows of one file, which begins with row `start`."""
        dataset = part.open()
        try:
            return _outer(dataset, [rows - start, *inner])
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            raise self._damaged(part, dataset, rows, start, inner, error) from None

    def _damaged(self, part, dataset, rows, start, inner, error):
        """Return the error that names the first row that cannot be read."""
        for row in rows:
            try:
                _outer(dataset, [np.array([row - start]), *inner])
            except (OSError, RuntimeError, ValueError, KeyError):
                break
        return DamagedFileError(
            f"{part.path}: {dataset.name} of {self.dims[0]} {row} is damaged or cannot be read ({error}); "
            "the rest can still be read"
        )


class RecordVariable(Lazy):
    """A variable of one record, without the dimension `record` and without padding."""

    def __init__(self, variable, record, lengths):
        self._variable, self._record = variable, record
        self.name, self.dtype, self.dims = variable.name, variable.dtype, variable.dims[1:]
        self.long_name, self.units = variable.long_name, variable.units
        self.shape = tuple(lengths.get(dim, n) for dim, n in zip(self.dims, variable.shape[1:], strict=True))

    def __getitem__(self, key: Any) -> Array:
        return self._variable[(self._record, *index_arrays(key, self.shape))]


def _outer(dataset, indices):
    """Return the part of a data set that is the outer product of arrays of indices."""
    chosen = [_evenly_spaced(one) for one in indices]
    uneven = [axis for axis, one in enumerate(chosen) if one is None]
    widest = max(uneven, key=lambda axis: np.ptp(indices[axis]), default=None)
    for (
        axis
    ) in uneven:  # HDF5 takes one list of numbers, which increase; of other dimensions the range is read
        unique = np.unique(indices[axis])
        chosen[axis] = unique if axis == widest else np.arange(unique[0], unique[-1] + 1)
    block = dataset[tuple(_slice(one) if axis != widest else one for axis, one in enumerate(chosen))]
    for axis in uneven:
        block = block.take(np.searchsorted(chosen[axis], indices[axis]), axis=axis)
    return block


def _evenly_spaced(indices):
    """Return the indices if they increase in equal steps, else None."""
    gaps = np.diff(indices)
    return indices if len(gaps) == 0 or (gaps[0] > 0 and (gaps == gaps[0]).all()) else None


def _slice(indices):
    """Return the slice that evenly spaced indices are."""
    return slice(
        int(indices[0]), int(indices[-1]) + 1, int(indices[1] - indices[0]) if len(indices) > 1 else 1
    )


def _runs(rows):
    """Return slices of an array of row numbers, each of which is evenly spaced."""
    if _evenly_spaced(rows) is not None:
        return [slice(0, len(rows))]
    return [slice(n, n + 1) for n in range(len(rows))]


def index_arrays(key, shape):
    """Return a key of an array of this shape as an array of indices per dimension, a 0-d one for a single index."""
    key = list(key) if isinstance(key, tuple) else [key]
    if any(one is Ellipsis for one in key):
        place = next(n for n, one in enumerate(key) if one is Ellipsis)
        key[place : place + 1] = [slice(None)] * (len(shape) - len(key) + 1)
    if len(key) > len(shape):
        raise IndexError(f"{len(key)} indices for {len(shape)} dimensions")
    key += [slice(None)] * (len(shape) - len(key))
    return [_index(one, length) for one, length in zip(key, shape, strict=True)]


def _index(one, length):
    """Return an index as a number or an array of numbers from 0 to length - 1."""
    if isinstance(one, slice):
        return np.arange(length)[one]
    array = np.asarray(one)
    array = array if array.size else array.astype(np.int64)  # an empty list is one of floats to NumPy
    if array.dtype == bool and array.shape == (length,):
        return np.flatnonzero(array)
    if array.dtype.kind not in "iu" or array.ndim > 1:
        raise IndexError(f"{one!r} is not an index; numbers, slices and lists of numbers are")
    if ((array < -length) | (array >= length)).any():
        raise IndexError(f"index {one!r} is out of range: there are {length}")
    return np.where(array < 0, array + length, array)


# --- records ------------------------------------------------------------------------------------------------

FLAGS = "converged", "diverged"


class StoredRecord:
    """One logged minibatch.

    Attributes:
        records: the `PhaseRecords` that it belongs to. place: its place among them, from 0.
        variables: names of the variables that are stored for it, such as "u", "v_2".
    """

    def __init__(self, records, place):
        self.records, self.place = records, place
        self._lengths = {}
        if "minibatch_size" in records.variables:
            self._lengths["minibatch_sample"] = max(0, int(self["minibatch_size"]))
        if "position" in records.variables:
            self._lengths["sample"] = int((records.variable("position")[place] >= 0).sum())
        self._has_update = "has_update" in records.variables and self["has_update"] == 1
        self.variables = tuple(filter(self._holds, records.variables))

    def __repr__(self):
        return f"StoredRecord({self.records.phase!r}, record {self.place}, {', '.join(self.variables)})"

    def _holds(self, name):
        """Return whether this record has a variable of the phase: recipe, trajectory and update may each be missing."""
        dims = schema.variable(name).dims
        there = dims[0] == schema.RECORD and all(self._lengths.get(dim, 1) > 0 for dim in dims)
        return there and (self._has_update or not schema.is_update(name))

    def variable(self, name: str, layer: int | None = None) -> RecordVariable:
        """Return a `RecordVariable`, read when it is indexed.

        Args:
            name: such as "u", "v", or in full "v_2". layer: from 1, for a variable with layers.

        Raises:
            ValueError: if it is not stored.
        """
        return RecordVariable(self.records.variable(name, layer), self.place, self._lengths)

    def __getitem__(self, name: str) -> Any:
        """Return all of a variable of this record."""
        return self.variable(name)[...]

    def recipe(self) -> Recipe:
        """Return the `Recipe`, with the network as it was before the update.

        Raises:
            ValueError: if the file does not have it.
        """
        if "inputs" not in self.variables:
            raise ValueError(
                f"record {self.place} of {self.records.name!r} has no recipe: "
                "its trajectory was saved without what it was computed from"
            )
        network = self.records.network(self.place)
        indices = self["sample_index"]
        return Recipe(
            network=network, x=self["inputs"], target=self["target"], **{self.records.kind.name: self.records.options},
            noise=noise_of(self.__getitem__, len(network.weights)),
            labels=self._optional("labels"),
            indices=None if (indices < 0).all() else indices,
            phase=self.records.phase, update=self.records.update,
            epoch=int(self["epoch"]), minibatch=int(self["minibatch"]), number=int(self["number"]),
        )  # fmt: skip

    def trajectory(self, places: Any = slice(None)) -> Any:
        """Return the `Trajectory` or `InversionTrajectory` as stored, with its recipe where the file has one.

        Args:
            places: of the samples to read, among those that are stored; all by default.

        Raises:
            ValueError: if only the recipe was stored.
        """
        if self.records.step is None or self._lengths.get("sample") == 0:
            raise ValueError(f"record {self.place} of {self.records.name!r} is a recipe without trajectory")
        kind = self.records.kind
        names = [
            field.name for field in fields(kind.trajectory) if field.name in (*schema.TRAJECTORY, *FLAGS)
        ]
        return kind.trajectory(
            time=self.records.time, step=self.records.step, **{name: self._recorded(name, places) for name in names},
            **kind.facts(self.variables), **self._formulas(kind, places),
            samples=self._recorded("position", places), recipe=self.recipe() if "inputs" in self.variables else None,
        )  # fmt: skip

    def _formulas(self, kind, places):
        """Return the field `formulas` of a trajectory that has one."""
        bases = {name.rpartition("_")[0] for name in self.variables if name.startswith(schema.FORMULA)}
        if "formulas" not in {field.name for field in fields(kind.trajectory)}:
            return {}
        return {
            "formulas": {
                base.removeprefix(schema.FORMULA): self._recorded(base, places) for base in sorted(bases)
            }
        }

    def update(self) -> StoredUpdate | None:
        """Return the run's `StoredUpdate` of this minibatch, per unit learning rate; None if it was not stored."""
        arrays = {kind: self._all_layers(name) for kind, name in schema.UPDATES.items()}
        return StoredUpdate(**arrays) if self._has_update else None

    def _recorded(self, name, places):
        """Return a trajectory's field of this name; None if it was not stored."""
        layers = [f"{name}_{layer}" for layer in schema.stored_layers(name, self.variables)]
        if name not in self.variables:
            return [self._of_samples(one, places) for one in layers] or None
        stored = self._of_samples(name, places)
        return stored == 1 if name in FLAGS else stored

    def _of_samples(self, name, places):
        """Return a variable of some of the stored samples."""
        found = self.variable(name)
        return found[(slice(None), places) if found.dims[0] == "step" else places]

    def _optional(self, name):
        return self[name] if name in self.variables else None

    def _all_layers(self, name):
        """Return a list with an array per layer; None if the variable was not stored."""
        layers = schema.stored_layers(name, self.variables)
        return [self[f"{name}_{layer}"] for layer in layers] or None
