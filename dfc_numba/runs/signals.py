"""Signals that stop a run: Ctrl-C, SIGTERM and SIGUSR1. Only the main thread gets them; in others nothing is changed."""

import signal
import threading
from contextlib import contextmanager

from dfc_numba.errors import Interrupted

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@contextmanager
def leave_on_signals():
    """A signal raises `Interrupted`: before the training begins there is nothing to finish."""

    def leave(number, _frame):
        raise Interrupted(f"interrupted by {signal.Signals(number).name} before the training began")

    with _handled(leave):
        yield


@contextmanager
def stop_on_signals(trainer):
    """The first signal stops the trainer after its minibatch, another one at once.

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

    with _handled(stop):
        yield came


@contextmanager
def _handled(handler):
    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handler) for number in STOPPING if is_main}
    try:
        yield
    finally:
        for number, one in before.items():
            signal.signal(number, one)
