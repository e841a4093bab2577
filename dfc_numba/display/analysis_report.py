"""The tables of `dfc analyze`: what was measured, layer by layer, and which samples are unstable and why."""

import numpy as np

from dfc_numba.analysis.measurements import MEASUREMENTS, parts_name
from dfc_numba.analysis.results import sample_numbers
from dfc_numba.analysis.stability import STABLE, TOO_LARGE, VERDICTS

COLUMNS = 4  # as many subjects are shown one by one, and more of them in summary
SUMMARIES = {"mean": np.mean, "least": np.min, "greatest": np.max}
NAMED = 8  # samples that are named
TITLES = {
    "alignment": "alignment: angles in degrees of the update of the forward weights",
    "loss_decrease": "loss_decrease: of the loss, to first order, per unit of the norm of the step",
    "null_space": "null_space: of the update of the forward weights",
    "conditions": "conditions: of the theorems, means over samples; angles in degrees",
    "control": "control: in the steady state, by Newton's method",
    "stability": "stability: of the controlled network in its steady state, the worst sample; times in units of tau_u",
}


def watched(subjects):
    """The subjects, one by one, with a bar on standard error if that is a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(subjects, "measuring", console=console, transient=True, disable=not console.is_terminal)


def lines(notes, names, groups):
    """Lines of text about notes.

    Args:
        notes: from `results.noted`, by title. names: of the measurements. groups: that they belong to.
    """
    for group in groups:
        yield ""
        yield TITLES[group]
        yield from _table(notes, [name for name in names if MEASUREMENTS[name].group == group])
        if group == "stability" and "verdict" in names:
            yield from _verdicts(notes)


def _table(notes, names):
    """A row for each measurement, and each of its layers; a column for each note, or for a summary of many."""
    few = len(notes) <= COLUMNS
    body = [[name, *_cells(notes, name, few), MEASUREMENTS[name].long_name] for name in names]
    layered = {name: _layers(notes, name, few) for name in names if MEASUREMENTS[name].along == "layer"}
    table = [["", *(notes if few else SUMMARIES), ""]]
    for row in body:
        table += [row, *layered.get(row[0], [])]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for first, *cells, last in table:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths[1:-1], strict=True)]
        yield "  ".join(["", first.ljust(widths[0]), *padded, last]).rstrip()


def _cells(notes, name, few, layer=()):
    """The texts of a number of each note, or of its summaries."""
    numbers = [np.asarray(note[name])[layer] for note in notes.values()]
    if not few:
        known = [number for number in numbers if not np.isnan(number)]
        numbers = [summary(known) if known else np.nan for summary in SUMMARIES.values()]
    return [f"{number:.4g}" for number in numbers]


def _layers(notes, name, few):
    count = len(next(iter(notes.values()))[parts_name(name)])
    return [[f"  layer {n + 1}", *_cells(notes, parts_name(name), few, n), ""] for n in range(count)]


def _verdicts(notes):
    """What is wrong with how many samples, of each note or of all together."""
    if len(notes) <= COLUMNS:
        for title, note in notes.items():
            yield from _verdict(title, [note])
    else:
        yield from _verdict(f"{len(notes)} minibatches", list(notes.values()))


def _verdict(title, notes):
    """Sentences about the samples of some notes together."""
    codes, largest, radius = (
        np.concatenate([note[f"{name}_sample"] for note in notes])
        for name in ("verdict", "largest_dt", "euler_radius")
    )
    numbers = np.concatenate([sample_numbers(note) for note in notes])
    stable = np.count_nonzero(codes == VERDICTS.index(STABLE))
    yield f"  {title}: {stable} of {len(codes)} samples are stable"
    for code, verdict in enumerate(VERDICTS):
        chosen = np.flatnonzero(codes == code)
        if len(chosen) and verdict != STABLE:
            facts = _facts(verdict, radius[chosen], largest[chosen])
            yield f"    {verdict}: {len(chosen)}, {_named(numbers[chosen])}; {facts}"


def _named(numbers):
    more = f" and {len(numbers) - NAMED} more" if len(numbers) > NAMED else ""
    return f"sample{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers[:NAMED]))}{more}"


def _facts(verdict, radius, largest):
    """What helps, with numbers."""
    if verdict == TOO_LARGE:
        return f"all of them are stable up to controller.dt = {largest.min():.4g}, each by itself up to {_range(largest)}"
    if np.isnan(radius).all():
        return "Newton's method has not found any"
    return f"deviations grow by a factor of {_range(radius)} per step, whatever dt is"


def _range(numbers):
    least, greatest = f"{numbers.min():.4g}", f"{numbers.max():.4g}"
    return least if least == greatest else f"{least} to {greatest}"
