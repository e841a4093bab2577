"""Data as people have them: arrays, data frames, tables, IDX folders, labels of any type."""

import gzip
import json

import numpy as np
import pytest

import dfc_numba as dfc
from dfc_numba import data

X = np.random.default_rng(0).normal(size=(12, 3))
Y = np.arange(12) % 3
FORMS = {
    "integers": Y,
    "from 1": Y + 1,
    "negative": Y - 1,
    "whole floats": Y.astype(float),
    "unsigned bytes": Y.astype(np.uint8),
    "texts": np.array(["ant", "bee", "cat"])[Y],
    "objects": np.array(["ant", "bee", "cat"], object)[Y],
    "list": Y.tolist(),
    "column": Y[:, None],
    "one-hot": np.eye(3)[Y],
    "integer one-hot": np.eye(3, dtype=int)[Y],
}


@pytest.mark.parametrize("form", FORMS)
def test_classes_of_any_type_get_the_same_numbers(form):
    made = data.from_arrays(X, FORMS[form], X[:4], np.asarray(FORMS[form])[:4])
    assert made.task == "classification" and made.n_outputs == 3 and len(made.classes) == 3
    assert np.array_equal(made.train.y, Y) and np.array_equal(made.test.y, Y[:4])


def test_booleans_and_named_classes_that_do_not_occur():
    assert data.from_arrays(X, Y > 0).classes == ("False", "True")
    made = data.from_arrays(X, np.array(["b", "a"])[Y % 2], classes=["c", "b", "a"])
    assert made.n_outputs == 3 and set(made.train.y) == {1, 2} and made.classes == ("c", "b", "a")


def test_floats_are_targets_of_a_regression():
    made = data.from_arrays(X, X[:, 0])
    assert made.task == "regression" and made.train.y.shape == (12, 1) and made.classes == ()
    assert data.from_arrays(X, Y, task="regression").task == "regression"


def test_images_are_flattened_and_bytes_scaled_and_it_is_said():
    images = np.random.default_rng(0).integers(0, 256, (12, 4, 5)).astype(np.uint8)
    made = data.from_arrays(images, Y)
    assert np.array_equal(made.train.x, images.reshape(12, 20) / 255)
    assert made.notes == ("inputs of 4 x 5 flattened to 20", "unsigned bytes divided by 255")


def test_unscaled_inputs_are_noticed():
    with pytest.warns(UserWarning, match="inputs range from 0 to 250, unscaled"):
        data.from_arrays(np.linspace(0, 250, 36).reshape(12, 3), Y)
    made = data.from_arrays(200 * X, Y, 200 * X[:4], Y[:4], scale="standardise")
    np.testing.assert_allclose(made.train.x.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(made.test.x, made.train.x[:4], rtol=1e-12)


def test_data_frames_train():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=list("abc"))
    labels = pandas.Series(["ant", "bee", "cat"])[Y]
    made = data.from_arrays(frame, labels.astype("category"), test_size=3, validation_size=2)
    assert (len(made.train), len(made.validation), len(made.test)) == (7, 2, 3)
    config = dfc.load_config("digits", {"training.method": "bp", "network.hidden": [4], "training.epochs": 1})
    assert dfc.train(config, data=made).evaluate().classes == ("ant", "bee", "cat")
    with pytest.raises(ValueError, match="the columns d are not numbers"):
        data.from_arrays(frame.assign(d="x"), labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_train": Y[:5]}, "x_train has 12 samples but y_train has 5"),
        ({"x_test": X}, "x_test and y_test go together"),
        ({"x_test": X, "y_test": Y + 1}, "y_test holds the class 3 .*not among"),
        ({"x_test": X[:, :2], "y_test": Y}, "2 inputs per sample"),
        ({"x_train": np.full((12, 3), np.nan)}, "holds nan"),
        ({"x_train": X[:, 0]}, "one column is written"),
        ({"x_train": np.full((12, 3), "a")}, "must be numbers"),
        ({"y_train": np.zeros(12)}, "one class, 0; at least 2"),
        ({"y_train": [None, *"abcdefghijk"]}, "the value of sample 0 is missing"),
        ({"scale": "log"}, "unknown value of scale"),
        ({"task": "cluster"}, "unknown task"),
        ({"test_size": 12}, "leave nothing to train on"),
        ({"x_train": [[1, 2], [3]]}, "rows of different lengths"),
        ({"x_train": np.empty((0, 3)), "y_train": []}, "are needed"),
    ],
)
def test_arrays_that_cannot_be_used_are_refused(change, message):
    with pytest.raises((ValueError, TypeError), match=message):
        data.from_arrays(**{"x_train": X, "y_train": Y, **change})


def test_a_keras_style_file_trains_and_the_run_says_what_was_done(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (20, 4, 4)).astype(np.uint8)
    labels = (np.arange(20) % 3).astype(np.uint8)
    path = tmp_path / "small.npz"
    np.savez(path, x_train=images, y_train=labels[:, None], x_test=images[:6], y_test=labels[:6, None])
    changes = {"data.name": str(path), "training.method": "bp", "network.hidden": [4], "training.epochs": 1}
    result = dfc.train(dfc.load_config("digits", changes), tmp_path / "run")
    assert result.dataset.n_inputs == 16 and result.dataset.train.x.max() <= 1
    stored = json.loads((tmp_path / "run" / "run.json").read_text())["data"]
    assert stored["notes"][:2] == ["inputs of 4 x 4 flattened to 16", "unsigned bytes divided by 255"]


def test_a_table_with_a_named_target(tmp_path):
    path = tmp_path / "irises.csv"
    rows = [f"{a:.3f},{['ant', 'bee', 'cat'][y]},{b:.3f}" for (a, b, _), y in zip(X, Y, strict=True)]
    path.write_text("\n".join(["width,kind,length", *rows]) + "\n")
    made = data.load(str(path), target="kind", test_size=3)
    assert made.classes == ("ant", "bee", "cat") and (made.n_inputs, len(made.train), len(made.test)) == (
        2,
        9,
        3,
    )
    for options, message in (
        ({"target": "sort"}, "unknown column of .*irises.csv: 'sort'. Allowed: width, kind, length"),
        ({"target": "length"}, "column 'kind' holds 'ant', which is not a number"),
        ({}, "needs the option target"),
    ):
        with pytest.raises(ValueError, match=message):
            data.load(path, **options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n3\n", "row 2 has 1 columns"),
        ("a,a\n1,2\n", "column 'a' twice"),
        ("a,b\n1,\n", "no value in row 1"),
        ("a,b\n", "no row"),
    ],
)
def test_a_broken_table_is_refused(tmp_path, text, message):
    (tmp_path / "broken.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        data.load(tmp_path / "broken.csv", target="b")


def idx_bytes(array):
    return (
        bytes([0, 0, 8, array.ndim])
        + np.array(array.shape, ">u4").tobytes()
        + array.astype(np.uint8).tobytes()
    )


@pytest.mark.parametrize(
    "pattern",
    [
        "{}-{}-idx{}-ubyte.gz",
        "emnist-letters-{}-{}-idx{}-ubyte",
        "{}-{}.idx{}-ubyte",
        "letters.{}.{}.idx{}.ubyte.gz",
    ],
)
def test_idx_files_under_any_usual_name(tmp_path, pattern):
    images, labels = np.random.default_rng(0).integers(0, 256, (30, 3, 3)), 1 + np.arange(30) % 26
    for part, stop in (("train", 30), ("t10k" if "emnist" not in pattern else "test", 26)):
        for kind, array in (("images", images[:stop]), ("labels", labels[:stop])):
            content = idx_bytes(array)
            name = pattern.format(part, kind, array.ndim)
            (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    made = data.load(tmp_path)
    assert made.n_outputs == 26 and made.classes[0] == "1" and made.n_inputs == 9 and made.train.x.max() <= 1
    assert np.array_equal(made.train.y, labels - 1)


def test_a_folder_without_the_files_says_what_it_looked_for(tmp_path):
    (tmp_path / "other.txt").write_text("")
    with pytest.raises(
        ValueError,
        match="holds no images of the train set, such as train-images-idx3-ubyte.gz; it holds other.txt",
    ):
        data.load(tmp_path)
