"""Using what was trained: `dfc evaluate`, `dfc export`, and the same in Python."""

import csv

import numpy as np
import pytest
from command_line import invoked

import dfc_numba as dfc
from dfc_numba import data
from dfc_numba.runs import trained

CHANGES = {
    "network.hidden": [8],
    "training.method": "bp",
    "training.epochs": 2,
    "data.options.train_size": 200,
}


def command(*arguments):
    return invoked(*arguments)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The directory and the `TrainingResult` of a short run."""
    path = tmp_path_factory.mktemp("runs") / "bp"
    return path, dfc.train(dfc.load_config("digits", CHANGES), path)


def metrics(path):
    with open(path / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_evaluate_gives_the_numbers_of_the_last_epoch_and_writes_predictions(run, tmp_path):
    path, out = run[0], tmp_path / "predictions.npz"
    result = command("evaluate", path, "--out", out)
    assert result.exit_code == 0, result.stderr
    accuracy = float(metrics(path)[-1]["test_accuracy"])
    assert f"accuracy {100 * accuracy:.2f} %" in result.stdout and "confusion matrix" in result.stdout
    with np.load(out) as file:
        outputs, predictions, labels = file["outputs"], file["predictions"], file["labels"]
    assert outputs.shape == (300, 10) and np.array_equal(predictions, outputs.argmax(axis=1))
    assert np.mean(predictions == labels) == accuracy
    assert np.array_equal(labels, data.load("digits", train_size=200).test.y)


def test_the_loss_has_the_bits_of_metrics_csv(run):
    path, result = run
    for row, weights in ((metrics(path)[-1], "last"), (metrics(path)[result.outcome.best_epoch - 1], "best")):
        _, _, evaluation = trained.evaluate_trained(path, weights=weights)
        assert evaluation.loss == float(row["test_loss"]) and evaluation.accuracy == float(
            row["test_accuracy"]
        )
    assert trained.evaluate_trained(path, split="val")[2].loss == float(metrics(path)[-1]["val_loss"])


def test_confusion_and_the_table_by_class_count_every_sample(run):
    evaluation = run[1].evaluate()
    assert evaluation.confusion.sum() == 300 and np.trace(evaluation.confusion) == round(
        300 * evaluation.accuracy
    )
    rows = evaluation.per_class()
    assert [row["samples"] for row in rows] == np.bincount(evaluation.labels, minlength=10).tolist()
    assert sum(row["correct"] for row in rows) == np.trace(evaluation.confusion)
    assert "Evaluation(loss=" in repr(evaluation) and len(repr(evaluation)) < 80


def test_an_export_opens_with_numpy_alone_and_evaluates_the_same(run, tmp_path):
    path, out = run[0], tmp_path / "weights.npz"
    assert command("export", path, "--to", "npz", "--out", out).exit_code == 0
    with np.load(out) as file:
        x = data.load("digits").test.x
        hidden = np.tanh(x @ file["weights_1"].T + file["biases_1"])
        output = hidden @ file["weights_2"].T + file["biases_2"]
        assert file["hidden_activations"].tolist() == ["tanh"] and file["sizes"].tolist() == [64, 8, 10]
    np.testing.assert_allclose(output, run[1].network.predict(x), rtol=1e-12)
    ours, theirs = (
        trained.evaluate_trained(source, data_name="digits")[2] for source in (path / "weights_last.h5", out)
    )
    assert ours.loss == theirs.loss and np.array_equal(ours.outputs, theirs.outputs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "nowhere"], "there is no nowhere; expected a run directory"),
        (["evaluate", "{run}", "--weights", "first"], "weights is 'first'; allowed are 'last', 'best'"),
        (["evaluate", "{run}", "--split", "holdout"], "split is 'holdout'; allowed are 'test'"),
        (["evaluate", "{run}", "--data", "digit"], "Did you mean 'digits'?"),
        (["evaluate", "{run}", "--data", "student_teacher"], "has 15 inputs and 5 outputs, but the network"),
        (["evaluate", "{run}", "--out", "{run}/metrics.csv"], "the name must end in .npz"),
        (["evaluate", "{run}/config.toml"], "config.toml"),
        (["evaluate", "{tmp}/alone.h5"], "name a data set or a file with --data"),
        (["evaluate", "{tmp}/other.npz"], "is not a network that `dfc export` wrote"),
        (["export", "{run}", "--to", "onnx", "--out", "{tmp}/a.onnx"], "to is 'onnx'; allowed are 'npz'"),
        (["export", "{run}", "--out", "{tmp}/other.npz"], "exists and is not overwritten"),
        (["evaluate", "{tmp}"], "holds no weights_last.h5"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_remedy(run, tmp_path, arguments, message):
    run[1].network.save(tmp_path / "alone.h5")
    np.savez(tmp_path / "other.npz", a=1)
    result = command(*(text.format(run=run[0], tmp=tmp_path) for text in arguments))
    assert result.exit_code == 2 and message in result.stderr, result.stderr


def test_evaluate_takes_labels_as_people_have_them():
    net = dfc.Network.create([3, 4], seed=1)
    x, y = np.random.default_rng(0).normal(size=(9, 3)), np.arange(9) % 4
    first = dfc.evaluate(net, x, y, loss="cross_entropy")
    for labels in (y.astype(float), y.tolist(), np.eye(4)[y], y.astype(np.uint8)):
        again = dfc.evaluate(net, x, labels, loss="cross_entropy")
        assert again.loss == first.loss and np.array_equal(again.confusion, first.confusion)
        assert dfc.accuracy(net.predict(x), labels) == first.accuracy
    assert first.loss == pytest.approx(dfc.mean_loss(net.predict(x), y, "cross_entropy"), rel=1e-12)
    regression = dfc.evaluate(net, x, np.random.default_rng(1).normal(size=(9, 4)))
    assert regression.confusion is None and np.isnan(regression.accuracy) and regression.per_class() == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": np.arange(9)}, "labels from 0 to 8; with 4 outputs 0 to 3"),
        ({"y": np.arange(8) % 4}, "8 labels for 9 samples"),
        ({"y": ["a"] * 9}, "data.from_arrays numbers the names of classes"),
        ({"y": np.full(9, np.inf)}, "whole numbers"),
        ({"x": np.ones((9, 2))}, r"x has shape \(9, 2\)"),
        ({"x": np.ones((0, 3)), "y": []}, "no sample"),
        ({"loss": "mae"}, "loss is 'mae'"),
        ({"classes": ["a"]}, "classes lists 1 names"),
    ],
)
def test_evaluate_refuses_what_does_not_fit(change, message):
    net = dfc.Network.create([3, 4], seed=1)
    arguments = {"x": np.ones((9, 3)), "y": np.arange(9) % 4, **change}
    with pytest.raises((ValueError, TypeError), match=message):
        dfc.evaluate(net, arguments.pop("x"), arguments.pop("y"), **arguments)


def test_a_network_without_a_feedforward_pass_is_evaluated_by_its_method(tmp_path):
    config = dfc.load_config(
        "digits",
        {"training.method": "ep", "training.epochs": 1, "network.hidden": [16], "training.batch_size": 64},
    )
    dfc.train(config, out=tmp_path / "run")
    _, _, found = trained.evaluate_trained(tmp_path / "run")
    with open(tmp_path / "run" / "metrics.csv") as file:
        row = list(csv.DictReader(file))[-1]
    assert found.accuracy == float(row["test_accuracy"]) and found.loss == float(row["test_loss"])


@pytest.mark.parametrize("method", ["ep-vector-field", "lcp-rnn-di"])
def test_a_method_with_arrays_of_its_own_is_evaluated_with_those_of_the_checkpoint(method, tmp_path):
    settings = {
        "training.method": method,
        "network.hidden": [6],
        "training.epochs": 1,
        "data.options": {"train_size": 64},
    }
    result = dfc.train(dfc.load_config(None, settings), tmp_path / "run")
    _, _, found = trained.evaluate_trained(tmp_path / "run")
    assert (
        found.accuracy == result.metrics[-1]["test_accuracy"]
        and found.loss == result.metrics[-1]["test_loss"]
    )
    for name in ("checkpoint.h5", "checkpoint_previous.h5"):
        (tmp_path / "run" / name).unlink(missing_ok=True)
    with pytest.raises(ValueError, match="predicts with its own arrays"):
        trained.evaluate_trained(tmp_path / "run")
