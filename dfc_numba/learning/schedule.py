"""The schedule of a run: passes over the data, the order of samples in each, and the estimated time left.

Passes and orders are pure functions of configuration and seed, so that a run can be continued from its
counters alone.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from dfc_numba.learning.phases import ORDER_STREAM

PROBE = "probe"  # the order that is drawn for a probe batch, which has a separate stream
STREAMS = {**ORDER_STREAM, PROBE: len(ORDER_STREAM)}


@dataclass(frozen=True)
class Pass:
    """One pass over the training set.

    Attributes:
        phase: one of `phases.PHASES`.
        epoch: number of the epoch, from 1; those of the pre-training are counted separately.
        repetition: number of the pass among all passes of this phase, from 0; it decides the order of the
            samples.
        ends_epoch: whether the epoch is complete after it.
    """

    phase: str
    epoch: int
    repetition: int
    ends_epoch: bool


def plan_passes(phases, training, feedback):
    """Return all passes of a run: the pre-training epochs, then epoch by epoch the other `phases` in their order.

    Args:
        phases: the phases that the method runs, see `dfc_numba.learning.methods.Method`.
        training, feedback: sections of the configuration; without `feedback.train` only the forward phase is
            run.
    """
    times = {"forward": 1}
    if feedback.train:
        times.update({"pretraining": feedback.pretraining_epochs, "feedback": feedback.epochs})
        times["extra feedback"] = feedback.extra_epochs
    each_epoch = [phase for phase in phases if phase != "pretraining" for _ in range(times.get(phase, 0))]
    pretraining = times.get("pretraining", 0) if "pretraining" in phases else 0
    seen = Counter()
    plan = [Pass("pretraining", epoch + 1, epoch, ends_epoch=False) for epoch in range(pretraining)]
    for epoch in range(1, training.epochs + 1):
        for position, phase in enumerate(each_epoch, start=1):
            plan.append(Pass(phase, epoch, seen[phase], ends_epoch=position == len(each_epoch)))
            seen[phase] += 1
    return plan


def shuffled_minibatches(n_samples, batch_size, seed, phase, repetition):
    """Return index arrays that partition the samples in random order; the last one holds the remainder.

    The order depends on (seed, phase, repetition) alone. It is drawn by `RandomState`, whose numbers never
    change between versions of NumPy.
    """
    bits = np.random.Philox(np.random.SeedSequence([seed, STREAMS[phase], repetition]))
    order = np.random.RandomState(bits).permutation(n_samples)
    return [order[start : start + batch_size] for start in range(0, n_samples, batch_size)]


class Clock:
    """Estimates how long the rest of a run takes, from the minibatches so far.

    A phase that was not met yet is estimated from those that were, by its cost relative to theirs.

    Args:
        remaining: minibatches still to do, by phase.
        costs: relative cost of a minibatch, by phase.
    """

    def __init__(self, remaining, costs):
        self._remaining = Counter(remaining)
        self._costs = costs
        self._seconds = Counter()
        self._timed = Counter()
        self._started = set()

    def minibatch_done(self, phase, seconds):
        """Count one minibatch; the first one of a phase is not timed, since it may include compilation."""
        self._remaining[phase] -= 1
        if phase in self._started:
            self._seconds[phase] += seconds
            self._timed[phase] += 1
        self._started.add(phase)

    def seconds_left(self):
        """Return the estimated seconds left, or None before two minibatches of a phase are done."""
        work = sum(self._timed[phase] * self._costs[phase] for phase in self._timed)
        if work == 0:
            return None
        per_cost = sum(self._seconds.values()) / work
        return sum(count * self._one(phase, per_cost) for phase, count in self._remaining.items())

    def _one(self, phase, per_cost):
        """Return the seconds of one minibatch of a phase."""
        timed = self._timed[phase]
        return self._seconds[phase] / timed if timed else per_cost * self._costs[phase]
