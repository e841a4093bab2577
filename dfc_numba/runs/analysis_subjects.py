"""Subjects of an analysis without training again: networks of a run's checkpoint, and records of trajectory files."""

import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from dfc_numba.analysis.probe import Probe, probe_minibatch, probe_of
from dfc_numba.analysis.results import PHASES, WEIGHTS
from dfc_numba.configuration.config_file import validated
from dfc_numba.dynamics.plasticity import ForwardUpdate
from dfc_numba.errors import CheckpointError, ConfigurationError
from dfc_numba.extensions import explained
from dfc_numba.runs import checkpoint
from dfc_numba.runs.data_files import located
from dfc_numba.runs.experiment import load_data
from dfc_numba.runs.run_directory import read_record
from dfc_numba.storage import recipes
from dfc_numba.storage.reader import open_trajectories
from dfc_numba.storage.recipes import computed, simulates
from dfc_numba.storage.replay import chosen, recipe_of
from dfc_numba.support.hdf5 import is_sealed

FORWARD = ("forward_update", "forward_and_feedback_update", *recipes.NOISELESS)
ANALYSED = "only a run directory, its checkpoint.h5 or a trajectory file can be analysed"
# the update of a minibatch that was only simulated, by what was simulated
SIMULATED = {
    "controller": {"function": "forward_update"},
    "inversion": {"function": "inversion_update"},
    "equilibrium": {"function": "recorded_equilibrium_update"},
}


@dataclass(frozen=True)
class Subject:
    """One thing to analyse.

    Attributes:
        title: what to call it.
        make: function that returns (what tells it from others by the names of `results.INDICES`, its `Probe`); it raises
            OSError or ValueError where that cannot be read.
    """

    title: str
    make: Callable


@dataclass(frozen=True)
class Subjects:
    """Things to analyse that belong together.

    Attributes:
        description: a line about them. leading: the one of `results.INDICES` that numbers them.
        config: the `Config` of the run, None where it is not known.
        all: a list of `Subject`. damaged: sentences about what cannot be read.
    """

    description: str
    leading: str
    config: object
    all: list
    damaged: list


@contextmanager
def opened(path, *, samples=None, damping=None, phase=None, record=None):
    """Yield the `Subjects` of a run directory, a checkpoint or a trajectory file.

    Args:
        samples: size of the probe batch of a run; None for what its configuration says.
        damping: gamma of the damped references; None for what the configuration says, or the alpha of the controller.
        phase, record: choose records of a trajectory file, or of the log of a run; by default all of the forward phase.

    Raises:
        OSError: if nothing can be read there. ValueError: for a file of another kind, or options that do not go with it.
    """
    path = Path(path)
    if phase is None and record is None and _is_run(path):
        yield _of_run(path, samples, damping)
        return
    if samples is not None:
        raise ValueError(
            "--samples is the size of the probe batch of a run; a logged minibatch has its own samples"
        )
    with _open_trajectories(path) as file:
        yield _of_records(file, phase, record, damping)


def _is_run(path):
    """Return whether a path is a run directory with a checkpoint, or a checkpoint."""
    if path.is_dir():
        return any((path / name).exists() for name in checkpoint.FILES)
    return path.is_file() and is_sealed(path)


def _open_trajectories(path):
    """Return the `Trajectories`; errors say what can be analysed."""
    try:
        return open_trajectories(path)
    except FileNotFoundError as error:
        nothing = (
            f"{path} holds no checkpoint of a run, and no trajectories"
            if path.is_dir()
            else f"there is no {path}"
        )
        raise ConfigurationError(f"{nothing}; {ANALYSED}") from error
    except ValueError as error:
        raise ValueError(f"{error}; {ANALYSED}") from None


# --- runs ------------------------------------------------------------------------------------------------------------------


def _of_run(path, samples, damping):
    found, file = _checkpoint(path)
    config, state = _configuration(found), found.state
    folder = Path(file).parent
    dataset = load_data(located(config, read_record(folder), folder))
    if found.data != dataset.checksums:
        raise ValueError(
            f"{file} belongs to a run on other data than {dataset.name} now has; use the data that the run started with"
        )
    minibatch = probe_minibatch(state.network, dataset, config, samples=samples)

    def made(weights):
        network, epoch = states[weights]
        where = {"weights": WEIGHTS.index(weights), "epoch": epoch}
        return where, probe_of(network, minibatch, config, damping=damping, own=state.method)

    states = {"last": (state.network, len(state.rows))}
    if state.counters.best_epoch:
        states["best"] = (state.best_network, state.counters.best_epoch)
    subjects = [
        Subject(f"{weights} (epoch {epoch})", partial(made, weights))
        for weights, (_, epoch) in states.items()
    ]
    sizes = "-".join(map(str, state.network.sizes))
    text = f"{file}: {config.training.method}, {sizes}, probe batch of {len(minibatch.x)} training samples of {dataset.name}"
    return Subjects(text, "weights", config, subjects, [])


def _checkpoint(path):
    """Return the `Checkpoint` and its file: of a run the newest one that can be read."""
    if path.is_file():
        return checkpoint.load(path), path
    problems = []
    for file in (path / name for name in checkpoint.FILES):
        try:
            found = checkpoint.load(file)
        except OSError as error:
            problems.append(str(error))
        else:
            if problems:
                warnings.warn(f"{problems[0]}; analysing the older {file.name}", stacklevel=2)
            return found, file
    raise CheckpointError(f"{path} has no checkpoint that can be read: {'; '.join(problems)}")


def _configuration(found):
    """Return the `Config` that a checkpoint was written with."""
    table = {}
    for path, value in found.settings.items():
        section, key = path.split(".")
        table.setdefault(section, {})[key] = value
    with explained(found.extensions):
        return validated(table, refuse_unused=False)


# --- records ---------------------------------------------------------------------------------------------------------------


def _of_records(file, phase, record, damping):
    phase = phase or ("forward" if "forward" in file.phases else file.phases[-1])
    records = chosen(file, phase, record)
    settings = file.config or {}
    subjects = [
        Subject(f"{stored.records.phase} {stored.place}", partial(_record, stored, settings, damping))
        for stored in records
    ]
    many = "" if len(records) == 1 else "es"
    text = f"{file.path}: {len(records)} logged minibatch{many} of phase {file[phase].phase!r}; status: {file.status}"
    return Subjects(text, "record", None, subjects, list(file.damaged))


def _record(stored, settings, damping):
    """Return (identification, `Probe`) of a `StoredRecord`; `settings` is the run's configuration as nested dicts."""
    recipe = recipe_of(stored)
    where = {"record": stored.place, "phase": PHASES.index(recipe.phase)}
    where |= {name: getattr(recipe, name) for name in ("epoch", "minibatch", "number")}
    return where, _probe(stored, recipe, settings, damping)


def _probe(stored, recipe, settings, damping):
    controller, loss = recipe.controller, settings.get("target", {}).get("loss")
    if damping is None:
        of_run = settings.get("analysis", {}).get("damping")
        damping = of_run if of_run is not None else 0.0 if controller is None else controller.alpha
    return Probe(
        network=recipe.network, x=recipe.x, y=recipe.labels, loss=loss, update=_update(stored, recipe),
        target=recipe.target, controller=controller, indices=recipe.indices, damping=damping,
        simulates=controller is not None and (not recipe.update or simulates(recipe.update)),
        missing=_missing(recipe, loss, f"record {stored.place} of {stored.records.phase!r}"),
    )  # fmt: skip


def _missing(recipe, loss, where):
    """Return why there is no update, label, loss, controller or feedback."""
    controller, found = recipe.controller, {}
    if recipe.update and recipe.update["function"] not in FORWARD:
        found["update"] = f"{where} has no update of the forward weights; choose another one with --phase"
    if recipe.labels is None:
        found["y"] = (
            f"{where} has no labels, which the references need; they are in what `dfc train` and `dfc simulate` log"
        )
    if loss is None:
        found["loss"] = f"{where} is in a file without the configuration of a run, which states the loss"
    if controller is None:
        found["controller"] = f"{where} was made without a controller"
    elif controller.jacobian_feedback:
        found["feedback"] = (
            f"{where} was made with controller.jacobian_feedback = true, without feedback weights"
        )
    return found


def _update(stored, recipe):
    """Return the update of the forward weights; compute it from the recipe where it is not stored."""
    if recipe.update and recipe.update["function"] not in FORWARD:
        return None
    update = stored.update()
    if update is None:
        made = recipe.update or SIMULATED[recipes.of_options(recipe.dynamics).name]
        _, update = computed(replace(recipe, update=made))
    return ForwardUpdate(update.weights, update.biases)
