"""Replaying stored records: trajectory and update recomputed by the kernels, and compared bit for bit."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from dfc_numba._version import ARITHMETIC
from dfc_numba.model.recording import Record
from dfc_numba.registry import VARIABLES
from dfc_numba.storage import recipes, schema
from dfc_numba.storage.reader import open_trajectories
from dfc_numba.storage.recipes import computed, simulates, update_arrays
from dfc_numba.storage.table import pieces
from dfc_numba.storage.writer import TrajectoryWriter, trajectory_arrays
from dfc_numba.support.array_types import PathLike
from dfc_numba.support.files import replacing

# --- deviations ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Largest:
    """A largest deviation, and its place as {"step": 17, "sample": 3, "unit_2": 5}."""

    value: float
    place: dict[str, int]


@dataclass(frozen=True)
class Deviation:
    """The deviation of a variable.

    Attributes:
        variable: its name in the file. count: how many of its `size` numbers have other bits.
        absolute, relative: the `Largest` |new - stored|, and |new - stored| / |stored|, of one number. Infinite where one of
            the two is not finite.
        scale: the largest finite |stored| of the variable.
    """

    variable: str
    count: int
    size: int
    absolute: Largest
    relative: Largest
    scale: float


def deviation(stored, array, coordinates):
    """Return the `Deviation` of an array from a stored variable, None if all bits are the same.

    The array is rounded to the stored dtype first. Every NaN is the same as any other.

    Args:
        stored: a `RecordVariable`, read a few MB at a time.
        coordinates: arrays of labels by the names of dimensions; others are counted from 0.

    Raises:
        ValueError: if the shapes differ. OSError: if the variable cannot be read.
    """
    if stored.shape != array.shape:
        raise ValueError(f"{stored.name} is stored in shape {stored.shape}; its recipe gives {array.shape}")
    count, scale, largest = 0, 0.0, [(-1.0, ()), (-1.0, ())]
    for piece in pieces(stored.shape, 1, stored.dtype.itemsize):
        there = stored[piece]
        scale = max(scale, float(np.max(np.abs(there), initial=0.0, where=np.isfinite(there))))
        differ, *distances = _distances(there, array[piece])
        if not differ.any():
            continue
        count += int(differ.sum())
        largest = [
            max(before, _largest(distance, piece.start), key=lambda one: one[0])
            for before, distance in zip(largest, distances, strict=True)
        ]
    if count == 0:
        return None
    places = [Largest(value, _place(stored.dims, place, coordinates)) for value, place in largest]
    return Deviation(stored.name, count, array.size, *places, scale)


def _distances(stored, array):
    """Return (differing bits, absolute deviations, relative deviations); the latter are 0 where bits are the same."""
    with np.errstate(over="ignore"):
        array = array.astype(stored.dtype)
    bits = f"u{stored.dtype.itemsize}"
    differ = np.ascontiguousarray(stored).view(bits) != np.ascontiguousarray(array).view(bits)
    stored, array = stored.astype(np.float64), array.astype(np.float64)
    differ &= ~(np.isnan(stored) & np.isnan(array))
    absolute, relative = np.zeros(stored.shape), np.zeros(stored.shape)
    with np.errstate(invalid="ignore"):
        np.subtract(array, stored, out=absolute, where=differ)
    absolute = np.nan_to_num(np.abs(absolute), nan=np.inf, posinf=np.inf)
    apart = absolute > 0  # 0 and -0 are not
    with np.errstate(divide="ignore", invalid="ignore"):
        np.divide(absolute, np.abs(stored), out=relative, where=apart)
    return differ, absolute, np.nan_to_num(relative, nan=np.inf, posinf=np.inf)


def _largest(distances, start):
    """Return (value, indices) of the largest, for a part that begins at `start` along the first axis."""
    first, *rest = np.unravel_index(np.argmax(distances), distances.shape)
    return float(distances[(first, *rest)]), (first + start, *rest)


def _place(dims, indices, coordinates):
    return {
        dim: int(coordinates[dim][index]) if dim in coordinates else int(index)
        for dim, index in zip(dims, indices, strict=True)
    }


# --- replay -------------------------------------------------------------------------------------------------

UPDATES = tuple(schema.UPDATES.values())
LARGEST_STEP = 2**31 - 1  # a recording with this distance has the initial state alone
DECISIVE = ("dfc_numba", "numba", "numpy", "the processor", "arithmetic")  # what bits may depend on
# of a variable's largest value: how much rounding may change a simulation, draws in single precision included
ROUNDING = 1e-5


@dataclass(frozen=True)
class Replayed:
    """The result of the replay of one record.

    Attributes:
        phase, record: which record; `record` counts those of the phase from 0.
        compared: names of the variables that were recomputed.
        deviations: a `Deviation` for each of them that has other bits.
        left_out: names of variables that are stored, but not how they were made.
        problem: why the record cannot be replayed, None if it can.
    """

    phase: str
    record: int
    compared: tuple[str, ...] = ()
    deviations: tuple[Deviation, ...] = ()
    left_out: tuple[str, ...] = ()
    problem: str | None = None

    @property
    def status(self) -> str:
        """ "identical", "different", "nothing to compare" (a recipe alone), or "unusable"."""
        if self.problem is not None:
            return "unusable"
        if not self.compared:
            return "nothing to compare"
        return "different" if self.deviations else "identical"

    @property
    def within_rounding(self) -> bool:
        """True if no number deviates by more than `ROUNDING` of the largest value of its variable."""
        return all(one.absolute.value <= ROUNDING * one.scale for one in self.deviations)


def replay(path: PathLike, *, phase: str | None = None, record: int | None = None) -> Iterator[Replayed]:
    """Recompute what a trajectory file holds from the recipes in it alone, and compare.

    A variable that is stored in float32 is compared after rounding to float32. The bits are the same on the same kind of
    processor with the same versions; `recorded_elsewhere` tells whether they are.

    Args:
        path: a trajectory file or a run directory.
        phase: name of a phase; None takes all. record: number of the record in its phase, from 0, or from the end if it is
            negative; None takes all.

    Returns:
        an iterator over `Replayed`, one for each record. A damaged one says so in `problem`; the others continue.

    Raises:
        OSError: if the file cannot be read. ValueError: for a file of another kind, or a record that it does not have.
    """
    with open_trajectories(path) as file:
        for stored in chosen(file, phase, record):
            yield replay_record(stored)


def chosen(file, phase=None, record=None):
    """Return the `StoredRecord`s of an open file that phase and record stand for, see `replay`, phase by phase."""
    phases = [file[name] for name in (file.phases if phase is None else [phase])]
    if record is None:
        return [records[n] for records in phases for n in range(len(records))]
    found = [records[record] for records in phases if -len(records) <= record < len(records)]
    if not found:
        counts = ", ".join(f"{len(records)} of {records.phase}" for records in phases)
        raise ValueError(f"{file.path} has no record {record}; there are {counts}")
    return found


def replay_record(stored):
    """Replay a `StoredRecord` and return the `Replayed`."""
    where = {"phase": stored.records.phase, "record": stored.place}
    try:
        arrays = _arrays(stored)
        names = [name for name in stored.variables if name in arrays and _is_result(name)]
        coordinates = {"step": stored.records.step}
        if "position" in stored.variables:
            coordinates["sample"] = stored["position"]
        found = [deviation(stored.variable(name), arrays[name], coordinates) for name in names]
    except (OSError, ValueError, TypeError, MemoryError) as error:
        return Replayed(**where, problem=str(error))
    left_out = tuple(name for name in stored.variables if _is_result(name) and name not in arrays)
    return Replayed(**where, compared=tuple(names), deviations=tuple(filter(None, found)), left_out=left_out)


def _arrays(stored):
    """Compute the stored variables of a record from its recipe, by their names in the file."""
    recipe, keep = recipe_of(stored), selection(stored)
    updates = any(schema.stored_layers(name, stored.variables) for name in UPDATES)
    if keep is None and not updates:
        return {}
    trajectory, update = computed(recipe, keep)
    return (trajectory_arrays(trajectory) if trajectory else {}) | update_arrays(update)


def recipe_of(stored):
    """Return the recipe of a `StoredRecord`; ValueError for whatever is wrong with it."""
    try:
        return stored.recipe()
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"record {stored.place} of {stored.records.name!r} has no sound recipe: {error}"
        ) from None


def selection(stored):
    """Return the `Record` that selects what a `StoredRecord` has of its trajectory, None if it has none.

    Raises:
        ValueError: for steps that no simulation records.
    """
    if "position" not in stored.variables:
        return None
    steps = stored.records.step
    every = int(steps[1]) if len(steps) > 1 else LARGEST_STEP
    if every < 1 or list(steps) != list(range(0, every * len(steps), every)):
        raise ValueError(f"steps {list(map(int, steps[:3]))} ... are not those of a recording: 0, n, 2n, ...")
    names = tuple(
        name
        for name in schema.TRAJECTORY
        if name in stored.variables or schema.stored_layers(name, stored.variables)
    )
    formulas = (name.rpartition("_")[0] for name in stored.variables if name.startswith(schema.FORMULA))
    formulas = {name.removeprefix(schema.FORMULA) for name in formulas}
    names += tuple(name for name in sorted(formulas) if name in VARIABLES)
    return Record(variables=names, samples=tuple(stored["position"]), every=every)


def _is_result(name):
    """Return whether a variable is computed, rather than part of a recipe."""
    base = name if name in schema.PLAIN else name.rpartition("_")[0]
    return base in (*schema.TRAJECTORY, *UPDATES, "converged", "diverged") or base.startswith(schema.FORMULA)


def recorded_elsewhere(file):
    """Return how this installation differs from where an open `Trajectories` was recorded, where bits may: a set of texts."""
    here = schema.root_attributes()
    own = {**json.loads(here["versions"]), "the processor": here["cpu"], "arithmetic": here["arithmetic"]}
    return {text for number in range(len(file.files)) for text in _differences(file.handle(number), own)}


def has_earlier_arithmetic(file):
    """Return whether a file of an open `Trajectories` is of a version that rounds differently, so that bits differ."""
    numbers = range(len(file.files))
    return any(_arithmetic(schema.attributes(file.handle(n))) < ARITHMETIC for n in numbers)


def _arithmetic(attributes):
    """Return the version of the arithmetic that the attributes of a file name; 1 if they name none."""
    number = attributes.get("arithmetic", 1)
    return int(number) if np.ndim(number) == 0 and np.issubdtype(np.asarray(number).dtype, np.integer) else 1


def _differences(file, own):
    versions = schema.parsed(file, "versions") or {}
    attributes = schema.attributes(file)
    there = {**versions, "the processor": attributes.get("cpu"), "arithmetic": _arithmetic(attributes)}
    pairs = {name: (there.get(name), own[name]) for name in DECISIVE}
    return [f"{name} {old} (here {new})" for name, (old, new) in pairs.items() if old and old != new]


# --- new files from recipes ---------------------------------------------------------------------------------


class Written(NamedTuple):
    """The result of writing a new file.

    Attributes:
        records: how many. damaged: sentences about files of a run that could not be read, and have no records in it.
    """

    records: int
    damaged: tuple[str, ...]


def expand(path: PathLike, out: PathLike, *, keep: Record | None = None, **options: Any) -> Written:
    """Write a new file with the trajectories that the recipes of a file give: a log of recipes becomes a full log.

    It is what the run would have logged, bit for bit where `replay` gives the same bits. Records are computed and written
    one after the other. Those of a phase that simulates nothing stay recipes.

    Args:
        path: a trajectory file or a run directory. out: the new file, which must not exist.
        keep: a `Record`: which variables, samples and time points. None is what the section [log] of the run's configuration
            says; of a file without one, everything but the noise.
        options: `phase` and `record` as for `replay`; `compression` and `dtype` as for `Trajectory.save`, None for those of
            [log], or no compression and the precision of the simulation; `command`, to be noted in the file.

    Returns:
        `Written`: the number of records, and what is damaged of a run and left out.

    Raises:
        FileExistsError: if there is such a file. OSError: if a file cannot be read or written.
        ValueError: for a record that is damaged or that the file does not have. MemoryError: if the trajectory of a record
            does not fit into memory.
    """

    def unchanged(stored, log):
        recipe = recipe_of(stored)
        simulated = not recipe.update or simulates(recipe.update)
        return recipe, (keep or log) if simulated else None

    return _resimulate(path, out, unchanged, **options)


def what_if(
    path: PathLike,
    out: PathLike,
    changes: Mapping[str, Any],
    *,
    section: Literal["controller", "inversion"] | None = None,
    keep: Record | None = None,
    **options: Any,
) -> Written:
    """Write a new file with the trajectories that the same minibatches have under another controller or inversion.

    Network, inputs, target and noise stay; the recipes in the new file have the changed options.

    Args:
        changes: options of the `Controller` by name, such as {"k_p": 1.0}, or of the `Inversion`, such as {"alpha": 0.1}.
        section: "controller" or "inversion", to refuse records of the other kind; None changes what there is.
        keep: as for `expand`; None keeps of each record what the file has of it, and of a recipe alone what `expand` keeps.

    Other arguments, the result and errors are those of `expand`.

    Raises:
        ValueError: for options that it does not have or take.
    """

    def changed(stored, log):
        recipe = recipe_of(stored)
        name = recipes.of_options(recipe.dynamics).name
        if recipe.dynamics is None or section not in (None, name):
            there = "" if recipe.dynamics is None else f", but its {name}"
            raise ValueError(
                f"the phase {recipe.phase!r} has no {section or name} to change{there}; choose another phase, or change that"
            )
        recipe = replace(recipe, **{name: replace(recipe.dynamics, **changes)})
        return recipe, keep or selection(stored) or log

    return _resimulate(path, out, changed, **options)


def _resimulate(path, out, change, *, phase=None, record=None, compression=None, dtype=None, command=()):
    """Rewrite records; `change(stored, log)` gives the recipe, and the `Record` that says what to keep."""
    if Path(out).exists():
        raise FileExistsError(f"{out} exists, and nothing is overwritten; choose another name")
    with open_trajectories(path) as file, replacing(out) as temporary:
        records = sorted(chosen(file, phase, record), key=_running_number)
        log = _logging(file)
        options = {
            "attributes": _attributes(file, command),
            "compression": compression or log.get("compression", "none"),
            "dtype": dtype or log.get("dtype"),
        }
        with TrajectoryWriter(temporary, **options) as writer:
            for stored in records:
                recipe, keep = change(stored, _of_section(log, stored.records))
                writer.append(recipe, *computed(recipe, _possible(keep, recipe)))
        return Written(len(records), tuple(file.damaged))


def _running_number(stored):
    """Return the key that sorts records as the run met them."""
    return int(stored["number"]) if "number" in stored.variables else 0


def _logging(file):
    """Return the section [log] of the run's configuration as a dict, empty where no run logged."""
    log = (file.config or {}).get("log", {})
    return log if log.get("on") else {}


def _of_section(log, records):
    """Return the `Record` of a section [log] for a phase."""
    if not log or records.options is None:
        return Record()
    samples = range(log["samples"]) if isinstance(log["samples"], int) else log["samples"]
    variables = records.kind.wanted(log["variables"], records.options)
    return Record(variables=variables, samples=tuple(samples), every=log["every_step"])


def _attributes(file, command):
    """Return the origin of the new file: configuration and seed of the old one, versions and processor of this machine."""
    kept = {name: file.attributes[name] for name in ("config", "seed") if name in file.attributes}
    return schema.root_attributes(command=command) | kept


def _possible(keep, recipe):
    """Return the `Record` without samples and noise that a minibatch lacks; None where nothing is left or simulated."""
    if keep is None or recipe.dynamics is None:
        return None
    kind = recipes.of_options(recipe.dynamics)
    names = kind.possible(keep.names(kind.usual), recipe.dynamics)
    samples = keep.samples and tuple(sample for sample in keep.samples if sample < len(recipe.x))
    return Record(variables=names, samples=samples, every=keep.every) if names and samples != () else None
