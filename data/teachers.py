"""Random inputs with targets from a teacher network: a random one, or a small one that is drawn uniformly."""

from itertools import pairwise

import numpy as np

from dfc_numba.data.dataset import (
    DataSet,
    Split,
    checked_seed,
    layer_widths,
    positive_number,
    unknown_name,
    whole_number,
)

# --- what both have in common -------------------------------------------------------------------------------


def regression(
    name, source, sizes, draw, outputs, *, dtype, input_seed, train_size, validation_size, test_size
):
    """Return a `DataSet`; its parts have separate random streams, so the size of one does not alter another.

    Args:
        name, source: of the data set. sizes: (n_0, ..., n_L) of the teacher.
        draw: function of (random, (N, n_0)) that gives inputs. outputs: function of them that gives targets (N, n_L).
        input_seed: seed of the inputs. train_size, validation_size, test_size: numbers of samples; none for a validation set
            of 0.
    """

    def part(number, option, n_samples, least=1):
        if whole_number(option, n_samples, least=least) == 0:
            return None
        random = np.random.RandomState([checked_seed("input_seed", input_seed), number])
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
    """Return (n_0, ..., n_L), checked."""
    n_inputs = whole_number("n_inputs", n_inputs, least=1)
    n_outputs = whole_number("n_outputs", n_outputs, least=1)
    return n_inputs, *layer_widths("teacher_hidden", teacher_hidden), n_outputs


# --- a random teacher ---------------------------------------------------------------------------------------

ACTIVATIONS = {"relu": lambda v: np.maximum(v, 0), "tanh": np.tanh, "linear": lambda v: v}
CHUNK = 4096


def student_teacher(
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
    """Create a student-teacher regression: inputs uniform in (-1, 1), targets from a random network; no download.

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
        raise unknown_name("value of data option teacher_activation:", teacher_activation, list(ACTIVATIONS))
    sizes = teacher_sizes(n_inputs, teacher_hidden, n_outputs)
    weights = teacher_weights(sizes, positive_number("teacher_gain", teacher_gain), teacher_seed)
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
    """Return Xavier-normal weights of the teacher, a list of (n_i, n_{i-1}) arrays."""
    random = np.random.RandomState(checked_seed("teacher_seed", teacher_seed))
    return [
        gain * np.sqrt(2 / (fan_in + fan_out)) * random.standard_normal((fan_out, fan_in))
        for fan_in, fan_out in pairwise(sizes)
    ]


def teacher_outputs(x, weights, activation):
    """Return outputs (N, n_L) of the teacher for inputs (N, n_0).

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


# --- a small teacher ----------------------------------------------------------------------------------------


def uniform_teacher(
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
    """Create a regression: standard normal inputs, targets from a random teacher; no download.

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
    layers = teacher(sizes, teacher_bias, positive_number("teacher_range", teacher_range), teacher_seed)
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
    """Return weights and biases of the teacher: a list of ((n_i, n_{i-1}), (n_i,)), the biases 0 without `bias`."""
    if not isinstance(bias, bool):
        raise TypeError(f"data option teacher_bias = {bias!r}: must be true or false")
    random = np.random.RandomState(checked_seed("teacher_seed", teacher_seed))
    return [
        (random.uniform(-bound, bound, (above, below)), random.uniform(-bound, bound, above) * bias)
        for below, above in pairwise(sizes)
    ]


def outputs(layers, x):
    """Return outputs (N, n_L) of the teacher for inputs (N, n_0), the same bits for any number of threads."""
    from threadpoolctl import threadpool_limits

    rates = x
    with threadpool_limits(limits=1, user_api="blas"):
        for weights, biases in layers[:-1]:
            rates = np.tanh(rates @ weights.T + biases)
        weights, biases = layers[-1]
        return rates @ weights.T + biases
