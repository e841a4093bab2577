#!/usr/bin/env python
"""Measure what DFC's updates approximate on MNIST (alignment figures of appendix E of Deep Feedback Control, arXiv:2106.07887).

    python scripts/experiments/mnist_alignment.py [--epochs N] [--hidden N] [--out DIR] [--seed N] [--quick]

The published settings of DFC, DFC-SS, DFC-SSA with learned and with fixed feedback weights, and of direct feedback
alignment, with three layers of 64 tanh units in place of 256 and a tenth of the training images, so that it takes minutes;
the feedback weights are pre-trained for as many minibatches as published. DFC-SS is taken at the steady state itself. After
each epoch, on 128 training samples, the quantities of student_teacher.py. The files of MNIST are looked for in DFC_DATA_DIR.
"""

import sys

from courses import FIXED, report

from results import count, parser

EPOCHS, HIDDEN, HIDDEN_LAYERS, IMAGES = 6, 64, 3, 5500
# published: 10 epochs of pre-training with ten times as many images
SIZES, TINY = {"pretraining_epochs": 100, "samples": 128}, {"pretraining_epochs": 1, "samples": 16}
DAMPING = 1.0
DRAWN = ("condition_2", "eigenvalue", "train_loss", "angle_mn", "angle_mn_damped", "angle_bp")
NEWTON = {"training.method": "dfc-ss-newton"}
PRESETS = {
    "DFC": ("mnist-dfc", {}),
    "DFC-SS": ("mnist-dfc-ss", NEWTON),
    "DFC-SSA": ("mnist-dfc-ssa", {}),
    "DFA": ("mnist-dfa", {}),
    "DFC" + FIXED: ("mnist-dfc-fixed", {}),
    "DFC-SS" + FIXED: ("mnist-dfc-ss-fixed", NEWTON),
    "DFC-SSA" + FIXED: ("mnist-dfc-ssa-fixed", {}),
}


def main(arguments=None):
    """Train with every method, print, draw."""
    options = parse(arguments)
    settings = {
        "training.epochs": options.epochs,
        "network.hidden": [options.hidden] * HIDDEN_LAYERS,
        "data.options.train_size": IMAGES,
    }
    if options.quick:
        settings |= {"training.epochs": 2, "network.hidden": [12, 12], "data.options.train_size": 128}
    sizes = TINY if options.quick else SIZES
    report("mnist-alignment", options, PRESETS, settings, drawn=DRAWN, damping=DAMPING, **sizes)


def parse(arguments):
    options = parser(__doc__)
    options.add_argument("--epochs", type=count, default=EPOCHS, metavar="N", help="default: %(default)s")
    options.add_argument(
        "--hidden", type=count, default=HIDDEN, metavar="N", help="units of a layer; default: %(default)s"
    )
    return options.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
