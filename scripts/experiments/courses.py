"""The courses of updates, feedback weights and stability while networks learn by several methods."""

import numpy as np
from learning import FEEDBACK_ONLY, preset, train

import dfc_numba as dfc
from dfc_numba.analysis.alignment import alignment
from dfc_numba.analysis.directions import reference_update
from dfc_numba.analysis.probe import probe_minibatch, probe_of
from dfc_numba.analysis.stability import STABLE, stability
from dfc_numba.runs.experiment import load_data
from dfc_numba.support import figures
from results import Results, panel, say

LATE = 0.5  # part of the epochs, at the end, over which the printed means run
FIXED = ", fixed Q"
UNCONTROLLED = "DFA"
BLUE, VERMILION, _, PINK, *_ = figures.COLOURS
LINES = {"DFC": (BLUE, 4.0), "DFC-SS": (VERMILION, 2.2), "DFC-SSA": ("black", 0.8), UNCONTROLLED: (PINK, 1.5)}
STABILITY_SAMPLES = 16
DRAWN = ("condition_2", "eigenvalue", "train_loss", "angle_mn", "angle_gn", "angle_bp")
NAMES = {
    "condition_2": "condition 2",
    "eigenvalue": r"$\max\ \mathrm{Re}\,\lambda$ of $-(JQ+\alpha I)$ ($1/\tau_u$)",
    "train_loss": "training loss",
    "angle_mn": "angle with MN (deg)",
    "angle_mn_damped": "angle with damped MN (deg)",
    "angle_gn": "angle with GN (deg)",
    "angle_bp": "angle with BP (deg)",
}


def report(name, options, presets, settings, *, drawn=DRAWN, **sizes):
    """Train with every method, print, draw and store.

    Args:
        name, options: as for `Results`. presets, settings, sizes: as for `run_courses`.
        drawn: the six columns of the data that are drawn, keys of `NAMES`.
    """
    results = Results(name, options)
    courses = list(run_courses(presets, settings, **sizes))
    print_means(results, courses)
    results.save(draw(courses, drawn), [row for course in courses for row in course.rows])


class Course:
    """Observes a run: `rows` has what is measured after each epoch, always on the same training samples.

    Attributes:
        stability: the `Stability` of some of these samples in the end; None where no controller is simulated.
    """

    def __init__(self, method, samples, damping):
        self.method, self.samples, self.damping = method, samples, damping
        self.rows, self.stability = [], None

    def on_start(self, trainer):
        self.trainer = trainer
        self.minibatch = probe_minibatch(
            trainer.network, trainer.dataset, trainer.config, samples=self.samples
        )

    def on_epoch(self, row):
        numbers = measured(self._probe(), self.minibatch.nudge)
        self.rows.append(
            {"method": self.method, "epoch": row["epoch"], "train_loss": row["train_loss"], **numbers}
        )

    def on_end(self, _outcome):
        probe = self._probe()
        if probe.simulates:
            arrays = (array[:STABILITY_SAMPLES] for array in (probe.x, probe.target))
            self.stability = stability(probe.network, *arrays, probe.controller)

    def _probe(self):
        return probe_of(self.trainer.network, self.minibatch, self.trainer.config, damping=self.damping)


def run_courses(presets, settings, *, pretraining_epochs, samples, damping=0.0):
    """Yield the `Course` of every method; those that learn their feedback weights begin with the same pre-trained ones.

    Args:
        presets: by method, the preset and what to change in it. settings: what to change in all.
        samples: size of the batch on which the updates are compared. damping: gamma of the damped MN update; 0 for none.
    """
    pretraining = FEEDBACK_ONLY | {"feedback.pretraining_epochs": pretraining_epochs}
    config = preset(presets["DFC"][0], settings | pretraining)
    dataset = load_data(config)
    say("pre-training of the feedback weights")
    pretrained = train(config, dataset).network
    for method, (name, changes) in presets.items():
        say(method)
        course = Course(method, samples, damping)
        if method == UNCONTROLLED or method.endswith(FIXED):
            train(preset(name, settings | changes), dataset, [course])
        else:
            changes = changes | {"feedback.pretraining_epochs": 0}
            train(preset(name, settings | changes), dataset, [course], pretrained.copy())
        yield course


def measured(probe, nudge):
    """Return the numbers of one `Probe`; of the feedback weights, NaN for a method without controller.

    As in the published comparisons, the minimum-norm update has the nonlinearity of the plasticity rule, and the largest
    eigenvalue is averaged over samples.
    """
    references = {kind: probe.reference(kind) for kind in ("gn", "bp")}
    options = {"loss": probe.loss, "step": nudge, "nonlinear": True}
    for damping in dict.fromkeys((0.0, probe.damping)):
        name = "mn_damped" if damping else "mn"
        references[name] = reference_update(probe.network, probe.x, probe.y, "mn", damping=damping, **options)
    angles = {f"angle_{kind}": alignment(probe.update, update).total for kind, update in references.items()}
    if probe.controller is None:
        return angles | {"condition_2": np.nan, "eigenvalue": np.nan, "angle_ssa": np.nan}
    return angles | {
        "condition_2": float(probe.conditions.condition_2.mean()),
        "eigenvalue": largest_eigenvalue(probe.network, probe.x, probe.controller.alpha),
        "angle_ssa": alignment(probe.update, probe.reference("ssa")).total,
    }


def largest_eigenvalue(network, x, alpha):
    """Return the largest real part of the eigenvalues of -(J Q + alpha I) in the feedforward state, mean over samples."""
    loop = dfc.output_jacobian(network, x) @ np.concatenate(network.feedback).astype(float)
    return float(-(np.linalg.eigvals(loop).real.min(axis=1) + alpha).mean())


def print_means(results, courses):
    """Print one row per method: means over the later epochs, the final loss, and stability as it is simulated."""
    names = [name for name in NAMES if name in courses[0].rows[0] and name != "train_loss"] + ["angle_ssa"]
    lines = []
    for course in courses:
        late = course.rows[int(LATE * len(course.rows)) :]
        means = [float(np.mean([row[name] for row in late])) for name in names]
        lines.append((course.method, *means, course.rows[-1]["train_loss"], *simulated(course)))
    columns = ("method", *names, "last loss", "dt", "largest stable dt", "stable samples")
    results.table([name.replace("_", " ") for name in columns], lines)


def simulated(course):
    """Return (dt, largest stable dt, fraction of the samples that are stable), texts; empty where nothing is simulated."""
    if course.stability is None:
        return "", "", ""
    found = course.stability
    numbers = course.trainer.config.controller.dt, found.largest_dt.min(), np.mean(found.verdict == STABLE)
    return [f"{number:.3g}" for number in numbers]


def draw(courses, drawn):
    """Draw six panels with a line per method, thinner ones on top; broken lines have fixed feedback weights."""
    figure = figures.new_figure(9.5, 5.4)
    grid = figure.subplots(2, 3, sharex=True)
    for letter, axes, column in zip("abcdef", grid.flat, drawn, strict=True):
        for course in courses:
            colour, width = LINES[course.method.removesuffix(FIXED)]
            style = (0, (7 / width, 5 / width)) if course.method.endswith(FIXED) else "-"
            epochs, values = ([row[key] for row in course.rows] for key in ("epoch", column))
            axes.plot(epochs, values, color=colour, linewidth=width, linestyle=style, label=course.method)
        panel(axes, letter, xlabel="epoch", ylabel=NAMES[column])
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.xaxis.label.set_visible(axes in grid[-1])
    lines = {line.get_label(): line for line in grid[1, 0].lines}
    figure.legend(lines.values(), lines, loc="outside lower center", ncols=4, frameon=False)
    return figure
