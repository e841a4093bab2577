#!/usr/bin/env python
"""Feedback weights learned from noise (figures of appendix C of Deep Feedback Control, arXiv:2106.07887).

    python scripts/experiments/feedback_learning.py [--out DIR] [--seed N] [--quick]

Networks with 20 inputs, 10 hidden units (linear or tanh) and 5 linear outputs; their random feedback weights Q learn with
the published settings, while the forward weights stay. The angle of Q with J^T (J J^T + gamma I)^{-1}, mean over samples,
epoch by epoch:

left:    for several gamma; 0 gives the pseudo-inverse of J, a large one J^T (leak alpha = 0.5, gain k_p = 0)
middle:  for several leaks alpha of the controller, with gamma = 5 (k_p = 0.3)
right:   for several proportional gains k_p, with gamma = 5 (alpha = 0.1)
"""

import sys
from dataclasses import dataclass

import numpy as np
from learning import FEEDBACK_ONLY, TINY_TEACHER, preset, train

from dfc_numba.analysis.conditions import conditions
from dfc_numba.runs.experiment import load_data
from dfc_numba.support import figures
from results import Results, panel, parser, say

ACTIVATIONS = ("linear", "tanh")
GAMMAS = (0.0, 0.1, 1.0, 5.0, 10.0, 100.0, 1000.0)
GAMMA = 5.0  # where the controller is varied
LEAKS = (0.0, 0.1, 1.0)
GAINS = (0.0, 0.1, 1.0)
SAMPLES = 128  # over which angles are averaged
PUBLISHED = FEEDBACK_ONLY | {
    "data.options.n_inputs": 20,
    "network.hidden": "[10]",
    "feedback.pretraining_epochs": 25,
    "feedback_controller.dt": 0.001,
    "feedback_controller.steps": 299,
    "feedback_controller.tau_v": 0.005,
    "feedback_optimizer.weight_decay": 0.01,
}
QUICK = TINY_TEACHER | {"feedback.pretraining_epochs": 2, "feedback_controller.steps": 20}


@dataclass(frozen=True)
class Curve:
    """The angles (degrees) of one line before learning and after each epoch.

    best: in the end, the gamma that fits best, the angle there, and that with the mean of the matrices over samples.
    """

    activation: str
    varied: str
    value: float
    angles: tuple
    best: tuple


class Angles:
    """Observes a run: the angles of Q with damped pseudo-inverses before it begins, and after each epoch."""

    def __init__(self, x, gammas):
        self.x, self.gammas, self.values = x, gammas, []

    def on_start(self, trainer):
        self.network = trainer.network
        self._measure()

    def on_minibatch(self, progress):
        if progress.phase == "pretraining" and progress.minibatch == progress.minibatches:
            self._measure()

    def _measure(self):
        measured = (conditions(self.network, self.x, damping=gamma) for gamma in self.gammas)
        self.values.append([float(one.angle_damped.mean()) for one in measured])

    def curves(self, activation, varied, values):
        """Return one `Curve` per gamma; `values` are what the lines are named by."""
        end = conditions(self.network, self.x)
        best = float(np.median(end.damping)), float(end.angle_damped.mean()), float(end.mean_angle_damped)
        columns = zip(values, np.transpose(self.values).tolist(), strict=True)
        return [Curve(activation, varied, value, tuple(angles), best) for value, angles in columns]


def main(arguments=None):
    """Learn, print, draw."""
    options = parser(__doc__).parse_args(arguments)
    results = Results("feedback-learning", options)
    curves = list(all_curves(options))
    print_ends(results, curves)
    results.save(draw(curves), list(rows(curves)))


def all_curves(options):
    """Return the curves: one run for all gammas, one for every leak and every gain, with linear and with tanh units."""
    settings = PUBLISHED | {"training.seed": options.seed} | (QUICK if options.quick else {})
    dataset = load_data(preset("student-teacher", settings))
    for activation in ACTIVATIONS:

        def learn(varied, values, gammas, alpha, k_p, activation=activation):
            say(f"{activation}, alpha = {alpha:g}, k_p = {k_p:g}")
            changed = {"feedback_controller.alpha": alpha, "feedback_controller.k_p": k_p}
            config = preset("student-teacher", settings | changed | {"network.hidden_activation": activation})
            angles = Angles(dataset.train.x[:SAMPLES], gammas)
            train(config, dataset, observers=[angles])
            return angles.curves(activation, varied, values)

        yield from learn("gamma", GAMMAS, GAMMAS, alpha=0.5, k_p=0.0)
        for alpha in LEAKS:
            yield from learn("alpha", (alpha,), (GAMMA,), alpha=alpha, k_p=0.3)
        for k_p in GAINS:
            yield from learn("k_p", (k_p,), (GAMMA,), alpha=0.1, k_p=k_p)


def print_ends(results, curves):
    """Print one row per curve."""
    columns = (
        "units",
        "varied",
        "value",
        "angle before (deg)",
        "after",
        "best gamma",
        "angle with it",
        "with their mean",
    )
    results.table(
        columns,
        [
            (one.activation, one.varied, f"{one.value:g}", one.angles[0], one.angles[-1], *one.best)
            for one in curves
        ],
    )


def rows(curves):
    """Yield all angles."""
    for one in curves:
        for epoch, angle in enumerate(one.angles):
            yield {
                "units": one.activation, "varied": one.varied, "value": one.value, "epoch": epoch, "angle": angle
            }  # fmt: skip


def draw(curves):
    """Draw a row of panels per activation, a column per quantity that is varied."""
    names = {"gamma": r"$\gamma$", "alpha": r"$\alpha$", "k_p": "$k_P$"}
    figure = figures.new_figure(9.5, 5.4)
    grid = figure.subplots(len(ACTIVATIONS), len(names), sharex=True, sharey=True)
    for letter, axes, (activation, varied) in zip(
        "abcdef", grid.flat, [(a, v) for a in ACTIVATIONS for v in names], strict=True
    ):
        shown = [one for one in curves if (one.activation, one.varied) == (activation, varied)]
        for shade, one in zip(shades(len(shown)), shown, strict=True):
            axes.plot(one.angles, color=shade, label=f"{names[varied]} = {one.value:g}")
        axes.set(ylim=(0, 95), yticks=range(0, 91, 15))
        panel(axes, letter, xlabel="epoch", ylabel="angle with $Q$ (deg)", title=f"{activation} units")
        axes.label_outer()
        axes.legend(frameon=False, fontsize="small", ncols=2)
    return figure


def shades(number):
    """Return colours from dark to light, which differ in lightness, too."""
    from matplotlib import colormaps

    return colormaps["viridis"](np.linspace(0, 0.92, number))


if __name__ == "__main__":
    sys.exit(main())
