"""The output of `dfc sweep`: the table of runs, the expected needs, the progress, and the ending."""

import shlex
import sys
import time

from dfc_numba.display.progress import duration
from dfc_numba.runs.comparison import note_of_durations
from dfc_numba.runs.summary import markdown
from dfc_numba.support.bars import NotebookBar, in_notebook
from dfc_numba.support.memory import readable
from dfc_numba.support.output import show
from dfc_numba.sweep import slurm_engine
from dfc_numba.sweep.sweep_folder import DIVERGED, DONE, FAILED, QUEUED, RUNNING, STATES, STOPPED

CODES = {0: "done", 75: "stopped"}


def announce(folder, planned, changes, outlook, states, runs):
    """Print what the sweep is, what changed, what is kept, and what the rest will need."""
    show(f"sweep {planned.name}: {len(planned.runs)} runs, in {folder.path}")
    for change in changes:
        show(f"changed since it was started: {change}")
    for line in dict.fromkeys(
        f"left out of {run.source}, because its settings do not use it: {', '.join(run.left_out)}"
        for run in planned.runs
        if run.left_out
    ):
        show(line)
    if note := note_of_durations([run.config for run in planned.runs]):
        show(note)
    show("\n".join(outlook.datasets))
    show(counted(states))
    seconds, disk = outlook.total(runs)
    each = (
        "unknown, a trial run failed"
        if seconds is None
        else f"{duration(seconds)} in all, one after the other"
    )
    if runs:
        show(
            f"to start: {len(runs)}; expected, from {outlook.trials} short trials: time {each}; memory up to "
            f"{readable(outlook.memory(runs))} a run; disk {readable(disk)}",
            flush=True,
        )
    failed = [state for state in states if state.state == FAILED and state.run not in runs]
    if failed:
        show(
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
    show(markdown(["index", "run", "state", "time", "memory", "disk"], rows), end="")


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
    show(markdown(["run", "state", "epoch", "accuracy", "job", "node", "log"], rows), end="")
    show(counted(states))
    complete, wanted = sum(state.epochs for state in states), sum(state.run.epochs for state in states)
    show(f"epochs: {complete} of {wanted}" + (f", {100 * complete / wanted:.0f} %" if wanted else ""))
    for state in states:
        if state.state in (FAILED, DIVERGED):
            show(f"{state.run.name} {state.state}: {state.reason}")
    if unreachable:
        show(f"dfc: the queue is not known: {unreachable}", file=sys.stderr)
    again = sum(state.state == STOPPED for state in states)
    if again:
        show(f"{again} stopped; the same dfc sweep takes what is unfinished")


class PlainSweepDisplay:
    """A line on standard output for each run that ends, and a line every minute on standard error."""

    INTERVAL = 60.0  # seconds between two looks at the runs under way

    def __init__(self, folder, total, done):
        self._folder, self._total, self._done = folder, total, done
        self._next_look = time.monotonic() + self.INTERVAL

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
        show(
            f"{self._done}/{self._total}  {run.name}: {how}, epoch {state.epochs}/{run.epochs}{accuracy}",
            flush=True,
        )

    def show(self, active):
        """Show how far the runs under way have come, if the last look is long enough ago."""
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + self.INTERVAL
            self._show([(run, self._folder.epochs(run)) for run in active])

    def _show(self, epochs):
        texts = [f"{run.name} {count}/{run.epochs}" for run, count in epochs]
        show(
            f"{self._done}/{self._total} ended; running: {', '.join(texts) or 'none'}",
            file=sys.stderr,
            flush=True,
        )


class LiveSweepDisplay(PlainSweepDisplay):
    """A bar for the whole sweep and one for each run under way, in epochs, on standard error."""

    INTERVAL = 1.0

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

    def _show(self, epochs):
        for run, count in epochs:
            if run.index in self._bars:
                self._bar.update(self._bars[run.index], completed=count)


class NotebookSweepDisplay(PlainSweepDisplay):
    """A bar for the whole sweep in the output of a notebook's cell, and a line for each run that ends."""

    INTERVAL = 1.0

    def __enter__(self):
        self._bar = NotebookBar()
        return self

    def __exit__(self, *_):
        self._bar.close()

    def _show(self, epochs):
        texts = ", ".join(f"{run.name} {count}/{run.epochs}" for run, count in epochs)
        self._bar.update(self._done, self._total, f"{self._done}/{self._total} runs; {texts}")


def choose_display(folder, total, done):
    """Return a live display where standard error is a terminal, a bar in a notebook, plain lines elsewhere."""
    if sys.stderr.isatty():
        return LiveSweepDisplay(folder, total, done)
    return (NotebookSweepDisplay if in_notebook() else PlainSweepDisplay)(folder, total, done)


def conclude(folder, states, merged):
    """Print how the sweep stands."""
    show(counted(states))
    for state in states:
        if state.state in (FAILED, DIVERGED):
            show(f"dfc: {state.run.name} {state.state}: {state.reason}", file=sys.stderr)
    if all(state.state == DONE for state in states):
        show(f"all runs with their settings: {merged}" if merged else "all runs are done")
    else:
        show(f"the same command takes what is unfinished; dfc sweep status {shlex.quote(str(folder.path))}")


def tell_jobs(folder, jobs, runs):
    """Print which jobs SLURM has now."""
    path = shlex.quote(str(folder.path))
    show(f"handed to SLURM: {len(runs)} runs as job {', '.join(jobs)}")
    show(
        f"status: dfc sweep status {path}; stop all: scancel {' '.join(jobs)}; nothing else has to stay running"
    )


def warn_of_limits(options, outlook, runs):
    """Print where a job may be too small for its runs."""
    memory, seconds = outlook.memory(runs), [outlook.needs[run.name].seconds for run in runs]
    if options.bytes is not None and memory > options.bytes:
        show(
            f"dfc: a run is expected to need {readable(memory)}, but slurm.memory = {options.memory!r}; raise it",
            file=sys.stderr,
        )
    longest = max((one for one in seconds if one is not None), default=0.0)
    if options.seconds is not None and longest > options.seconds:
        show(
            f"a run is expected to take up to {duration(longest)} with one thread, more than slurm.time = "
            f"{options.time!r}; it will stop in time and continue in the same job"
        )
