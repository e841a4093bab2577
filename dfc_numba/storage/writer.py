"""Writing a trajectory file: one record per minibatch, the parameters once per change."""

import hashlib
import json
import secrets
from contextlib import suppress
from pathlib import Path

import numpy as np

from dfc_numba.storage import recipes, schema
from dfc_numba.storage.hdf5_fast import NewFile
from dfc_numba.storage.recipes import recipe_arrays, update_arrays
from dfc_numba.storage.table import Table, filters
from dfc_numba.support import hdf5
from dfc_numba.support.files import force_to_disk, publish, release_memory, replacing
from dfc_numba.support.validation import dtype_of

# --- one file -----------------------------------------------------------------------------------------------


def save(trajectory, path, *, status="complete", **options):
    """Write one trajectory to a file, which is replaced if there is one; options are those of a `TrajectoryWriter`."""
    with replacing(path, follow=True) as temporary, TrajectoryWriter(temporary, **options) as writer:
        writer.append(trajectory.recipe, trajectory)
        writer.close(status)


GROUP_ATTRIBUTES = ("phase", *recipes.KINDS, "update")


class TrajectoryWriter:
    """A new trajectory file, to which records are appended.

    A group is created when its phase is met for the first time; what its first record holds decides its variables, steps
    and controller, which are the same for all its records. A smaller minibatch, or fewer samples, are padded. Used as a
    context manager it is closed as "complete", or as "failed" after an error.

    Args:
        path: of a file that does not exist yet.
        attributes: from `schema.root_attributes`; None for those without configuration and command.
        compression: "none", "gzip", "zstd" or "blosc"; the latter two need the extra `compression`.
        dtype: "float32" or "float64", to store trajectories in; None stores them as they are.

    Raises:
        FileExistsError: if there is such a file. ValueError: for an unknown compression or dtype.
        MissingExtra: if the compression needs an extra that is not installed.
    """

    def __init__(self, path, *, attributes=None, compression="none", dtype=None):
        self.path = path
        self._options = filters(compression)
        self._dtype = None if dtype is None else dtype_of(dtype)
        self._phases = {}
        attributes = schema.root_attributes() if attributes is None else attributes
        self._new = NewFile(path)
        self._file = self._new.file
        self._file.attrs.update(
            schema.checked(
                {
                    **attributes, "schema": schema.SCHEMA, "schema_version": schema.SCHEMA_VERSION,
                    "compression": compression, "status": "open",
                }
            )
        )  # fmt: skip
        self._parameters = ParameterStore(self._file, self._options)

    def append(self, recipe=None, trajectory=None, update=None, *, twins=()):
        """Add a record.

        Args:
            recipe: a `Recipe`; None if it is not known, and the record cannot be replayed.
            trajectory: a `Trajectory` or an `InversionTrajectory`, None to store the recipe alone.
            update: the update that was made, per unit learning rate: a `ForwardUpdate`, a `FeedbackUpdate`, an
                `InversionUpdate`, or a `StoredUpdate`; None to leave it out.
            twins: other writers that get the record, too, which takes less than to add it to each of them.

        Raises:
            ValueError: for a record that differs from those before in what is stored once for all of them.
        """
        arrays, coordinates = {}, {}
        if recipe is not None:
            arrays |= recipe_arrays(recipe) | self._numbers(recipe)
        if trajectory is not None:
            arrays |= trajectory_arrays(trajectory)
            coordinates = {"step": trajectory.step, "time": trajectory.time}
        arrays |= {"has_update": np.int8(update is not None)} | update_arrays(update)
        attributes = _group_attributes(recipe, trajectory)
        others = [(twin.table(**attributes), twin._numbers(recipe)) for twin in twins]
        self.table(**attributes).append(arrays, coordinates, others)
        for writer in (self, *twins):
            writer._new.check()

    def _numbers(self, recipe):
        """Return the numbers of a record's parameters in this file; store them unless they already are."""
        return {} if recipe is None else self._parameters.numbers(recipe.network)

    def table(self, **attributes):
        """Return the `Table` of a phase, whose records all have these attributes; create it if it is new."""
        name = schema.group_name(attributes["phase"])
        if name not in self._phases:
            self._phases[name] = Table(
                self._file,
                name,
                schema.RECORD,
                attributes=attributes,
                options=self._options,
                units={"time": recipes.of_attributes(attributes).time_unit},
                dtype=self._dtype,
            )
        there = self._phases[name].attributes
        for key in there | attributes:
            if attributes.get(key) != there.get(key):
                raise ValueError(
                    f"/{name} of {self.path} has {key} {there.get(key)}, the record {attributes.get(key)}; what differs in "
                    "it goes to another file"
                )
        return self._phases[name]

    def extend(self, source, before=None):
        """Add the records of another trajectory file, a few MB at a time.

        Args:
            source: the `h5py.File`. before: leave out the minibatches from this running number on.
        """
        numbers = {
            name: self._parameters.merge(source, group) for name, group in schema.PARAMETER_GROUPS.items()
        }
        for group in schema.phase_groups(source).values():
            stop = None if before is None else int((group["number"][...] < before).sum())
            renumbered = {name: places[group[name][...]] for name, places in numbers.items() if name in group}
            attributes = {key: group.attrs[key] for key in GROUP_ATTRIBUTES if key in group.attrs}
            self.table(**attributes).copy(group, stop, **renumbered)
        self._new.check()

    def close(self, status="complete", **attributes):
        """Close the file, saying how what it describes has ended: one of `schema.STATUSES`.

        Args:
            attributes: values that are known only now.

        Raises:
            OSError: if not all of it could be written.
        """
        if self._file:
            for name, value in schema.checked({**attributes, "status": status}).items():
                self._file.attrs[name] = value
            self._new.close()
            self._new.check()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.close("complete")
        else:
            with suppress(OSError):
                self.close("failed")


class ParameterStore:
    """The parameters of networks in a file, each set of values once: forward and feedback parameters apart.

    Args:
        file: an `h5py.File`, open for writing. options: filters.
    """

    def __init__(self, file, options):
        self._file, self._options = file, options
        self._tables, self._places = {}, {}

    def numbers(self, network):
        """Return the numbers of a network's parameters; store them unless they already are."""
        facts = json.dumps(
            {
                "sizes": list(network.sizes), "hidden_activation": list(network.hidden_activations),
                "output_activation": network.output_activation, "bias": network.biases is not None,
                "dtype": network.dtype.name,
            }
        )  # fmt: skip
        forward = schema.by_layer("W", network.weights) | schema.by_layer("b", network.biases)
        feedback = schema.by_layer("Q", network.feedback) | _backward(network)
        return {
            name: np.int64(self.number(group, arrays, facts))
            for (name, group), arrays in zip(
                schema.PARAMETER_GROUPS.items(), (forward, feedback), strict=True
            )
        }

    def number(self, group, arrays, facts):
        """Return the number of these arrays, by name, in a group of parameters."""
        if group not in self._tables:
            self._tables[group] = Table(
                self._file, group, schema.SNAPSHOT, attributes={"network": facts}, options=self._options
            )
        table = self._tables[group]
        if table.attributes["network"] != facts:
            raise ValueError(
                f"the network {facts} goes to another file than {table.attributes['network']}; "
                "a file holds networks of one kind"
            )
        digest = group, _digest(arrays)
        if digest not in self._places:
            table.append(arrays)
            self._places[digest] = len(table) - 1
        return self._places[digest]

    def merge(self, source, group):
        """Store the parameters of a group in another file; returns their numbers here by those there, and -1 at the end."""
        if group not in source:
            return np.array([-1])
        data = {name: source[group][name] for name in source[group] if not schema.is_dimension(name)}
        facts, count = source[group].attrs["network"], len(source[group][schema.SNAPSHOT])
        rows = ({name: dataset[row] for name, dataset in data.items()} for row in range(count))
        return np.array([*(self.number(group, arrays, facts) for arrays in rows), -1])


def trajectory_arrays(trajectory):
    """Return a trajectory's variables of a record, by their names in the file."""
    arrays = {} if trajectory.samples is None else {"position": np.asarray(trajectory.samples, np.int64)}
    for name in ("converged", "diverged"):
        if getattr(trajectory, name, None) is not None:
            arrays[name] = getattr(trajectory, name).astype(np.int8)
    for name in schema.TRAJECTORY:
        stored = getattr(trajectory, name, None)
        if isinstance(stored, list):
            arrays |= schema.by_layer(name, stored, trajectory.first_layer(name))
        elif stored is not None:
            arrays[name] = stored
    for name, layers in getattr(trajectory, "formulas", {}).items():
        arrays |= schema.by_layer(schema.FORMULA + name, layers)
    return arrays


def _group_attributes(recipe, trajectory):
    if recipe is None:
        kind, options = recipes.of_trajectory(trajectory), None
        facts = {"phase": "simulation", "update": ""}
    else:
        kind, options = recipes.of_options(recipe.dynamics), recipe.dynamics
        facts = {"phase": recipe.phase, "update": json.dumps(recipe.update, sort_keys=True)}
    return {"controller": "", kind.name: schema.options_text(options), **facts}


def _backward(network):
    """Return the feedback matrices of dynamic inversion by their names in the file."""
    single = network.backward is not None and len(network.backward) < len(network.sizes) - 2
    return {"B_single": network.backward[0]} if single else schema.by_layer("B", network.backward)


def _digest(arrays):
    """Return a number that tells sets of arrays apart by their bytes."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(np.ascontiguousarray(arrays[name]))
    return digest.digest()


# --- one file of several ------------------------------------------------------------------------------------


class Joined:
    """A trajectory file that gets the records of others, with the same bits in the same order.

    It takes little memory, whatever the size of the files. As a context manager it goes away unless it was published.

    Args:
        path: its name once it is published; an older file of this name is replaced.
    """

    def __init__(self, path):
        self._path = Path(path)
        self._temporary = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}.tmp")
        self._writer = None

    def writer(self, **options):
        """Return the `TrajectoryWriter` of the file, which begins with these options."""
        if self._writer is None:
            self._writer = TrajectoryWriter(self._temporary, **options)
        return self._writer

    def add(self, file, before=None):
        """Add the records of a file.

        Args:
            before: leave out the minibatches from this running number on.

        Raises:
            OSError: if the file is damaged, or this one cannot be written.
        """
        with opened(file) as source:
            facts = dict(source.attrs)
            self.writer(attributes=facts, compression=facts["compression"]).extend(source, before=before)
        self.settle()
        release_memory(file)

    def settle(self):
        """Flush what there is to the disk, rather than all at the end, and out of the memory."""
        if self._writer is not None:
            force_to_disk(self._temporary)
            release_memory(self._temporary)

    def publish(self, status, **attributes):
        """Give the file its name, a status, and values of attributes; it has the attributes of the first file."""
        self._writer.close(status, **attributes)
        publish(self._temporary, self._path)

    def discard(self):
        """Remove it, unless it is published."""
        if self._writer is not None:
            with suppress(OSError):
                self._writer.close("failed")
            self._temporary.unlink(missing_ok=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.discard()


def opened(path):
    """Open a trajectory file for reading within a `with` block."""
    return hdf5.opened(path, schema.SCHEMA, schema.SCHEMA_VERSION, schema.KIND)
