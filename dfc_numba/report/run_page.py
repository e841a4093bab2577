"""The sections of the page of a run: what was run, learning curves, the theory, logged minibatches, environment."""

import shlex
from functools import cache
from math import isfinite, isnan, nan

import numpy as np

from dfc_numba.analysis.stability import STABLE, VERDICTS
from dfc_numba.configuration.config_file import (
    descriptions,
    load_config,
    preset_names,
    used_values,
    value_text,
)
from dfc_numba.display.plots import PANELS, SCORES, SPLITS
from dfc_numba.display.progress import duration
from dfc_numba.extensions import explained
from dfc_numba.report import minibatches
from dfc_numba.report.page_parts import (
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
from dfc_numba.runs.run_directory import (
    ANALYSIS_NAME,
    CONFIG_NAME,
    KILLED,
    LOCK_NAME,
    METRICS,
    OWN,
    read_metrics,
    read_record,
)
from dfc_numba.storage.analysis_file import read_course, read_parts
from dfc_numba.support import environment, foreign
from dfc_numba.support.files import refuse_links
from dfc_numba.support.locks import holder_of

DAMAGED = "damaged"
STARTED_BY = ("train", "compare")  # commands whose line repeats the run
MOST_ROWS = 500  # of the table of epochs
MOST_VERDICTS = 12  # rows of the table of verdicts
PLAIN = {"$J^T$": "Jᵀ", "$J^+$": "J⁺", "$A_I$": "A_I", "$A_{PI}$": "A_PI", "(1/$\\tau_u$)": "(1/τᵤ)"}


def run_page(path):
    """Return the `Page` of a run directory; what cannot be read of it is in its notes.

    Raises:
        UnusableFileError: a file of the run is a symbolic link.
    """
    refuse_links(path, OWN)
    notes = []
    record = facts_of(path, notes)
    rows = rows_of(path, notes)
    values = settings(path, record, notes)
    parts = {
        "configuration": lambda: configuration_section(path, values),
        "learning curves": lambda: curves_section(rows),
        "logged minibatches": lambda: minibatches.section(path, notes),
        "theory": lambda: theory_section(path),
        "stability": lambda: stability_section(path, values, notes),
        "sessions": lambda: ending_section(record),
        "environment": lambda: environment_section(path, record),
    }
    sections = built(parts, notes)
    return Page(
        "run", path.resolve().name, status(path, record), run_summary(record, rows, values), notes, sections
    )


def facts_of(path, notes):
    """Return the content of run.json; an empty dict where there is none that can be read."""
    record = None
    with noting(notes, "run.json"):
        record = read_record(path)
        if record is None:
            notes.append(
                "run.json is missing or damaged: status, results and environment of the run are not known"
            )
    return record or {}


def rows_of(path, notes):
    """Return the rows of metrics.csv, numbers by column, NaN for what is not a number."""
    rows = []
    with noting(notes, "metrics.csv"):
        stored = read_metrics(path)
        rows = [{key: _number(text) for key, text in row.items() if key} for row in stored]
        sound = [row for row in rows if isfinite(row.get("epoch", nan))]
        if len(sound) < len(rows) or (rows and not {*METRICS} <= {*rows[0]}):
            notes.append("metrics.csv is damaged: rows or columns of it are missing")
        rows = sound
        if not rows:
            notes.append("no epoch is complete: there are no learning curves")
    return rows


def _number(text):
    try:
        return float(text)
    except (TypeError, ValueError):
        return nan


def settings(path, record, notes):
    """Return the `used_values` of the run's configuration, None where it cannot be read; extensions are never loaded."""
    with noting(notes, CONFIG_NAME), explained(record.get("extensions", [])):
        return used_values(load_config(str(path / CONFIG_NAME))[0])
    return None


def status(path, record):
    """Return the state of a run as a word."""
    if not record:
        return DAMAGED
    if record.get("status") != "running":
        return record.get("status", DAMAGED)
    return KILLED if holder_of(path / LOCK_NAME) is None else "running"


def run_summary(record, rows, values):
    """Return pairs (name, text) of what a run is and gave."""
    values, data = values or {}, record.get("data")
    best = _best(record, rows)
    found = {
        "ended": record.get("stop_reason"),
        "method": values.get("training.method"),
        "data": data.get("summary") if isinstance(data, dict) else values.get("data.name"),
        "hidden layers": "-".join(map(str, values.get("network.hidden") or [])),
        "seed": values.get("training.seed"),
        "epochs": f"{len(rows)} of {values['training.epochs']}" if "training.epochs" in values else len(rows),
        "at the end": _scores(rows[-1]) if rows else "",
        "at the best epoch": f"{_scores(best)} (epoch {best['epoch']:.0f})" if best else "",
        "started": record.get("started"),
        "time": duration(record["seconds"]) if record.get("seconds") else "",
    }
    return [(name, text_of(text)) for name, text in found.items() if text not in (None, "")]


def _best(record, rows):
    number = record.get("results", {}).get("best_epoch", 0)
    return next((row for row in rows if row["epoch"] == number), None)


def _scores(row):
    """Return what counts on the test set, as far as it was measured."""
    accuracy, loss = row.get("test_accuracy", nan), row.get("test_loss", nan)
    if isfinite(accuracy):
        return f"test accuracy {percent(accuracy)}"
    return f"test loss {loss:.4g}" if isfinite(loss) else f"train loss {row.get('train_loss', nan):.4g}"


# --- configuration ------------------------------------------------------------------------------------------


def configuration_section(path, values):
    """Return the configuration: what differs from the closest preset first, then all of it."""
    if values is None:
        return PageSection(
            "Configuration", code=[(f"{CONFIG_NAME}, as it is", foreign.read_text(path / CONFIG_NAME))]
        )
    preset, theirs = closest_preset(values)
    about, usual = _descriptions(values), _defaults()
    changed = [
        key
        for key in values
        if setting_text(values, key) != setting_text(theirs if key in theirs else usual, key)
    ]
    differing = PageTable(
        ["setting", "this run", f"preset {preset}", "meaning"],
        [[key, setting_text(values, key), setting_text(theirs, key), about.get(key, "")] for key in changed],
    )
    rest = PageTable(
        ["setting", "value", "meaning"],
        [[key, setting_text(values, key), about.get(key, "")] for key in values],
        folded=f"All {len(values)} settings",
    )
    which = "these settings differ from it, or from the defaults" if changed else "no setting differs from it"
    return PageSection(
        "Configuration", [f"The closest preset is {preset}; {which}."], [differing] * bool(changed) + [rest]
    )


def _defaults():
    """Return all settings as they are where nothing is stated, by `section.key`."""
    table = load_config(None)[0].model_dump(mode="json")
    return {f"{section}.{key}": value for section, keys in table.items() for key, value in keys.items()}


def closest_preset(values):
    """Return (name, `used_values`) of the preset from which the fewest settings differ."""
    presets = _presets()

    def distance(name):
        keys = {**values, **presets[name]}
        return sum(setting_text(values, key) != setting_text(presets[name], key) for key in keys)

    name = min(presets, key=distance)
    return name, presets[name]


@cache
def _presets():
    return {name: used_values(load_config(name)[0]) for name in preset_names()}


def setting_text(values, key):
    """Return the value of a setting as TOML states it."""
    return value_text(values[key]) if key in values else "unused"


def _descriptions(values):
    """Return what each key means."""
    config, _ = load_config(None, {"training.method": values["training.method"]})
    sections = dict.fromkeys(key.partition(".")[0] for key in values)
    return {
        f"{section}.{key}": text.replace("`", "")
        for section in sections
        for key, text in descriptions(section, config).items()
        if text
    }


# --- curves -------------------------------------------------------------------------------------------------


def curves_section(rows):
    """Return learning curves, and all numbers of the epochs."""
    if not rows:
        return None
    chosen = [rows[index] for index in thinned(len(rows))]
    epochs = [row["epoch"] for row in chosen]
    charts = []
    for score in SCORES:
        curves = {split: [row.get(f"{split}_{score}", nan) for row in chosen] for split in SPLITS}
        curves = {split: values for split, values in curves.items() if not all(map(isnan, values))}
        lines = [line(SPLITS[split], curves[split], number=number) for number, split in enumerate(curves)]
        if lines:
            log = score == "loss" and logarithmic(*curves.values())
            charts.append(chart(score, score, lines, x=epochs, log=log))
    columns = [name for name in METRICS if not all(isnan(row.get(name, nan)) for row in rows)]
    shown = rows[-MOST_ROWS:]
    table = PageTable(
        columns,
        [[text_of(row.get(name, nan)) for name in columns] for row in shown],
        folded=f"The numbers of {'all' if len(shown) == len(rows) else f'the last {len(shown)}'} epochs",
    )
    return PageSection("Learning curves", tables=[table], charts=charts)


# --- theory -------------------------------------------------------------------------------------------------


def theory_section(path):
    """Return what was measured of the theory while training; None where nothing was."""
    if not (path / ANALYSIS_NAME).is_file():
        return None
    measured = read_course(path / ANALYSIS_NAME)
    times = measured["minibatches"]
    chosen, charts = thinned(len(times)), []
    for title, unit, names in PANELS:
        found = {_plain(text): measured[name] for name, text in names.items() if name in measured}
        if found:
            lines = [line(text, array[chosen], number=n) for n, (text, array) in enumerate(found.items())]
            log = unit != "degrees" and logarithmic(*found.values())
            charts.append(
                chart(_plain(title), _plain(unit), lines, x_label="minibatches", x=times[chosen], log=log)
            )
    text = "Measured on a fixed probe batch of the training set, as the section [analysis] of the configuration says."
    return PageSection("Theory over training", [text], charts=charts) if charts else None


def _plain(text):
    for formula, letters in PLAIN.items():
        text = text.replace(formula, letters)
    return text


def stability_section(path, values, notes):
    """Return verdicts on the controlled network, and whether logged feedback phases converged; None without a controller."""
    text, tables, found = [], [], {}
    file, dt = path / ANALYSIS_NAME, (values or {}).get("controller.dt")
    if file.is_file():
        with noting(notes, "verdicts left out"):
            found = read_parts(file, ["verdict_sample", "largest_dt", "euler_radius"])
    if "verdict_sample" in found:
        tables.append(_verdicts(found))
        largest = found.get("largest_dt", np.array([nan]))[-1]
        if dt is not None and isfinite(largest):
            text.append(
                f"The Euler step of the controller is {dt:g}; in the last measurement it was stable up to {largest:.3g}."
            )
    elif dt is not None and not file.is_file():
        text.append(
            f"Not measured while training; dfc analyze {path.name} --what stability measures it of the weights."
        )
    phases = minibatches.outcomes(path)
    if phases:
        tables.append(
            PageTable(
                ["phase", "minibatches", "samples", "converged", "diverged"],
                [[phase, *map(str, counts)] for phase, counts in phases.items()],
                caption="Logged feedback phases",
                marked=tuple(n for n, counts in enumerate(phases.values()) if counts[-1]),
            )
        )
    return PageSection("Stability and divergence", text, tables) if text or tables else None


def _verdicts(found):
    """Return how many samples of the probe batch got which verdict, at some times."""
    codes, times = found["verdict_sample"], found["minibatches"]
    rows, marked = [], []
    for n, place in enumerate(thinned(len(times), MOST_VERDICTS)):
        counts = [np.count_nonzero(codes[place] == code) for code in range(len(VERDICTS))]
        facts = [found[name][place] if name in found else nan for name in ("euler_radius", "largest_dt")]
        rows.append([str(int(times[place])), *map(str, counts), *(text_of(float(fact)) for fact in facts)])
        marked += [n] * int(counts[VERDICTS.index(STABLE)] < sum(counts))
    return PageTable(
        ["minibatches", *VERDICTS, "spectral radius of the worst", "its largest stable dt"],
        rows,
        caption="Samples of the probe batch by verdict",
        marked=tuple(marked),
    )


# --- ending and environment ---------------------------------------------------------------------------------


def ending_section(record):
    """Return how the run and its earlier sessions ended; None for one that ended well at once."""
    sessions = [*record.get("earlier_sessions", []), record]
    if not record or (len(sessions) == 1 and record.get("status") == "done"):
        return None
    rows = [
        [str(n), *(text_of(session.get(key)) for key in ("status", "stop_reason", "started", "ended"))]
        for n, session in enumerate(sessions, 1)
    ]
    code = [
        (f"error of session {n}", str(session["traceback"]))
        for n, session in enumerate(sessions, 1)
        if session.get("traceback")
    ]
    table = PageTable(["session", "status", "reason", "started", "ended"], rows)
    return PageSection("Sessions, and how they ended", tables=[table], code=code)


def environment_section(path, record):
    """Return the commands that repeat the run, and what it ran on."""
    extensions = [fact.get("name", "") for fact in record.get("extensions", []) if isinstance(fact, dict)]
    repeat = [
        "dfc",
        "train",
        f"{path.name}/{CONFIG_NAME}",
        *(word for name in extensions for word in ("--extension", name)),
    ]
    code = [("from its configuration", shlex.join(map(str, repeat)))]
    if command := started_by(record):
        code.insert(0, ("as it was started", command))
    if isinstance(record.get("environment"), dict) and record["environment"]:
        code.append(("environment", "\n".join(environment.lines(record["environment"]))))
    return PageSection("Repeat it", code=code)


def started_by(record):
    """Return the line that started a run, where it starts it again; None otherwise, as for a run of a sweep, or of a script."""
    command = record.get("command")
    if isinstance(command, list) and command[1:2] and command[1] in STARTED_BY:
        return shlex.join(["dfc", *map(str, command[1:])])
    return None
