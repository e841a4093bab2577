"""One record of a trajectory file, and the objects that it stands for: recipe, trajectory, update."""

from dataclasses import fields

from dfc_numba.dynamics.recipe import Recipe, StoredUpdate
from dfc_numba.storage import schema
from dfc_numba.storage.recipe import noise_of
from dfc_numba.storage.variable import RecordVariable

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

    def _holds(self, name):
        """Whether a variable of the phase is stored for this record: recipe, trajectory and update may each be missing."""
        dims = schema.variable(name).dims
        there = dims[0] == schema.RECORD and all(self._lengths.get(dim, 1) > 0 for dim in dims)
        return there and (self._has_update or not schema.is_update(name))

    def variable(self, name, layer=None):
        """A `RecordVariable`, read when it is indexed.

        Args:
            name: such as "u", "v", or in full "v_2". layer: from 1, for a variable with layers.

        Raises:
            ValueError: if it is not stored.
        """
        return RecordVariable(self.records.variable(name, layer), self.place, self._lengths)

    def __getitem__(self, name):
        """All of a variable of this record."""
        return self.variable(name)[...]

    def recipe(self):
        """The `Recipe`, with the network as it was before the update.

        Raises:
            ValueError: if the file does not have it.
        """
        if "inputs" not in self.variables:
            raise ValueError(
                f"record {self.place} of {self.records.name!r} has no recipe: "
                "its trajectory was saved without what it was made of"
            )
        network = self.records.network(self.place)
        indices = self["sample_index"]
        return Recipe(
            network=network, x=self["inputs"], target=self["target"], **{self.records.kind.name: self.records.options},
            noise=noise_of(self.__getitem__, len(network.weights)),
            labels=self._optional("labels"),
            indices=None if (indices < 0).all() else indices,
            phase=self.records.phase, update=self.records.update,
            **{name: int(self[name]) for name in ("epoch", "minibatch", "number")},
        )  # fmt: skip

    def trajectory(self, places=slice(None)):
        """The `Trajectory` or `InversionTrajectory` as it was stored, with its recipe where the file has one.

        Args:
            places: of the samples to read, among those that are stored; all by default.

        Raises:
            ValueError: if only the recipe was stored.
        """
        if self.records.step is None or self._lengths.get("sample") == 0:
            raise ValueError(f"record {self.place} of {self.records.name!r} is a recipe without trajectory")
        kind = self.records.kind
        names = [field.name for field in fields(kind.trajectory) if field.name in (*schema.TRAJECTORY, *FLAGS)]
        return kind.trajectory(
            time=self.records.time, step=self.records.step, **{name: self._recorded(name, places) for name in names},
            **kind.facts(self.variables),
            samples=self._recorded("position", places), recipe=self.recipe() if "inputs" in self.variables else None,
        )  # fmt: skip

    def update(self):
        """The `StoredUpdate` that the run made of this minibatch, per unit learning rate; None if it was not stored."""
        arrays = {kind: self._all_layers(name) for kind, name in schema.UPDATES.items()}
        return StoredUpdate(**arrays) if self._has_update else None

    def _recorded(self, name, places):
        """What a trajectory has under this name; None if it was not stored."""
        layers = [f"{name}_{layer}" for layer in schema.stored_layers(name, self.variables)]
        if name not in self.variables:
            return [self._of_samples(one, places) for one in layers] or None
        stored = self._of_samples(name, places)
        return stored == 1 if name in FLAGS else stored

    def _of_samples(self, name, places):
        """A variable of some of the stored samples."""
        found = self.variable(name)
        return found[(slice(None), places) if found.dims[0] == "step" else places]

    def _optional(self, name):
        return self[name] if name in self.variables else None

    def _all_layers(self, name):
        """A list with an array per layer; None if the variable was not stored."""
        layers = schema.stored_layers(name, self.variables)
        return [self[f"{name}_{layer}"] for layer in layers] or None
