"""The cases on which Newton's readout is timed: the published MNIST network with three targets, and the autoencoder."""

from dataclasses import dataclass, replace

import numpy as np

import dfc_numba as dfc
from benchmarks.workload import Workload, published
from dfc_numba.configuration.config_file import load_config
from dfc_numba.support import threads

AUTOENCODER = "mnist-autoencoder-dfc-ss"
CLASS_VALUE = 0.99  # of the true class with strong feedback, as published
QUICK = {"inputs": 20, "outputs": 10, "hidden": (30, 30), "batch": 8}
QUICK_AUTOENCODER = {"inputs": 80, "outputs": 80, "hidden": (20, 8, 20), "batch": 8}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One minibatch and a target.

    Args:
        name: of the target. nudge: per sample; "published", or None for soft labels with the softmax error.
        network: "MNIST" or "autoencoder". quick: a small network of that kind.
    """

    name: str
    nudge: float | str | None
    network: str
    quick: bool = False

    def problem(self, dtype):
        """Return (network, x, target, controller)."""
        return (self._labelled if self.network == "MNIST" else self._autoencoder)(dtype)

    def _labelled(self, dtype):
        workload = Workload(**QUICK) if self.quick else Workload()
        network, x, target = workload.problem(dtype)
        labels = np.random.default_rng(1).integers(workload.outputs, size=len(x))
        if self.nudge is None:
            soft = (1 - CLASS_VALUE) / (workload.outputs - 1)
            target = np.where(np.eye(workload.outputs)[labels], CLASS_VALUE, soft)
            return network, x, target, replace(workload.controller, error="softmax")
        if self.nudge != "published":
            target = dfc.output_target(network, x, labels, loss="cross_entropy", step=self.nudge)
        return network, x, target, workload.controller

    def _autoencoder(self, dtype):
        config, _ = load_config(AUTOENCODER, [])
        sizes = (
            QUICK_AUTOENCODER
            if self.quick
            else {"inputs": 784, "outputs": 784, "hidden": config.network.hidden}
        )
        workload = Workload(**sizes)
        network = dfc.Network.create(
            workload.sizes,
            hidden_activation=config.network.hidden_activation[: len(sizes["hidden"])],
            dtype=dtype,
        )
        x = np.random.default_rng(0).random((workload.samples, workload.inputs), np.float32).astype(dtype)
        nudge = config.target.step / published().training.batch_size
        return network, x, dfc.output_target(network, x, x, step=nudge), config.controller


CASES = (
    Case(name="nudge 0.078", nudge=0.078, network="MNIST"),
    Case(name="published nudge", nudge="published", network="MNIST"),
    Case(name="soft labels, softmax error", nudge=None, network="MNIST"),
    Case(name="published nudge", nudge="published", network="autoencoder"),
)


# --- in a worker -------------------------------------------------------------------------------------------------------


def newton_update(case, dtype, count=1):
    """Prepare the update with readout "newton", `count` times."""
    problem = case.problem(dtype)

    def run():
        for _ in range(count):
            update = dfc.forward_update(*problem, readout="newton")
        return update.weights + update.biases

    return run


def average_update(case, dtype, steps=None):
    """Prepare the update with readout "average", of the published number of steps unless stated otherwise."""
    *problem, controller = case.problem(dtype)
    controller = controller if steps is None else replace(controller, steps=steps)

    def run():
        update = dfc.forward_update(*problem, controller)
        return update.weights + update.biases

    return run


def outcome(case, dtype):
    """Prepare a computation of iterations, residuals relative to the initial error, stability, and the operations."""

    def run():
        network, x, target, controller = case.problem(dtype)
        steady = dfc.steady_state(network, x, target, controller, method="newton")
        nothing = dfc.steady_state(network, x, target, controller, method="newton", tolerance=2.0)
        relative = steady.residual / nothing.residual
        return [steady.iterations, relative, steady.stable, np.array(operations(newton_update(case, dtype)))]

    return run


def operations(function):
    """Count the floating-point operations of the matrix products of all kernels that a function runs."""
    counted, run = [], threads.run

    def count(pieces, part, *, work):
        counted.append(work)
        run(pieces, part, work=work)

    threads.run = count
    try:
        function()
    finally:
        threads.run = run
    return sum(counted)
