"""Background worker that runs submitted calls in order, with a bound on the memory that waits for it."""

import threading
from collections import deque
from contextlib import suppress

from dfc_numba.support import threads

PATIENCE = 5.0  # seconds


class Background:
    """Calls functions one after the other in a separate thread; the first error ends it, and reaches the caller.

    Memory is asked for before it is filled: `reserve` waits while others hold too much. What a call was reserved is free
    again when it is done. Where no thread can be started, calls are made immediately by the caller.

    Args:
        limit: bytes that are reserved at most; one reservation alone may be larger.

    Attributes:
        error: what ended the work, or None.
    """

    def __init__(self, limit):
        self._limit, self._reserved = limit, 0
        self._calls, self._changed = deque(), threading.Condition()
        self._busy, self._ends, self._last, self.error = False, False, None, None
        self._thread = threading.Thread(target=self._work, name="dfc-background", daemon=True)
        self._alone = False
        running = threads.start(self._thread)
        with self._changed:
            self._alone = not running

    def reserve(self, size):
        """Wait until `size` bytes may be used."""
        with self._changed:
            self._wait(lambda: self._reserved == 0 or self._reserved + size <= self._limit)
            self._reserved += size

    def submit(self, function, *arguments, size=0):
        """Order a call, whose arguments have `size` reserved bytes."""
        with self._changed:
            self._check()
            if not self._alone:
                self._calls.append((function, arguments, size))
                self._changed.notify_all()
                return
        self._make(function, arguments, size)
        self.check()

    def check(self):
        """Raise the error that ended the work, if one did."""
        with self._changed:
            self._check()

    def finish(self):
        """Wait until all calls are done."""
        with self._changed:
            self._wait(lambda: not self._calls and not self._busy)

    def end(self, *, discard=False, last=None):
        """End the thread, after the calls that were ordered.

        Args:
            discard: end after the call under way instead, or leave the thread alone if that takes long.
            last: is called at the end, whatever happened; its own errors are not reported.
        """
        with self._changed:
            self._ends, self._last = True, last
            if discard:
                self._calls.clear()
            self._changed.notify_all()
        if self._alone:
            self._conclude()
        else:
            self._thread.join(PATIENCE if discard else None)

    def _check(self):
        if self.error is not None:
            raise self.error

    def _wait(self, condition):
        self._changed.wait_for(lambda: self.error is not None or condition())
        self._check()

    def _work(self):
        while (call := self._next()) is not None:
            self._make(*call)
            del call
        if not self._alone:
            self._conclude()

    def _make(self, function, arguments, size):
        """Make a call, and keep its error."""
        error = None
        try:
            function(*arguments)
        except BaseException as caught:  # noqa: BLE001 (it is raised where calls are ordered)
            error = caught
        del function, arguments
        self._done(size, error)

    def _conclude(self):
        if self._last is not None:
            with suppress(Exception):
                self._last()

    def _next(self):
        """Return the next call; None at the end, which after an error may come before it is ordered."""
        with self._changed:
            self._changed.wait_for(lambda: self._calls or self._ends or self._alone)
            self._busy = bool(self._calls)
            return self._calls.popleft() if self._calls else None

    def _done(self, size, error):
        with self._changed:
            self._busy, self._reserved = False, self._reserved - size
            if error is not None:
                self.error = error
                self._calls.clear()
            self._changed.notify_all()
