"""New trajectory files from the recipes of old ones: full trajectories of a log without them, or other options."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from dfc_numba.dynamics.simulation import Record
from dfc_numba.storage import kinds, schema
from dfc_numba.storage.reader import open_trajectories
from dfc_numba.storage.recomputation import computed, simulates
from dfc_numba.storage.replay import chosen, recipe_of, selection
from dfc_numba.storage.writer import TrajectoryWriter
from dfc_numba.support.files import replacing


class Written(NamedTuple):
    """What was written to a new file.

    Attributes:
        records: how many. damaged: sentences about files of a run that could not be read, and have no records in it.
    """

    records: int
    damaged: tuple


def expand(path, out, *, keep=None, **options):
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


def what_if(path, out, changes, *, section=None, keep=None, **options):
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
        name = kinds.of_options(recipe.dynamics).name
        if recipe.dynamics is None or section not in (None, name):
            there = "" if recipe.dynamics is None else f", but its {name}"
            raise ValueError(
                f"the phase {recipe.phase!r} has no {section or name} to change{there}; choose another phase, or change that"
            )
        recipe = replace(recipe, **{name: replace(recipe.dynamics, **changes)})
        return recipe, keep or selection(stored) or log

    return _resimulate(path, out, changed, **options)


def _resimulate(path, out, change, *, phase=None, record=None, compression=None, dtype=None, command=()):
    """Write records anew; `change(stored, log)` gives the recipe, and the `Record` that says what to keep."""
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
    """Sorts records as the run met them."""
    return int(stored["number"]) if "number" in stored.variables else 0


def _logging(file):
    """The section [log] of the configuration of the run as a dict, empty where no run logged."""
    log = (file.config or {}).get("log", {})
    return log if log.get("on") else {}


def _of_section(log, records):
    """The `Record` of a section [log] for a phase."""
    if not log or records.options is None:
        return Record()
    samples = range(log["samples"]) if isinstance(log["samples"], int) else log["samples"]
    variables = records.kind.wanted(log["variables"], records.options)
    return Record(variables=variables, samples=tuple(samples), every=log["every_step"])


def _attributes(file, command):
    """Where the new file comes from: the configuration and seed of the old one, versions and processor of here."""
    kept = {name: file.attributes[name] for name in ("config", "seed") if name in file.attributes}
    return schema.root_attributes(command=command) | kept


def _possible(keep, recipe):
    """The `Record`, without samples and noise that a minibatch does not have; None where nothing is left or simulated."""
    if keep is None or recipe.dynamics is None:
        return None
    there = keep.names(kinds.of_options(recipe.dynamics).usual)
    names = tuple(name for name in there if name != "noise" or recipe.dynamics.noisy)
    samples = keep.samples and tuple(sample for sample in keep.samples if sample < len(recipe.x))
    return Record(variables=names, samples=samples, every=keep.every) if names and samples != () else None
