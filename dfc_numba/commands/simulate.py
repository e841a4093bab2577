"""What `dfc simulate` does: the feedback phase or dynamic inversion of one minibatch, with all its states, into a file."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

from dfc_numba.configuration.config_usage import simulation_of
from dfc_numba.display.offline_report import FRACTION
from dfc_numba.dynamics.phase import CONVERGED_RESIDUAL
from dfc_numba.dynamics.recipe import Recipe
from dfc_numba.dynamics.simulation import Record
from dfc_numba.errors import ConfigurationError, DivergenceError
from dfc_numba.inversion.measures import distances_to_rest
from dfc_numba.learning import methods
from dfc_numba.learning.divergence import CONTROL_REMEDY
from dfc_numba.learning.schedule import shuffled_minibatches
from dfc_numba.model.noise import NoiseKey
from dfc_numba.runs.experiment import create_network, load_data
from dfc_numba.storage import kinds, schema
from dfc_numba.storage.writer import save
from dfc_numba.support import memory

SAMPLES = 8
REMEDIES = {
    "controller": f"{CONTROL_REMEDY}; `dfc analyze {{path}} --what stability` names the largest stable dt",
    "inversion": "a smaller inversion.dt, a larger inversion.alpha, feedback nearer to -W^T",
}


def run(config, *, out, samples, command=()):
    """Simulates the first samples of the first forward minibatch of a run, at its initial weights, and saves them.

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
    _check(config, path, samples)
    dataset = load_data(config)
    network = create_network(config, dataset)
    recipe = _first_minibatch(config, dataset, network, samples)
    kind = kinds.of_options(recipe.dynamics)
    _announce(kind, recipe, path)
    trajectory = kind.simulate(recipe, Record())
    made_of = replace(trajectory.recipe, labels=recipe.labels, indices=recipe.indices, epoch=1, minibatch=1)
    trajectory = replace(trajectory, recipe=made_of)
    attributes = schema.root_attributes(config=config, command=command, seed=config.training.seed)
    well, outcome = OUTCOMES[kind.name](trajectory)
    save(trajectory, path, attributes=attributes, status="complete" if well else "diverged")
    if not well:
        remedies = REMEDIES[kind.name].format(path=path)
        print(f"dfc: the simulation diverged; what helps: {remedies}", file=sys.stderr)
    print(outcome)
    print(f"written: {path} ({memory.readable(path.stat().st_size)}); look into it with `dfc inspect {path}`")
    return well


def _check(config, path, samples):
    if path.exists():
        raise ConfigurationError(f"{path} exists, and is not overwritten; choose another file with --out")
    if not path.parent.is_dir():
        raise ConfigurationError(f"--out {path}: there is no folder {path.parent}")
    method = config.training.method
    found = methods.find(method)
    if not (found.simulates or found.inverts):
        raise ConfigurationError(
            f"training.method = {method!r} simulates no feedback phase; "
            "choose one that does, such as --set training.method=dfc"
        )
    if samples > config.training.batch_size:
        raise ConfigurationError(
            f"--samples {samples}: a minibatch has {config.training.batch_size}; set training.batch_size to have more"
        )


def _first_minibatch(config, dataset, network, samples):
    """The `Recipe` of the first samples of the first forward minibatch; their target is that of the whole minibatch."""
    training = config.training
    order = shuffled_minibatches(len(dataset.train.x), training.batch_size, training.seed, "forward", 0)
    where = {"phase": "forward", "epoch": 1, "position": 1, "number": 0}
    whole = methods.minibatch_of(dataset.train, order[0], network, config, **where)
    dynamics = kinds.configured(simulation_of("forward", config), config)
    inverts = methods.find(training.method).inverts
    target = whole.y if inverts else methods.pursued_target(network, whole, config)
    indices = whole.indices[:samples]
    return Recipe(
        network=network, x=whole.x[:samples], target=target[:samples], labels=whole.y[:samples], indices=indices,
        noise=NoiseKey(training.seed, 0, indices) if dynamics.noisy else None,
        **{kinds.of_options(dynamics).name: dynamics},
    )  # fmt: skip


def _announce(kind, recipe, path):
    """Tells the size; refuses what does not fit."""
    count, points = len(recipe.x), recipe.dynamics.time_points
    size = kind.recorded_bytes(recipe.network, recipe.dynamics, count, Record())
    print(
        f"{count} samples, {points} time points, {sum(recipe.network.sizes[1:])} units: "
        f"{memory.readable(size)} in memory and in {path}",
        flush=True,
    )
    remedy = f"take fewer samples with --samples, or fewer steps with --set {kind.name}.steps=..."
    memory.require(size, "the trajectory", remedy)
    free = shutil.disk_usage(path.parent).free
    if size > free:
        raise OSError(
            f"{path} needs {memory.readable(size)}, but the disk has {memory.readable(free)} left; {remedy}"
        )


def _controlled(trajectory):
    """Whether no sample of a feedback phase has diverged, and sentences about how it went.

    Where the target is strong, the residual may exceed the feedforward output from the start: a sample that is flagged
    while its error falls is slow.
    """
    first, last = trajectory.error[0], trajectory.error[-1]
    near, falling = last < FRACTION * first, last < first
    diverged = trajectory.diverged & ~falling
    epsilon = trajectory.recipe.controller.convergence_epsilon
    lines = (
        f"mean error {first.mean():.4g} at the start, {last.mean():.4g} at the end; of {len(first)} samples:",
        f"  {near.sum()} with an error below {FRACTION:.0%} of that at the start",
        f"  {trajectory.converged.sum()} converged: residual below {CONVERGED_RESIDUAL:g} of the feedforward output "
        f"(published), error below {epsilon**2:.0%}",
        f"  {diverged.sum()} diverged: residual above the feedforward output, error not below that at the start",
    )
    return not diverged.any(), "\n".join(lines)


def _inverted(trajectory):
    """Whether all numbers of a dynamic inversion are finite, and a sentence about how it went."""
    if trajectory.diverged.any():
        return False, f"not finite at the end: {trajectory.diverged.sum()} samples"
    try:
        apart = ", ".join(f"{distance[-1].mean():.3g}" for distance in distances_to_rest(trajectory))
    except DivergenceError as error:
        return True, str(error)
    return True, f"mean distance of r_x to rest at the end, as a fraction of r_x at rest, by layer: {apart}"


OUTCOMES = {"controller": _controlled, "inversion": _inverted}
