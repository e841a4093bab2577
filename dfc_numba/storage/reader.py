"""Reading trajectory files lazily: a file, a segment, or all that a run directory holds, alike."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from dfc_numba.extensions import explained
from dfc_numba.model.controller import Controller
from dfc_numba.model.network import Network
from dfc_numba.storage import recipes, schema, segments
from dfc_numba.storage.stored import Part, StoredRecord, StoredVariable
from dfc_numba.support import foreign
from dfc_numba.support.array_types import PathLike
from dfc_numba.support.validation import choice

OPEN_FILES = 8


def open_trajectories(path: PathLike) -> Trajectories:
    """Open stored trajectories for reading.

        with dfc.open_trajectories("runs/digits-001") as file:
            record = file["forward"][3]
            v = record.variable("v", layer=2)[::10, 0]            # every 10th step of the first sample: reads only that

    Args:
        path: a trajectory file, a closed segment, or a run directory.

    Returns:
        `Trajectories`; nothing but sizes is read yet.

    Raises:
        OSError: if nothing can be read there. ValueError: for a file of another kind, or of a newer major version.
    """
    return Trajectories(path)


def load(path, kind, *, phase=None, record=None):
    """Return the trajectory of one record, which is of the class `kind`; see `Trajectory.load`."""
    with open_trajectories(path) as file:
        if phase is None and len(file.phases) != 1:
            raise ValueError(f"{path} holds the phases {', '.join(file.phases)}; choose one with phase=")
        records = file[file.phases[0] if phase is None else phase]
        if record is None and len(records) != 1:
            raise ValueError(
                f"{path} holds {len(records)} records of {records.phase!r}; choose one with record="
            )
        there = records.kind.trajectory
        if there is not kind:
            raise ValueError(
                f"{path} holds a {records.kind.what} in {records.phase!r}; load it with dfc.{there.__name__}.load"
            )
        return records[0 if record is None else record].trajectory()


class Trajectories:
    """Stored trajectories, open for reading: `[phase]` gives the `PhaseRecords` of a phase. A context manager.

    Attributes:
        path: what was opened. files: the files that it stands for, in order.
        phases: names of the phases' groups, in the order in which a run begins them.
        attributes: of the file; of a run, those of its first file.
        status: how what the file describes has ended, one of `schema.STATUSES`; of a run, as its last file says.
        notes: sentences about what is left aside. damaged: sentences about files of a run that cannot be read.
    """

    def __init__(self, path: PathLike) -> None:
        self.path, self.damaged = Path(path), []
        self.files, self.notes = segments.find(path)
        self._handles, self._parts, self._closed = OrderedDict(), {}, False
        try:
            self._counts = self._count()
            self.attributes = schema.attributes(self.handle(0))
            self.status = str(schema.attributes(self.handle(len(self.files) - 1)).get("status"))
        except BaseException:
            self.close()
            raise
        phases = {name for counts in self._counts for name in counts}
        self.phases = tuple(sorted(phases, key=schema.phase_order))

    @property
    def config(self) -> dict[str, Any] | None:
        """The configuration of the run as nested dicts, None where there is none."""
        return schema.parsed(self.handle(0), "config")

    @property
    def extensions(self) -> list[dict[str, Any]]:
        """Facts of the extensions that the run depended on, see `dfc_numba.extensions`."""
        return schema.parsed(self.handle(0), "extensions") or []

    def __getitem__(self, phase: str) -> PhaseRecords:
        """Return the `PhaseRecords` of a phase; ValueError for one that is not stored."""
        name = choice("phase", schema.group_name(phase), self.phases)
        return PhaseRecords(self, name, [counts.get(name) for counts in self._counts])

    def __len__(self) -> int:
        return sum(sum(counts.values()) for counts in self._counts)

    def handle(self, number):
        """Return the `h5py.File` of `files[number]`; the last few used stay open."""
        if self._closed:
            raise ValueError(f"{self.path} is closed")
        if number not in self._handles:
            while len(self._handles) >= OPEN_FILES:
                self._handles.popitem(last=False)[1].close()
            self._handles[number] = schema.open_file(self.files[number])
        self._handles.move_to_end(number)
        return self._handles[number]

    def part(self, number, group, name):
        """Return the `Part` of a variable that `files[number]` has.

        All of a group are looked up at once: a run may have thousands of files, of which few stay open.
        """
        parts = self._parts.get((number, group))
        if parts is None:
            parts = self._parts[number, group] = {}
            for other in schema.variables(schema.group(self.handle(number), group)):
                with suppress(OSError, ValueError):  # reported when it is asked for
                    parts[other] = self._look_up(number, group, other)
        return parts[name] if name in parts else self._look_up(number, group, name)

    def _look_up(self, number, group, name):
        def opened():
            return schema.data_set(self.handle(number)[group], name)  # `open_file` has checked the group

        dataset = opened()
        return Part(opened, self.files[number], dataset.shape, dataset.dtype)

    def __repr__(self) -> str:
        counts = ", ".join(f"{phase}: {len(self[phase])}" for phase in self.phases)
        return f"Trajectories({str(self.path)!r}, {self.status}, records of {counts})"

    def close(self) -> None:
        """Close all files; nothing can be read any more."""
        self._closed = True
        self._drop_handles()

    def __enter__(self) -> Trajectories:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _count(self):
        """Count the records of each phase in each file; leave damaged files of several aside with a warning."""
        counts, errors = {}, []
        for number, file in enumerate(self.files):
            try:
                counts[file] = schema.phase_counts(self.handle(number))
            except (OSError, ValueError) as error:
                errors.append(error)
        if not counts:
            raise errors[0]
        for error in errors:
            self.damaged.append(str(error))
            warnings.warn(f"{error}; its records are left out", stacklevel=4)
        if errors:
            self._drop_handles()
        self.files = list(counts)
        return list(counts.values())

    def _drop_handles(self):
        while self._handles:
            self._handles.popitem()[1].close()


def _coordinate(group, name):
    """Return the values of a dimension or coordinate of a group, None where it has none."""
    if name not in foreign.names(group):
        return None
    return foreign.read(group, name)


def _backward(arrays, depth):
    """Return the matrices B of dynamic inversion or equilibrium propagation among a network's arrays, or None."""
    for names in (["B_single"], [f"B_{layer}" for layer in range(1, depth)]):
        found = [arrays[name] for name in names if name in arrays]
        if found and not np.isnan(found[0]).all():  # where other networks of the file have them
            return found
    return None


class PhaseRecords:
    """The records of one phase, in their order: a sequence of `StoredRecord`.

    Attributes:
        name: of the group. phase: the phase's name. kind: the `Kind` of what is simulated.
        variables: names of the variables in the file, such as "u", "v_2".
        step, time: (T,) of the stored time points; None if there are no trajectories.
    """

    def __init__(self, source, name, counts):
        self._source, self.name, self._stored = source, name, {}
        self._files = [number for number, count in enumerate(counts) if count is not None]
        self._ends = np.cumsum([counts[number] for number in self._files])
        group = self._group(self._files[0])
        attributes = schema.attributes(group)
        phase = attributes.get("phase", schema.DAMAGED)
        self.phase = name if phase == schema.DAMAGED else str(phase)
        self.kind = recipes.of_attributes(attributes)
        self.variables = tuple(sorted(schema.variables(group), key=schema.order))
        self.step, self.time = (_coordinate(group, one) for one in ("step", "time"))

    @property
    def options(self) -> Any:
        """The `Controller`, `Inversion` or `EquilibriumPropagation`; None if unknown, or nothing is simulated."""
        found = schema.parsed(self._group(self._files[0]), self.kind.name)
        return None if found is None else self.kind.options(**found)

    @property
    def controller(self) -> Controller | None:
        """The `Controller`; None where nothing is simulated, or the recipe is not known."""
        return self.options if self.kind is recipes.CONTROL else None

    @property
    def inversion(self) -> Any:
        """The `Inversion`; None where something else is simulated, or the recipe is not known."""
        return self.options if self.kind is recipes.INVERSION else None

    @property
    def update(self) -> dict[str, Any]:
        """Options of the update that was made of each record."""
        return schema.parsed(self._group(self._files[0]), "update") or {}

    def variable(self, name: str, layer: int | None = None) -> StoredVariable:
        """Return a `StoredVariable` over all records, read when it is indexed.

        Args:
            name: such as "u", "epoch", "v", or in full "v_2". layer: from 1, for a variable with layers.

        Raises:
            ValueError: if it is not stored.
        """
        full = schema.file_name(name, layer, self.variables)
        if full not in self._stored:
            grows = schema.variable(full).dims[0] == schema.RECORD
            files = self._files if grows else self._files[:1]
            parts = [self._source.part(number, self.name, full) for number in files]
            units = {"time": self.kind.time_unit}.get(full)
            self._stored[full] = StoredVariable(full, parts, units)
        return self._stored[full]

    def network(self, n: int) -> Network:
        """Return the `Network` of record n, as it was before the update."""
        number = self._files[int(np.searchsorted(self._ends, n, side="right"))]
        arrays = {}
        for variable, group in schema.PARAMETER_GROUPS.items():
            row, stored = int(self.variable(variable)[n]), schema.group(self._source.handle(number), group)
            facts = schema.parsed(stored, "network") or {}
            for name in schema.variables(stored):
                arrays[name] = StoredVariable(name, [self._source.part(number, group, name)])[row]
        try:
            layers, bias = range(1, len(facts.pop("sizes"))), facts.pop("bias")
            weights, feedback = ([arrays[f"{kind}_{layer}"] for layer in layers] for kind in "WQ")
            biases = [arrays[f"b_{layer}"] for layer in layers] if bias else None
        except KeyError as error:
            raise ValueError(f"{self._source.files[number]}: {error} of the network is missing") from None
        backward = _backward(arrays, len(weights))
        with explained(self._source.extensions):
            return Network(weights=weights, feedback=feedback, biases=biases, backward=backward, **facts)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, n: int) -> StoredRecord:
        """Return the `StoredRecord` number n; negative numbers count from the end."""
        if not -len(self) <= n < len(self):
            raise IndexError(f"record {n} of {self.phase!r}: there are {len(self)}")
        return StoredRecord(self, n % len(self))

    def __repr__(self) -> str:
        return f"PhaseRecords({self.phase!r}, {len(self)} records of {', '.join(self.variables)})"

    def __iter__(self) -> Iterator[StoredRecord]:
        return (self[n] for n in range(len(self)))

    def _group(self, number):
        return schema.group(self._source.handle(number), self.name)
