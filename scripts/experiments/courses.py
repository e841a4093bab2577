"""The courses of updates, feedback weights and stability while networks learn by several methods.

A course that is finished is kept in a file, so that an experiment of hours goes on where it was interrupted.
"""

import json

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


def report(name, options, presets, settings, *, seeds=1, drawn=DRAWN, **sizes):
    """Train with every method and seed, print, draw and store.

    Args:
        name, options: as for `Results`. presets, settings, sizes: as for `run_courses`.
        seeds: number of seeds, from that of the options on.
        drawn: the six columns of the data that are drawn, keys of `NAMES`.
    """
    results = Results(name, options)
    courses = [
        course
        for seed in range(options.seed, options.seed + seeds)
        for course in run_courses(
            presets, settings | {"training.seed": seed}, results.path / f"seed-{seed}", **sizes
        )
    ]
    methods = {method: [course for course in courses if course.method == method] for method in presets}
    print_means(results, methods)
    results.save(draw(methods, drawn), [row for course in courses for row in course.rows])


class Course:
    """Observes a run: `rows` has what is measured after each epoch, always on the same training samples.

    Attributes:
        stability: (dt, largest stable dt, fraction of the samples that are stable) in the end; empty where no controller is
            simulated.
    """

    def __init__(self, method, seed, samples, damping):
        self.method, self.seed, self.samples, self.damping = method, seed, samples, damping
        self.rows, self.stability = [], []

    def on_start(self, trainer):
        self.trainer = trainer
        self.minibatch = probe_minibatch(
            trainer.network, trainer.dataset, trainer.config, samples=self.samples
        )

    def on_epoch(self, row):
        numbers = measured(self._probe(), self.minibatch.nudge)
        first = {"method": self.method, "seed": self.seed, "epoch": row["epoch"]}
        self.rows.append(first | {"train_loss": row["train_loss"]} | numbers)

    def on_end(self, _outcome):
        probe = self._probe()
        if probe.simulates:
            arrays = (array[:STABILITY_SAMPLES] for array in (probe.x, probe.target))
            found = stability(probe.network, *arrays, probe.controller)
            dt = float(self.trainer.config.controller.dt)
            self.stability = [dt, float(found.largest_dt.min()), float(np.mean(found.verdict == STABLE))]

    def _probe(self):
        return probe_of(self.trainer.network, self.minibatch, self.trainer.config, damping=self.damping)

    def write(self, path, settings):
        """Keep the finished course, with what it depends on."""
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        new.write_text(json.dumps({"settings": settings, "rows": self.rows, "stability": self.stability}))
        new.replace(path)

    def read(self, path, settings):
        """Take a finished course from a file; returns whether it is there, and depends on the same."""
        kept = json.loads(path.read_text()) if path.exists() else {}
        if kept.get("settings") != settings:
            return False
        self.rows, self.stability = kept["rows"], kept["stability"]
        return True


def run_courses(presets, settings, folder, *, pretraining_epochs, samples, damping=0.0):
    """Yield the `Course` of every method; those that learn their feedback weights begin with the same pre-trained ones.

    Args:
        presets: by method, the preset and what to change in it. settings: what to change in all.
        folder: where finished courses are kept, and taken from.
        samples: size of the batch on which the updates are compared. damping: gamma of the damped MN update; 0 for none.
    """
    pretraining = FEEDBACK_ONLY | {"feedback.pretraining_epochs": pretraining_epochs}
    config = preset(presets["DFC"][0], settings | pretraining)
    dataset, pretrained = load_data(config), None
    for method, (name, changes) in presets.items():
        course = Course(method, settings["training.seed"], samples, damping)
        depends = {
            **settings,
            **changes,
            "preset": name,
            "samples": samples,
            "damping": damping,
            **pretraining,
        }
        path = folder / f"{method.replace(', ', '-').replace(' ', '-')}.json"
        if not course.read(path, depends):
            say(f"{method}, seed {course.seed}")
            if method == UNCONTROLLED or method.endswith(FIXED):
                train(preset(name, settings | changes), dataset, [course])
            else:
                pretrained = pretrained or train(config, dataset).network
                changes = changes | {"feedback.pretraining_epochs": 0}
                train(preset(name, settings | changes), dataset, [course], pretrained.copy())
            course.write(path, depends)
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


def print_means(results, methods):
    """Print one row per method: means over the later epochs and the seeds, the final loss, and stability as it is simulated."""
    first = next(iter(methods.values()))[0].rows[0]
    names = [name for name in NAMES if name in first and name != "train_loss"] + ["angle_ssa"]
    lines = []
    for method, courses in methods.items():
        late = [row for course in courses for row in course.rows[int(LATE * len(course.rows)) :]]
        means = [float(np.mean([row[name] for row in late])) for name in names]
        losses = [course.rows[-1]["train_loss"] for course in courses]
        last = f"{np.mean(losses):.3g}" + (f" ± {np.std(losses, ddof=1):.2g}" if len(losses) > 1 else "")
        lines.append((method, *means, last, *simulated(courses)))
    columns = ("method", *names, "last loss", "dt", "largest stable dt", "stable samples")
    results.table([name.replace("_", " ") for name in columns], lines)


def simulated(courses):
    """Return (dt, largest dt that is stable with all seeds, fraction of stable samples); empty where nothing is simulated."""
    if not courses[0].stability:
        return "", "", ""
    dt, largest, stable = zip(*(course.stability for course in courses), strict=True)
    return [f"{number:.3g}" for number in (dt[0], min(largest), np.mean(stable))]


def draw(methods, drawn):
    """Draw six panels with a line per method, thinner ones on top; broken lines have fixed feedback weights.

    Lines are means over the seeds, bands reach from the smallest to the largest.
    """
    figure = figures.new_figure(9.5, 5.4)
    grid = figure.subplots(2, 3, sharex=True)
    for letter, axes, column in zip("abcdef", grid.flat, drawn, strict=True):
        for method, courses in methods.items():
            colour, width = LINES[method.removesuffix(FIXED)]
            style = (0, (7 / width, 5 / width)) if method.endswith(FIXED) else "-"
            epochs = [row["epoch"] for row in courses[0].rows]
            values = np.array([[row[column] for row in course.rows] for course in courses])
            axes.plot(
                epochs, values.mean(axis=0), color=colour, linewidth=width, linestyle=style, label=method
            )
            if len(courses) > 1:
                axes.fill_between(
                    epochs, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.2, linewidth=0
                )
        panel(axes, letter, xlabel="epoch", ylabel=NAMES[column])
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.xaxis.label.set_visible(axes in grid[-1])
    lines = {line.get_label(): line for line in grid[1, 0].lines}
    figure.legend(lines.values(), lines, loc="outside lower center", ncols=4, frameon=False)
    return figure
