"""Progress of a run for people: live on a terminal, plain lines elsewhere; silent unless asked for.

A display is an observer of the trainer. Lines about epochs go to standard output, what changes in between to
standard error.
"""

import shlex
import shutil
import sys
import time
from math import isnan
from typing import Any

from dfc_numba.learning.observers import Observer
from dfc_numba.registry import Option
from dfc_numba.support import ranks
from dfc_numba.support.bars import NotebookBar, in_notebook
from dfc_numba.support.memory import readable
from dfc_numba.support.output import show

MINUTE = 60.0
COLUMNS = 80
TIME_UNITS = (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1))


class NoDisplay:
    """Shows nothing. A display is used as `with display:`, so that it can tidy up whatever happens."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


class LabelledDisplay(NoDisplay):
    """Base of the displays: their texts start with a label, and warnings go to standard error."""

    def __init__(self, label):
        self._label = label

    def on_divergence(self, epoch, tally):
        """Warn that feedback phases of the epoch diverged."""
        show(f"{self._label}warning: {tally.text(epoch)}", file=sys.stderr, flush=True)


class PlainDisplay(LabelledDisplay):
    """A line per epoch on standard output and, between them, a line every so often on standard error.

    Args:
        interval: seconds between the lines on standard error.
        label: what the lines on standard error start with.
    """

    def __init__(self, interval=MINUTE, label=""):
        super().__init__(label)
        self._interval = interval
        self._next_line = time.monotonic() + interval

    def on_start(self, trainer):
        """Take the number of epochs from the trainer."""
        self._epochs = epoch_counts(trainer.config)

    def on_minibatch(self, progress):
        """Print where the run stands, if the last line is long enough ago."""
        if time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + self._interval
            where = f"minibatch {progress.minibatch}/{progress.minibatches}"
            texts = [
                f"{self._label}{progress_text(progress, self._epochs)}, {where}",
                *progress_numbers(progress),
            ]
            show("  ".join(texts), file=sys.stderr, flush=True)

    def on_epoch(self, row):
        """Print the epoch's results."""
        show(epoch_line(row, self._epochs), flush=True)


class LiveDisplay(LabelledDisplay):
    """A bar on standard error that moves with every minibatch, and a line per epoch above it.

    Args:
        label: what the bar's text starts with.
    """

    def __init__(self, label=""):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        super().__init__(label)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
        )
        self._bar = Progress(
            *columns,
            console=Console(stderr=True),
            transient=True,
            expand=True,
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=True,
        )

    def on_start(self, trainer):
        """Show the bar."""
        self._epochs = epoch_counts(trainer.config)
        self._task = self._bar.add_task("starting", total=None, numbers="")
        self._bar.start()

    def on_minibatch(self, progress):
        """Move the bar."""
        self._bar.update(
            self._task,
            description=f"{self._label}{progress_text(progress, self._epochs)}",
            completed=progress.minibatch,
            total=progress.minibatches,
            numbers="  ".join(progress_numbers(progress)),
        )

    def on_epoch(self, row):
        """Print the epoch's results above the bar."""
        show(epoch_line(row, self._epochs), flush=True)

    def __exit__(self, *_):
        self._bar.stop()


class NotebookDisplay(LabelledDisplay):
    """A bar in the output of a notebook's cell that moves with every minibatch, and a line per epoch.

    Args:
        label: what the bar's text starts with.
    """

    def __init__(self, label=""):
        super().__init__(label)
        self._bar = None

    def on_start(self, trainer):
        """Show the bar."""
        self._epochs, self._bar = epoch_counts(trainer.config), NotebookBar()

    def on_minibatch(self, progress):
        """Move the bar."""
        texts = f"{self._label}{progress_text(progress, self._epochs)}", *progress_numbers(progress)
        self._bar.update(progress.minibatch, progress.minibatches, "  ".join(texts))

    def on_epoch(self, row):
        """Print the epoch's results."""
        show(epoch_line(row, self._epochs), flush=True)

    def __exit__(self, *_):
        if self._bar is not None:
            self._bar.close()


def choose_display(label=""):
    """Return a bar for terminals and notebooks, plain lines otherwise, nothing for ranks other than the root."""
    if not ranks.is_root():
        return NoDisplay()
    if sys.stderr.isatty():
        return LiveDisplay(label=label)
    return NotebookDisplay(label=label) if in_notebook() else PlainDisplay(label=label)


class ProgressBar(Observer):
    """Show a bar that moves with every minibatch, and the results of each epoch: `Trainer(..., observers=[dfc.ProgressBar()])`.

    On a terminal and in a notebook; elsewhere a line per epoch, and one every minute.

    Args:
        label: what the bar's text starts with.
    """

    label: str
    options = (Option("label", "", "what the bar's text starts with"),)

    def on_start(self, trainer: Any) -> None:
        """Show the bar."""
        super().on_start(trainer)
        self._display = choose_display(self.label)
        self._display.on_start(trainer)

    def on_minibatch(self, progress: Any) -> None:
        """Move the bar."""
        self._tell("on_minibatch", progress)

    def on_epoch(self, row: dict[str, Any]) -> None:
        """Print the epoch's results."""
        self._tell("on_epoch", row)

    def on_divergence(self, epoch: int, tally: Any) -> None:
        """Warn that feedback phases of the epoch diverged."""
        self._tell("on_divergence", epoch, tally)

    def on_end(self, outcome: Any) -> None:
        """Take the bar away."""
        self._display.__exit__(None, None, None)

    def on_error(self, error: BaseException) -> None:
        """Take the bar away."""
        self.on_end(None)

    def _tell(self, event, *arguments):
        getattr(self._display, event, lambda *_: None)(*arguments)


def announce(experiment, left_out=()):
    """Print what will run, where it is written to, and its expected needs."""
    training, sizes = experiment.config.training, "-".join(map(str, experiment.network.sizes))
    if left_out:
        show(f"left out, because these settings do not use it: {', '.join(left_out)}")
    show(experiment.dataset.summary)
    for note in experiment.dataset.notes:
        show(f"data: {note}")
    show(
        f"{training.method}, {sizes}, {training.dtype}, epochs: {training.epochs}, minibatches of "
        f"{training.batch_size}, seed {training.seed}; run directory {experiment.directory.path}"
    )
    if experiment.directory.resumed:
        show(f"resumed after {_standing(experiment.trainer)}")
    show("preparing (the first time on a machine, the kernels are compiled) ...", flush=True)
    expected = experiment.expect()
    needs = f"time {expected_time(expected.seconds)}; memory about {size(expected.memory)}"
    show(f"expected, from a short trial: {needs}", flush=True)
    if experiment.trainer.log is not None:
        show(log_text(experiment), flush=True)
    if experiment.trainer.analysis is not None:
        show(analysis_text(experiment.trainer), flush=True)


def analysis_text(trainer):
    """Return how often a run will measure, and how long that takes."""
    times, seconds = trainer.analysis.expected(trainer)
    return f"analysis: {times} measurements, which add about {duration(seconds)}"


def log_text(experiment):
    """Return how much a run will log, and whether there is room for it."""
    log, folder = experiment.config.log, experiment.directory.path
    records, expected = experiment.trainer.log.expected(experiment.trainer)
    packed = "" if log.compression == "none" else f" before compression with {log.compression}"
    free = shutil.disk_usage(folder).free
    room = (
        ""
        if expected < free
        else f"; only {readable(free)} are available in {folder}: log less, or free some space"
    )
    kept = ""
    if not log.recipe_only and (left := left_out_samples(experiment.config, len(experiment.dataset.train))):
        kept = f"; of a minibatch's {left[1]} samples the first {left[0]} are kept (log.samples)"
    return f"log: {records} records, about {readable(expected)}{packed}{kept}{room}"


def left_out_samples(config, n_samples):
    """Return (logged samples, samples of the largest logged minibatch) where some are left out, else None."""
    log, batch = config.log, min(config.training.batch_size, n_samples)
    if not isinstance(log.samples, int):
        return None
    only_last = log.last_of_epoch and log.every is None and not log.minibatches
    largest = n_samples % batch or batch if only_last else batch
    return (log.samples, largest) if log.samples < largest else None


def _standing(trainer):
    """Return how far a run has come."""
    counters = trainer.counters
    return f"{len(trainer.rows)} epochs and {counters.minibatches} minibatches in all"


def resume_text(directory):
    """Return the command that resumes a stopped run."""
    return f"resume with: dfc train --out {shlex.quote(str(directory))} --resume"


def expected_time(seconds):
    """Return the expected time of what is about to start, or that it is unknown."""
    return "unknown, the trial run failed" if seconds is None else f"about {duration(seconds)}"


def conclude(result):
    """Print how the run ended and where its files are."""
    outcome, directory = result.outcome, result.directory
    if outcome.status != "done":
        show(f"dfc: {outcome.message} (complete epochs: {outcome.epochs})", file=sys.stderr)
    if outcome.status == "interrupted":
        show(f"dfc: {resume_text(directory)}", file=sys.stderr)
    if outcome.all_diverged:
        show("dfc: every feedback phase of the last epoch diverged; the exit code is 1", file=sys.stderr)
    if outcome.stopped_early:
        show(outcome.message)
    if result.rows:
        last, best = result.rows[-1], result.rows[outcome.best_epoch - 1]
        judge = "training" if isnan(best["val_loss"]) else "validation"
        show(
            f"test {_test_text(last)} at the end, {_test_text(best)} after epoch {outcome.best_epoch}, "
            f"the best on the {judge} set"
        )
    files = sorted(file.name for file in directory.iterdir() if not file.name.startswith("."))
    show(f"results: {directory} ({', '.join(files)})", flush=True)


def _test_text(row):
    """Return the test result: the accuracy, or for a regression the loss."""
    accuracy = row["test_accuracy"]
    return f"loss {row['test_loss']:.4g}" if isnan(accuracy) else f"accuracy {100 * accuracy:.2f} %"


def epoch_counts(config):
    """Return numbers of epochs by phase, for texts such as "epoch 2/5"."""
    return {"pretraining": config.feedback.pretraining_epochs, "forward": config.training.epochs}


def progress_text(progress, epochs):
    """Return phase and epoch, such as "feedback 2/5"."""
    return f"{progress.phase} {progress.epoch}/{epochs.get(progress.phase, epochs['forward'])}"


def progress_numbers(progress):
    """Return loss, accuracy and time left, as far as they are known."""
    texts = []
    if progress.loss is not None:
        texts.append(f"loss {progress.loss:.4g}")
    if progress.accuracy is not None:
        texts.append(f"accuracy {100 * progress.accuracy:.2f} %")
    if progress.seconds_left is not None:
        texts.append(f"{duration(progress.seconds_left)} left")
    return texts


def epoch_line(row, epochs):
    """Return the results of an epoch on one line, of at most 80 columns where that is possible."""
    width, counted = len(str(epochs["forward"])), f"{row['epoch']}/{epochs['forward']}"
    start = f"epoch {counted:>{2 * width + 1}}"
    seconds = duration(row["seconds"])
    if "analysis_seconds" in row:
        seconds += f" + {duration(row['analysis_seconds'])} analysis"
    for gap, digits, brackets in (("   ", 4, True), ("  ", 3, False), ("  ", 2, False), (" ", 2, False)):
        scores = [
            text for name in ("train", "val", "test") if (text := score_text(row, name, digits, brackets))
        ]
        line = gap.join([start, *scores, seconds])
        if len(line) <= COLUMNS:
            break
    return line


def score_text(row, name, digits=4, brackets=True):
    """Return loss and accuracy of one split; empty where there is none."""
    loss, accuracy = row[f"{name}_loss"], row[f"{name}_accuracy"]
    if isnan(loss):
        return ""
    text, percent = f"{name} {loss:.{digits}g}", f"{100 * accuracy:.2f} %"
    return text if isnan(accuracy) else f"{text} ({percent})" if brackets else f"{text} {percent}"


def duration(seconds):
    """Return seconds as people write them: 0.4 s, 12 s, 3 min 20 s, 5 h 10 min, 4 d 3 h."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    seconds = round(seconds)
    for unit, length, smaller, shorter in TIME_UNITS:
        if seconds >= length:
            rest = seconds % length // shorter
            return f"{seconds // length} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{seconds} s"


def size(n_bytes):
    """Return bytes as people write them: 35 MB, 1.2 GB."""
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.0f} MB"
