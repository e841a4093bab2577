"""A user's own .npz and .h5 files: what is accepted, and an error for whatever is not."""

import pickle

import h5py
import numpy as np
import pytest

from dfc_numba import data


def labelled(**changes):
    """Arrays of a small classification file, with some replaced; None removes one."""
    random = np.random.RandomState(0)
    arrays = {
        "x_train": random.rand(12, 3),
        "y_train": np.arange(12) % 4,
        "x_test": random.rand(5, 3),
        "y_test": np.arange(5) % 4,
    }
    return {name: array for name, array in (arrays | changes).items() if array is not None}


def with_targets(**changes):
    """The same with two float targets per sample."""
    return labelled(**{"y_train": np.ones((12, 2)), "y_test": np.zeros((5, 2))} | changes)


def write(path, arrays):
    if path.suffix == ".npz":
        np.savez(path, **arrays)
        return path
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


@pytest.fixture(params=["own.npz", "own.h5", "own.hdf5"])
def path(request, tmp_path):
    return tmp_path / request.param


# --- what is accepted


def test_integers_are_labels(path):
    arrays = labelled(y_train=(np.arange(12) % 4).astype(np.uint8))
    dataset = data.load(write(path, arrays), dtype="float32")
    assert (dataset.task, dataset.n_inputs, dataset.n_outputs) == ("classification", 3, 4)
    assert dataset.validation is None
    assert dataset.train.y.dtype == np.int64
    np.testing.assert_array_equal(dataset.train.x, arrays["x_train"].astype(np.float32))
    np.testing.assert_array_equal(dataset.test.y, arrays["y_test"])


def test_floats_are_targets(path):
    dataset = data.load("file", path=str(write(path, with_targets())))
    assert (dataset.task, dataset.n_outputs) == ("regression", 2)
    assert dataset.train.y.shape == (12, 2)
    assert str(path) in dataset.source


def test_bytes_and_big_endian_numbers_are_inputs(path):
    x_train = np.arange(36).reshape(12, 3)
    arrays = labelled(x_train=x_train.astype(np.uint8), x_test=np.ones((5, 3), ">f4"))
    dataset = data.load(str(write(path, arrays)))
    np.testing.assert_array_equal(dataset.train.x, x_train)
    assert dataset.test.x.dtype == np.dtype("float64")


def test_validation_arrays_of_the_file_are_used(path):
    dataset = data.load(write(path, labelled(x_val=np.zeros((2, 3)), y_val=np.array([3, 0]))))
    assert len(dataset.train) == 12
    assert dataset.validation.y.tolist() == [3, 0]


def test_a_validation_set_can_be_held_out(path):
    arrays = labelled(y_train=np.arange(12))
    dataset = data.load(write(path, arrays), validation_size=4, split_seed=2)
    assert sorted([*dataset.train.y, *dataset.validation.y]) == list(range(12))
    for split in (dataset.train, dataset.validation):
        np.testing.assert_array_equal(split.x, arrays["x_train"][split.y])
    again = data.load(path, validation_size=4, split_seed=2)
    np.testing.assert_array_equal(again.validation.y, dataset.validation.y)


def test_the_number_of_classes_can_be_given(path):
    assert data.load(write(path, labelled()), n_classes=7).n_outputs == 7


@pytest.mark.parametrize(
    ("labels", "options", "note"),
    [
        (np.arange(12) % 4, {}, None),
        (np.arange(12) % 3 + 1, {}, "y_train has no sample of class 0; labels are counted from 0"),
        (
            np.arange(12) % 4,
            {"n_classes": 6},
            "y_train has no sample of classes 4, 5; labels are counted from 0",
        ),
    ],
)
def test_classes_without_a_sample_are_told(path, labels, options, note):
    made = data.load(write(path, labelled(y_train=labels, y_test=np.ones(5, int))), **options)
    assert made.notes == (() if note is None else (note,))


def test_other_arrays_are_left_alone(path):
    assert data.load(write(path, labelled(notes=np.zeros(3)))).n_inputs == 3


# --- what is not

NAN = np.full((5, 3), np.nan)
REFUSED = [
    (labelled(x_test=None), "x_test missing; the file holds x_train, y_test, y_train"),
    ({"notes": np.zeros(3)}, "x_train, y_train, x_test, y_test missing; the file holds no array"),
    (labelled(x_val=np.zeros((2, 3))), "y_val missing"),
    (labelled(x_valid=np.zeros((2, 3))), "'x_valid'. Did you mean 'x_val'"),
    (labelled(x_train=np.zeros((12, 3, 1))), r"x_train has shape \(12, 3, 1\).*flatten"),
    (labelled(x_train=np.zeros(12)), r"x_train has shape \(12,\)"),
    (labelled(x_train=np.float64(3)), r"x_train has shape \(\)"),
    (labelled(x_train=np.zeros((0, 3)), y_train=np.arange(0)), "x_train is empty"),
    (labelled(x_train=np.zeros((12, 0))), "x_train is empty"),
    (labelled(x_test=np.zeros((5, 4))), "x_test has 4 inputs per sample, but x_train has 3"),
    (labelled(x_test=NAN), r"x_test holds nan \(sample 0, column 0, 15 in all\)"),
    (labelled(x_train=np.zeros((12, 3), complex)), "x_train is complex128; must be numbers"),
    (labelled(y_train=np.arange(11)), "x_train has 12 samples but y_train has 11"),
    (labelled(y_train=np.int64(1)), "y_train has a single value"),
    (labelled(y_train=np.arange(12) - 1), r"y_train holds the label -1 \(sample 0, 1 in all\)"),
    (labelled(y_train=np.arange(12) * 10**7), "y_train holds the label 10000000 .*labels must be 0 to 99999"),
    (
        labelled(y_test=np.array([0, 1, 2, 3, 4])),
        r"y_test holds the label 4 \(sample 4.*labels must be 0 to 3",
    ),
    (
        labelled(y_train=np.zeros((12, 2), int)),
        r"y_train is int64 of shape \(12, 2\); labels must be \(samples,\)",
    ),
    (labelled(y_train=np.zeros(12, bool)), "y_train holds one class, False; at least 2 are needed"),
    (labelled(y_test=np.zeros(5)), "y_test is float64 but y_train holds integers"),
    (with_targets(y_test=np.arange(5)), "y_test is int64 but y_train holds floats"),
    (
        with_targets(y_train=np.full(12, 0.5)),
        r"y_train is float64 of shape \(12,\); store class labels as integers",
    ),
    (with_targets(y_train=np.zeros((12, 2, 2))), r"y_train has shape \(12, 2, 2\)"),
    (with_targets(y_train=np.zeros((12, 0))), "y_train is empty"),
    (with_targets(y_test=np.zeros((5, 3))), "y_test has 3 targets per sample; expected 2"),
    (with_targets(y_train=np.full((12, 2), np.inf)), "y_train holds inf"),
]


@pytest.mark.parametrize(("arrays", "message"), REFUSED)
def test_impossible_arrays_are_refused_with_file_and_name(path, arrays, message):
    with pytest.raises(ValueError, match=f"{path.name}.*{message}"):
        data.load(write(path, arrays))


def test_numbers_too_large_for_float32_are_refused(path):
    write(path, labelled(x_train=np.full((12, 3), 1e300)))
    assert data.load(path).train.x.max() == 1e300
    with pytest.raises(ValueError, match=r"x_train holds inf .* must be finite in float32"):
        data.load(path, dtype="float32")


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        (labelled(), {"validation_size": 12}, "validation_size = 12 leaves nothing to train on"),
        (labelled(), {"n_classes": 3}, "y_train holds the label 3 .*labels must be 0 to 2"),
        (labelled(), {"n_classes": 0}, "n_classes = 0"),
        (labelled(), {"path": "other.npz"}, "is a path already"),
        (with_targets(), {"n_classes": 3}, "float targets, which have no classes"),
        (
            labelled(x_val=np.zeros((2, 3)), y_val=np.zeros(2, int)),
            {"validation_size": 1},
            "has x_val already",
        ),
    ],
)
def test_options_that_cannot_be_honoured_are_refused(path, arrays, options, message):
    with pytest.raises(ValueError, match=message):
        data.load(write(path, arrays), **options)


def test_an_hdf5_group_is_no_array(tmp_path):
    path = write(tmp_path / "own.h5", labelled(x_train=None))
    with h5py.File(path, "a") as file:
        file.create_group("x_train")
    with pytest.raises(ValueError, match="x_train missing"):
        data.load(path)


def test_text_is_refused(tmp_path):
    path = write(tmp_path / "own.npz", labelled(y_train=np.array(["a"] * 12)))
    with pytest.raises(ValueError, match="y_train holds one class, a; at least 2 are needed"):
        data.load(path)


class Trap:
    """Unpickling this would be noticed."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was loaded",)


def test_pickles_are_never_loaded(tmp_path):
    path = tmp_path / "own.npz"
    np.savez(path, **labelled(x_train=np.array([Trap()], dtype=object)))
    with pytest.raises(ValueError, match="x_train cannot be read .*store plain numbers"):
        data.load(path)
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match="not a .npz file"):
        data.load(path)


# --- files


def test_a_truncated_file_is_refused(path):
    write(path, labelled(x_train=np.zeros((12, 3000)), x_test=np.zeros((5, 3000))))
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(ValueError, match=f"{path.name}: (truncated|cannot be read)"):
        data.load(path)


def test_a_damaged_file_is_refused(tmp_path):
    path = write(tmp_path / "own.npz", labelled())
    content = bytearray(path.read_bytes())
    content[150:160] = b"0123456789"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"own\.npz: .*cannot be read"):
        data.load(path)


def test_a_file_of_another_format_is_refused(path):
    path.write_text("x_train,y_train\n")
    with pytest.raises(ValueError, match=f"{path.name}: (truncated or not|cannot be read)"):
        data.load(path)


def test_an_empty_file_is_refused(path):
    path.touch()
    with pytest.raises(ValueError, match=f"{path.name}: the file is empty"):
        data.load(path)


def test_a_missing_file_is_named(path):
    with pytest.raises(data.DataUnavailableError, match=f"{path.name}: there is no such file"):
        data.load(path)
    with pytest.raises(OSError, match="no such file"):
        data.load("file", path=str(path))


def test_a_folder_is_no_file(path):
    path.mkdir()
    with pytest.raises(data.DataUnavailableError, match="is not a file"):
        data.load(path)


def test_other_kinds_of_file_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must end in .npz, .h5, .hdf5"):
        data.load("file", path=str(tmp_path / "own.csv"))
    with pytest.raises(TypeError, match="data option path = 3"):
        data.load("file", path=3)
    with pytest.raises(ValueError, match=r"unknown data set 'own.txt'.*the path of a file that ends in"):
        data.load("own.txt")
