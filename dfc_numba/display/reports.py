"""Tables and lines of text: what `dfc analyze`, `dfc compare` and `dfc inspect --analysis` say."""

import sys

import numpy as np

from dfc_numba.analysis import offline
from dfc_numba.analysis.measurements import measurement, parts_name
from dfc_numba.analysis.offline import as_phase
from dfc_numba.analysis.results import sample_numbers
from dfc_numba.analysis.stability import STABLE, TOO_LARGE, VERDICTS
from dfc_numba.display.progress import choose_display, expected_time
from dfc_numba.registry import MEASURES
from dfc_numba.runs import summary
from dfc_numba.runs.comparison import note_of_durations
from dfc_numba.storage.reader import open_trajectories
from dfc_numba.storage.replay import chosen
from dfc_numba.support.output import show

# --- dfc analyze --------------------------------------------------------------------------------------------

UNSTABLE_REMEDY = "lower controller.k_p, raise controller.alpha, or choose feedback weights closer to J^T"
LABELS = {"verdict": "stable"}  # of measurements whose names say something else
COLUMNS = 4  # as many subjects are shown one by one, and more of them in summary
SUMMARIES = {"mean": np.mean, "least": np.min, "greatest": np.max}
NAMED = 8  # samples that are named


def watched(subjects):
    """Return the subjects, one by one, with a bar on standard error if that is a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(subjects, "measuring", console=console, transient=True, disable=not console.is_terminal)


def analysis_lines(notes, names, groups):
    """Yield lines of text about notes.

    Args:
        notes: from `results.noted`, by title. names: of the measurements. groups: that they belong to.
    """
    for group in groups:
        yield ""
        yield f"{group}: {MEASURES[group].summary}".rstrip(": ")
        yield from _analysis_table(notes, [name for name in names if name in MEASURES[group].columns])
        if group == "stability" and "verdict" in names:
            yield from _verdicts(notes)


def _analysis_table(notes, names):
    """Yield a row for each measurement, and each of its layers; a column for each note, or for a summary of many."""
    few = len(notes) <= COLUMNS
    body = [
        [LABELS.get(name, name), *_cells(notes, name, few), measurement(name).long_name] for name in names
    ]
    layered = {name: _layers(notes, name, few) for name in names if measurement(name).along == "layer"}
    table = [["", *(notes if few else SUMMARIES), ""]]
    for name, row in zip(names, body, strict=True):
        table += [row, *layered.get(name, [])]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for first, *cells, last in table:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths[1:-1], strict=True)]
        yield "  ".join(["", first.ljust(widths[0]), *padded, last]).rstrip()


def _cells(notes, name, few, layer=()):
    """Return the texts of a number of each note, or of its summaries."""
    numbers = [np.asarray(note[name])[layer] for note in notes.values()]
    if not few:
        known = [number for number in numbers if not np.isnan(number)]
        numbers = [summary(known) if known else np.nan for summary in SUMMARIES.values()]
    return [f"{number:.4g}" for number in numbers]


def _layers(notes, name, few):
    count = len(next(iter(notes.values()))[parts_name(name)])
    return [[f"  layer {n + 1}", *_cells(notes, parts_name(name), few, n), ""] for n in range(count)]


def _verdicts(notes):
    """Yield what is wrong with how many samples, of each note or of all together."""
    if len(notes) <= COLUMNS:
        for title, note in notes.items():
            yield from _verdict(title, [note])
    else:
        yield from _verdict(f"{len(notes)} minibatches", list(notes.values()))


def _verdict(title, notes):
    """Yield sentences about the samples of some notes together."""
    codes, largest, radius = (
        np.concatenate([note[f"{name}_sample"] for note in notes])
        for name in ("verdict", "largest_dt", "euler_radius")
    )
    numbers = np.concatenate([sample_numbers(note) for note in notes])
    stable = np.count_nonzero(codes == VERDICTS.index(STABLE))
    yield f"  {title}: {stable} of {len(codes)} samples are stable"
    by_step = np.flatnonzero((codes == VERDICTS.index(STABLE)) & (largest == 0))
    if len(by_step):
        yield (
            f"    stable by the Euler step alone: {len(by_step)}, {_named(numbers[by_step])}; in continuous time they are "
            f"unstable, and a smaller dt would make them diverge: {UNSTABLE_REMEDY}"
        )
    for code, verdict in enumerate(VERDICTS):
        chosen = np.flatnonzero(codes == code)
        if len(chosen) and verdict != STABLE:
            facts = _facts(verdict, radius[chosen], largest[chosen])
            yield f"    {verdict}: {len(chosen)}, {_named(numbers[chosen])}; {facts}"


def _named(numbers):
    more = f" and {len(numbers) - NAMED} more" if len(numbers) > NAMED else ""
    return f"sample{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers[:NAMED]))}{more}"


def _facts(verdict, radius, largest):
    """Return the remedy, with numbers."""
    if verdict == TOO_LARGE:
        return f"all are stable up to controller.dt = {largest.min():.4g}, individually up to {_numbered(largest)}"
    if np.isnan(radius).all():
        return "Newton's method has not found one"
    return (
        f"perturbations grow by a factor of {_numbered(radius)} per step, and also in continuous time: a smaller dt does not "
        f"help; {UNSTABLE_REMEDY}"
    )


def _numbered(numbers):
    least, greatest = f"{numbers.min():.4g}", f"{numbers.max():.4g}"
    return least if least == greatest else f"{least} to {greatest}"


# --- dfc compare --------------------------------------------------------------------------------------------


def announce(plan):
    """Print which runs there are and where they are written to."""
    for source in plan.sources:
        if source.left_out:
            show(
                f"left out of {source.name}, because its settings do not use it: {', '.join(source.left_out)}"
            )
    if note := note_of_durations([source.config for source in plan.sources]):
        show(note)
    show(
        f"runs: {len(plan.runs)}, of {', '.join(source.name for source in plan.sources)}; in {plan.directory}"
    )
    show("preparing (the first time on a machine, the kernels are compiled) ...", flush=True)


def announce_outlook(outlook):
    """Print which data there are, what is done already, and how long the rest may take."""
    show("\n".join(outlook.datasets))
    if outlook.kept:
        show(f"runs that are done already, and kept: {outlook.kept}")
    show(f"expected, from short trials: time {expected_time(outlook.seconds)}", flush=True)


def display(run, number, n_runs):
    """Print which run starts, and return what shows its progress."""
    show(f"run {number}/{n_runs}: {run}", flush=True)
    return choose_display(f"run {number}/{n_runs}, ")


def tell_comparison(ended):
    """Report on standard error how a run ended that is not done."""
    if ended.status != "done":
        show(f"dfc: {ended.run}: {ended.message} ({ended.status})", file=sys.stderr, flush=True)


def conclude(plan, ended, no_figure):
    """Print what the runs gave and where the files are."""
    _print_table(*summary.table(summary.summarize(plan, ended)))
    show(summary.CAPTION)
    if no_figure:
        show(f"no figure: {no_figure}")
    if ended[-1].signal is not None:
        show("interrupted; run the same command again to do the remaining runs")
    files = [name for name in summary.FILES if (plan.directory / name).exists()]
    show(f"results: {plan.directory} ({', '.join(files)})", flush=True)


def conclude_merged(plan, ended, merged):
    """Print what merged runs gave and where the files are."""
    _print_table(*summary.table(summary.summarize(plan, ended)))
    show(summary.CAPTION)
    show(f"runs: {len(ended)}; with all settings: {merged}", flush=True)


def _print_table(heading, rows):
    """Print a table as Markdown, or on a terminal in the form that suits its width."""
    if not sys.stdout.isatty():
        show(summary.markdown(heading, rows), end="")
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    shown.add_column(Text(heading[0]), overflow="fold")
    for title in heading[1:]:
        shown.add_column(Text(title), justify="right", overflow="fold")
    for row in rows:
        shown.add_row(*map(Text, row))
    Console().print(shown)


# --- dfc inspect --analysis ---------------------------------------------------------------------------------

HEADING = ("", "mean", "std", "least", "greatest", "rms norm", "last norm")


def tell_records(path, *, phase=None, record=None):
    """Print the findings on records that have trajectories; for the arguments see `replay.replay`."""
    with open_trajectories(path) as file:
        for stored in chosen(file, phase, record):
            show("\n".join(record_lines(stored)), flush=True)


def record_lines(record):
    """Return lines of text about a `StoredRecord`, or why something cannot be computed."""
    where = f"{record.records.phase} {record.place}"
    try:
        source = as_phase(record)
    except ValueError as error:
        return [f"{where}: {error}"]
    facts = {
        f"error below {offline.CONVERGED_FRACTION:.0%}": lambda: _convergence(source),
        "residual": lambda: _range(offline.steady_state_residual(source)),
        "update": lambda: _update(record),
    }
    width = max(map(len, facts))
    found = [f"  {name:<{width}}  {_said(text)}" for name, text in facts.items()]
    return [
        f"{where}: {source.count} samples, {len(source.step)} time points",
        *found,
        *_record_table(source),
    ]


def _said(text):
    try:
        return text()
    except ValueError as error:
        return f"unknown: {error}"


def _convergence(source):
    times = offline.convergence_time(source, fraction=offline.CONVERGED_FRACTION)
    there = times[~np.isnan(times)]
    after = f" after {_range(there)} tau_u" if len(there) else ""
    return f"{len(there)} of {source.count} samples{after}"


def _update(record):
    deviations = offline.update_deviations(record)
    if deviations is None:
        return "none is stored that trajectories give"
    name = max(deviations, key=deviations.get)
    return f"the applied one differs from that of the trajectories by {deviations[name]:.2g} of its norm at most ({name})"


def _range(values):
    least, middle, greatest = np.min(values), np.median(values), np.max(values)
    return f"{least:.3g} to {greatest:.3g}, median {middle:.3g}"


def _record_table(source):
    """Return statistics over samples, time points and units: the mean of means, the extremes, the rms of norms."""
    names = [(name, None) for name in ("u", "e")]
    names += [("v_fb", layer) for layer in range(1, len(source.network.weights) + 1)]
    there = [(name, layer) for name, layer in names if source.has(name, layer)]
    rows = [HEADING, *(_row(name if layer is None else f"{name}_{layer}", offline.statistics(source, name, layer))
                       for name, layer in there)]  # fmt: skip
    return [
        "  " + "".join(f"{text:<8}" if n == 0 else f"{text:>12}" for n, text in enumerate(row))
        for row in rows
    ]


def _row(name, one):
    spread = np.sqrt(np.mean(one.std**2) + np.var(one.mean))
    numbers = (
        one.mean.mean(),
        spread,
        one.least.min(),
        one.greatest.max(),
        np.sqrt(np.mean(one.rms**2)),
        one.last.mean(),
    )
    return name, *(f"{number:.4g}" for number in numbers)
