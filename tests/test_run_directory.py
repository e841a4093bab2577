"""The run directory: nothing half written, nothing overwritten, no sound result replaced by a broken one."""

import csv
import errno
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from dfc_numba.config import Config
from dfc_numba.config_file import load_config
from dfc_numba.errors import ConfigurationError
from dfc_numba.files import replacing, write_text
from dfc_numba.run_directory import FILES, METRICS, RunDirectory


class Weights:
    """A network that is saved as a text."""

    def __init__(self, text):
        self.text = text

    def save(self, path):
        path.write_text(self.text)


def trainer(text="weights", best="best", best_epoch=1):
    return SimpleNamespace(
        network=Weights(text), best_network=Weights(best), counters=SimpleNamespace(best_epoch=best_epoch)
    )


def row(epoch, **changes):
    return {**dict.fromkeys(METRICS, 0.5), "epoch": epoch, "seconds": 1.25, **changes}


def outcome(status="done", message="", epochs=1, best_epoch=1):
    return SimpleNamespace(status=status, message=message, epochs=epochs, best_epoch=best_epoch)


@pytest.fixture
def directory(tmp_path):
    made = RunDirectory.create(
        Config(), path=tmp_path / "deep" / "run", name="test", command=["dfc", "train"]
    )
    made.on_start(trainer())
    return made


def record(directory):
    return json.loads((directory.path / "run.json").read_text())


def metrics(directory):
    with open(directory.path / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def text(directory, name):
    return (directory.path / name).read_text()


def test_a_new_directory_says_what_will_run(directory):
    assert load_config(directory.path / "config.toml")[0] == Config()
    assert record(directory)["status"] == "running" and record(directory)["command"] == ["dfc", "train"]
    assert text(directory, "metrics.csv") == (
        "epoch,train_loss,train_accuracy,val_loss,val_accuracy,test_loss,test_accuracy,seconds\n"
    )


def test_every_epoch_adds_a_row_and_saves_the_network(directory):
    directory.on_epoch(row(1))
    assert (text(directory, "weights_last.h5"), text(directory, "weights_best.h5")) == ("weights", "best")
    directory.on_start(trainer("worse", "never written", best_epoch=1))
    directory.on_epoch(row(2, train_loss=0.1 + 0.2))
    assert (text(directory, "weights_last.h5"), text(directory, "weights_best.h5")) == ("worse", "best")
    assert [entry["epoch"] for entry in metrics(directory)] == ["1", "2"]
    assert float(metrics(directory)[1]["train_loss"]) == 0.1 + 0.2


def test_a_missing_score_is_nan_in_the_table_and_null_in_json(directory):
    directory.on_epoch(row(1, val_accuracy=math.nan))
    directory.on_end(outcome())
    assert math.isnan(float(metrics(directory)[0]["val_accuracy"]))
    assert record(directory)["results"]["last"]["val_accuracy"] is None


def test_the_end_is_recorded(directory):
    directory.on_epoch(row(1))
    directory.on_end(outcome(message="finished 1 epochs"))
    end = record(directory)
    assert (end["status"], end["stop_reason"]) == ("done", "finished 1 epochs")
    assert end["results"]["best_epoch"] == 1 and end["ended"] >= end["started"] and end["seconds"] >= 0


def test_an_interrupted_run_keeps_the_network_where_it_stopped(directory):
    directory.on_epoch(row(1))
    directory.on_start(trainer("half an epoch later"))
    directory.on_end(outcome("interrupted", "by someone"))
    assert text(directory, "weights_last.h5") == "half an epoch later"
    assert record(directory)["status"] == "interrupted"


def test_a_diverged_network_does_not_replace_a_sound_one(directory):
    directory.on_epoch(row(1))
    directory.on_start(trainer("not a number"))
    directory.on_end(outcome("diverged", "layer 2"))
    assert text(directory, "weights_last.h5") == "weights"
    assert record(directory)["stop_reason"] == "layer 2"


@pytest.mark.parametrize("name", FILES)
def test_a_directory_with_a_run_is_refused(tmp_path, name):
    (tmp_path / name).write_text("precious")
    with pytest.raises(ConfigurationError, match="holds a run, which is never overwritten.*--out"):
        RunDirectory.create(Config(), path=tmp_path)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(name, "precious")]


def test_a_directory_with_other_files_is_taken(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    RunDirectory.create(Config(), path=tmp_path).discard()
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_a_discarded_run_leaves_nothing(tmp_path):
    RunDirectory.create(Config(), path=tmp_path / "run").discard()
    assert not (tmp_path / "run").exists()


def test_default_names_are_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [str(RunDirectory.create(Config(), name="digits").path) for _ in range(3)]
    assert names == ["runs/digits-001", "runs/digits-002", "runs/digits-003"]


@pytest.mark.parametrize("place", ["file", "file/deep"])
def test_a_place_that_is_no_directory_is_refused(tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot write to .*file.*--out"):
        RunDirectory.create(Config(), path=tmp_path / place)


def test_a_file_named_runs_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("")
    with pytest.raises(ConfigurationError, match="cannot write to runs.*--out"):
        RunDirectory.create(Config())


def test_a_read_only_directory_is_refused(tmp_path, monkeypatch):
    """Told by the system; simulated, since the superuser may write anywhere."""

    def refuse(*_args, **_options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ConfigurationError, match="cannot write to .*Permission denied.*--out"):
        RunDirectory.create(Config(), path=tmp_path / "run")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half of the n")
        raise RuntimeError
    assert path.read_text() == "old" and [file.name for file in tmp_path.iterdir()] == ["file.txt"]


def test_nobody_sees_a_file_half_written(tmp_path):
    path = tmp_path / "file.txt"
    with replacing(path) as temporary:
        temporary.write_text("half")
        assert not path.exists() and temporary.parent == path.parent
        temporary.write_text("whole")
    assert path.read_text() == "whole"
