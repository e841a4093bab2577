"""Worker processes with a number of threads of their own, in which computations are prepared once and run many times.

A worker is bound to as many processors as it has threads, one per core while there are enough, and its libraries are told
the number of threads before they start. So one thread means one thread for kernels, for the linear algebra library and
for XLA, which takes its number of threads from the processors that it may use. Where a process cannot be bound to
processors (macOS), only the libraries are told; XLA then obeys for one thread and takes all processors otherwise.
"""

import os
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import numpy as np

THREAD_VARIABLES = (
    "NUMBA_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
PAUSE = 0.1  # seconds before a run: until then, threads of the linear algebra library wait for the next product awake
ONE_THREAD_OF_XLA = "--xla_cpu_multi_thread_eigen=false"


class Worker:
    """A process with `threads` threads; a context manager that ends it."""

    def __init__(self, threads):
        self._pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        with _bound(threads):
            self._call(os.getpid)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._pool.shutdown()

    def prepare(self, key, make, *arguments):
        """Call make(*arguments) in the worker, which keeps the computation that it returns.

        It is called, and then, without being timed, its method `clear`, if it has one.
        """
        self._call(_prepare, key, make, arguments)

    def first(self, key):
        """Return (seconds, result) of the first run, which may compile; the result is a list of arrays or None."""
        return self._call(_first, key)

    def seconds(self, key):
        """Return the wall time of one run."""
        return self._call(_seconds, key)

    def memory_growth(self, key):
        """Return by how many bytes the peak memory of the process exceeds, during one run, what it held before."""
        return self._call(_memory_growth, key)

    def _call(self, function, *arguments):
        return self._pool.submit(function, *arguments).result()


# --- inside a worker ---------------------------------------------------------------------------------------------------

_computations = {}


def _prepare(key, make, arguments):
    _computations[key] = make(*arguments)


def _first(key):
    start = time.perf_counter()
    result = _computations[key]()
    seconds = time.perf_counter() - start
    _clear(key)
    return seconds, result and [np.asarray(array) for array in result]


def _seconds(key):
    time.sleep(PAUSE)
    start = time.perf_counter()
    _computations[key]()
    seconds = time.perf_counter() - start
    _clear(key)
    return seconds


def _clear(key):
    """Remove what a run has left, if it leaves anything."""
    getattr(_computations[key], "clear", lambda: None)()


def _memory_growth(key):
    before = _start_of_peak()
    _computations[key]()
    growth = _peak() - before
    _clear(key)
    return growth


def _start_of_peak():
    """Return the bytes in memory now; where the system allows, `_peak` counts from here."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        return _status("VmRSS")
    except OSError:
        return _peak()


def _peak():
    """Return the most bytes that this process had in memory."""
    try:
        return _status("VmHWM")
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def _status(name):
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


# --- bounds ------------------------------------------------------------------------------------------------------------


@contextmanager
def _bound(threads):
    """Limit what starts within this block to `threads` threads."""
    with environment_variables(**_thread_variables(threads)):
        if not hasattr(os, "sched_setaffinity"):
            yield
            return
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, choose_processors(threads))
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)


@contextmanager
def environment_variables(**values):
    """Set environment variables for a while; None removes one."""
    before = {name: os.environ.get(name) for name in values}
    _set_variables(values)
    try:
        yield
    finally:
        _set_variables(before)


def _set_variables(values):
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _thread_variables(threads):
    variables = dict.fromkeys(THREAD_VARIABLES, str(threads))
    if threads == 1:
        variables["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {ONE_THREAD_OF_XLA}".strip()
    return variables


def choose_processors(count):
    """Return `count` of the processors that this process may use, one per core while there are enough cores.

    Raises:
        ValueError: if there are fewer.
    """
    processors = sorted(os.sched_getaffinity(0))
    if count > len(processors):
        raise ValueError(
            f"{count} threads need {count} processors, but this process may use {len(processors)}"
        )
    firsts = {_siblings(processor): processor for processor in reversed(processors)}
    return sorted(processors, key=lambda processor: processor not in firsts.values())[:count]


def _siblings(processor):
    """Return the name of a processor's core; without knowledge, the processor itself."""
    path = Path(f"/sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list")
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return str(processor)
