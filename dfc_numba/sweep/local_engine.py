"""The engine on this machine: as many runs at a time as its processors allow, each in a separate process."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections import deque
from contextlib import contextmanager, suppress

from dfc_numba.runs.interruption import handled
from dfc_numba.support import threads as machine

PAUSE = 0.1  # seconds between two looks at the processes
INTERRUPTED, SIGNALLED = 75, 128
PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux


def command(folder, run, threads):
    """Return the command line that does one run of a sweep."""
    line = [sys.executable, "-m", "dfc_numba", "sweep", "run", str(folder.path.absolute()), str(run.index)]
    return [*line, "--threads", str(threads), "--parent", str(os.getpid()), *folder.extensions]


def end_with(parent):
    """Ask Linux to send this process SIGTERM when its parent ends, however that happens; end now if it is gone already."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None, use_errno=True).prctl(PARENT_DEATH_SIGNAL, signal.SIGTERM)
        if os.getppid() != parent:
            raise SystemExit(INTERRUPTED)


def start(folder, run, threads, cpus=None):
    """Start a run in a process that writes to the log of the run; return the `Popen`.

    Args:
        cpus: processors that the process may use; None for those of this one.
    """
    before = os.sched_getaffinity(0) if cpus else None
    with open(folder.log(run), "ab") as log:
        try:
            if cpus:  # a child inherits what its parent may use
                os.sched_setaffinity(0, cpus)
            return subprocess.Popen(
                command(folder, run, threads), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True, cwd=folder.home if os.path.isdir(folder.home) else None,
            )  # fmt: skip
        finally:
            if before:
                os.sched_setaffinity(0, before)


def places(threads, at_once=None):
    """Return the processors of each concurrent run: a list of sets, or of None where processes cannot be bound."""
    count = max(1, machine.available() // threads)
    count = count if at_once is None else at_once
    if not hasattr(os, "sched_getaffinity"):
        return [None] * count
    cpus = sorted(os.sched_getaffinity(0))
    if count * threads > len(cpus):
        return [None] * count
    return [set(cpus[k * threads : (k + 1) * threads]) for k in range(count)]


def run_all(folder, runs, *, threads, at_once, display):
    """Do runs in child processes; return (exit code of each run by its number, number of the signal that came or None).

    The first signal lets every run write a checkpoint and end, a second one ends them at once. A run that fails does not
    stop the others.

    Args:
        display: object with `begin(run)`, `ended(run, code)`, `show(active)`, which is called at every look.
    """
    waiting, free = deque(runs), deque(places(threads, at_once))
    active, codes = {}, {}
    with signals() as came:
        handled = 0
        while active or (waiting and not came):
            while waiting and free and not came:
                run, cpus = waiting.popleft(), free.popleft()
                active[run.index] = run, start(folder, run, threads, cpus), cpus
                display.begin(run)
            if len(came) > handled:
                handled = len(came)
                _tell(active)
            for index, (run, process, cpus) in list(active.items()):
                if process.poll() is not None:
                    del active[index]
                    free.append(cpus)
                    codes[index] = (
                        process.returncode if not _stopped(process.returncode, came) else INTERRUPTED
                    )
                    display.ended(run, codes[index])
            display.show([run for run, _, _ in active.values()])
            if active:
                sleep()
    return codes, came[0] if came else None


def sleep():
    """Wait until the next look at the runs."""
    time.sleep(PAUSE)


def now():
    """Return the time in seconds, from an arbitrary moment on."""
    return time.monotonic()


def _stopped(code, came):
    """Return whether a process ended by the signal that was handed on, before it could handle it."""
    return bool(came) and code in (-signal.SIGTERM, SIGNALLED + signal.SIGTERM)


def _tell(active):
    for _, process, _ in active.values():
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)


@contextmanager
def signals():
    """Collect the signals that stop runs, in a list, instead of ending."""
    came = []
    with handled(lambda number, _frame: came.append(number)):
        yield came
