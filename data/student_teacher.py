"""Student-teacher regression: the targets are the outputs of one random network, the teacher.

The toy experiments of DFC (Meulemans et al. 2021) use it.
"""

from itertools import pairwise

import numpy as np

from . import checks
from .drawn import regression, teacher_sizes

ACTIVATIONS = {"relu": lambda v: np.maximum(v, 0), "tanh": np.tanh, "linear": lambda v: v}
CHUNK = 4096


def load(
    *,
    dtype,
    n_inputs=15,
    n_outputs=5,
    train_size=5000,
    validation_size=1000,
    test_size=1000,
    teacher_hidden=(1000, 1000, 1000, 1000),
    teacher_activation="relu",
    teacher_gain=3.0,
    teacher_seed=0,
    input_seed=42,
):
    """Student-teacher regression: inputs uniform in (-1, 1), targets from a random network; no download.

    The defaults are those of the DFC paper's toy experiments. The teacher has weights drawn from a normal
    distribution of standard deviation teacher_gain * sqrt(2 / (fan_in + fan_out)), no biases and linear
    outputs.

    Args:
        n_inputs: number of inputs.
        n_outputs: number of target values.
        train_size: number of training samples.
        validation_size: number of validation samples, 0 for none.
        test_size: number of test samples.
        teacher_hidden: widths of the teacher's hidden layers, as many as it has; [] gives a linear map.
        teacher_activation: "relu", "tanh" or "linear", in the hidden layers.
        teacher_gain: factor on the teacher's weights.
        teacher_seed: seed of the teacher's weights.
        input_seed: seed of the inputs; the parts have streams of their own, so the size of one does not alter
            another.
    """
    if teacher_activation not in ACTIVATIONS:
        raise checks.unknown_name(
            "value of data option teacher_activation:", teacher_activation, list(ACTIVATIONS)
        )
    sizes = teacher_sizes(n_inputs, teacher_hidden, n_outputs)
    weights = teacher_weights(sizes, checks.positive_number("teacher_gain", teacher_gain), teacher_seed)
    shape = "-".join(map(str, sizes))
    return regression(
        "student_teacher",
        f"{teacher_activation} teacher {shape}, gain {teacher_gain}, seed {teacher_seed}",
        sizes,
        lambda random, shape: random.uniform(-1, 1, shape),
        lambda x: teacher_outputs(x, weights, teacher_activation),
        dtype=dtype,
        input_seed=input_seed,
        train_size=train_size,
        validation_size=validation_size,
        test_size=test_size,
    )


def teacher_weights(sizes, gain, teacher_seed):
    """Xavier-normal weights of the teacher, a list of (n_i, n_{i-1}) arrays."""
    random = np.random.RandomState(checks.seed("teacher_seed", teacher_seed))
    return [
        gain * np.sqrt(2 / (fan_in + fan_out)) * random.standard_normal((fan_out, fan_in))
        for fan_in, fan_out in pairwise(sizes)
    ]


def teacher_outputs(x, weights, activation):
    """Outputs (N, n_L) of the teacher for inputs (N, n_0).

    BLAS is held to one thread so that the targets do not depend, in their last bits, on the number of
    threads.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1, user_api="blas"):
        chunks = [
            _forward(x[start : start + CHUNK], weights, activation) for start in range(0, len(x), CHUNK)
        ]
    return np.concatenate(chunks)


def _forward(rates, weights, activation):
    for hidden in weights[:-1]:
        rates = ACTIVATIONS[activation](rates @ hidden.T)
    return rates @ weights[-1].T
