"""Threads: how many there are, how to bound them, and how shards of work are spread over them.

Kernels release the interpreter lock, so plain threads run them side by side. The work is cut in the same way for any
number of threads and its pieces write to places of their own, so the results have the same bits.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from dfc_numba.support import ranks
from dfc_numba.support.jobs import cpus
from dfc_numba.support.ranges import Count
from dfc_numba.support.validation import whole_number

SHARD_SAMPLES = 16
PATIENCE = 5.0  # seconds that a thread may take to begin
# Bytes of weights up to which a shard has no more samples than that: a step that reads them from a cache is as fast with
# 16 samples as with more. Beyond, memory has to deliver them once per shard and step.
CACHED_WEIGHTS = 8e6
LARGE_SHARD_SAMPLES = 32
# below this many floating-point operations a second thread costs more than it saves
SMALLEST_WORK_PER_THREAD = 1e7

_bounds = threading.local()


def available():
    """Return the number of processors that this process may use, at most NUMBA_NUM_THREADS where that is set.

    In a job of SLURM it is at most what the job has for each task; ranks that may use the same processors share them.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    count = min(count, cpus() or count) // ranks.sharing()
    wanted = os.environ.get("NUMBA_NUM_THREADS", "")
    return max(1, min(count, int(wanted))) if wanted.isdigit() else count


def current():
    """Return the number of threads that kernels of this thread use now."""
    return getattr(_bounds, "count", None) or available()


class _Limits:
    """Bounds on the threads of the linear algebra libraries, which are the whole process's, for blocks in any of its threads.

    The innermost block of each thread counts, and of several threads the smallest; after the last block each library has as
    many as before the first.
    """

    def __init__(self):
        self._lock, self._counts, self._before = threading.Lock(), {}, {}

    @contextmanager
    def bounded(self, count, libraries):
        """Limit these libraries (controllers of threadpoolctl) to `count` threads within a `with` block."""
        owner = threading.get_ident()
        with self._lock:
            for library in libraries:
                self._before.setdefault(library.filepath, (library, library.num_threads))
            self._counts.setdefault(owner, []).append(count)
            self._apply()
        try:
            yield
        finally:
            with self._lock:
                self._counts[owner].pop()
                if not self._counts[owner]:
                    del self._counts[owner]
                self._apply()

    def _apply(self):
        if self._counts:
            count = min(counts[-1] for counts in self._counts.values())
            for library, _ in self._before.values():
                library.set_num_threads(count)
            return
        while self._before:
            library, before = self._before.popitem()[1]
            library.set_num_threads(before)


_limits = _Limits()


@contextmanager
def limit_threads(count: int) -> Iterator[None]:
    """Bound the threads of kernels, and of the linear algebra library, to `count` within a `with` block.

    The bound on kernels holds for the Python thread that enters the block; blocks may be nested, and the innermost counts. The
    linear algebra library belongs to the whole process: where several Python threads are in such blocks at once, it has the
    smallest number of them, and after the last block as many threads as before the first.

    Raises:
        ValueError, TypeError: for a count that is not a positive whole number.
    """
    count = whole_number("threads", count, Count)
    from threadpoolctl import ThreadpoolController

    before = getattr(_bounds, "count", None)
    _bounds.count = count
    try:
        with _limits.bounded(count, ThreadpoolController().lib_controllers):
            yield
    finally:
        _bounds.count = before


def one_thread():
    """Return a context in which products of NumPy's library have the same bits however many threads there are."""
    return _limits.bounded(1, _libraries())


@cache
def _libraries():
    """Return the linear algebra libraries; finding them takes milliseconds, so it is done once."""
    from threadpoolctl import ThreadpoolController

    return [one for one in ThreadpoolController().lib_controllers if one.user_api == "blas"]


class _Started(threading.Event):
    """The event that `Thread.start` waits for: not forever, since a thread without memory ends before it begins."""

    def wait(self, timeout=None):
        return super().wait(PATIENCE if timeout is None else timeout)


def start(thread):
    """Start a `threading.Thread`, and return whether it runs: it does not where memory or a limit of the system is reached."""
    thread._started = _Started()
    try:
        thread.start()
    except (RuntimeError, MemoryError):
        return False
    return thread._started.is_set()


def shards(samples, weights=0):
    """Return (first, count) of the shards of a minibatch, as even as possible; a function of its arguments alone.

    At most 16 samples each, or 32 where `weights`, the bytes that each step of a shard reads, exceed the caches. Their number
    is even where there are several, so that two threads have as much to do.
    """
    largest = SHARD_SAMPLES if weights <= CACHED_WEIGHTS else LARGE_SHARD_SAMPLES
    number = -(-samples // largest)
    number += number % 2 if number > 1 else 0
    ends = [samples * k // number for k in range(number + 1)]
    return [(a, b - a) for a, b in itertools.pairwise(ends)]


def run(pieces, function, *, work):
    """Call function(0), ..., function(pieces - 1), on as many threads as `work` (floating-point operations) is worth."""
    workers = min(current(), pieces, max(1, int(work / SMALLEST_WORK_PER_THREAD)))
    if workers <= 1:
        for piece in range(pieces):
            function(piece)
        return
    left, errors = iter(range(pieces)), []

    def take():
        try:
            for piece in left:
                function(piece)
        except BaseException:
            deque(left, maxlen=0)  # after an error, or Ctrl-C, no thread begins another piece
            raise

    def help():
        try:
            take()
        except BaseException as error:  # noqa: BLE001 (it is raised where the work was ordered)
            errors.append(error)

    helpers = []
    for _ in range(workers - 1):  # where no more threads can be started, those that there are do the work
        helper = threading.Thread(target=help, name="dfc-worker")
        if not start(helper):
            break
        helpers.append(helper)
    try:
        take()
    finally:
        for helper in helpers:
            helper.join()
    if errors:
        raise errors[0]
