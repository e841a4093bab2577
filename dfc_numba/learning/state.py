"""The evolving state of a run, as values: with these, a run continues bit for bit as if it had never stopped."""

from dataclasses import dataclass, field
from math import nan
from typing import Any

from dfc_numba.model.network import Network
from dfc_numba.support.array_types import Array


@dataclass
class Counters:
    """All numbers that evolve during a run beside parameters, optimisers and rows; they say where it stands.

    Attributes:
        passes: complete passes; the next index into `Trainer.schedule`.
        minibatch: minibatches done in the pass under way.
        minibatches: minibatches done in all passes; the next noise key.
        samples, loss_sum, correct: sums over the samples of the forward pass under way, or the last one.
        best_epoch, best_score: the best epoch so far and its score (higher is better); 0 and NaN before there
            is one.
        seconds: wall time since the last row.
        fallback, estimated_error: with the waveform integrator, the samples of the epoch that were stepped after all, and the
            largest error that it expects of an update.
    """

    passes: int = 0
    minibatch: int = 0
    minibatches: int = 0
    samples: int = 0
    loss_sum: float = 0.0
    correct: float = 0.0
    best_epoch: int = 0
    best_score: float = nan
    seconds: float = 0.0
    fallback: int = 0
    estimated_error: float = 0.0


@dataclass(frozen=True)
class TrainingState:
    """All that evolves in a run: what `Trainer.state` returns and `Trainer.restore` takes.

    Orders of samples and noise are functions of the seed and the counters.

    Attributes:
        network, best_network: the last `Network`, and that of the best epoch.
        optimizers: the arrays of each optimiser by its name, see `Descent.arrays`.
        counters: the `Counters`.
        rows: one dict per complete epoch.
        analysis: the arrays of `Monitor.arrays`; empty where nothing is measured.
        method: the arrays of the method's own by name; empty for most methods.
    """

    network: Network
    best_network: Network
    optimizers: dict[str, dict[str, Array]]
    counters: Counters
    rows: list[dict[str, Any]]
    analysis: dict[str, Array] = field(default_factory=dict)
    method: dict[str, Array] = field(default_factory=dict)

    def check_fit(self, trainer):
        """Refuse a trainer that has another network or other optimisers, or that has fewer passes to do."""
        if repr(self.network) != repr(trainer.network):
            raise ValueError(f"the state is that of {self.network!r}, but this run has {trainer.network!r}")
        differing = self._forms().items() ^ trainer.state()._forms().items()
        if differing:
            names = ", ".join(sorted({name for name, _ in differing})[:3])
            raise ValueError(
                f"the state has other arrays of optimisers than this run, such as {names}; use the same optimisers"
            )
        if self.counters.passes > len(trainer.schedule):
            raise ValueError(
                f"the state is that of a run with {self.counters.passes} passes over the data or more, but this one has "
                f"{len(trainer.schedule)}; raise training.epochs"
            )

    def _forms(self):
        """Return shapes and types of the optimisers' and the method's arrays by their names."""
        return {
            f"{owner}/{name}": (array.shape, array.dtype)
            for owner, arrays in {**self.optimizers, "method": self.method}.items()
            for name, array in arrays.items()
        }
