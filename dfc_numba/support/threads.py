"""Threads: how many there are, how to bound them, and how shards of work are spread over them.

Kernels release the interpreter lock, so plain threads run them side by side. The work is cut in the same way for any
number of threads and its pieces write to places of their own, so the results have the same bits.
"""

import itertools
import os
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

from dfc_numba.support import ranks
from dfc_numba.support.jobs import cpus
from dfc_numba.support.validation import whole_number

SHARD_SAMPLES = 16
# Bytes of weights up to which a shard has no more samples than that: a step that reads them from a cache is as fast with
# 16 samples as with more. Beyond, memory has to deliver them once per shard and step.
CACHED_WEIGHTS = 8e6
LARGE_SHARD_SAMPLES = 32
# below this many floating-point operations a second thread costs more than it saves
SMALLEST_WORK_PER_THREAD = 1e7

_bounds = threading.local()


def available():
    """Number of processors that this process may use, at most NUMBA_NUM_THREADS where that is set.

    In a job of SLURM it is at most what the job has for each task; ranks that may use the same processors share them.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    count = min(count, cpus() or count) // ranks.sharing()
    wanted = os.environ.get("NUMBA_NUM_THREADS", "")
    return max(1, min(count, int(wanted))) if wanted.isdigit() else count


def current():
    """Number of threads that kernels of this thread use now."""
    return getattr(_bounds, "count", None) or available()


@contextmanager
def limit_threads(count):
    """Bound the threads of kernels, and of the linear algebra library, to `count` within a `with` block.

    Raises:
        ValueError, TypeError: for a count that is no positive whole number.
    """
    count = whole_number("threads", count, least=1, bits=31)
    from threadpoolctl import threadpool_limits

    before = getattr(_bounds, "count", None)
    _bounds.count = count
    try:
        with threadpool_limits(count):
            yield
    finally:
        _bounds.count = before


def one_thread():
    """Return a context in which products of NumPy's library have the same bits however many threads there are."""
    return _libraries().limit(limits=1, user_api="blas")


@cache
def _libraries():
    """Finding the libraries takes milliseconds, so it is done once."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def shards(samples, weights=0):
    """(first, count) of the shards of a minibatch, as even as possible; a function of its arguments alone.

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
    left = iter(range(pieces))

    def take():
        try:
            for piece in left:
                function(piece)
        except BaseException:
            deque(left, maxlen=0)  # after an error, or Ctrl-C, nobody begins another piece
            raise

    with ThreadPoolExecutor(workers - 1) as pool:
        helpers = [pool.submit(take) for _ in range(workers - 1)]
        take()
        for helper in helpers:
            helper.result()
