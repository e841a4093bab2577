"""What `dfc simulate` does: the feedback phase of one minibatch, with all that can be recorded, into a file."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from dfc_numba.dynamics.simulation import Record, recorded_bytes, simulate
from dfc_numba.errors import ConfigurationError
from dfc_numba.learning import methods
from dfc_numba.learning.schedule import shuffled_minibatches
from dfc_numba.model.noise import NoiseKey
from dfc_numba.runs.experiment import create_network, load_data
from dfc_numba.storage import schema
from dfc_numba.storage.writer import save
from dfc_numba.support import memory


def run(config, *, out, samples, command=()):
    """Simulates the first samples of the first forward minibatch of a run, at its initial weights, and saves them.

    Args:
        config: the `Config`. out: path of the file, which does not exist. samples: how many.

    Returns:
        whether all numbers are finite.

    Raises:
        ConfigurationError: if there is such a file, or the configuration simulates nothing. MemoryError: if the trajectory
            does not fit into memory. OSError: if it does not fit on the disk.
    """
    path = Path(out)
    _check(config, path, samples)
    dataset = load_data(config)
    network = create_network(config, dataset)
    minibatch, target = _first_minibatch(config, dataset, network, samples)
    record = Record()
    _announce(network, config.controller, len(target), record, path)
    noise = minibatch.noise if config.controller.noisy else None
    trajectory = simulate(network, minibatch.x, target, config.controller, noise=noise, record=record)
    recipe = replace(trajectory.recipe, labels=minibatch.y, indices=minibatch.indices, epoch=1, minibatch=1)
    attributes = schema.root_attributes(config=config, command=command, seed=config.training.seed)
    finite = bool(np.isfinite(trajectory.error).all())
    status = "complete" if finite else "diverged"
    save(replace(trajectory, recipe=recipe), path, attributes=attributes, status=status)
    _conclude(trajectory, path, finite)
    return finite


def _check(config, path, samples):
    if path.exists():
        raise ConfigurationError(f"{path} exists, and is not overwritten; choose another file with --out")
    if not path.parent.is_dir():
        raise ConfigurationError(f"--out {path}: there is no folder {path.parent}")
    method = config.training.method
    if not methods.find(method).simulates:
        raise ConfigurationError(
            f"training.method = {method!r} simulates no feedback phase; "
            "choose one that does, such as --set training.method=dfc"
        )
    if samples > config.training.batch_size:
        raise ConfigurationError(
            f"--samples {samples}: a minibatch has {config.training.batch_size}; set training.batch_size to have more"
        )


def _first_minibatch(config, dataset, network, samples):
    """The first samples of the first forward minibatch, and their target, which is that of the whole minibatch."""
    training = config.training
    order = shuffled_minibatches(len(dataset.train.x), training.batch_size, training.seed, "forward", 0)
    where = {"phase": "forward", "epoch": 1, "position": 1, "number": 0}
    whole = methods.minibatch_of(dataset.train, order[0], network, config, **where)
    pursued = methods.pursued_target(network, whole, config)[:samples]
    first = {name: getattr(whole, name)[:samples] for name in ("x", "y", "indices")}
    return replace(whole, **first, noise=NoiseKey(training.seed, 0, first["indices"])), pursued


def _announce(network, controller, count, record, path):
    """Tells the size; refuses what does not fit."""
    size = recorded_bytes(network, controller, count, record)
    print(
        f"{count} samples, {controller.time_points} time points, {sum(network.sizes[1:])} units: "
        f"{memory.readable(size)} in memory and in {path}",
        flush=True,
    )
    remedy = "take fewer samples with --samples, or fewer steps with --set controller.steps=..."
    memory.require(size, "the trajectory", remedy)
    free = shutil.disk_usage(path.parent).free
    if size > free:
        raise OSError(
            f"{path} needs {memory.readable(size)}, but the disk has {memory.readable(free)} left; {remedy}"
        )


def _conclude(trajectory, path, finite):
    if not finite:
        print(
            "dfc: the simulation diverged; what helps: a smaller controller.dt, controller.k_p or target.step, a larger "
            "controller.alpha",
            file=sys.stderr,
        )
    first, last = trajectory.error[0].mean(), trajectory.error[-1].mean()
    print(
        f"mean error {first:.4g} at the start, {last:.4g} at the end; converged: {trajectory.converged.sum()} samples"
    )
    print(f"written: {path} ({memory.readable(path.stat().st_size)}); look into it with `dfc inspect {path}`")
