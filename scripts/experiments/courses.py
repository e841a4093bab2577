"""How updates, feedback weights and stability change while networks learn: measured, printed and drawn for several methods."""

import numpy as np
from learning import FEEDBACK_ONLY, preset, train
from results import panel

from dfc_numba.analysis.alignment import alignment
from dfc_numba.analysis.directions import reference_update
from dfc_numba.analysis.measurements import available, measure
from dfc_numba.analysis.probe import probe_minibatch, probe_of
from dfc_numba.runs.experiment import load_data
from dfc_numba.support import figures

LATE = 0.5  # part of the epochs, at the end, over which the printed means run
FIXED = ", fixed Q"
UNCONTROLLED = "DFA"
COLOURS = dict(zip(("DFC", "DFC-SS", "DFC-SSA", UNCONTROLLED), figures.COLOURS, strict=False))
CONTROL = ("condition_2", "eig_instantaneous", "euler_radius", "angle_ssa")  # what DFA has not
MEASURED = (*CONTROL, "dev_r", "angle_mn", "angle_gn", "angle_bp")
PANELS = {  # the columns that are drawn, in this order
    "condition_2": "condition 2",
    "eig_instantaneous": r"$\max\ \mathrm{Re}\,\lambda$ of $-(JQ+\alpha I)$ ($1/\tau_u$)",
    "train_loss": "training loss",
    "angle_mn": "angle with MN (deg)",
    "angle_gn": "angle with GN (deg)",
    "angle_bp": "angle with BP (deg)",
}


def courses(presets, settings, pretraining_epochs, samples):
    """The rows of all methods; those that learn their feedback weights begin with the same pre-trained ones.

    Args:
        presets: by method, the preset and what to change in it. settings: what to change in all.
        samples: size of the batch on which the updates are compared.
    """
    pretraining = FEEDBACK_ONLY | {"feedback.pretraining_epochs": pretraining_epochs}
    config = preset(presets["DFC"][0], settings | pretraining)
    dataset = load_data(config)
    pretrained = train(config, dataset).network
    for method, (name, changes) in presets.items():
        course = Course(method, samples)
        if method == UNCONTROLLED or method.endswith(FIXED):
            train(preset(name, settings | changes), dataset, [course])
        else:
            changes = changes | {"feedback.pretraining_epochs": 0}
            train(preset(name, settings | changes), dataset, [course], pretrained.copy())
        yield from course.rows


class Course:
    """Observes a run: `rows` has what is measured after each epoch, always on the same training samples."""

    def __init__(self, method, samples):
        self.method, self.samples, self.rows = method, samples, []

    def on_start(self, trainer):
        self.trainer = trainer
        self.minibatch = probe_minibatch(
            trainer.network, trainer.dataset, trainer.config, samples=self.samples
        )

    def on_epoch(self, row):
        numbers = measured(self.trainer.network, self.minibatch, self.trainer.config)
        self.rows.append(
            {"method": self.method, "epoch": row["epoch"], "train_loss": row["train_loss"], **numbers}
        )


def measured(network, minibatch, config):
    """The numbers of one minibatch, NaN where a method has none.

    As in the published comparisons, the minimum-norm update has the nonlinearity of the plasticity rule, and the largest
    eigenvalue is averaged over samples.
    """
    probe = probe_of(network, minibatch, config)
    skipped = () if probe.controller else CONTROL
    names = [
        name for name in available(("alignment", "conditions", "stability"), probe.traits) if name in MEASURED
    ]
    numbers = measure(probe, [name for name in names if name not in skipped])
    options = {"loss": config.target.loss, "step": minibatch.nudge, "nonlinear": True}
    reference = reference_update(network, minibatch.x, minibatch.y, "mn", **options)
    numbers["angle_mn"] = alignment(probe.update, reference).total
    if "eig_instantaneous" in numbers:
        numbers["eig_instantaneous"] = float(np.nanmean(numbers["eig_instantaneous_sample"]))
    return {name: numbers.get(name, np.nan) for name in MEASURED}


def print_means(results, rows):
    """One row per method: means over the later epochs, and the loss in the end."""
    columns = [*MEASURED, "train_loss"]
    lines = []
    for method, mine in by_method(rows):
        late = mine[int(LATE * len(mine)) :]
        means = [float(np.mean([row[name] for row in late])) for name in MEASURED]
        lines.append((method, *means, mine[-1]["train_loss"]))
    results.table(("method", *columns), lines)


def by_method(rows):
    """(method, its rows) in the order in which the methods appear."""
    return [
        (name, [row for row in rows if row["method"] == name])
        for name in dict.fromkeys(row["method"] for row in rows)
    ]


def draw(rows):
    """Six panels with a line per method; broken lines have fixed feedback weights."""
    figure = figures.new_figure(10.5, 6)
    grid = figure.subplots(2, 3, sharex=True)
    for letter, axes, (column, name) in zip("abcdef", grid.flat, PANELS.items(), strict=True):
        for method, mine in by_method(rows):
            style = "--" if method.endswith(FIXED) else "-"
            colour = COLOURS[method.removesuffix(FIXED)]
            epochs, values = ([row[key] for row in mine] for key in ("epoch", column))
            axes.plot(epochs, values, color=colour, linestyle=style, label=method)
        panel(axes, letter, xlabel="epoch", ylabel=name)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.xaxis.label.set_visible(axes in grid[-1])
    lines = {line.get_label(): line for line in grid[1, 0].lines}
    figure.legend(lines.values(), lines, loc="outside lower center", ncols=4, frameon=False)
    return figure
