#!/usr/bin/env python
"""What DFC's updates approximate on MNIST (alignment figures of appendix E of Deep Feedback Control, arXiv:2106.07887).

    python scripts/experiments/mnist_alignment.py [--epochs N] [--hidden N] [--out DIR] [--seed N] [--quick]

The published settings of DFC, DFC-SS, DFC-SSA with learned and with fixed feedback weights, and of direct feedback alignment, with
three layers of 64 tanh units in place of 256 and a tenth of the training images, so that it takes minutes; the feedback
weights are pre-trained for as many minibatches as published. DFC-SS is taken at the steady state itself. After each epoch,
on 128 training samples, the quantities of student_teacher.py. The files of MNIST are looked for in DFC_DATA_DIR.
"""

import sys

from courses import FIXED, courses, draw, print_means
from results import Results, count, parser

EPOCHS, QUICK_EPOCHS = 10, 2
HIDDEN, QUICK_HIDDEN, HIDDEN_LAYERS = 64, 12, 3
IMAGES, QUICK_IMAGES = 5500, 128
PRETRAINING_EPOCHS, QUICK_PRETRAINING_EPOCHS = 100, 1  # 10 with ten times as many images
SAMPLES, QUICK_SAMPLES = 128, 16
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
    results = Results("mnist_alignment", options)
    if options.quick:
        settings = changes(options.seed, QUICK_EPOCHS, QUICK_HIDDEN, QUICK_IMAGES)
        rows = list(courses(PRESETS, settings, QUICK_PRETRAINING_EPOCHS, QUICK_SAMPLES))
    else:
        settings = changes(options.seed, options.epochs, options.hidden, IMAGES)
        rows = list(courses(PRESETS, settings, PRETRAINING_EPOCHS, SAMPLES))
    print_means(results, rows)
    results.save(draw(rows), rows)


def parse(arguments):
    options = parser(__doc__)
    options.add_argument("--epochs", type=count, default=EPOCHS, metavar="N", help="default: %(default)s")
    options.add_argument(
        "--hidden", type=count, default=HIDDEN, metavar="N", help="units of a layer; default: %(default)s"
    )
    return options.parse_args(arguments)


def changes(seed, epochs, hidden, images):
    """What is changed in all presets."""
    return {
        "training.seed": seed,
        "training.epochs": epochs,
        "network.hidden": [hidden] * HIDDEN_LAYERS,
        "data.options.train_size": images,
    }


if __name__ == "__main__":
    sys.exit(main())
