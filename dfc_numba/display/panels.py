"""The panels of one sample of a minibatch: placed, labelled and scaled alike, whatever is shown.

What is shown is an object with a `title`, a `time_label`, and `panels()`: functions of (axes, the object).
"""

import numpy as np

from dfc_numba.storage.record import StoredRecord

COLUMNS = 3
HUGE = 1e6
OTHERS = {"linewidth": 0.6, "color": "0.75"}


def draw(figure, shown):
    """Draws the panels of what is shown into a figure or a part of one."""
    functions = shown.panels()
    grid = list(figure.subplots(rows(shown), COLUMNS, squeeze=False).flat)
    for axes, function in zip(grid, functions):
        function(axes, shown)
        axes.set_xlabel(shown.time_label)
        _suit_numbers(axes)
        axes.grid(alpha=0.3)
        axes.margins(x=0.01)
        axes.legend(
            loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize="small", handlelength=1.6
        )
    for axes in grid[len(functions) :]:
        axes.remove()
    figure.suptitle(shown.title, x=0.01, horizontalalignment="left", weight="bold")


def rows(shown):
    """How many rows of panels there are."""
    return -(-len(shown.panels()) // COLUMNS)


def scale(*arrays):
    """Logarithmic, unless there is nothing above zero."""
    return "log" if any((array[np.isfinite(array)] > 0).any() for array in arrays) else "linear"


def wide_scale(*arrays):
    """Logarithmic where the largest number is more than ten times the smallest one above zero."""
    found = [array[np.isfinite(array) & (array > 0)] for array in arrays]
    found = np.concatenate([np.ravel(array) for array in found])
    return "log" if len(found) and found.max() > 10 * found.min() else "linear"


def place_of(sample, stored):
    """The place of a sample among the stored ones, of which the first is taken for None; ValueError for one that is not."""
    position = stored[0] if sample is None else sample
    if position not in stored:
        raise ValueError(f"sample {sample} is not stored; there are {', '.join(map(str, stored))}")
    return list(stored).index(position)


def heading(record, recipe, position):
    """The title of a record, or of a trajectory that is in no file, and of a sample."""
    where = "simulation" if recipe is None else recipe.phase
    if isinstance(record, StoredRecord):
        where += f", record {record.place}"
    if recipe is not None and recipe.epoch:
        where += f" (epoch {recipe.epoch}, minibatch {recipe.minibatch})"
    return f"{where}, sample {position}"


def _suit_numbers(axes):
    """Short labels for small numbers; what has diverged is shown from its beginning on, in a symmetric logarithm."""
    if axes.get_yscale() == "linear" and np.abs(axes.get_ylim()).max() > HUGE:
        axes.set_yscale("symlog")
    elif axes.get_yscale() == "linear":
        axes.ticklabel_format(axis="y", scilimits=(-2, 4), useMathText=True)
