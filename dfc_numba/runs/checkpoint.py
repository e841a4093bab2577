"""Checkpoints: all that evolves in a run, in a file from which it continues bit for bit.

A checkpoint is an HDF5 file with a checksum of everything in front of it, written as a whole. It holds

/                  schema, schema_version; as JSON: settings, what is used of the configuration; data, checksums of
                   the parts of the data set; origin, versions and processor; extensions, paths and SHA-256
/counters          attributes: where the run stands
/rows              the rows of metrics.csv; the attribute `columns` names their numbers, NaN where a row has none
/network, /best_network
/optimizers        the arrays of each optimiser
/analysis          what was measured so far; missing where nothing was
/method            arrays of the method's own; missing where it has none
"""

import json
import os
import time
import warnings
from dataclasses import dataclass, field, fields
from functools import cache
from itertools import chain
from pathlib import Path

import numpy as np

from dfc_numba.configuration.config_file import differences, used_values
from dfc_numba.errors import CheckpointError
from dfc_numba.extensions import used_extensions
from dfc_numba.learning.state import Counters, TrainingState
from dfc_numba.model.network import Network
from dfc_numba.storage import network_file
from dfc_numba.support import hdf5
from dfc_numba.support.environment import environment

# --- one checkpoint -----------------------------------------------------------------------------------------

SCHEMA, SCHEMA_VERSION, KIND = "dfc-numba/checkpoint", "1.0", "checkpoint"
EPOCHS = "training.epochs"
OBSERVING = (
    "log.",
    "analysis.",
    "training.observers",
)  # sections that say what is noted of a run, not what it does
MEASURED = ("analysis.what", "analysis.samples", "analysis.damping")  # have to stay while a run is measured


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint.

    Attributes:
        state: the `TrainingState`.
        settings: the `used_values` of the run's configuration.
        data: checksums of the parts of the data set, by name.
        origin: versions of what computed the state, and the processor.
        extensions: facts of the extensions that the run depends on, see `dfc_numba.extensions`.
    """

    state: TrainingState
    settings: dict
    data: dict
    origin: dict
    extensions: list = field(default_factory=list)

    def restore(self, trainer):
        """Bring a trainer, which must have the same configuration and data, to where the run stood.

        It may have more epochs. Another version of a library, or another processor, brings a warning.
        """
        changed = contradictions(self.settings, used_values(trainer.config))
        if changed:
            raise ValueError(
                f"the checkpoint is that of another configuration ({changed}); continue with the same one"
            )
        parts = {part for part, _ in self.data.items() ^ trainer.dataset.checksums.items()}
        if parts:
            raise ValueError(
                f"the checkpoint is that of other data: {', '.join(sorted(parts))} of {trainer.dataset.name} "
                "differ; continue with the data that the run started with"
            )
        trainer.restore(self.state)
        self._warn_of_other_origin()

    def _warn_of_other_origin(self):
        here = origin()
        changed = [
            f"{name} was {value}, is {here.get(name)}"
            for name, value in self.origin.items()
            if here.get(name) != value
        ]
        if changed:
            warnings.warn(f"the run may not continue bit for bit: {'; '.join(changed)}", stacklevel=4)


def save(trainer, path, *, keep=None):
    """Write a checkpoint of a `Trainer`; an older file is replaced as a whole.

    Args:
        trainer: between two minibatches: before or after `run`, or in an observer.
        keep: name in the same directory that the older file gets.

    Raises:
        OSError: if it cannot be written; then the older file is as it was.
    """
    state = trainer.state()
    with hdf5.replacing(path, keep=keep, sealed=True) as file:
        facts = {
            "settings": used_values(trainer.config),
            "data": trainer.dataset.checksums,
            "origin": origin(),
            "extensions": used_extensions(used_values(trainer.config)),
        }
        file.attrs.update(
            schema=SCHEMA,
            schema_version=SCHEMA_VERSION,
            **{name: json.dumps(fact) for name, fact in facts.items()},
        )
        file.create_group("counters").attrs.update(vars(state.counters))
        _store_rows(file, state.rows)
        network_file.store(state.network, file.create_group("network"))
        network_file.store(state.best_network, file.create_group("best_network"))
        for optimizer, arrays in state.optimizers.items():
            for name, array in arrays.items():
                name = f"optimizers/{optimizer}/{name.replace('/', '.')}"
                file.create_dataset(name, data=array, fletcher32=True)
        for group in ("analysis", "method"):
            for name, array in getattr(state, group).items():
                file.create_dataset(f"{group}/{name}", data=array, fletcher32=True)


def load(path):
    """Return the `Checkpoint` in a file.

    Raises:
        OSError: if it is missing or damaged. ValueError: if it is not a checkpoint of this project, or a newer one.
    """
    hdf5.check_seal(path)
    with hdf5.opened(path, SCHEMA, SCHEMA_VERSION, KIND) as file:
        networks = [Network(**network_file.contents(file[name])) for name in ("network", "best_network")]
        others = (
            {name: item[...] for name, item in file.get(group, {}).items()}
            for group in ("analysis", "method")
        )
        state = TrainingState(*networks, _optimizers(file), _counters(file), _rows(file), *others)
        facts = {name: json.loads(file.attrs[name]) for name in ("settings", "data", "origin")}
        facts["extensions"] = json.loads(file.attrs.get("extensions", "[]"))
        return Checkpoint(state, **facts)


def restore(trainer, path):
    """Put a `Trainer` where the run stood that a checkpoint was saved of; its `run` continues from there.

    The trainer has to have the same configuration (more epochs are allowed), data set and network sizes.

    Raises:
        OSError: if the file is missing or damaged. ValueError: if it does not fit the trainer, or is not a checkpoint.
    """
    load(path).restore(trainer)


def contradictions(there, now):
    """Return a text of the differences of two `used_values` that keep a run from being resumed.

    More epochs do not, nor does when it is logged or measured: it leaves the results as they are (what the files of a
    run can hold is a matter of the `Logger`). What is measured has to stay: the measurements are one course.
    """
    changed = _shared_differences(there, now)
    if EPOCHS in changed and there[EPOCHS] < now[EPOCHS]:
        del changed[EPOCHS]
    elif EPOCHS in changed:
        changed[EPOCHS] += ", but only more are possible"
    kept = [key for key in changed if key in MEASURED or not key.startswith(OBSERVING)]
    return _listed(changed, kept)


def allowed_changes(there, now):
    """Return a text of the differences of two `used_values` that do not keep a run from being resumed, see `contradictions`."""
    changed = _shared_differences(there, now)
    return _listed(changed, [key for key in changed if key == EPOCHS or key.startswith(OBSERVING)])


def _shared_differences(there, now):
    """Return the `differences` in keys that both use; one that only one uses is new, or follows from another key."""
    keys = there.keys() & now.keys()
    return differences(*({key: values[key] for key in keys} for values in (there, now)))


def _listed(changed, keys):
    return "; ".join(f"{key} = {changed[key]}" for key in sorted(keys))


@cache
def origin():
    """Return what the bits of a result may depend on."""
    facts = environment()
    packages = {name: facts["packages"][name] for name in ("numba", "llvmlite", "numpy", "scipy")}
    return {"dfc_numba": facts["dfc_numba"], **packages, "processor": facts["machine"]["processor"]}


def _store_rows(file, rows):
    """Store rows as a table; NaN stands for what one row lacks and others have."""
    columns = list(dict.fromkeys(chain.from_iterable(rows)))
    values = np.array([[row.get(name, np.nan) for name in columns] for row in rows], np.float64)
    table = file.create_dataset("rows", data=values.reshape(len(rows), len(columns)))
    table.attrs["columns"] = json.dumps(columns)


def _rows(file):
    columns = json.loads(file["rows"].attrs["columns"])
    rows = [dict(zip(columns, row, strict=True)) for row in file["rows"][...].tolist()]
    return [{**row, "epoch": int(row["epoch"])} for row in rows]


def _counters(file):
    stored = file["counters"].attrs
    return Counters(
        **{entry.name: entry.type(stored.get(entry.name, entry.default)) for entry in fields(Counters)}
    )


def _optimizers(file):
    return {
        optimizer: {name.replace(".", "/"): item[...] for name, item in group.items()}
        for optimizer, group in file["optimizers"].items()
    }


# --- the checkpoints of a run -------------------------------------------------------------------------------

NEWEST, PREVIOUS, DAMAGED = "checkpoint.h5", "checkpoint_previous.h5", "checkpoint_damaged.h5"
FILES = (NEWEST, PREVIOUS)
OTHERS = (DAMAGED,)
MINUTES = 10.0


@dataclass
class CheckpointPair:
    """Writes the checkpoints of a run every so often, and finds the one to continue from.

    Attributes:
        directory: the run directory.
        minutes: time between two checkpoints, at most and within an epoch.
        written, seconds: how many this object has written, and how long that took.
    """

    directory: Path
    minutes: float = MINUTES
    written: int = 0
    seconds: float = 0.0
    _last: float = field(default_factory=time.monotonic)

    def write(self, trainer):
        """Write a checkpoint and keep the last one.

        Raises:
            CheckpointError: if it cannot be written; those that there are stay as they were.
        """
        start = time.monotonic()
        trainer.settle()
        try:
            save(trainer, self.directory / NEWEST, keep=PREVIOUS)
        except OSError as error:
            raise CheckpointError(
                f"{self.directory / NEWEST} cannot be written ({error.strerror or error}); the last checkpoint is as it was"
            ) from error
        self._last = time.monotonic()
        self.written, self.seconds = self.written + 1, self.seconds + self._last - start

    def write_if_due(self, trainer):
        """Write a checkpoint if the last one is long enough ago."""
        if time.monotonic() >= self._last + 60 * self.minutes:
            self.write(trainer)

    def find(self):
        """Return the newest `Checkpoint` that can be read, or None if there are no files.

        If it is the previous one, a warning says why; a damaged newest one is renamed, so that the next one to be
        written does not push out the sound one.

        Raises:
            CheckpointError: if there are files, but none can be read. ValueError: if the newest is of a newer version.
        """
        newest, previous = (self.directory / name for name in FILES)
        problems = []
        for path in (newest, previous):
            try:
                found = load(path)
            except FileNotFoundError:
                problems.append(f"{path} is missing")
            except OSError as error:
                problems.append(str(error))
            else:
                self._tell_of(problems, path)
                return found
        if not newest.exists() and not previous.exists():
            return None
        raise CheckpointError(
            f"no checkpoint to continue from: {'; '.join(problems)}; start a new run in another directory with --out"
        )

    def _tell_of(self, problems, path):
        newest = self.directory / NEWEST
        if problems and newest.exists():
            os.replace(newest, self.directory / DAMAGED)
            problems = [f"{problems[0]}, now {DAMAGED}"]
        if problems:
            warnings.warn(f"{problems[0]}; continuing from the older {path}", stacklevel=3)
