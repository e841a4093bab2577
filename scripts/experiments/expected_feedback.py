#!/usr/bin/env python
"""Feedback weights that learn from the expected update, without sampling, beside the published rule, on MNIST.

    python scripts/experiments/expected_feedback.py [--epochs N] [--pretraining N] [--images N] [--rules NAME ...]
        [--out DIR] [--seed N] [--quick]

The published settings of DFC-SS (784-256-256-256-10, 48 time points of noise), taken at the steady state itself, in single
precision. Only feedback.rule and feedback.form differ. While the feedback weights are pre-trained, and after each epoch, on 128
training images: the angle of Q_i to the mean of J_i^T, for each layer, and that of all feedback weights to the mean of J^T and of
J^+; besides accuracy, and the processor time of a minibatch of the feedback phases.
The files of MNIST are looked for in DFC_DATA_DIR.
"""

import sys
from time import process_time

import numpy as np
from learning import preset, train

from dfc_numba.analysis.alignment import angle
from dfc_numba.runs.experiment import load_data
from dfc_numba.support import figures
from results import Results, count, panel, parser, say

PRESET = "mnist-dfc-ss"
RULES = {
    "noise_driven": {"feedback.rule": "noise_driven"},
    "mean_field": {"feedback.rule": "expected", "feedback.form": "mean_field"},
    "one_probe": {"feedback.rule": "expected", "feedback.form": "one_probe"},
}
COLOURS = dict(zip(RULES, figures.COLOURS, strict=False))
EPOCHS, PRETRAINING, IMAGES = 10, 10, 55_000  # as published, but for the epochs
PROBE = 128  # samples on which angles are measured
EVERY = 100  # minibatches of pre-training
COLUMNS = {
    "angle_1": "angle of $Q_1$ with $J_1^T$ (deg)",
    "angle_transpose": "angle of $Q$ with $J^T$ (deg)",
    "angle_pinv": "angle of $Q$ with $J^+$ (deg)",
    "test_error": "test error (%)",
}


def main(arguments=None):
    """Train by every rule, print, draw."""
    options = parse(arguments)
    results = Results("expected-feedback", options, dtype="float32")
    settings = {
        "training.seed": options.seed,
        "training.method": "dfc-ss-newton",
        "training.dtype": "float32",
        "training.epochs": options.epochs,
        "feedback.pretraining_epochs": options.pretraining,
        "data.options.train_size": options.images,
    }
    if options.quick:
        settings |= {"network.hidden": [12, 12, 12], "training.epochs": 2, "feedback.pretraining_epochs": 1}
        settings |= {"data.options.train_size": 256}
    dataset, courses = load_data(preset(PRESET, settings)), []
    for rule in options.rules:
        say(rule)
        courses.append(Course(rule))
        train(preset(PRESET, settings | RULES[rule]), dataset, [courses[-1]])
        print_course(results, courses[-1])
    print_times(results, courses)
    results.save(draw(courses), [row for course in courses for row in course.rows])


def parse(arguments):
    options = parser(__doc__)
    options.add_argument("--epochs", type=count, default=EPOCHS, metavar="N", help="default: %(default)s")
    options.add_argument(
        "--pretraining", type=count, default=PRETRAINING, metavar="N", help="epochs; default: %(default)s"
    )
    options.add_argument("--images", type=count, default=IMAGES, metavar="N", help="default: %(default)s")
    options.add_argument(
        "--rules", nargs="+", choices=RULES, default=list(RULES), metavar="NAME", help="default: all"
    )
    return options.parse_args(arguments)


class Course:
    """Observes a run: `rows` has what is measured during pre-training and after each epoch, on the same images."""

    def __init__(self, rule):
        self.rule, self.rows, self.milliseconds = rule, [], {}

    def on_start(self, trainer):
        self.trainer = trainer
        self.x = trainer.dataset.train.x[:PROBE]
        self._last = process_time()
        self._note(0, 0)

    def on_minibatch(self, progress):
        now = process_time()
        self.milliseconds.setdefault(progress.phase, []).append(1e3 * (now - self._last))
        if progress.phase == "pretraining":
            number = (progress.epoch - 1) * progress.minibatches + progress.minibatch
            if number % EVERY == 0 or progress.minibatch == progress.minibatches:
                self._note(0, number)
        self._last = process_time()

    def on_epoch(self, row):
        self._note(row["epoch"], 0, row)
        self._last = process_time()

    def _note(self, epoch, minibatch, row=None):
        accuracies = {
            f"{name}_error": 100 * (1 - row[f"{name}_accuracy"]) if row else np.nan
            for name in ("train", "test")
        }
        self.rows.append(
            {"rule": self.rule, "epoch": epoch, "minibatch": minibatch} | self._angles() | accuracies
        )
        numbers = ", ".join(
            f"{key} {value:.3g}" for key, value in self.rows[-1].items() if not isinstance(value, str)
        )
        say(f"{self.rule}: {numbers}")

    def _angles(self):
        network = self.trainer.network
        transpose, pinv = (
            _feedback(network, kind, self.x) for kind in ("jacobian_transpose", "jacobian_pinv")
        )
        each = [angle([q], [j]) for q, j in zip(network.feedback, transpose, strict=True)]
        return {f"angle_{i}": value for i, value in enumerate(each, 1)} | {
            "angle_transpose": angle(network.feedback, transpose),
            "angle_pinv": angle(network.feedback, pinv),
        }


def _feedback(network, kind, x):
    """Return the mean over the samples of J^T or J^+, layer by layer."""
    other = network.copy(dtype="float64")
    other.set_feedback(kind, x)
    return list(other.feedback)


def print_course(results, course):
    """Print angles at some minibatches of the pre-training, angles and errors at some epochs."""
    before = [row for row in course.rows if row["epoch"] == 0]
    chosen = before[:: max(1, len(before) // 8)] + before[-1:]
    after = [row for row in course.rows if row["epoch"] > 0]
    columns = [key for key in course.rows[0] if key != "rule"]
    rows = [[course.rule, *(row[key] for key in columns)] for row in (*chosen, *after)]
    results.table(["rule", *(key.replace("_", " ") for key in columns)], rows)


def print_times(results, courses):
    """Print median processor time of a minibatch: in all the phases that learn feedback weights, and in the forward one."""
    rows = []
    for course in courses:
        feedback = sum((times for phase, times in course.milliseconds.items() if phase != "forward"), [])
        rows.append(
            [course.rule, float(np.median(feedback)), float(np.median(course.milliseconds["forward"]))]
        )
    results.table(["processor time of a minibatch (ms)", "feedback", "forward"], rows)


def draw(courses):
    """Draw angles during pre-training, then by epoch; errors."""
    figure = figures.new_figure(9.5, 5.4)
    for letter, axes, (key, label) in zip("abcd", figure.subplots(2, 2).flat, COLUMNS.items(), strict=True):
        during = key == "angle_1"
        for course in courses:
            rows = [row for row in course.rows if (row["epoch"] == 0) == during]
            places = [row["minibatch" if during else "epoch"] for row in rows]
            axes.plot(places, [row[key] for row in rows], color=COLOURS[course.rule], label=course.rule)
        panel(axes, letter, xlabel="minibatches of pre-training" if during else "epoch", ylabel=label)
    lines = figure.axes[0].get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=3, frameon=False)
    return figure


if __name__ == "__main__":
    sys.exit(main())
