"""Replaying stored records: trajectory and update computed anew by the kernels, and compared bit for bit."""

import json
from dataclasses import dataclass

from dfc_numba.dynamics.simulation import Record
from dfc_numba.storage import safe, schema
from dfc_numba.storage.deviation import deviation
from dfc_numba.storage.reader import open_trajectories
from dfc_numba.storage.recipe import update_arrays
from dfc_numba.storage.recomputation import computed
from dfc_numba.storage.writer import trajectory_arrays

UPDATES = ("dW", "db", "dQ")
LARGEST_STEP = 2**31 - 1  # a recording with this distance has the initial state alone
DECISIVE = ("dfc_numba", "numba", "numpy", "the processor")  # what bits may depend on


@dataclass(frozen=True)
class Replayed:
    """What the replay of one record showed.

    Attributes:
        phase, record: which record; `record` counts those of the phase from 0.
        compared: names of the variables that were computed anew.
        deviations: a `Deviation` for each of them that has other bits.
        left_out: names of variables that are stored, but not how they were made.
        problem: why the record cannot be replayed, None if it can.
    """

    phase: str
    record: int
    compared: tuple = ()
    deviations: tuple = ()
    left_out: tuple = ()
    problem: str | None = None

    @property
    def status(self):
        """ "identical", "different", "nothing to compare" (a recipe alone), or "unusable"."""
        if self.problem is not None:
            return "unusable"
        if not self.compared:
            return "nothing to compare"
        return "different" if self.deviations else "identical"


def replay(path, *, phase=None, record=None):
    """Compute what a trajectory file holds anew, from nothing but the recipes in it, and compare.

    A variable that is stored in float32 is compared after rounding to float32. The bits are the same on the same kind of
    processor with the same versions; `recorded_elsewhere` tells whether they are.

    Args:
        path: a trajectory file or a run directory.
        phase: name of a phase; None takes all. record: number of the record in its phase, from 0, or from the end if it is
            negative; None takes all.

    Returns:
        an iterator over `Replayed`, one for each record. One that is damaged says so in `problem`; the others go on.

    Raises:
        OSError: if the file cannot be read. ValueError: for a file of another kind, or a record that it does not have.
    """
    with open_trajectories(path) as file:
        for stored in chosen(file, phase, record):
            yield replay_record(stored)


def chosen(file, phase=None, record=None):
    """The `StoredRecord`s of an open file that phase and record stand for, see `replay`, phase by phase."""
    phases = [file[name] for name in (file.phases if phase is None else [phase])]
    if record is None:
        return [records[n] for records in phases for n in range(len(records))]
    found = [records[record] for records in phases if -len(records) <= record < len(records)]
    if not found:
        counts = ", ".join(f"{len(records)} of {records.phase}" for records in phases)
        raise ValueError(f"{file.path} has no record {record}; there are {counts}")
    return found


def replay_record(stored):
    """The `Replayed` of a `StoredRecord`."""
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
    """What the recipe of a record gives of what is stored, by the names in the file."""
    recipe, keep = recipe_of(stored), selection(stored)
    updates = any(schema.stored_layers(name, stored.variables) for name in UPDATES)
    if keep is None and not updates:
        return {}
    trajectory, update = computed(recipe, keep)
    return (trajectory_arrays(trajectory) if trajectory else {}) | update_arrays(update)


def recipe_of(stored):
    """The recipe of a `StoredRecord`; ValueError for whatever is wrong with it."""
    try:
        return stored.recipe()
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"record {stored.place} of {stored.records.name!r} has no sound recipe: {error}"
        ) from None


def selection(stored):
    """The `Record` that says what a `StoredRecord` has of its trajectory, None if it has none.

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
    return Record(variables=names, samples=tuple(stored["position"]), every=every)


def _is_result(name):
    """Whether a variable is computed, rather than part of a recipe."""
    base = name if name in schema.PLAIN else name.rpartition("_")[0]
    return base in (*schema.TRAJECTORY, *UPDATES, "converged", "diverged")


def recorded_elsewhere(file):
    """What is different here from where an open `Trajectories` was recorded, and may change bits: a set of texts."""
    here = schema.root_attributes()
    own = {**json.loads(here["versions"]), "the processor": here["cpu"]}
    return {text for number in range(len(file.files)) for text in _differences(file.handle(number), own)}


def _differences(file, own):
    versions = safe.parsed(file, "versions") or {}
    there = {**versions, "the processor": safe.attributes(file).get("cpu")}
    pairs = {name: (there.get(name), own[name]) for name in DECISIVE}
    return [f"{name} {old} (here {new})" for name, (old, new) in pairs.items() if old and old != new]
