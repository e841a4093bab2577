#!/usr/bin/env python
"""Proportional-integral control of a network's output (figure 1D of Deep Feedback Control, arXiv:2106.07887).

    python scripts/experiments/output_control.py [--out DIR] [--seed N] [--quick]

The published network (15-10-10-1, tanh) with feedback weights learned from noise. Its output is nudged towards a target,
for the samples of one minibatch, by an integral controller and by proportional-integral ones: the output on its way to the
target, and the control signal. Both are divided by the nudge, so that all samples start at 0 and the target is 1.
"""

import sys
from dataclasses import dataclass

import numpy as np
from learning import FEEDBACK_ONLY, TINY_TEACHER, preset, train

import dfc_numba as dfc
from dfc_numba.runs.experiment import load_data
from dfc_numba.support import figures
from results import Results, panel, parser

GAINS = (0.0, 0.3, 1.0)  # the last is the published one
SAMPLES, STEP = 128, 0.05
STEPS = 1999
EVERY = 10  # time points in the data file
SHOWN = 6  # time units in the figure
BAND = (10, 90)  # percentiles of the samples
SETTLED = 0.05  # of the nudge
QUICK = TINY_TEACHER | {"feedback.pretraining_epochs": 2}


@dataclass(frozen=True)
class Run:
    """The course under a controller: time (T,), and (T, B) output and control, divided by the nudge."""

    time: np.ndarray
    output: np.ndarray
    control: np.ndarray

    @property
    def overshoot(self):
        return np.maximum(self.output.max(axis=0) - 1, 0)

    @property
    def settling_time(self):
        """The time from which a sample stays within `SETTLED` of its last value."""
        away = np.abs(self.output - self.output[-1]) > SETTLED
        return self.time[len(away) - 1 - np.argmax(away[::-1], axis=0)]


def main(arguments=None):
    """Learn the feedback weights, simulate, print, draw."""
    options = parser(__doc__).parse_args(arguments)
    results = Results("output-control", options)
    network, x, target = problem(options)
    runs = {gain: simulate(network, x, target, gain) for gain in GAINS}
    steady = steady_control(network, x, target)
    print_outcomes(results, runs, steady)
    results.save(draw(runs, np.median(steady)), list(rows(runs)))


def problem(options):
    """Return (network with learned feedback weights, inputs, nudged targets)."""
    settings = FEEDBACK_ONLY | {"data.options.n_outputs": 1, "training.seed": options.seed}
    config = preset("student-teacher", settings | (QUICK if options.quick else {}))
    dataset = load_data(config)
    network = train(config, dataset).network
    x, y = dataset.train.x[:SAMPLES], dataset.train.y[:SAMPLES]
    return network, x, dfc.output_target(network, x, y, step=STEP / SAMPLES)


def controller(k_p):
    """Return the published controller, with another proportional gain."""
    return dfc.Controller(dt=0.005, steps=STEPS, alpha=0.0015, k_p=k_p, tau_v=0.2, proactive=False)


def simulate(network, x, target, k_p):
    """Return the `Run` of all samples."""
    run = dfc.simulate(network, x, target, controller(k_p), record=dfc.Record(variables=("u", "r")))
    output = run.r[-1][:, :, 0]
    nudge = target[:, 0] - output[0]
    return Run(run.time, (output - output[0]) / nudge, run.u[:, :, 0] / nudge)


def steady_control(network, x, target):
    """Return the theory's steady state (Lemma 1): (J Q + alpha I)^{-1}, since the nudge is divided out."""
    steady = dfc.steady_state(network, x, target, controller(0.0))
    return steady.u[:, 0] / (target - network.predict(x, dtype="float64"))[:, 0]


def print_outcomes(results, runs, steady):
    """Print one row per controller."""
    columns = (
        "k_p",
        "time to 5 %, median",
        "overshoot, median",
        "largest",
        "1 - output in the end",
        "u: off by",
    )
    results.table(
        columns,
        [
            (
                f"{gain:g}",
                float(np.median(run.settling_time)),
                float(np.median(run.overshoot)),
                float(run.overshoot.max()),
                float(np.abs(1 - run.output[-1]).max()),
                float(np.abs(run.control[-1] / steady - 1).max()),
            )
            for gain, run in runs.items()
        ],
    )


def rows(runs):
    """Yield time courses of the median and the percentiles of the band."""
    for gain, run in runs.items():
        for t in range(0, len(run.time), EVERY):
            row = {"k_p": gain, "time": float(run.time[t])}
            for name in ("output", "control"):
                low, median, high = np.percentile(getattr(run, name)[t], (BAND[0], 50, BAND[1]))
                row |= {f"{name}_low": low, f"{name}_median": median, f"{name}_high": high}
            yield row


def draw(runs, steady):
    """Draw two panels: output and control signal, with the predicted end."""
    figure = figures.new_figure(9, 3.6)
    output, control = figure.subplots(1, 2)
    for colour, (gain, run) in zip(figures.COLOURS, runs.items(), strict=False):
        name = f"PI, $k_P$ = {gain:g}" if gain else "I"
        for axes, values in ((output, run.output), (control, run.control)):
            axes.plot(run.time, np.median(values, axis=1), color=colour, label=name)
            low, high = np.percentile(values, BAND, axis=1)
            axes.fill_between(run.time, low, high, color=colour, alpha=0.2, linewidth=0)
    for axes, end in ((output, 1), (control, steady)):
        axes.axhline(end, color="black", linestyle="--", linewidth=1, label="target, and predicted end")
        axes.set_xlim(0, SHOWN)
    time = r"time ($\tau_u$)"
    panel(output, "a", xlabel=time, ylabel=r"output, $(r_L - r_L(0))\,/\,(r^* - r_L(0))$")
    panel(control, "b", xlabel=time, ylabel=r"control signal, $u\,/\,(r^* - r_L(0))$")
    output.legend(frameon=False)
    return figure


if __name__ == "__main__":
    sys.exit(main())
