"""Regression on a random teacher with uniform parameters: the regressions of dynamic inversion (Podlaski & Machens 2020)."""

from itertools import pairwise

import numpy as np

from . import checks
from .drawn import regression, teacher_sizes


def load(
    *,
    dtype,
    n_inputs=30,
    n_outputs=10,
    train_size=2000,
    validation_size=0,
    test_size=1000,
    teacher_hidden=(),
    teacher_bias=False,
    teacher_range=1.0,
    teacher_seed=0,
    input_seed=42,
):
    """Regression: inputs from the standard normal distribution, targets from a random teacher; no download.

    The teacher is linear or has hidden layers with tanh, and all its parameters are uniform in +-teacher_range. With small
    ones it is nearly constant in its inputs: at 0.01 with biases all but 1e-5 of the targets' power is a constant.

    Args:
        n_inputs: number of inputs.
        n_outputs: number of target values.
        train_size: number of training samples.
        validation_size: number of validation samples, 0 for none.
        test_size: number of test samples.
        teacher_hidden: widths of the teacher's hidden layers; [] gives a linear map.
        teacher_bias: whether its layers have biases.
        teacher_range: its parameters are drawn from +- this.
        teacher_seed: seed of the teacher.
        input_seed: seed of the inputs; the parts have streams of their own, so the size of one does not alter
            another.
    """
    sizes = teacher_sizes(n_inputs, teacher_hidden, n_outputs)
    layers = teacher(
        sizes, teacher_bias, checks.positive_number("teacher_range", teacher_range), teacher_seed
    )
    return regression(
        "uniform_teacher",
        f"teacher {'-'.join(map(str, sizes))} uniform in +-{teacher_range}, seed {teacher_seed}",
        sizes,
        lambda random, shape: random.standard_normal(shape),
        lambda x: outputs(layers, x),
        dtype=dtype,
        input_seed=input_seed,
        train_size=train_size,
        validation_size=validation_size,
        test_size=test_size,
    )


def teacher(sizes, bias, bound, teacher_seed):
    """Weights and biases of the teacher: a list of ((n_i, n_{i-1}), (n_i,)), the biases 0 without `bias`."""
    if not isinstance(bias, bool):
        raise TypeError(f"data option teacher_bias = {bias!r}: must be true or false")
    random = np.random.RandomState(checks.seed("teacher_seed", teacher_seed))
    return [
        (random.uniform(-bound, bound, (above, below)), random.uniform(-bound, bound, above) * bias)
        for below, above in pairwise(sizes)
    ]


def outputs(layers, x):
    """Outputs (N, n_L) of the teacher for inputs (N, n_0), the same bits for any number of threads."""
    from threadpoolctl import threadpool_limits

    rates = x
    with threadpool_limits(limits=1, user_api="blas"):
        for weights, biases in layers[:-1]:
            rates = np.tanh(rates @ weights.T + biases)
        weights, biases = layers[-1]
        return rates @ weights.T + biases
