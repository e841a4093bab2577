"""The interface of the data sets, and the two that need no file from outside the package."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dfc_numba import data
from dfc_numba.data import DataSet, Split, dataset, sources, teachers

SMALL_TEACHER = {"teacher_hidden": [7, 6], "train_size": 30, "validation_size": 8, "test_size": 9}


def tiny(**changes):
    """A valid classification data set of 4 + 2 + 2 samples, with some fields replaced."""
    x = np.linspace(0, 1, 12).reshape(4, 3)
    y = np.array([0, 1, 0, 1])
    fields = {"name": "tiny", "task": "classification", "n_outputs": 2, "source": "here"}
    splits = {"train": Split(x, y), "validation": Split(x[:2], y[:2]), "test": Split(x[2:], y[2:])}
    return DataSet(**(fields | splits | changes))


# --- the interface


def test_every_data_set_has_a_name_options_and_a_description():
    assert {
        "digits",
        "student_teacher",
        "uniform_teacher",
        "mnist",
        "fashion_mnist",
        "mnist_autoencoder",
        "file",
        "csv",
        "idx",
    } == set(data.names())
    for name in data.names():
        text = data.describe(name)
        assert text.startswith(f"{name}: ")
        assert all(f"    {option} = " in text for option in data.options(name))
        assert "dtype" not in data.options(name)


@pytest.mark.parametrize(
    ("name", "near"), [("mnits", "mnist"), ("student-teacher", "student_teacher"), ("Digits", "digits")]
)
def test_an_unknown_name_is_refused_with_the_nearest_one(name, near):
    with pytest.raises(ValueError, match=f"unknown data set '{name}'. Did you mean '{near}'"):
        data.load(name)
    with pytest.raises(ValueError, match=near):
        data.describe(name)


def test_an_unknown_option_is_refused_with_the_nearest_one():
    with pytest.raises(ValueError, match="data set 'digits': 'valid_size'. Did you mean 'validation_size'"):
        data.load("digits", valid_size=10)
    with pytest.raises(ValueError, match="unknown option"):
        data.check_options("mnist", {"zzz": 1})


def test_a_missing_option_is_named():
    with pytest.raises(ValueError, match="'file' needs the option path"):
        data.load("file")


def test_check_options_accepts_what_load_accepts():
    data.check_options("mnist", {"validation_size": 0, "split_seed": 3})
    data.check_options("my.npz", {"validation_size": 5})


@pytest.mark.parametrize("dtype", ["float16", "int64", "nonsense", None, 3])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(ValueError, match="must be 'float32' or 'float64'"):
        data.load("digits", dtype=dtype)


@pytest.mark.parametrize("value", ["many", 2.0, True, None])
def test_an_option_of_the_wrong_type_is_refused(value):
    with pytest.raises(TypeError, match="data option validation_size = .*whole number"):
        data.load("digits", validation_size=value)


@pytest.mark.parametrize("option", ["train_size", "validation_size", "test_size", "split_seed"])
def test_an_option_out_of_range_is_refused(option):
    with pytest.raises(ValueError, match=f"data option {option} = -1: must be a whole number"):
        data.load("digits", **{option: -1})


def test_importing_the_data_sets_imports_nothing_heavy():
    code = "import sys, dfc_numba.data; print({'h5py', 'requests', 'rich'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


# --- what a loader returns


def test_a_data_set_knows_its_sizes():
    dataset = tiny()
    assert (dataset.n_inputs, dataset.n_outputs, len(dataset.train)) == (3, 2, 4)
    assert list(dataset.parts()) == ["train", "val", "test"]
    assert list(tiny(validation=None).parts()) == ["train", "test"]
    assert "4 train, 2 val, 2 test" in dataset.summary
    assert repr(dataset.train) == "Split(x=float64 (4, 3), y=int64 (4,))"


def with_value(value):
    x = np.zeros((4, 3))
    x[2, 1] = value
    return x


LABELS = np.array([0, 1, 0, 1])
FLAWED = [
    (with_value(np.nan), LABELS, r"tiny: x_train holds nan \(sample 2, column 1, 1 in all\)"),
    (with_value(-np.inf), LABELS, "x_train holds -inf"),
    (np.zeros((4, 3, 1)), LABELS, r"x_train has shape \(4, 3, 1\).*reshape"),
    (np.zeros(4), LABELS, r"x_train has shape \(4,\).*x\[:, None\]"),
    (np.zeros((0, 3)), LABELS[:0], "x_train is empty"),
    (np.zeros((4, 0)), LABELS, "x_train is empty"),
    (np.zeros((4, 3)), LABELS[:3], "x_train has 4 samples but y_train has 3"),
    (np.zeros((4, 3)), np.array(1), "y_train has a single value"),
    (
        np.zeros((4, 3)),
        LABELS + 1,
        r"y_train holds the label 2 \(sample 1, 2 in all\); labels must be 0 to 1",
    ),
    (np.zeros((4, 3)), LABELS - 1, "y_train holds the label -1"),
    (np.zeros((4, 3)), LABELS.astype(np.int32), "class labels must be"),
    (np.zeros((4, 3)), LABELS[:, None], "class labels must be"),
    (np.zeros((4, 3), np.int64), LABELS, "x_train is int64; all inputs"),
    (np.zeros((4, 3), np.float32), LABELS, "x_val is float64; all inputs"),
    (np.zeros((4, 5)), LABELS, "x_val has 3 inputs per sample, but x_train has 5"),
]


@pytest.mark.parametrize(("x", "y", "message"), FLAWED)
def test_impossible_values_are_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        tiny(train=Split(x, y))


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.full((4, 2), np.inf), "y_train holds inf"),
        (np.zeros((4, 3)), "y_train has 3 targets per sample; expected 2"),
        (np.zeros(4), "y_train has shape"),
        (np.zeros((4, 2), np.float32), "y_train is float32"),
    ],
)
def test_impossible_targets_are_refused(y, message):
    x = np.zeros((4, 3))
    with pytest.raises(ValueError, match=message):
        DataSet("tiny", "regression", Split(x, y), None, Split(x, np.zeros((4, 2))), 2, "here")


def test_an_unknown_task_is_refused():
    with pytest.raises(ValueError, match="task = 'ranking'"):
        tiny(task="ranking")


def test_lists_are_no_arrays():
    with pytest.raises(TypeError, match="Split.y is list"):
        Split(np.zeros((2, 2)), [0, 1])


# --- splits


def test_held_out_samples_are_no_training_samples_and_do_not_depend_on_the_training_size():
    order = dataset.random_order(20, 1)
    train, validation = dataset.hold_out(order, 5)
    fewer, same = dataset.hold_out(order, 5, train_size=3)
    assert sorted([*train, *validation]) == list(range(20))
    assert list(same) == list(validation)
    assert list(fewer) == list(train[:3])


def test_a_validation_size_of_zero_means_none():
    train, validation = dataset.hold_out(np.arange(6), 0)
    assert validation is None
    assert len(train) == 6


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="validation_size = 6 leaves nothing to train on: there are 6"):
        dataset.hold_out(np.arange(6), 6)
    with pytest.raises(ValueError, match="train_size = 5: .* at most 4"):
        dataset.hold_out(np.arange(6), 2, train_size=5)


def test_every_stretch_of_a_stratified_order_is_balanced():
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    order = dataset.stratified_order(labels, 4)
    assert sorted(order) == list(range(100))
    for start in range(0, 100, 20):
        counts = np.bincount(labels[order[start : start + 20]], minlength=3)
        assert np.abs(counts - [12, 6, 2]).max() <= 1


# --- digits


def test_digits_are_complete_scaled_and_split_as_documented():
    dataset = data.load("digits")
    assert [len(split) for split in dataset.parts().values()] == [1297, 200, 300]
    assert (dataset.task, dataset.n_inputs, dataset.n_outputs) == ("classification", 64, 10)
    x = np.concatenate([split.x for split in dataset.parts().values()])
    assert abs(x.mean()) < 1e-3
    assert abs(x.std() - 1) < 1e-3
    pixels = (x * 0.3760 + 0.3053) * 16
    np.testing.assert_allclose(pixels, pixels.round(), atol=1e-12)
    assert (pixels.round().min(), pixels.round().max(), pixels.round().sum()) == (0, 16, 561718)


def test_digits_are_balanced_in_every_part():
    for split in data.load("digits").parts().values():
        assert np.ptp(np.bincount(split.y)) <= 0.1 * len(split.y) / 10 + 2


def test_the_default_split_of_the_digits_never_changes():
    dataset = data.load("digits")
    sums_of_pixels = ((dataset.test.x[:8] * 0.3760 + 0.3053) * 16).sum(axis=1)
    np.testing.assert_allclose(sums_of_pixels, [305, 326, 254, 278, 321, 334, 260, 318], rtol=1e-12)
    again = data.load("digits", dtype="float32")
    assert again.train.x.dtype == np.float32
    np.testing.assert_array_equal(again.train.y, dataset.train.y)


def test_options_of_the_digits():
    whole = data.load("digits")
    fewer = data.load("digits", train_size=50, split_seed=0)
    np.testing.assert_array_equal(fewer.train.x, whole.train.x[:50])
    np.testing.assert_array_equal(fewer.validation.x, whole.validation.x)
    other = data.load("digits", split_seed=1, validation_size=0, test_size=100)
    assert (len(other.train), other.validation, len(other.test)) == (1697, None, 100)
    assert not np.array_equal(other.test.x, whole.test.x[:100])
    with pytest.raises(ValueError, match="test_size = 1797"):
        data.load("digits", test_size=1797)


def test_the_licence_is_beside_the_digits():
    note = Path(sources.__file__).with_name("digits.md").read_text(encoding="utf-8")
    assert "CC BY 4.0" in note
    assert "Alpaydin" in note


# --- student and teacher


def test_the_toy_experiments_sizes_are_the_default():
    defaults = data.options("student_teacher")
    assert [defaults[key] for key in ("train_size", "validation_size", "test_size")] == [5000, 1000, 1000]
    assert (defaults["n_inputs"], defaults["n_outputs"]) == (15, 5)
    assert defaults["teacher_hidden"] == (1000, 1000, 1000, 1000)


@pytest.mark.parametrize("activation", ["relu", "tanh", "linear"])
def test_one_teacher_makes_the_targets_of_every_split(activation):
    dataset = data.load("student_teacher", teacher_activation=activation, **SMALL_TEACHER)
    function = {"relu": lambda v: v * (v > 0), "tanh": np.tanh, "linear": lambda v: v}[activation]
    first, second, last = teachers.teacher_weights((15, 7, 6, 5), 3.0, 0)
    for split in dataset.parts().values():
        expected = np.stack([last @ function(second @ function(first @ x)) for x in split.x])
        np.testing.assert_allclose(split.y, expected, rtol=1e-12, atol=1e-12)


def test_inputs_are_uniform_and_the_parts_differ():
    dataset = data.load(
        "student_teacher", train_size=2000, validation_size=2000, test_size=9, teacher_hidden=[]
    )
    x = dataset.train.x
    assert x.min() > -1
    assert x.max() < 1
    assert abs(x.mean()) < 0.02
    assert abs(x.std() - 3**-0.5) < 0.01
    assert abs(np.corrcoef(x.ravel(), dataset.validation.x.ravel())[0, 1]) < 0.03


def test_weights_of_the_teacher_have_the_published_spread():
    (weights,) = teachers.teacher_weights((300, 200), 3.0, 5)
    assert weights.shape == (200, 300)
    assert abs(weights.std() - 3 * np.sqrt(2 / 500)) < 0.002


def test_seeds_and_sizes_of_the_student_teacher_task():
    base = data.load("student_teacher", **SMALL_TEACHER)
    teacher = data.load("student_teacher", teacher_seed=1, **SMALL_TEACHER)
    inputs = data.load("student_teacher", input_seed=1, **SMALL_TEACHER)
    longer = data.load("student_teacher", **SMALL_TEACHER | {"train_size": 60, "validation_size": 0})
    np.testing.assert_array_equal(base.train.x, teacher.train.x)
    assert not np.allclose(base.train.y, teacher.train.y)
    assert not np.allclose(base.train.x, inputs.train.x)
    np.testing.assert_array_equal(base.test.x, longer.test.x)
    np.testing.assert_allclose(base.train.y, longer.train.y[:30], rtol=1e-12)
    assert longer.validation is None


def test_targets_do_not_depend_on_the_threads_of_blas():
    from threadpoolctl import threadpool_limits

    options = {"teacher_hidden": [300, 300], "train_size": 500, "validation_size": 0, "test_size": 1}
    targets = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            targets.append(data.load("student_teacher", **options).train.y)
    np.testing.assert_array_equal(*targets)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("teacher_activation", "thanh", "Did you mean 'tanh'"),
        ("teacher_hidden", 1000, "must be a list of layer widths"),
        ("teacher_hidden", [10, 0], r"teacher_hidden\[1\] = 0"),
        ("teacher_gain", 0, "positive, finite"),
        ("teacher_gain", "3", "positive, finite"),
        ("teacher_gain", 1e200, "y_train holds .* must be finite"),
        ("teacher_seed", 2**32, "at most 4,294,967,295"),
        ("input_seed", 0.5, "whole number"),
        ("n_inputs", 0, "at least 1"),
        ("test_size", 0, "at least 1"),
    ],
)
def test_options_of_the_teacher_that_make_no_sense_are_refused(option, value, message):
    with pytest.raises((ValueError, TypeError), match=message):
        data.load("student_teacher", **SMALL_TEACHER | {option: value})
