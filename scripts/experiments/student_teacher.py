#!/usr/bin/env python
"""Measure what DFC's updates approximate while it learns (figure 3 of Deep Feedback Control, arXiv:2106.07887).

    python scripts/experiments/student_teacher.py [--full] [--epochs N] [--seeds N] [--out DIR] [--seed N] [--quick]

The published student-teacher regression (15-10-10-5, tanh) and settings: DFC, DFC-SS and DFC-SSA with learned and with
fixed feedback weights, and direct feedback alignment. After each epoch, on 128 training samples: the angles of the update
with the Gauss-Newton (GN), minimum-norm target (MN) and backpropagation (BP) updates, condition 2 (||P Q|| / ||Q|| with P
projecting on Row(J)), and the largest real part of the eigenvalues of -(J Q + alpha I), below 0 for a stable controller.
Euler steps are four times as large as published, which makes it four times as fast. With --full it is the published number
of epochs, and the time average is found by the waveform integrator, to a thousandth of what the published 999 Euler steps give.
"""

import sys

from courses import FIXED, report
from learning import TINY_TEACHER

from results import count, parser

EPOCHS, PUBLISHED_EPOCHS, SEEDS = 40, 300, 1
SIZES, TINY = {"pretraining_epochs": 50, "samples": 128}, {"pretraining_epochs": 1, "samples": 16}
LARGER_STEPS = {"controller.dt": 0.02, "controller.steps": 249}  # for the same time as 999 steps of 0.005
WAVEFORM = {"controller.integrator": "waveform"}
PRESETS = {
    "DFC": "student-teacher",
    "DFC-SS": "student-teacher-dfc-ss",
    "DFC-SSA": "student-teacher-dfc-ssa",
    "DFA": "student-teacher-dfa",
    "DFC" + FIXED: "student-teacher-dfc-fixed",
    "DFC-SS" + FIXED: "student-teacher-dfc-ss-fixed",
    "DFC-SSA" + FIXED: "student-teacher-dfc-ssa-fixed",
}
SIMULATED = "DFC", "DFC-SS"


def main(arguments=None):
    """Train with every method, print, draw."""
    options = parser(__doc__)
    options.add_argument("--full", action="store_true", help="the published epochs and step")
    options.add_argument(
        "--epochs", type=count, metavar="N", help=f"default: {EPOCHS}, with --full {PUBLISHED_EPOCHS}"
    )
    options.add_argument("--seeds", type=count, default=SEEDS, metavar="N", help="default: %(default)s")
    options = options.parse_args(arguments)
    options.epochs = options.epochs or (PUBLISHED_EPOCHS if options.full else EPOCHS)
    settings = {"training.epochs": options.epochs}
    steps = WAVEFORM if options.full else LARGER_STEPS
    presets = {
        method: (preset, steps if method.removesuffix(FIXED) in SIMULATED else {})
        for method, preset in PRESETS.items()
    }
    if options.quick:
        settings |= TINY_TEACHER | {"training.epochs": 2}
    sizes = TINY if options.quick else SIZES
    report("student-teacher", options, presets, settings, seeds=options.seeds, **sizes)


if __name__ == "__main__":
    sys.exit(main())
