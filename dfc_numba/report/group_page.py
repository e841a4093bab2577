"""The sections of the page of a comparison or a sweep: tables over the seeds, curves of all runs, what differs between them."""

import shlex
import warnings
from collections import Counter
from dataclasses import dataclass
from math import isfinite, isnan, nan

from dfc_numba.configuration.config_file import used_values
from dfc_numba.display.progress import duration
from dfc_numba.report.page_parts import (
    DAMAGE,
    Page,
    PageSection,
    PageTable,
    built,
    chart,
    line,
    logarithmic,
    noting,
    percent,
    text_of,
    thinned,
)
from dfc_numba.report.run_page import (
    DAMAGED,
    facts_of,
    rows_of,
    run_summary,
    setting_text,
    settings,
    started_by,
    status,
)
from dfc_numba.runs import summary
from dfc_numba.runs.comparison import gather
from dfc_numba.runs.run_directory import CONFIG_NAME, OWN, holds_run
from dfc_numba.support.files import refuse_links
from dfc_numba.sweep.sweep_folder import DIVERGED, FAILED, TABLE_NAME, SweepFolder

MOST_COMMANDS = 20
MOST_COLUMNS = 5  # for a source each
MOST_LINES = 60  # runs that are drawn one by one beside the means
SEED = "training.seed"


def runs_in(path):
    """Return the run directories in a folder, in the order of their names."""
    return sorted(
        each for each in path.iterdir() if each.is_dir() and not each.name.startswith(".") and holds_run(each)
    )


def group_page(path):
    """Return the `Page` of the folder of a comparison or a sweep; runs that cannot be read are in its notes.

    Raises:
        UnusableFileError: a file of a run is a symbolic link.
    """
    notes, found = [], {}
    for directory in runs_in(path):
        refuse_links(directory, OWN)
        own = []
        record = facts_of(directory, own)
        rows, values = rows_of(directory, own), settings(directory, record, own)
        found[directory] = FoundRun(record, rows, values, status(directory, record))
        notes += [f"{directory.name}: {note}" for note in own]
    planned, ended = _gathered(
        [directory for directory, run in found.items() if run.values is not None], notes
    )
    sweep = None
    if (path / TABLE_NAME).exists():
        with noting(notes, TABLE_NAME):
            sweep = SweepFolder.open(path)
    parts = {
        "results": lambda: _table_section(planned, ended),
        "learning curves": lambda: _curves_section(planned, ended),
        "what differs": lambda: _differences_section(found, planned),
        "runs": lambda: _runs_section(found, sweep),
        "commands": lambda: _repeat_section(path, found),
    }
    kind = "comparison" if sweep is None else "sweep"
    return Page(kind, path.resolve().name, *_summary(found, sweep), notes, built(parts, notes))


@dataclass(frozen=True)
class FoundRun:
    """A run as far as it can be read: content of run.json, rows of metrics.csv, `used_values` (or None), status."""

    record: dict
    rows: list
    values: dict | None
    status: str


def _gathered(paths, notes):
    """Return what `comparison.gather` returns of the runs that it can read: (`Plan`, list of `Ended`), or (None, [])."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they say is noted for each run
        try:
            return gather(paths)[:2]
        except DAMAGE:
            sound = [path for path in paths if _can_be_gathered(path, notes)]
            return gather(sound)[:2] if sound else (None, [])


def _can_be_gathered(path, notes):
    """Return whether `comparison.gather` can read a run; if not, a note says so."""
    try:
        gather([path])
        return True
    except DAMAGE as error:
        notes.append(f"{path.name}: left out of the results: {error or type(error).__name__}")
        return False


def _summary(found, sweep):
    """Return (status of all as a word, pairs for the top of the page)."""
    states = (
        [run.status for run in found.values()] if sweep is None else [state.state for state in sweep.states()]
    )
    counts = Counter(states)
    word = "done" if set(states) == {"done"} else f"{counts['done']} of {len(states)} done"
    data = dict.fromkeys(
        dict(run_summary(run.record, run.rows, run.values)).get("data") for run in found.values()
    )
    seconds = sum(row.get("seconds", 0.0) for run in found.values() for row in run.rows)
    facts = {
        "runs": ", ".join(f"{count} {state}" for state, count in sorted(counts.items())),
        "time of all epochs": duration(seconds) if isfinite(seconds) else "",
        "data": "; ".join(filter(None, data)),
    }
    return word, [(name, text) for name, text in facts.items() if text]


def _table_section(planned, ended):
    """Return means and standard deviations over the seeds."""
    if planned is None:
        return None
    heading, rows = summary.table(summary.summarize(planned, ended))
    return PageSection("Results", [summary.CAPTION.replace("\n", " ")], [PageTable(heading, rows)])


def _curves_section(planned, ended):
    """Return test error or loss, and training loss of all runs, with the mean over the runs of a source that are done."""
    if planned is None:
        return None
    charts = []
    for title, key, scale in (
        ("test error (%)", "test_accuracy", lambda value: 100 * (1 - value)),
        ("test loss", "test_loss", lambda value: value),
        ("train loss", "train_loss", lambda value: value),
    ):
        lines, drawn = [], []
        for number, source in enumerate(planned.sources):
            own = [each for each in ended if each.run.source is source and each.rows]
            curves = [(each, [scale(row.get(key, nan)) for row in each.rows]) for each in own]
            curves = [(each, curve) for each, curve in curves if not all(map(isnan, curve))]
            done = [curve for each, curve in curves if each.status == "done"]
            if len(ended) <= MOST_LINES:
                lines += [
                    line(
                        "" if done else str(each.run),
                        curve,
                        range(1, len(curve) + 1),
                        number=number,
                        faint=True,
                    )
                    for each, curve in curves
                ]
            if done:
                means = [summary.mean_and_std(values)[0] for values in zip(*done, strict=False)]
                places = thinned(len(means))
                lines.append(line(source.name, [means[place] for place in places], places + 1, number=number))
            drawn += [value for _, curve in curves for value in curve]
        if lines:
            charts.append(chart(title, title, lines, log=logarithmic(drawn)))
    text = "Thick: the mean over the seeds that are done; thin: every run. The pointer shows what a line is."
    return PageSection("Learning curves", [text], charts=charts) if charts else None


def _differences_section(found, planned):
    """Return what differs between the runs besides the seed: a chart for each number, and tables."""
    values = {path: run.values for path, run in found.items() if run.values is not None}
    differing = varying(values.values())
    if not differing:
        return None
    shared = [key for key in differing if all(key in one for one in values.values())]
    charts = [one for key in shared if (one := _chart_against(key, found)) is not None]
    sources = {source.name: used_values(source.config) for source in planned.sources}
    some = [key for key in differing if key not in shared]
    tables = [_settings_table(shared, sources)] if shared else []
    if some:
        tables.append(_settings_table(some, sources, folded=f"Settings that only some use: {len(some)}"))
    return PageSection("What differs", tables=tables, charts=charts)


def _settings_table(keys, sources, folded=""):
    """Return the table of some settings of all sources, a column for each source, or where these are many a row."""
    heading, rows = (
        ["setting", *sources],
        [[key, *(setting_text(values, key) for values in sources.values())] for key in keys],
    )
    if len(sources) > MOST_COLUMNS:
        heading, *rows = zip(heading, *rows, strict=True)
    return PageTable(list(heading), [list(row) for row in rows], folded=folded)


def _chart_against(key, found):
    """Return the results of all runs against a setting; None where it is not a number."""
    scored = [(run.values[key], *_score(run.rows)) for run in found.values() if run.values is not None]
    scored = [each for each in scored if isfinite(each[1])]
    if not scored or any(
        isinstance(value, bool) or not isinstance(value, int | float) for value, *_ in scored
    ):
        return None
    x, y, names = zip(*sorted(scored), strict=True)
    return chart(f"{names[0]} against {key}", names[0], [line("", y, x, points=True)], x_label=key)


def varying(settings):
    """Return the settings, without the seed, that are not the same in all runs, of which these are the `used_values`."""
    settings = list(settings)
    keys = dict.fromkeys(key for values in settings for key in values if key != SEED)
    return [key for key in keys if len({setting_text(values, key) for values in settings}) > 1]


def _score(rows):
    """Return (number, name) of what counts at the end of a run: test error in percent, or test loss."""
    if not rows:
        return nan, "test error (%)"
    accuracy = rows[-1].get("test_accuracy", nan)
    if isfinite(accuracy):
        return 100 * (1 - accuracy), "test error (%)"
    return rows[-1].get("test_loss", nan), "test loss"


def _runs_section(found, sweep):
    """Return all runs: seed, state, epochs, scores, why it ended; with those of a sweep that have not begun."""
    rows, marked = [], []
    for path, run in found.items():
        last = run.rows[-1] if run.rows else {}
        marked += [len(rows)] * (run.status in (FAILED, DIVERGED, DAMAGED))
        rows.append(
            [
                path.name, text_of((run.values or {}).get(SEED)), run.status, str(len(run.rows)),
                percent(last.get("test_accuracy", nan)), text_of(last.get("test_loss", nan)),
                text_of(last.get("train_loss", nan)),
                text_of(run.record.get("stop_reason")),
            ]
        )  # fmt: skip
    if sweep is not None:
        absent = [state for state in sweep.states() if sweep.directory(state.run) not in found]
        rows += [
            [state.run.name, text_of(state.run.seed), state.state, "0", "", "", "", state.reason]
            for state in absent
        ]
    heading = ["run", "seed", "status", "epochs", "test accuracy", "test loss", "train loss", "how it ended"]
    return PageSection("All runs", tables=[PageTable(heading, rows, marked=tuple(marked))])


def _repeat_section(path, found):
    """Return the command that all runs were started with, and those that repeat single ones."""
    code = dict.fromkeys(line for run in found.values() if (line := started_by(run.record)))
    single = [
        shlex.join(["dfc", "train", f"{path.resolve().name}/{run.name}/{CONFIG_NAME}"]) for run in found
    ]
    more = [f"and {len(single) - MOST_COMMANDS} more"] * (len(single) > MOST_COMMANDS)
    shown = [("as it was started", "\n".join(list(code)[:MOST_COMMANDS]))] * bool(code)
    return PageSection(
        "Repeat it", code=[*shown, ("repeat one run", "\n".join([*single[:MOST_COMMANDS], *more]))]
    )
