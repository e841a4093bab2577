"""`dfc simulate`, `dfc inspect` and `dfc replay`: their work on trajectory files, and what they print."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from dfc_numba.analysis.offline import CONVERGED_FRACTION
from dfc_numba.configuration.config_file import override_values, parsed_value
from dfc_numba.dynamics.phase import CONTROL_REMEDY, CONVERGED_RESIDUAL
from dfc_numba.errors import ConfigurationError, DivergenceError
from dfc_numba.inversion.measures import distances_to_rest
from dfc_numba.learning import methods
from dfc_numba.learning.method import PlannedUpdate
from dfc_numba.learning.schedule import shuffled_minibatches
from dfc_numba.model.noise_key import NoiseKey
from dfc_numba.model.recording import Recipe, Record
from dfc_numba.runs.experiment import create_network, load_data
from dfc_numba.storage import inspection, recipes, schema
from dfc_numba.storage.reader import open_trajectories
from dfc_numba.storage.recipes import KINDS
from dfc_numba.storage.replay import (
    ROUNDING,
    chosen,
    expand,
    has_earlier_arithmetic,
    recorded_elsewhere,
    replay_record,
    what_if,
)
from dfc_numba.storage.writer import save
from dfc_numba.support import memory
from dfc_numba.support.output import show

# --- inspect ------------------------------------------------------------------------------------------------

SHOWN = 20


def inspect(path, *, quick=False):
    """Describe what is stored on standard output, and what is left aside or damaged on standard error.

    Args:
        quick: do not read everything to look for damage.

    Returns:
        whether all is well.
    """
    with open_trajectories(path) as file:
        for line in inspection.description(file):
            show(line)
        for note in file.notes:
            show(f"dfc: {note}", file=sys.stderr)
        if quick:
            return not file.damaged
        damages = list(inspection.damages(file))
    for damage in damages[:SHOWN]:
        show(f"dfc: {damage}", file=sys.stderr)
    if len(damages) > SHOWN:
        show(f"dfc: ... and {len(damages) - SHOWN} more", file=sys.stderr)
    show("\n" + (f"damaged: {len(damages)} parts" if damages else "every checksum fits"))
    return not damages


# --- replay -------------------------------------------------------------------------------------------------

HEADING = ("variable", "different", "largest absolute deviation", "largest relative deviation")


def compare(path, *, phase=None, record=None, **unused):
    """Replay records, print the outcomes, and return the statuses, see `Replayed.status`.

    Raises:
        ConfigurationError: if some of `unused`, options for writing a file, are not None.
    """
    stated = [f"--{name}" for name, value in unused.items() if value is not None]
    if stated:
        raise ConfigurationError(
            f"{', '.join(stated)}: not used without --expand or --set, which write a file; leave out"
        )
    with open_trajectories(path) as file:
        _announce(file)
        statuses = [_compare(stored) for stored in chosen(file, phase, record)]
        statuses += ["unusable" for _ in file.damaged]
    counts = [f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses)]
    show(f"records: {len(statuses)}, of which {', '.join(counts)}")
    if set(statuses) == {"nothing to compare"}:
        _complain("there are only recipes; `dfc replay FILE --expand OUT.h5` computes their trajectories")
    return statuses


def write(
    path, *, expand_to=None, settings=None, out=None, variables=None, samples=None, every=None, **options
):
    """Write a new file from the recipes of a file, and say so on standard output.

    Args:
        expand_to: file for the trajectories as they were, or `out`: file for those under another controller, with
            `settings`: texts "controller.key=value" or "inversion.key=value".
        variables, samples, every: texts that say what is kept of the trajectories; see `dfc replay --help`.
        options: of `resimulation.expand`.

    Returns:
        whether all records are in it: none was in a damaged file of a run.
    """
    if (expand_to is None) == (out is None) or (out is None) != (not settings):
        raise ConfigurationError(
            "write a new file either with --expand FILE, or with --set controller.KEY=VALUE (or inversion.KEY, equilibrium.KEY) "
            "--out FILE"
        )
    options = {"keep": _keep(variables, samples, every), "command": sys.argv, **options}
    if expand_to is not None:
        written = expand(path, expand_to, **options)
    else:
        section, changes = _changes(settings)
        written = what_if(path, out, changes, section=section, **options)
    show(f"{expand_to or out}: {written.records} records")
    if written.damaged:
        _complain(f"damaged files, whose records it lacks: {len(written.damaged)}")
    return not written.damaged


def _changes(settings):
    """Return the section that is changed, and its options by their names."""
    table = override_values(settings)
    others = [f"{section}.{key}" for section, keys in table.items() if section not in KINDS for key in keys]
    if others or len(table) > 1:
        named = others or [f"{section}.{key}" for section, keys in table.items() for key in keys]
        raise ConfigurationError(
            f"--set {', '.join(named)}: a replay takes network, inputs, target and noise from the file; what it can change "
            "is controller.KEY=VALUE, of a dynamic inversion inversion.KEY=VALUE, of equilibrium propagation "
            "equilibrium.KEY=VALUE"
        )
    return next(iter(table.items()))


def _keep(variables, samples, every):
    """Return the `Record` that the texts stand for; None if nothing is stated."""
    if variables is None and samples is None and every is None:
        return None
    names = None if variables is None else tuple(name.strip() for name in variables.split(","))
    return Record(variables=names, samples=_positions(samples), every=every or 1)


def _positions(text):
    """Return positions of samples: of the first N for "N", or those listed in "0,5,7"; None for None."""
    value = None if text is None else parsed_value(text)
    if isinstance(value, int) and not isinstance(value, bool):
        return tuple(range(value))
    if isinstance(value, str):
        raise ConfigurationError(f"--samples {text}: write how many, such as 16, or which, such as 0,5,7")
    return value and tuple(value)


def _announce(file):
    counts = [f"{len(file[name])} of {file[name].phase}" for name in file.phases]
    show(f"{file.path}: records: {', '.join(counts)}; status: {file.status}")
    for note in file.notes:
        _complain(note)
    elsewhere = sorted(recorded_elsewhere(file))
    if elsewhere:
        show(f"recorded with {', '.join(elsewhere)}: bits may differ")
    if has_earlier_arithmetic(file):
        show(
            "written by an earlier version, which took sums in another order: numbers agree within rounding, but not bit for bit"
        )


def _compare(stored):
    """Replay a record, print the outcome, and return the status."""
    replayed = replay_record(stored)
    where = f"{replayed.phase} {replayed.record}"
    if replayed.status == "unusable":
        _complain(f"{where}: {replayed.problem}")
    elif replayed.status == "nothing to compare":
        show(f"{where}: a recipe, nothing to compare")
    elif replayed.status == "identical":
        show(f"{where}: identical bits, {len(replayed.compared)} variables")
    else:
        extent = f", by at most {ROUNDING:g} of their largest value" if replayed.within_rounding else ""
        show(f"{where}: {len(replayed.deviations)} of {len(replayed.compared)} variables differ{extent}")
        show("\n".join(table(replayed.deviations)))
    if replayed.left_out:
        show(
            f"{where}: not compared, since the file does not say how they were computed: {', '.join(replayed.left_out)}"
        )
    sys.stdout.flush()
    return replayed.status


def table(deviations):
    """Return the lines of a table of `Deviation`s."""
    rows = [HEADING, *map(_row, deviations)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _row(deviation):
    largest = [f"{one.value:.3g} at {_place(one.place)}" for one in (deviation.absolute, deviation.relative)]
    return deviation.variable, f"{deviation.count} of {deviation.size}", *largest


def _place(place):
    return ", ".join(f"{dim} {index}" for dim, index in place.items())


def _complain(text):
    show(f"dfc: {text}", file=sys.stderr, flush=True)


# --- simulate -----------------------------------------------------------------------------------------------

SAMPLES = 8
REMEDIES = {
    "controller": f"{CONTROL_REMEDY}; `dfc analyze {{path}} --what stability` says whether dt is to blame, and the "
    "largest stable one",
    "inversion": "a smaller inversion.dt, a larger inversion.alpha, feedback closer to -W^T",
    "equilibrium": "a smaller method.dt or method.beta, smaller weights (network.init)",
}


def simulate(config, *, out, samples, command=()):
    """Simulate the first samples of the first forward minibatch of a run, at its initial weights, and save them.

    Args:
        config: the `Config`. out: path of the file, which does not exist.
        samples: how many; None for `SAMPLES`, or all where a minibatch has fewer.

    Returns:
        whether no sample has diverged.

    Raises:
        ConfigurationError: if there is such a file, or the configuration simulates nothing. MemoryError: if the trajectory
            does not fit into memory. OSError: if it does not fit on the disk.
    """
    path = Path(out)
    samples = min(SAMPLES, config.training.batch_size) if samples is None else samples
    _check_options(config, path, samples)
    dataset = load_data(config)
    network = create_network(config, dataset)
    recipe = _first_minibatch(config, dataset, network, samples)
    kind = recipes.of_options(recipe.dynamics)
    _announce_size(kind, recipe, path)
    trajectory = kind.simulate(recipe, Record())
    made_of = replace(trajectory.recipe, labels=recipe.labels, indices=recipe.indices, epoch=1, minibatch=1)
    trajectory = replace(trajectory, recipe=made_of)
    attributes = schema.root_attributes(config=config, command=command, seed=config.training.seed)
    well, outcome = OUTCOMES[kind.name](trajectory)
    save(trajectory, path, attributes=attributes, status="complete" if well else "diverged")
    if not well:
        remedies = REMEDIES[kind.name].format(path=path)
        show(f"dfc: the simulation diverged; try {remedies}", file=sys.stderr)
    show(outcome)
    show(f"written: {path} ({memory.readable(path.stat().st_size)}); inspect it with `dfc inspect {path}`")
    return well


def _check_options(config, path, samples):
    if path.exists():
        raise ConfigurationError(f"{path} exists, and is not overwritten; choose another file with --out")
    if not path.parent.is_dir():
        raise ConfigurationError(f"--out {path}: there is no folder {path.parent}")
    method = config.training.method
    found = methods.find(method)
    if not found.simulates:
        raise ConfigurationError(
            f"training.method = {method!r} simulates no feedback phase; "
            "choose one that does, such as --set training.method=dfc"
        )
    if samples > config.training.batch_size:
        raise ConfigurationError(
            f"--samples {samples}: a minibatch has {config.training.batch_size}; set training.batch_size to have more"
        )


def _first_minibatch(config, dataset, network, samples):
    """Return the `Recipe` of the first samples of the first forward minibatch; their target is that of the whole minibatch."""
    training = config.training
    order = shuffled_minibatches(len(dataset.train.x), training.batch_size, training.seed, "forward", 0)
    where = {"phase": "forward", "epoch": 1, "position": 1, "number": 0}
    whole = methods.minibatch_of(dataset.train, order[0], network, config, **where)
    method = methods.find(training.method)
    own = (method.arrays(network, config).together,) if method.has_arrays else ()
    planned = method.forward(network, whole, config, *own)
    if not isinstance(planned, PlannedUpdate):
        raise ConfigurationError(
            f"training.method = {training.method!r} simulates nothing with these options; set method.solver = 'steps'"
        )
    target, dynamics = planned.arguments
    indices = whole.indices[:samples]
    return Recipe(
        network=network if planned.network is None else planned.network, x=whole.x[:samples], target=target[:samples],
        labels=whole.y[:samples], indices=indices, noise=NoiseKey(training.seed, 0, indices) if dynamics.noisy else None,
        **{recipes.of_options(dynamics).name: dynamics},
    )  # fmt: skip


def _announce_size(kind, recipe, path):
    """Print the size; refuse what does not fit."""
    count, points = len(recipe.x), recipe.dynamics.time_points
    size = kind.recorded_bytes(recipe.network, recipe.dynamics, count, Record())
    show(
        f"{count} samples, {points} time points, {sum(recipe.network.sizes[1:])} units: "
        f"{memory.readable(size)} in memory and in {path}",
        flush=True,
    )
    remedy = f"take fewer samples with --samples, or fewer steps with --set {kind.steps}=..."
    memory.require(size, "the trajectory", remedy)
    free = shutil.disk_usage(path.parent).free
    if size > free:
        raise OSError(
            f"{path} needs {memory.readable(size)}, but the disk has {memory.readable(free)} left; {remedy}"
        )


def _controlled(trajectory):
    """Return whether no sample of a feedback phase has diverged, and sentences about how it went.

    Where the target is strong, the residual may exceed the feedforward output from the start: a sample that is flagged
    while its error falls is slow.
    """
    first, last = trajectory.error[0], trajectory.error[-1]
    near, falling = last < CONVERGED_FRACTION * first, last < first
    diverged = trajectory.diverged & ~falling
    epsilon = trajectory.recipe.controller.convergence_epsilon
    lines = (
        f"mean error {first.mean():.4g} at the start, {last.mean():.4g} at the end; of {len(first)} samples:",
        f"  {near.sum()} with an error below {CONVERGED_FRACTION:.0%} of that at the start",
        f"  {trajectory.converged.sum()} converged: residual below {CONVERGED_RESIDUAL:g} of the feedforward output "
        f"(published), error below {epsilon**2:.0%}",
        f"  {diverged.sum()} diverged: residual above the feedforward output, error not below that at the start",
    )
    return not diverged.any(), "\n".join(lines)


def _inverted(trajectory):
    """Return whether all numbers of a dynamic inversion are finite, and a sentence about how it went."""
    if trajectory.diverged.any():
        return False, f"not finite at the end: {trajectory.diverged.sum()} samples"
    try:
        apart = ", ".join(f"{distance[-1].mean():.3g}" for distance in distances_to_rest(trajectory))
    except DivergenceError as error:
        return True, str(error)
    return True, f"mean distance of r_x to rest at the end, as a fraction of r_x at rest, by layer: {apart}"


def _relaxed(trajectory):
    """Return whether all numbers of equilibrium propagation are finite, and sentences about how it went."""
    if trajectory.diverged.any():
        return False, f"not finite at the end: {trajectory.diverged.sum()} samples"
    end = trajectory.recipe.equilibrium.free_points - 1
    moved = ", ".join(f"{np.abs(s[-1] - s[end]).mean():.3g}" for s in trajectory.s)
    last = ", ".join(f"{np.abs(s[end] - s[max(end - 1, 0)]).max():.3g}" for s in trajectory.s)
    lines = [
        f"largest change in the last step of the free phase, by layer: {last}",
        f"mean change by the nudge, by layer: {moved}",
    ]
    if trajectory.converged is not None:
        lines.insert(
            0,
            f"settled in the free phase: {trajectory.converged.sum()} of {len(trajectory.converged)} samples",
        )
    return True, "\n".join(lines)


OUTCOMES = {"controller": _controlled, "inversion": _inverted, "equilibrium": _relaxed}
