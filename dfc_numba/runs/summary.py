"""Tables and curves of a comparison: means and standard deviations over the seeds of each source.

comparison.csv      a row per run and epoch: preset, seed, status of the run, and the columns of metrics.csv
summary.csv         a row per preset: numbers of runs, and mean and standard deviation of each quantity
summary.md          the same as a table to read
runs.csv            of runs that were merged: a row per run, with its results at the end and at its best epoch, and all settings
comparison.png      test error (of a regression: test loss) and training loss against the epoch
"""

import csv
import io
import json
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from math import floor, isnan, log10, nan
from pathlib import Path

import numpy as np

from dfc_numba.runs.run_directory import METRICS
from dfc_numba.support import figures, foreign, seals
from dfc_numba.support.files import write_text

ROWS_NAME, SUMMARY_NAME, TABLE_NAME, FIGURE_NAME = (
    "comparison.csv",
    "summary.csv",
    "summary.md",
    "comparison.png",
)
RUNS_NAME = "runs.csv"
FILES = (ROWS_NAME, SUMMARY_NAME, TABLE_NAME, FIGURE_NAME)
CAPTION = (
    "Mean ± standard deviation over the seeds, after the last epoch or after the one that is best on the validation "
    "set.\nThe seconds per epoch leave out the first epoch, which includes the pre-training, where there are more."
)
STATUSES = ("done", "diverged", "failed")


@dataclass(frozen=True)
class Quantity:
    """A number that characterises a run.

    Attributes:
        key: name of its columns in summary.csv.
        title: heading in tables for people.
        of: function of an `Ended` that gives the number, NaN where the run has none.
        text: function of (mean, number) that writes the number with the digits that suit the mean.
    """

    key: str
    title: str
    of: Callable
    text: Callable


@dataclass(frozen=True)
class Summary:
    """The results of a source's runs.

    Attributes:
        name: the source.
        planned: number of runs.
        counts: how many of them ended how, by status.
        epochs: epochs of each.
        values: (mean, standard deviation) over the runs that are done, by key of the quantity; NaN for what
            there is not, such as the standard deviation of a single run.
    """

    name: str
    planned: int
    counts: Counter
    epochs: int
    values: dict


def _error(row):
    return 1 - row["test_accuracy"]


def _regression_loss(row):
    """Return the test loss where it is what counts, that is, where there is no accuracy."""
    return row["test_loss"] if isnan(row["test_accuracy"]) else nan


def _train_loss(row):
    return row["train_loss"]


def _last(ended):
    return ended.rows[-1]


def _best(ended):
    """Return the row of the epoch that is best on the validation set; NaN without such a set."""
    row = ended.rows[ended.best_epoch - 1]
    return dict.fromkeys(METRICS, nan) if isnan(row["val_loss"]) else row


def _epoch_seconds(ended):
    """Return the mean over the epochs after the first, which includes the pre-training, where there are any."""
    return mean_and_std([row["seconds"] for row in ended.rows[1:] or ended.rows])[0]


def _all_seconds(ended):
    return sum(row["seconds"] for row in ended.rows)


def _percent(_, number):
    return f"{100 * number:.2f}"


def _significant(digits):
    """Return a function that writes a number with as many decimals as give the mean this number of digits."""

    def text(centre, number):
        if not 1e-4 <= centre < 1e6:
            return f"{number:.{digits - 1}e}"
        return f"{number:.{max(0, digits - 1 - floor(log10(centre)))}f}"

    return text


_loss, _seconds = _significant(4), _significant(3)

QUANTITIES = (
    Quantity("test_error", "test error (%)", lambda ended: _error(_last(ended)), _percent),
    Quantity("best_test_error", "at best validation (%)", lambda ended: _error(_best(ended)), _percent),
    Quantity("test_loss", "test loss", lambda ended: _regression_loss(_last(ended)), _loss),
    Quantity("best_test_loss", "at best validation", lambda ended: _regression_loss(_best(ended)), _loss),
    Quantity("train_loss", "train loss", lambda ended: _train_loss(_last(ended)), _loss),
    Quantity("test_accuracy", "test accuracy (%)", lambda ended: _last(ended)["test_accuracy"], _percent),
    Quantity("epoch_seconds", "seconds per epoch", _epoch_seconds, _seconds),
    Quantity("seconds", "seconds in all", _all_seconds, _seconds),
)


def summarize(plan, ended):
    """Return the `Summary` of each source of a plan, from the runs that have `ended` so far."""
    return [_summary(source, plan, ended) for source in plan.sources]


def _summary(source, plan, ended):
    own = [each for each in ended if each.run.source is source]
    done = [each for each in own if each.status == "done"]
    return Summary(
        name=source.name,
        planned=sum(run.source is source for run in plan.runs),
        counts=Counter(each.status for each in own),
        epochs=source.config.training.epochs,
        values={quantity.key: mean_and_std([quantity.of(each) for each in done]) for quantity in QUANTITIES},
    )


def mean_and_std(numbers):
    """Return mean and sample standard deviation of a list; NaN for the mean of none and the deviation of one number."""
    centre = float(np.mean(numbers)) if numbers else nan
    return centre, float(np.std(numbers, ddof=1)) if len(numbers) > 1 else nan


def table(summaries):
    """Return heading and rows of a table for people, all texts, without the quantities that no source has."""
    shown = [
        quantity
        for quantity in QUANTITIES
        if not all(isnan(summary.values[quantity.key][0]) for summary in summaries)
    ]
    heading = ["preset", "runs", "epochs", *(quantity.title for quantity in shown)]
    return heading, [
        [
            summary.name,
            _runs_text(summary),
            str(summary.epochs),
            *(_text(quantity, *summary.values[quantity.key]) for quantity in shown),
        ]
        for summary in summaries
    ]


def _runs_text(summary):
    """Return how many runs the means are of, and what became of the others."""
    done = summary.counts["done"]
    if done == summary.planned:
        return str(done)
    others = [f"{count} {status}" for status, count in summary.counts.items() if status != "done"]
    return ", ".join([f"{done} of {summary.planned}", *others])


def _text(quantity, centre, spread):
    """Return the mean ± the standard deviation, as far as each exists."""
    numbers = [number for number in (centre, spread) if not isnan(number)]
    return " ± ".join(quantity.text(centre, number) for number in numbers)


def markdown(heading, rows):
    """Return a table in Markdown, aligned for reading as it is."""
    widths = [max(map(len, column)) for column in zip(heading, *rows, strict=True)]
    padded = [
        [cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in (heading, *rows)
    ]
    lines = [f"| {' | '.join(row)} |" for row in padded]
    return "\n".join([lines[0], f"|{'|'.join('-' * (width + 2) for width in widths)}|", *lines[1:]]) + "\n"


def write_tables(plan, ended):
    """Write comparison.csv, summary.csv and summary.md into the folder of the comparison, and SHA256SUMS of them."""
    summaries = summarize(plan, ended)
    rows = [
        {"preset": each.run.source.name, "seed": each.run.seed, "status": each.status, **row}
        for each in ended
        if each.status in STATUSES
        for row in each.rows
    ]
    (plan.directory / seals.SUMS_NAME).unlink(missing_ok=True)
    write_text(plan.directory / ROWS_NAME, _csv(["preset", "seed", "status", *METRICS], rows))
    rows = records(summaries)
    columns = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    write_text(plan.directory / SUMMARY_NAME, _csv(columns, rows))
    write_text(plan.directory / TABLE_NAME, f"{markdown(*table(summaries))}\n{CAPTION}\n")
    seals.write_sums(plan.directory, (ROWS_NAME, SUMMARY_NAME, TABLE_NAME))


def write_runs(plan, ended, settings):
    """Write runs.csv, without times and places: the same runs give the same bytes; return its path.

    Args:
        plan, ended: the runs, and how each `Ended`.
        settings: the `used_values` of each run.
    """
    records = []
    for each, values in sorted(
        zip(ended, settings, strict=True), key=lambda pair: pair[0].run.directory.name
    ):
        record = {"run": each.run.directory.name, "status": each.status, "epochs": len(each.rows)}
        record["best_epoch"] = each.best_epoch
        for name, place in (("last", len(each.rows)), ("best", each.best_epoch)):
            row = each.rows[place - 1] if 0 < place <= len(each.rows) else {}
            record |= {
                f"{name}_{key}": value for key, value in row.items() if key not in ("epoch", "seconds")
            }
        texts = {
            key: json.dumps(value) if isinstance(value, list | dict) else value
            for key, value in values.items()
        }
        records.append({**record, **texts})
    columns = dict.fromkeys(key for record in records for key in record)
    results = [key for key in columns if "." not in key]
    text = _csv([*results, *sorted(key for key in columns if "." in key)], records)
    write_text(plan.directory / RUNS_NAME, text)
    return plan.directory / RUNS_NAME


def records(summaries):
    """Return the rows of summary.csv as dicts, with None where there is no number (in the file: nothing)."""
    return [
        {
            key: None if isinstance(value, float) and isnan(value) else value
            for key, value in _record(one).items()
        }
        for one in summaries
    ]


def _record(summary):
    """Return the row of summary.csv."""
    counts = {status: summary.counts[status] for status in STATUSES}
    values = {
        f"{key}_{name}": number
        for key, numbers in summary.values.items()
        for name, number in zip(("mean", "std"), numbers, strict=True)
    }
    return {"preset": summary.name, "runs": summary.planned, **counts, "epochs": summary.epochs, **values}


def _csv(columns, rows):
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def draw(plan, ended):
    """Write the figure of the finished runs; return None, or a text that says why there is none."""
    courses = [(each.run.source.name, each.status, each.rows) for each in ended]
    panels, note = comparison_panels(courses)
    if not panels:
        return "no run is done"
    try:
        figures.draw(panels, plan.directory / FIGURE_NAME, note)
    except figures.MissingExtra as error:
        return str(error)
    return None


def read_courses(directory):
    """Return (name, status, rows) of each run of the folder of a comparison.

    Raises:
        OSError, ValueError: if its comparison.csv cannot be read.
    """
    path, courses = Path(directory) / ROWS_NAME, {}
    try:
        text = foreign.read_text(path)
        seals.warn_of_sums(path, text)
        rows = list(csv.DictReader(text.splitlines()))
        for row in rows:
            key = row.pop("preset"), row.pop("seed"), row.pop("status")
            courses.setdefault(key, []).append({name: float(value) for name, value in row.items()})
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{directory} is not a folder of a comparison: it has no {ROWS_NAME}; `dfc compare` makes one"
        ) from None
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise ValueError(f"{path} is not a table of a comparison ({error})") from None
    return [(name, status, rows) for (name, _, status), rows in courses.items()]


def comparison_panels(courses):
    """Return the `Panel`s of runs, two for the classifications and two for the regressions, and a note that explains them.

    Args:
        courses: of each run (name, status, rows with the columns of metrics.csv); only those that are done are drawn.
    """
    done = [(name, rows) for name, status, rows in courses if status == "done" and rows]
    errors = [course for course in done if not isnan(course[1][-1]["train_accuracy"])]
    losses = [course for course in done if isnan(course[1][-1]["train_accuracy"])]
    panels = []
    if errors:
        panels.append(_panel("test error (%)", errors, lambda row: 100 * _error(row)))
        panels.append(_panel("train loss", errors, _train_loss))
    if losses:
        panels.append(_panel("test loss", losses, _regression_loss))
        panels.append(_panel("train loss", losses, _train_loss))
    return panels, _note(courses, done, panels)


def _note(courses, done, panels):
    """Return what lines and bands are, and which runs are missing in them."""
    counts = Counter(name for name, _ in done)
    seeds = sorted({*counts.values()})
    number = " to ".join(map(str, dict.fromkeys([seeds[0], seeds[-1]]))) if seeds else ""
    sentences = [f"Lines: mean over {number} seeds" if seeds and seeds[-1] > 1 else "Lines: one run each"]
    if figures.has_bands(panels):
        sentences.append("bands: ± one standard deviation")
    lengths = defaultdict(set)
    for name, rows in done:
        lengths[name].add(len(rows))
    if any(len(each) > 1 for each in lengths.values()):
        sentences.append("as far as all seeds have epochs")
    others = Counter(status for _, status, rows in courses if status != "done" or not rows)
    if others:
        texts = ", ".join(f"{count} {status}" for status, count in others.items())
        sentences.append(f"left out: {texts} of {len(courses)} runs")
    return "; ".join(sentences) + "."


def _panel(title, done, of):
    """Return the curves of a quantity `of` a row, one curve per name."""
    runs = defaultdict(list)
    for name, rows in done:
        runs[name].append([of(row) for row in rows])
    return figures.Panel(title, [_curve(name, numbers) for name, numbers in runs.items()])


def _curve(name, runs):
    """Return mean and standard deviation over the runs, epoch by epoch, as far as all have them."""
    means, stds = zip(*map(mean_and_std, zip(*runs, strict=False)), strict=True)
    return figures.Curve(name, means, stds)
