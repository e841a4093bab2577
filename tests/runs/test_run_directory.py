"""The run directory: nothing half written, nothing overwritten, no sound result replaced by a broken one."""

import csv
import errno
import json
import math
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from dfc_numba.configuration.config import Config
from dfc_numba.configuration.config_file import load_config
from dfc_numba.errors import ConfigurationError
from dfc_numba.runs.run_directory import FILES, METRICS, RunDirectory, last_of
from dfc_numba.support.files import replacing, write_text


class Weights:
    """A network that is saved as a text."""

    def __init__(self, text):
        self.text = text

    def save(self, path):
        path.write_text(self.text)


class Checkpoints:
    """Counts the checkpoints that are written, and those that would be if one were due."""

    def __init__(self):
        self.written, self.asked, self.seconds = 0, 0, 0.5

    def write(self, trainer):
        self.written += 1

    def write_if_due(self, trainer):
        self.asked += 1


def trainer(text="weights", best="best", best_epoch=1, rows=(), minibatches=0):
    counters = SimpleNamespace(best_epoch=best_epoch, minibatches=minibatches)
    return SimpleNamespace(
        notify=lambda event, path: None,
        analysis=None,
        network=Weights(text),
        best_network=Weights(best),
        counters=counters,
        rows=list(rows),
    )


def start(directory, **options):
    """Starts a run whose trainer is not one."""
    directory.checkpoints = Checkpoints()
    directory.on_start(trainer(**options))
    return directory


def end_epoch(directory, number, **changes):
    """What a trainer does at the end of an epoch."""
    directory._trainer.rows.append(row(number, **changes))
    directory.on_epoch(directory._trainer.rows[-1])


def row(epoch, **changes):
    return {**dict.fromkeys(METRICS, 0.5), "epoch": epoch, "seconds": 1.25, **changes}


def outcome(status="done", message="", epochs=1, best_epoch=1):
    return SimpleNamespace(
        status=status,
        message=message,
        epochs=epochs,
        best_epoch=best_epoch,
        stopped_early=False,
        all_diverged=False,
    )


@pytest.fixture
def directory(tmp_path):
    path = tmp_path / "deep" / "run"
    return start(RunDirectory.create(Config(), path=path, name="test", command=["dfc", "train"]))


def reopened(path, config=None, **options):
    return start(RunDirectory.reopen(config or Config(), path=path, command=["dfc", "again"]), **options)


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
    end_epoch(directory, 1)
    assert (text(directory, "weights_last.h5"), text(directory, "weights_best.h5")) == ("weights", "best")
    directory._trainer.network.text, directory._trainer.best_network.text = "worse", "never written"
    end_epoch(directory, 2, train_loss=0.1 + 0.2)
    assert (text(directory, "weights_last.h5"), text(directory, "weights_best.h5")) == ("worse", "best")
    assert [entry["epoch"] for entry in metrics(directory)] == ["1", "2"]
    assert float(metrics(directory)[1]["train_loss"]) == 0.1 + 0.2


def test_a_missing_score_is_nan_in_the_table_and_null_in_json(directory):
    end_epoch(directory, 1, val_accuracy=math.nan)
    directory.on_end(outcome())
    assert math.isnan(float(metrics(directory)[0]["val_accuracy"]))
    assert record(directory)["results"]["last"]["val_accuracy"] is None


def test_the_end_is_recorded(directory):
    end_epoch(directory, 1)
    directory.on_end(outcome(message="finished 1 epochs"))
    end = record(directory)
    assert (end["status"], end["stop_reason"]) == ("done", "finished 1 epochs")
    assert end["results"]["best_epoch"] == 1 and end["ended"] >= end["started"] and end["seconds"] >= 0


def test_an_interrupted_run_keeps_the_network_where_it_stopped(directory):
    end_epoch(directory, 1)
    directory._trainer.network.text = "half an epoch later"
    directory.on_end(outcome("interrupted", "by someone"))
    assert text(directory, "weights_last.h5") == "half an epoch later"
    assert record(directory)["status"] == "interrupted"


def test_a_diverged_network_does_not_replace_a_sound_one(directory):
    end_epoch(directory, 1)
    directory._trainer.network.text = "not a number"
    directory.on_end(outcome("diverged", "layer 2"))
    assert directory.checkpoints.written == 2 and text(directory, "weights_last.h5") == "weights"
    assert record(directory)["stop_reason"] == "layer 2"


def test_checkpoints_are_written_at_the_start_when_due_at_each_epoch_and_at_an_interruption(directory):
    assert directory.checkpoints.written == 1
    directory.on_minibatch(None)
    assert (directory.checkpoints.written, directory.checkpoints.asked) == (1, 1)
    end_epoch(directory, 1)
    assert directory.checkpoints.written == 2
    directory.on_end(outcome("interrupted", "by someone"))
    assert record(directory)["checkpoints"] == {"written": 3, "seconds": 0.5}


def test_a_resumed_run_has_the_files_of_where_it_stands_and_a_history(directory):
    end_epoch(directory, 1)
    end_epoch(directory, 2)
    directory.close("interrupted", "by someone")
    (directory.path / ".metrics.csv.0123.tmp").write_text("half of the m")
    longer = Config(training={"epochs": 20})
    again = reopened(directory.path, longer, best="of the checkpoint", rows=[row(1)], minibatches=7)
    assert again.checkpoints.written == 0
    assert [entry["epoch"] for entry in metrics(again)] == ["1"]
    assert text(again, "weights_best.h5") == "of the checkpoint"
    assert not list(again.path.glob(".*.tmp"))
    assert load_config(again.path / "config.toml")[0] == longer
    now, (before,) = record(again), record(again)["earlier_sessions"]
    assert (now["name"], now["status"], now["resumed"], now["command"]) == (
        "test",
        "running",
        1,
        ["dfc", "again"],
    )
    assert now["resumed_after"] == {"epochs": 1, "minibatches": 7}
    assert (before["status"], before["command"]) == ("interrupted", ["dfc", "train"])
    again.close("interrupted", "by another")
    third = record(reopened(directory.path, minibatches=9))
    assert third["resumed"] == 2 and third["earlier_sessions"][1]["resumed_after"]["minibatches"] == 7


def test_a_killed_session_is_called_so(directory):
    directory._lock.release()  # as the system does it for a process that ends
    assert record(reopened(directory.path, minibatches=1))["earlier_sessions"][0]["status"] == "killed"


def test_a_run_that_was_killed_while_it_was_created_starts(tmp_path):
    (tmp_path / "run.json").touch()
    again = reopened(tmp_path)
    assert again.checkpoints.written == 1 and record(again)["resumed"] == 1


def test_nothing_is_written_into_a_directory_before_its_run_goes_on(directory):
    end_epoch(directory, 1)
    directory.close("interrupted", "by someone")
    before = {file.name: file.read_bytes() for file in directory.path.iterdir()}
    RunDirectory.reopen(Config(training={"epochs": 20}), path=directory.path).discard()
    assert {file.name: file.read_bytes() for file in directory.path.iterdir()} == before


def test_a_directory_in_use_is_refused_until_its_run_ends(directory):
    with pytest.raises(
        ConfigurationError, match=rf"in use by process {os.getpid()} on .*; wait until it ends"
    ):
        RunDirectory.reopen(Config(), path=directory.path)
    directory.close("done", "")
    RunDirectory.reopen(Config(), path=directory.path)


def test_a_lock_that_was_left_over_is_taken(directory):
    directory.close("done", "")
    (directory.path / ".lock").write_text("process 1 on a machine that is gone\n")
    reopened(directory.path, minibatches=1)
    assert text(directory, ".lock") == ""


def test_the_last_run_of_a_name_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert last_of("digits") is None
    for name in ("digits-002", "digits-1000", "digits-999", "digits-2-1001", "digits-12", "mnist-003"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert str(last_of("digits")) == "runs/digits-1000"


@pytest.mark.parametrize("name", FILES)
def test_a_directory_with_a_run_is_refused(tmp_path, name):
    (tmp_path / name).write_text("precious")
    with pytest.raises(ConfigurationError, match="holds a run, which is never overwritten.*--resume.*--out"):
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


def test_a_run_in_a_read_only_directory_is_not_resumed(directory, monkeypatch):
    directory.close("interrupted", "by someone")

    def refuse(*_args, **_options):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ConfigurationError, match="cannot write to .*Read-only file system.*--out"):
        RunDirectory.reopen(Config(), path=directory.path)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half of the n")
        raise RuntimeError
    assert path.read_text() == "old" and [file.name for file in tmp_path.iterdir()] == ["file.txt"]


def test_the_older_file_may_be_kept(tmp_path):
    for text in ("first", "second", "third"):
        with replacing(tmp_path / "new", keep="old") as temporary:
            temporary.write_text(text)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"new": "third", "old": "second"}


def test_a_full_disk_is_named_with_the_file(tmp_path):
    with (
        pytest.raises(OSError, match=r"No space left on device: '.*/file.txt'"),
        replacing(tmp_path / "file.txt"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_nobody_sees_a_file_half_written(tmp_path):
    path = tmp_path / "file.txt"
    with replacing(path) as temporary:
        temporary.write_text("half")
        assert not path.exists() and temporary.parent == path.parent
        temporary.write_text("whole")
    assert path.read_text() == "whole"
