#!/usr/bin/env python
"""What DFC's updates approximate while it learns (figure 3 of Deep Feedback Control, arXiv:2106.07887).

    python scripts/experiments/student_teacher.py [--epochs N] [--out DIR] [--seed N] [--quick]

The published student-teacher regression (15-10-10-5, tanh) and settings: DFC, DFC-SS and DFC-SSA with learned and with fixed
feedback weights, and direct feedback alignment. After each epoch, on 128 training samples: the angles of the update with the
Gauss-Newton (GN), minimum-norm target (MN) and backpropagation (BP) updates, condition 2 (||P Q|| / ||Q|| with P projecting on
Row(J)), and the largest real part of the eigenvalues of -(J Q + alpha I), below 0 for a stable controller.
"""

import sys

from courses import FIXED, courses, draw, print_means
from learning import TINY_TEACHER
from results import Results, count, parser

EPOCHS, QUICK_EPOCHS = 40, 2  # 300 in the paper
PRETRAINING_EPOCHS, QUICK_PRETRAINING_EPOCHS = 50, 1
SAMPLES, QUICK_SAMPLES = 128, 16
PRESETS = {
    "DFC": ("student-teacher", {}),
    "DFC-SS": ("student-teacher-dfc-ss", {}),
    "DFC-SSA": ("student-teacher-dfc-ssa", {}),
    "DFA": ("student-teacher-dfa", {}),
    "DFC" + FIXED: ("student-teacher-dfc-fixed", {}),
    "DFC-SS" + FIXED: ("student-teacher-dfc-ss-fixed", {}),
    "DFC-SSA" + FIXED: ("student-teacher-dfc-ssa-fixed", {}),
}


def main(arguments=None):
    """Train with every method, print, draw."""
    options = parse(arguments)
    results = Results("student_teacher", options)
    settings = {"training.seed": options.seed, "training.epochs": options.epochs}
    if options.quick:
        settings |= TINY_TEACHER | {"training.epochs": QUICK_EPOCHS}
        rows = list(courses(PRESETS, settings, QUICK_PRETRAINING_EPOCHS, QUICK_SAMPLES))
    else:
        rows = list(courses(PRESETS, settings, PRETRAINING_EPOCHS, SAMPLES))
    print_means(results, rows)
    results.save(draw(rows), rows)


def parse(arguments):
    options = parser(__doc__)
    options.add_argument("--epochs", type=count, default=EPOCHS, metavar="N", help="default: %(default)s")
    return options.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
