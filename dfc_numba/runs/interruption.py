"""Signals that stop a run: Ctrl-C, SIGTERM, SIGUSR1 and SIGHUP, unless `nohup` has it ignored.

Only the main thread gets them; in others nothing is changed.
"""

import signal
import threading
import time
from contextlib import contextmanager

from dfc_numba.errors import Interrupted
from dfc_numba.support import ranks

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


class TimeLimit:
    """Stops a run so that it ends, with its last checkpoint, before `hours` have passed; an observer of the trainer.

    What is still to come after a minibatch is judged by what came before: the longest minibatch, and a checkpoint.

    Args:
        hours: from now on; None for no limit.

    Raises:
        ValueError: the hours are not a positive number.
    """

    def __init__(self, hours):
        if hours is not None and not 0 < hours < float("inf"):
            raise ValueError(f"--max-hours = {hours}: must be a number above 0")
        self._hours, self._longest = hours, 0.0
        self._end = None if hours is None else time.monotonic() + 3600 * hours

    def on_start(self, trainer):
        """Keep the trainer, which will be asked to stop."""
        self._trainer, self._last = trainer, time.monotonic()

    def on_minibatch(self, progress):
        """Ask the trainer to stop where another minibatch might be one too many."""
        if self._end is None:
            return
        now = time.monotonic()
        self._longest, self._last = max(self._longest, now - self._last), now
        if now + 2 * self._longest + self._reserve() >= self._end:
            self._trainer.request_stop(
                f"stopped to end within {self._hours:g} hours; the weights are those of the last minibatch"
            )

    def _reserve(self):
        """Return the seconds for the last checkpoint and what is written at the end: one part in a hundred, at most a minute."""
        return min(60.0, 36 * self._hours)


@contextmanager
def leave_on_signals():
    """Raise `Interrupted` on a signal: before the training begins there is nothing to finish."""

    came = []

    def leave(number, _frame):
        came.append(f"interrupted by {signal.Signals(number).name} before the training began")
        if ranks.size() == 1:
            raise Interrupted(came[0])

    with handled(leave):
        yield
    reason = ranks.agree(came[0] if came else None)  # ranks leave together, at the end of what they prepare
    if reason is not None:
        raise Interrupted(reason)


@contextmanager
def stop_on_signals(trainer):
    """Stop the trainer after its minibatch on the first signal, at once on the second.

    The latter raises KeyboardInterrupt(number of the signal). Yields the list of the signals that came.
    """
    came = []

    def stop(number, _frame):
        came.append(number)
        if len(came) > 1:
            raise KeyboardInterrupt(number)
        trainer.request_stop(
            f"interrupted by {signal.Signals(number).name}; the weights are those of the last minibatch"
        )

    with handled(stop):
        yield came


@contextmanager
def handled(handler):
    """Handle the signals that stop runs by a function; SIGHUP stays ignored where it is, as under nohup."""
    is_main = threading.current_thread() is threading.main_thread()
    ignored = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else set()
    before = {
        number: signal.signal(number, handler) for number in STOPPING if is_main and number not in ignored
    }
    try:
        yield
    finally:
        for number, one in before.items():
            signal.signal(number, one)
