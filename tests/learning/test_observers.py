"""Observers of a training: the order of events, early stopping, TensorBoard, and what is refused."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from small_runs import configuration, dataset, network
from typer.testing import CliRunner

import dfc_numba as dfc
from dfc_numba import cli
from dfc_numba.learning import observers

QUICK = {"training.method": "bp", "network.hidden": (8,), "data.options.train_size": 200}


class Events(dfc.Observer):
    """Notes all events by name."""

    def __init__(self):
        self.seen = []

    def on_phase(self, current):
        self.seen.append((current.phase, current.epoch))

    def on_minibatch(self, progress):
        self.seen.append("minibatch")

    def on_checkpoint(self, path):
        assert path.exists()
        self.seen.append("checkpoint")

    def on_epoch(self, row):
        self.seen.append(("epoch", row["epoch"]))

    def on_end(self, outcome):
        self.seen.append(outcome.status)


def rows(*scores, column="val_accuracy"):
    return [{"epoch": epoch, column: score} for epoch, score in enumerate(scores, 1)]


def stopping_epoch(early, scores, column="val_accuracy", task="classification"):
    """The epoch after which a run with these scores is stopped, None where it is not."""
    stops, trainer = [], SimpleNamespace(rows=[], dataset=dataset(task))
    trainer.request_stop = lambda reason, done: stops.append((len(trainer.rows), reason, done))
    early.on_start(trainer)
    for row in rows(*scores, column=column):
        trainer.rows.append(row)
        early.on_epoch(row)
        if stops:
            assert stops[0][2] and column in stops[0][1]
            return stops[0][0]
    return None


def test_events_come_in_their_order_in_memory():
    events = Events()
    trainer = dfc.Trainer(network(), dataset(), configuration(training={"epochs": 1}), observers=[events])
    trainer.run()
    passes = [(("pretraining", 1)), ("feedback", 1), ("forward", 1)]
    expected = [entry for current in passes for entry in (current, *["minibatch"] * 3)]
    assert events.seen == [*expected, ("epoch", 1), "done"]
    assert events.trainer is trainer and trainer.directory is None


def test_a_run_directory_tells_its_checkpoints(tmp_path):
    events = Events()
    config = dfc.load_config("digits", {**QUICK, "training.epochs": 2, "training.batch_size": 100})
    dfc.train(config, tmp_path / "run", observers=[events])
    epoch = ["minibatch", "minibatch", "checkpoint"]
    first, second = [("forward", 1), *epoch, ("epoch", 1)], [("forward", 2), *epoch, ("epoch", 2)]
    assert events.seen == ["checkpoint", *first, *second, "done"]
    assert events.trainer.directory == tmp_path / "run"


@pytest.mark.parametrize(
    ("options", "scores", "stop"),
    [
        ({"patience": 2}, [0.5, 0.6, 0.6, 0.55, 0.9], 4),
        ({"patience": 1}, [0.5, 0.6, 0.7], None),
        ({"patience": 1, "min_delta": 0.2}, [0.5, 0.6, 0.9], 2),
    ],
)
def test_early_stopping_waits_for_an_improvement(options, scores, stop):
    assert stopping_epoch(dfc.EarlyStopping(**options), scores) == stop


def test_early_stopping_lowers_losses():
    assert stopping_epoch(dfc.EarlyStopping(patience=1), [3.0, 2.0, 2.5], "val_loss", "regression") == 3


def test_a_run_stopped_early_is_done_and_is_resumed_only_with_other_observers(tmp_path):
    out = tmp_path / "run"
    stated = [f"--set={key}={json.dumps(value)}" for key, value in QUICK.items()]
    stated += ["--epochs=20", "--set=training.observers={early_stopping={patience=1, min_delta=1.0}}"]
    first = CliRunner().invoke(cli.app, ["train", "digits", *stated, "--out", str(out)])
    assert (
        first.exit_code == 0 and "stopped early: val_accuracy has not improved since epoch 1" in first.stdout
    )
    record = json.loads((out / "run.json").read_text())
    assert (
        record["status"] == "done" and record["results"]["epochs"] == 2 and record["results"]["stopped_early"]
    )
    again = CliRunner().invoke(cli.app, ["train", "--out", str(out), "--resume"])
    assert again.exit_code == 0 and "was stopped early" in again.stderr
    patient = "--set=training.observers={early_stopping={patience=2, min_delta=1.0}}"
    longer = CliRunner().invoke(cli.app, ["train", "--out", str(out), "--resume", patient])
    assert longer.exit_code == 0 and json.loads((out / "run.json").read_text())["results"]["epochs"] == 3


def test_an_observer_leaves_the_bits_of_a_training():
    config = dfc.load_config("digits", {**QUICK, "training.epochs": 1})
    plain, watched = dfc.train(config), dfc.train(config, observers=[Events(), dfc.EarlyStopping()])
    assert all(map(np.array_equal, plain.network.weights, watched.network.weights))


def test_tensorboard_has_the_numbers_of_the_metrics(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    changes = {"training.epochs": 2, "training.observers": {"tensorboard": {"every": 2}}}
    result = dfc.train(dfc.load_config("digits", {**QUICK, **changes}), tmp_path / "run")
    read = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()

    def values(tag):
        return [(event.step, float(make_ndarray(event.tensor_proto))) for event in read.Tensors(tag)]

    expected = [(row["epoch"], np.float32(row["val_accuracy"])) for row in result.metrics]
    assert values("accuracy/val") == expected
    assert [step for step, _ in values("minibatch/loss")] == list(range(2, 15, 2))
    assert values("loss/train")[-1] == (2, np.float32(result.metrics[-1]["train_loss"]))


def test_tensorboard_in_memory_needs_a_folder(tmp_path):
    pytest.importorskip("tensorboard")
    config = dfc.load_config("digits", {**QUICK, "training.epochs": 1})
    with pytest.raises(ValueError, match="state folder"):
        dfc.train(config, observers=[dfc.TensorBoard()])
    dfc.train(config, observers=[dfc.TensorBoard(folder=str(tmp_path / "logs"), every=0)])
    assert list((tmp_path / "logs").glob("events*"))


def test_a_missing_extra_is_named_before_a_run_begins(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorboard.summary", None)
    config = dfc.load_config("digits", {**QUICK, "training.observers": ["tensorboard"]})
    with pytest.raises(ImportError, match=r"dfc-numba\[tensorboard\]"):
        dfc.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Misspelt:
    def on_epoch_end(self, row):
        pass


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([Misspelt()], ValueError, "did you mean 'on_epoch'"),
        ([dfc.EarlyStopping], TypeError, r"EarlyStopping\(\)"),
        ([print], TypeError, "none of the events"),
        (dfc.EarlyStopping(), TypeError, "must be a list"),
    ],
)
def test_wrong_observers_are_refused(given, error, message):
    with pytest.raises(error, match=message):
        dfc.train(dfc.load_config("digits", QUICK), observers=given)


def test_wrong_options_are_refused():
    with pytest.raises(TypeError, match="did you mean 'patience'"):
        dfc.EarlyStopping(patients=3)
    with pytest.raises(ValueError, match="early_stopping.patience = 0: must be an integer >= 1"):
        dfc.EarlyStopping(patience=0)
    with pytest.raises(ValueError, match="did you mean 'early_stopping'"):
        dfc.load_config("digits", {"training.observers": ["early_stoping"]})
    with pytest.raises(ValueError, match="no such option"):
        dfc.load_config("digits", {"training.observers": {"early_stopping": {"patients": 3}}})


def test_an_unknown_column_names_the_nearest():
    early = dfc.EarlyStopping(column="val_los")
    with pytest.raises(ValueError, match="did you mean 'val_loss'"):
        stopping_epoch(early, [0.5], "val_loss")


def test_a_registered_observer_is_chosen_by_its_name():
    class Patience(dfc.EarlyStopping):
        name = "my_stop"

    dfc.register(Patience(patience=3))
    dfc.register(Patience(patience=3))
    config = dfc.load_config("digits", {**QUICK, "training.observers": {"my_stop": {"patience": 2}}})
    (made,) = observers.configured(config)
    assert type(made) is Patience and made.patience == 2
    with pytest.raises(ValueError, match="replace=True"):
        dfc.register(Patience(patience=4))
