"""Progress of a run for people: live on a terminal, plain lines elsewhere; silent unless asked for.

A display is an observer of the trainer. Lines about epochs go to standard output, what changes in between to
standard error.
"""

import shlex
import shutil
import sys
import time
from math import isnan

from dfc_numba.learning.divergence import CONTROL_REMEDY
from dfc_numba.support import ranks
from dfc_numba.support.memory import readable
from dfc_numba.support.output import show

MINUTE = 60.0
TIME_UNITS = (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1))


class NoDisplay:
    """Shows nothing. A display is used as `with display:`, so that it can tidy up whatever happens."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


class LabelledDisplay(NoDisplay):
    """What displays have in common: their texts start with a label, and warnings go to standard error."""

    def __init__(self, label):
        self._label = label

    def on_divergence(self, epoch, tally):
        """Warns that feedback phases of the epoch diverged."""
        show(f"{self._label}{divergence_text(epoch, tally)}", file=sys.stderr, flush=True)


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
        """Learns how many epochs there will be."""
        self._epochs = epoch_counts(trainer.config)

    def on_minibatch(self, progress):
        """Prints where the run stands, if the last line is long enough ago."""
        if time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + self._interval
            where = f"minibatch {progress.minibatch}/{progress.minibatches}"
            texts = [
                f"{self._label}{progress_text(progress, self._epochs)}, {where}",
                *progress_numbers(progress),
            ]
            show("  ".join(texts), file=sys.stderr, flush=True)

    def on_epoch(self, row):
        """Prints the epoch's results."""
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
        """Shows the bar."""
        self._epochs = epoch_counts(trainer.config)
        self._task = self._bar.add_task("starting", total=None, numbers="")
        self._bar.start()

    def on_minibatch(self, progress):
        """Moves the bar."""
        self._bar.update(
            self._task,
            description=f"{self._label}{progress_text(progress, self._epochs)}",
            completed=progress.minibatch,
            total=progress.minibatches,
            numbers="  ".join(progress_numbers(progress)),
        )

    def on_epoch(self, row):
        """Prints the epoch's results above the bar."""
        show(epoch_line(row, self._epochs), flush=True)

    def __exit__(self, *_):
        self._bar.stop()


def choose_display(label=""):
    """A live display where standard error is a terminal, plain lines elsewhere; nothing of ranks beside the root."""
    if not ranks.is_root():
        return NoDisplay()
    return LiveDisplay(label=label) if sys.stderr.isatty() else PlainDisplay(label=label)


def in_notebook():
    """Whether the program runs in a notebook, which shows rich output."""
    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    return shell is not None and type(shell).__name__ == "ZMQInteractiveShell"


def announce(experiment, left_out=()):
    """Says on standard output what will run, where it is written to, and what it is expected to need."""
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
    """How often a run will measure, and how long that takes."""
    times, seconds = trainer.analysis.expected(trainer)
    return f"analysis: {times} measurements, about {duration(seconds)} in all, which come on top"


def log_text(experiment):
    """How much a run will log, and whether there is room for it."""
    log, folder = experiment.config.log, experiment.directory.path
    records, expected = experiment.trainer.log.expected(experiment.trainer)
    packed = "" if log.compression == "none" else f" before compression with {log.compression}"
    free = shutil.disk_usage(folder).free
    room = (
        ""
        if expected < free
        else f"; only {readable(free)} are available in {folder}: log less, or free some space"
    )
    return f"log: {records} records, about {readable(expected)}{packed}{room}"


def _standing(trainer):
    """How far a run has come."""
    counters = trainer.counters
    return f"{len(trainer.rows)} epochs and {counters.minibatches} minibatches in all"


def resume_text(directory):
    """How to go on with a run that stopped."""
    return f"go on with: dfc train --out {shlex.quote(str(directory))} --resume"


def expected_time(seconds):
    """Seconds until the end of what is about to start, or that they are unknown."""
    return "unknown, the trial did not end well" if seconds is None else f"about {duration(seconds)}"


def conclude(result):
    """Says on standard output how the run ended and where its files are."""
    outcome, directory = result.outcome, result.directory
    if outcome.status != "done":
        show(f"dfc: {outcome.message} (complete epochs: {outcome.epochs})", file=sys.stderr)
    if outcome.status == "interrupted":
        show(f"dfc: {resume_text(directory)}", file=sys.stderr)
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
    """What counts on the test set: the accuracy, or for a regression the loss."""
    accuracy = row["test_accuracy"]
    return f"loss {row['test_loss']:.4g}" if isnan(accuracy) else f"accuracy {100 * accuracy:.2f} %"


def epoch_counts(config):
    """Numbers of epochs by phase, for texts such as "epoch 2/5"."""
    return {"pretraining": config.feedback.pretraining_epochs, "forward": config.training.epochs}


def progress_text(progress, epochs):
    """Phase and epoch, such as "feedback 2/5"."""
    return f"{progress.phase} {progress.epoch}/{epochs.get(progress.phase, epochs['forward'])}"


def progress_numbers(progress):
    """Loss, accuracy and time left, as far as they are known."""
    texts = []
    if progress.loss is not None:
        texts.append(f"loss {progress.loss:.4g}")
    if progress.accuracy is not None:
        texts.append(f"accuracy {100 * progress.accuracy:.2f} %")
    if progress.seconds_left is not None:
        texts.append(f"{duration(progress.seconds_left)} left")
    return texts


def epoch_line(row, epochs):
    """The results of an epoch on one line."""
    width = len(str(epochs["forward"]))
    parts = [f"epoch {row['epoch']:>{width}}/{epochs['forward']}"]
    parts += [text for name in ("train", "val", "test") if (text := score_text(row, name))]
    seconds = duration(row["seconds"])
    if "analysis_seconds" in row:
        seconds += f" + {duration(row['analysis_seconds'])} analysis"
    return "   ".join([*parts, seconds])


def divergence_text(epoch, tally):
    """A warning about the feedback phases of an epoch that diverged, or what a method flagged, and what helps."""
    of = f"{tally.diverged} of {tally.samples} samples ({100 * tally.diverged / tally.samples:.3g} %)"
    if tally.reason:
        return f"warning: in epoch {epoch} {of} {tally.reason}"
    return (
        f"warning: in epoch {epoch} the feedback phase diverged for {of}: at its end, the residual exceeded the feedforward "
        "output; "
        f"what helps: {CONTROL_REMEDY}, or more controller.steps where the error still falls; "
        "`dfc analyze RUN --what stability` names the largest stable dt"
    )


def score_text(row, name):
    """Loss and accuracy of one split; empty where there is none."""
    loss, accuracy = row[f"{name}_loss"], row[f"{name}_accuracy"]
    if isnan(loss):
        return ""
    return f"{name} {loss:.4g}" if isnan(accuracy) else f"{name} {loss:.4g} ({100 * accuracy:.2f} %)"


def duration(seconds):
    """Seconds as people say them: 0.4 s, 12 s, 3 min 20 s, 5 h 10 min, 4 d 3 h."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    seconds = round(seconds)
    for unit, length, smaller, shorter in TIME_UNITS:
        if seconds >= length:
            rest = seconds % length // shorter
            return f"{seconds // length} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{seconds} s"


def size(n_bytes):
    """Bytes as people say them: 35 MB, 1.2 GB."""
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.0f} MB"
