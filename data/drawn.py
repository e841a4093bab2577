"""Data sets of a regression on a teacher: inputs that are drawn, and what the teacher makes of them."""

import numpy as np

from . import checks
from .dataset import DataSet, Split


def regression(
    name, source, sizes, draw, outputs, *, dtype, input_seed, train_size, validation_size, test_size
):
    """A `DataSet`; its parts have streams of their own, so the size of one does not alter another.

    Args:
        name, source: of the data set. sizes: (n_0, ..., n_L) of the teacher.
        draw: function of (random, (N, n_0)) that gives inputs. outputs: function of them that gives targets (N, n_L).
        input_seed: seed of the inputs. train_size, validation_size, test_size: numbers of samples; none for a validation set
            of 0.
    """

    def part(number, option, n_samples, least=1):
        if checks.whole_number(option, n_samples, least=least) == 0:
            return None
        random = np.random.RandomState([checks.seed("input_seed", input_seed), number])
        x = draw(random, (n_samples, sizes[0]))
        with np.errstate(over="ignore", invalid="ignore"):  # DataSet refuses targets that are not finite
            return Split(x.astype(dtype), outputs(x).astype(dtype))

    return DataSet(
        name=name,
        task="regression",
        train=part(0, "train_size", train_size),
        validation=part(1, "validation_size", validation_size, least=0),
        test=part(2, "test_size", test_size),
        n_outputs=sizes[-1],
        source=source,
    )


def teacher_sizes(n_inputs, teacher_hidden, n_outputs):
    """(n_0, ..., n_L), checked."""
    n_inputs = checks.whole_number("n_inputs", n_inputs, least=1)
    n_outputs = checks.whole_number("n_outputs", n_outputs, least=1)
    return n_inputs, *checks.layer_widths("teacher_hidden", teacher_hidden), n_outputs
