"""The regressions of dynamic inversion: teacher, inputs, what is refused."""

import numpy as np
import pytest

from dfc_numba import data
from dfc_numba.data import teachers

SMALL = {"n_inputs": 7, "n_outputs": 3, "train_size": 50, "validation_size": 20, "test_size": 30}


def test_the_default_is_the_published_linear_regression():
    dataset = data.load("uniform_teacher")
    x, y = dataset.train.x, dataset.train.y
    assert (x.shape, y.shape, dataset.validation) == ((2000, 30), (2000, 10), None)
    assert abs(x.mean()) < 0.02 and x.std() == pytest.approx(1, abs=0.01)
    found = np.linalg.lstsq(x, y, rcond=None)[0]
    np.testing.assert_allclose(x @ found, y, atol=1e-10)
    assert 0.97 < np.abs(found).max() <= 1


def test_a_teacher_with_hidden_layers_and_biases():
    options = {"teacher_hidden": [5, 4], "teacher_bias": True, "teacher_range": 0.7, "teacher_seed": 3}
    dataset = data.load("uniform_teacher", **SMALL, **options)
    (w1, b1), (w2, b2), (w3, b3) = teachers.teacher((7, 5, 4, 3), True, 0.7, 3)
    hidden = np.tanh(np.tanh(dataset.test.x @ w1.T + b1) @ w2.T + b2)
    np.testing.assert_allclose(dataset.test.y, hidden @ w3.T + b3, atol=1e-14)
    assert (
        0 < min(np.abs(b).max() for b in (b1, b2, b3)) and max(np.abs(w).max() for w in (w1, w2, w3)) <= 0.7
    )
    assert not any(b.any() for _, b in teachers.teacher((7, 5, 3), False, 0.7, 3))


def test_the_published_nonlinear_teacher_is_nearly_constant_and_the_strong_one_is_not_linear():
    options = {"teacher_hidden": [20, 10], "teacher_bias": True}
    for bound, constant, unreached in ((0.01, 0.9999, 0.0), (0.7, 0.0, 0.2)):
        train = data.load("uniform_teacher", teacher_range=bound, **options).train
        variance = np.sum((train.y - train.y.mean(axis=0)) ** 2)
        assert 1 - variance / np.sum(train.y**2) > constant
        inputs = np.column_stack([train.x, np.ones(len(train.x))])
        rest = train.y - inputs @ np.linalg.lstsq(inputs, train.y, rcond=None)[0]
        assert np.sum(rest**2) / variance > unreached
        assert np.sum(rest**2) / variance < unreached + 0.1


def test_seeds_choose_teacher_and_inputs_and_sizes_the_samples():
    base = data.load("uniform_teacher", **SMALL)
    teacher = data.load("uniform_teacher", teacher_seed=1, **SMALL)
    inputs = data.load("uniform_teacher", input_seed=1, **SMALL)
    longer = data.load("uniform_teacher", **SMALL | {"train_size": 60, "validation_size": 0})
    assert np.array_equal(base.train.x, teacher.train.x) and not np.allclose(base.train.y, teacher.train.y)
    assert not np.allclose(base.train.x, inputs.train.x)
    assert np.array_equal(longer.train.x[:50], base.train.x) and np.array_equal(longer.test.x, base.test.x)
    assert longer.validation is None and base.validation.y.shape == (20, 3)
    single = data.load("uniform_teacher", dtype="float32", **SMALL).train
    assert single.x.dtype == single.y.dtype == np.float32


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("teacher_range", 0.0, "teacher_range = 0.0: must be a positive"),
        ("teacher_bias", 1, "teacher_bias = 1: must be true or false"),
        ("teacher_hidden", 5, "teacher_hidden = 5: must be a list"),
        ("train_size", 0, "train_size = 0: must be a whole number of at least 1"),
        ("teacher_seed", -1, "teacher_seed = -1"),
    ],
)
def test_wrong_options_of_the_uniform_teacher_are_refused(option, value, message):
    with pytest.raises((ValueError, TypeError), match=message):
        data.load("uniform_teacher", **SMALL | {option: value})
