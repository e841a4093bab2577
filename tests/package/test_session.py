"""Runs from Python: `dfc.load_config` and `dfc.train`."""

import numpy as np
import pytest

import dfc_numba as dfc

CHANGES = {
    "network.hidden": (8,),
    "training.method": "bp",
    "training.epochs": 2,
    "data.options.train_size": 200,
}


def test_a_configuration_is_loaded_with_changes():
    config = dfc.load_config("digits", CHANGES)
    assert (
        config.training.epochs == 2
        and config.network.hidden == (8,)
        and config.data.options == {"train_size": 200}
    )
    again = dfc.load_config(config, {"training.seed": np.int64(4), "optimizer.clip_norm": None})
    assert again.training.seed == 4 and again.network.hidden == (8,) and again.optimizer.clip_norm is None


@pytest.mark.parametrize(
    ("source", "changes", "message"),
    [
        ("digitz", {}, "did you mean 'digits'"),
        ("digits", {"training.epoch": 2}, "did you mean 'epochs'"),
        ("digits", {"training.epochs": "two"}, "training.epochs"),
        ("digits", {"epochs": 2}, "write the key as 'section.key', such as 'training.epochs'"),
        ("digits", "training.epochs=2", "must be a dict"),
        (3, {}, "not int"),
    ],
)
def test_a_wrong_configuration_is_refused(source, changes, message):
    with pytest.raises((ValueError, TypeError), match=message):
        dfc.load_config(source, changes)


def test_training_in_memory_has_the_bits_of_a_run_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = dfc.load_config("digits", CHANGES)
    memory, disk = dfc.train(config), dfc.train(config, "run", threads=1)
    assert (
        memory.status == disk.status == "done" and memory.directory is None and disk.directory.name == "run"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    for ours, theirs in zip(memory.network.weights, disk.network.weights, strict=True):
        assert np.array_equal(ours, theirs)
    assert len(memory.metrics) == 2 and memory.metrics[-1]["test_loss"] == disk.metrics[-1]["test_loss"]
    assert memory.evaluate().accuracy == memory.metrics[-1]["test_accuracy"]
    assert len(repr(memory)) < 300


@pytest.mark.parametrize("method", ["ep", "ep-vector-field"])
def test_an_evaluation_has_the_outputs_of_the_method(method):
    settings = {"training.method": method, "network.hidden": [8], "network.hidden_activation": "tanh"}
    result = dfc.train(dfc.load_config(None, {**settings, "training.epochs": 1}))
    evaluation = result.evaluate()
    assert evaluation.accuracy == result.metrics[-1]["test_accuracy"]
    assert evaluation.loss == result.metrics[-1]["test_loss"]
    assert not np.array_equal(evaluation.outputs, result.network.predict(result.dataset.test.x))
    if method == "ep":
        assert np.isfinite(result.evaluate(weights="best").loss)
    else:
        with pytest.raises(ValueError, match="predicts with its own arrays"):
            result.evaluate(weights="best")


def test_what_a_run_directory_cannot_repeat_is_refused(tmp_path):
    config = dfc.load_config("digits", CHANGES)
    with pytest.raises(ValueError, match="data in memory cannot be found again"):
        dfc.train(config, tmp_path / "run", data=object())
    with pytest.raises(TypeError, match="must be a DataSet"):
        dfc.train(config, data=np.ones((3, 4)))
    with pytest.raises(ValueError, match="stores trajectories in a run directory"):
        dfc.train(dfc.load_config("digits", {"log.on": True}))


def test_divergence_is_a_warning_and_a_status():
    config = dfc.load_config("digits", {**CHANGES, "optimizer.name": "sgd", "optimizer.learning_rate": 1e250})
    with pytest.warns(RuntimeWarning, match="the training diverged: "):
        assert dfc.train(config).status == "diverged"


def test_progress_is_shown_where_asked_for(capsys):
    dfc.train(dfc.load_config("digits", CHANGES), progress=True)
    assert capsys.readouterr().out.count("epoch ") == 2
    dfc.train(dfc.load_config("digits", CHANGES))
    assert capsys.readouterr().out == ""
