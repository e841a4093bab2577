"""What `dfc sweep` tells people: the table of runs, what it will need, its progress, and how it ended."""

import shlex
import sys
import time

from dfc_numba.display.progress import duration
from dfc_numba.runs.summary import markdown
from dfc_numba.support.memory import readable
from dfc_numba.sweep import slurm_engine
from dfc_numba.sweep.sweep_folder import DIVERGED, DONE, FAILED, QUEUED, RUNNING, STATES, STOPPED

MINUTE = 60.0
CODES = {0: "done", 75: "stopped"}


def announce(folder, planned, changes, outlook, states, runs):
    """Say what the sweep is, what changed, what is kept, and what the rest will need."""
    print(f"sweep {planned.name}: {len(planned.runs)} runs, in {folder.path}")
    for change in changes:
        print(f"changed since it was started: {change}")
    for line in dict.fromkeys(
        f"left out of {run.source}, because its settings do not use it: {', '.join(run.left_out)}"
        for run in planned.runs
        if run.left_out
    ):
        print(line)
    print("\n".join(outlook.datasets))
    print(counted(states))
    seconds, disk = outlook.total(runs)
    each = (
        "unknown, a trial did not end well"
        if seconds is None
        else f"{duration(seconds)} in all, one after the other"
    )
    if runs:
        print(
            f"to start: {len(runs)}; expected, from {outlook.trials} short trials: time {each}; memory up to "
            f"{readable(outlook.memory(runs))} a run; disk {readable(disk)}",
            flush=True,
        )
    failed = [state for state in states if state.state == FAILED and state.run not in runs]
    if failed:
        print(
            f"failed and not started again without --retry-failed: {len(failed)}, such as {failed[0].run.name}"
        )


def counted(states):
    """Return a line with the number of runs in each state."""
    counts = {state: sum(one.state == state for one in states) for state in STATES}
    return "runs: " + ", ".join(f"{count} {state}" for state, count in counts.items() if count)


def show_table(folder, planned, outlook, states):
    """Print the table of all runs that a dry run shows."""
    numbers = {run.name: run.index for run in folder.runs}
    by_name = {state.run.name: state for state in states}
    rows = []
    for run in planned.runs:
        need, state = outlook.needs[run.name], by_name[run.name].state
        seconds = "?" if need.seconds is None else duration(need.seconds)
        rows.append(
            [str(numbers[run.name]), run.name, state, seconds, readable(need.memory), readable(need.disk)]
        )
    print(markdown(["index", "run", "state", "time", "memory", "disk"], rows), end="")


def show_status(folder, states, queue, unreachable=None):
    """Print run, state, epochs, last accuracy, job, node and log of every run."""
    rows = []
    for state in states:
        reason = queue.get(state.run.index, ("", "", ""))
        accuracy = "" if state.accuracy is None else f"{100 * state.accuracy:.2f} %"
        text = state.state + (
            f" ({reason[0].lower()}: {reason[1]})" if state.state == QUEUED and reason[1] != "None" else ""
        )
        log = slurm_engine.log_of(folder, state.run)
        epochs = f"{state.epochs}/{state.run.epochs}"
        known = log.relative_to(folder.path) if log.exists() else ""
        rows.append([state.run.name, text, epochs, accuracy, state.job, reason[2] or state.node, str(known)])
    print(markdown(["run", "state", "epoch", "accuracy", "job", "node", "log"], rows), end="")
    print(counted(states))
    for state in states:
        if state.state in (FAILED, DIVERGED):
            print(f"{state.run.name} {state.state}: {state.reason}")
    if unreachable:
        print(f"dfc: the queue is not known: {unreachable}", file=sys.stderr)
    again = sum(state.state == STOPPED for state in states)
    if again:
        print(f"{again} stopped; the same dfc sweep takes what is unfinished")


class PlainSweepDisplay:
    """A line on standard output for each run that ends, and a line every minute on standard error."""

    def __init__(self, folder, total, done):
        self._folder, self._total, self._done = folder, total, done
        self._next_line = time.monotonic() + MINUTE

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def begin(self, run):
        """Take note that a run starts."""

    def ended(self, run, code):
        """Print how a run ended."""
        state = self._folder.state(run)
        self._done += 1
        accuracy = "" if state.accuracy is None else f", accuracy {100 * state.accuracy:.2f} %"
        how = state.state if state.state != RUNNING else CODES.get(code, f"exit code {code}")
        print(
            f"{self._done}/{self._total}  {run.name}: {how}, epoch {state.epochs}/{run.epochs}{accuracy}",
            flush=True,
        )

    def show(self, active):
        """Print the runs under way, if the last line is long enough ago."""
        if time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + MINUTE
            texts = [f"{run.name} {self._folder.state(run).epochs}/{run.epochs}" for run in active]
            print(
                f"{self._done}/{self._total} ended; running: {', '.join(texts) or 'none'}",
                file=sys.stderr,
                flush=True,
            )


class LiveSweepDisplay(PlainSweepDisplay):
    """A bar for the whole sweep and one for each run under way, in epochs, on standard error."""

    def __enter__(self):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn()
        self._bar = Progress(
            *columns, console=Console(stderr=True), transient=True, expand=True, redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=True,
        )  # fmt: skip
        self._bars = {}
        self._all = self._bar.add_task("runs of the sweep", total=self._total, completed=self._done)
        self._bar.start()
        return self

    def __exit__(self, *_):
        self._bar.stop()

    def begin(self, run):
        """Show a bar for a run."""
        self._bars[run.index] = self._bar.add_task(run.name, total=run.epochs)

    def ended(self, run, code):
        """Print how a run ended, and take its bar away."""
        super().ended(run, code)
        self._bar.update(self._all, completed=self._done)
        if run.index in self._bars:
            self._bar.remove_task(self._bars.pop(run.index))

    def show(self, active):
        """Move the bars."""
        for run in active:
            if run.index in self._bars:
                self._bar.update(self._bars[run.index], completed=self._folder.state(run).epochs)


def choose_display(folder, total, done):
    """Return a live display where standard error is a terminal, plain lines elsewhere."""
    return (LiveSweepDisplay if sys.stderr.isatty() else PlainSweepDisplay)(folder, total, done)


def conclude(folder, states, merged):
    """Say how the sweep stands."""
    print(counted(states))
    for state in states:
        if state.state in (FAILED, DIVERGED):
            print(f"dfc: {state.run.name} {state.state}: {state.reason}", file=sys.stderr)
    if all(state.state == DONE for state in states):
        print(f"all runs with their settings: {merged}" if merged else "all runs are done")
    else:
        print(f"the same command takes what is unfinished; dfc sweep status {shlex.quote(str(folder.path))}")


def tell_jobs(folder, jobs, runs):
    """Say which jobs SLURM has now."""
    path = shlex.quote(str(folder.path))
    print(f"handed to SLURM: {len(runs)} runs as job {', '.join(jobs)}")
    print(
        f"status: dfc sweep status {path}; stop all: scancel {' '.join(jobs)}; nothing else has to stay running"
    )


def warn_of_limits(options, outlook, runs):
    """Say where a job may be too small for its runs."""
    memory, seconds = outlook.memory(runs), [outlook.needs[run.name].seconds for run in runs]
    if options.bytes is not None and memory > options.bytes:
        print(
            f"dfc: a run is expected to need {readable(memory)}, but slurm.memory = {options.memory!r}; raise it",
            file=sys.stderr,
        )
    longest = max((one for one in seconds if one is not None), default=0.0)
    if options.seconds is not None and longest > options.seconds:
        print(
            f"a run is expected to take up to {duration(longest)} with one thread, more than slurm.time = "
            f"{options.time!r}; it stops in time and goes on in the same job"
        )
