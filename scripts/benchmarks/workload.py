"""The workload of the benchmarks: the published MNIST configuration on random inputs, and its matrix products.

    sizes 784-256-256-256-10, tanh, linear output with cross-entropy target, 128 samples, 999 steps
    (DFC, Meulemans et al. 2021; the preset mnist-dfc holds all values)

B samples, T steps, layers i = 1..L of n_i units.
"""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np

import dfc_numba as dfc
from dfc_numba.configuration.config_file import load_config
from dfc_numba.dynamics.phase import prepare
from dfc_numba.dynamics.time_ladder import RUNGS
from dfc_numba.dynamics.waveform import solve_course
from dfc_numba.kernels.control_space import REFERENCES
from dfc_numba.model.products import shards_of

LOW_PASSED = {"tau_noise": 0.07, "tau_apical": None}  # as published for Strong-DFC, Meulemans et al. 2022


@cache
def published():
    """Return the `Config` of the preset mnist-dfc."""
    config, _ = load_config("mnist-dfc", [])
    return config


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One minibatch for a network at initialisation.

    Args:
        inputs, outputs: n_0 and n_L. hidden: units of each hidden layer. batch: B.
        steps: Euler steps T of the forward phase; None takes the published number, as `hidden` and `batch` do.
        seed: of weights, inputs and labels.
    """

    inputs: int = 784
    outputs: int = 10
    hidden: tuple | None = None
    batch: int | None = None
    steps: int | None = None
    seed: int = 0

    @property
    def sizes(self):
        """(n_0, ..., n_L)."""
        hidden = published().network.hidden if self.hidden is None else self.hidden
        return (self.inputs, *hidden, self.outputs)

    @property
    def samples(self):
        """B."""
        return published().training.batch_size if self.batch is None else self.batch

    @property
    def controller(self):
        """The `Controller` of the forward phase."""
        controller = published().controller
        return controller if self.steps is None else replace(controller, steps=self.steps)

    @property
    def nudge(self):
        """The published nudge of the output target, per sample."""
        return published().target.step / published().training.batch_size

    def problem(self, dtype):
        """Return (network, x, target): the same numbers for either dtype, all exact in float32 except the target."""
        rng = np.random.default_rng(self.seed)
        single = dfc.Network.create(self.sizes, seed=self.seed, dtype="float32")
        x = rng.standard_normal((self.samples, self.inputs), np.float32)
        labels = rng.integers(self.outputs, size=self.samples)
        target = dfc.output_target(single, x, labels, loss="cross_entropy", step=self.nudge)
        return single.copy(dtype=dtype), x.astype(dtype), target

    @property
    def flop(self):
        """Floating-point operations of the matrix products of a forward phase, the constant first layer hoisted.

        Per step and sample: W_i r_{i-1} and the update's product of layers 2..L, Q_i u of all layers.
        """
        return self.controller.steps * self._flop_per_step(2, 1)

    @property
    def weights(self):
        """Number of weights that take part in every step."""
        return self._flop_per_step(1, 1) // (2 * self.samples)

    def _flop_per_step(self, forward, feedback):
        sizes = self.sizes
        simulated = sum(n * m for n, m in zip(sizes[2:], sizes[1:-1], strict=True))
        return 2 * self.samples * (forward * simulated + feedback * sum(sizes[1:]) * sizes[-1])

    @property
    def feedback_flop(self):
        """The same of a feedback phase: W_i r_{i-1} of layers 2..L; Q_i u and the update's product of all layers."""
        return published().feedback_controller.steps * self._flop_per_step(1, 2)

    def solved_flop(self, dtype):
        """Count the operations of the waveform integrator for this minibatch, with the first layer hoisted as in `flop`.

        Returns:
            operations by what they are for: evaluations of the network at the nodes, Jacobians of the output, systems in
            control space (a mean and a largest one per shard for all numbers of nodes that are tried, then one per sample),
            products of the update.
        """
        network, x, target = self.problem(dtype)
        controller = replace(self.controller, integrator="waveform")
        _, outcome, _ = solve_course(prepare(network, x, target, controller, None))
        samples, outputs = np.array([count for _, count in shards_of(network, len(x))]), self.outputs
        layers, feedback = self._flop_per_step(1, 0) / len(x), self._flop_per_step(0, 1) / len(x)
        m, sweeps = outcome.nodes, outcome.sweeps
        tried = [RUNGS[: RUNGS.index(nodes) + 1 + REFERENCES] for nodes in m]
        choices = [2 * sum(elimination(nodes * outputs) for nodes in rungs) for rungs in tried]
        found = {
            "evaluations": samples * m * sweeps * (layers + feedback),
            "Jacobians": samples * outputs * (layers + feedback),
            "systems": choices + samples * (elimination(m * outputs) + (1 + sweeps) * 2 * (m * outputs) ** 2),
            "products of the update": samples * outcome.modes * layers,
        }
        return {name: float(np.sum(values)) for name, values in found.items()}

    def summary(self):
        """Return a dict of plain values."""
        return {
            "sizes": list(self.sizes),
            "samples": self.samples,
            "steps": self.controller.steps,
            "nudge": self.nudge,
            "gflop": self.flop / 1e9,
        }


def elimination(unknowns):
    """Return the operations of an LU factorisation."""
    return 2 / 3 * unknowns**3


def feedback_controllers():
    """Return the published feedback phase by kind of noise."""
    white = published().feedback_controller
    return {"white noise": white, "low-passed noise": replace(white, **LOW_PASSED)}
