"""Sweeps on this machine: only what is unfinished is started, whatever happened before."""

import errno
import json
import os
import pty
import re
import signal
import subprocess
import sys
from contextlib import suppress

import pytest
import sweeps

from dfc_numba.errors import ConfigurationError
from dfc_numba.sweep import local_engine, sweep_folder, sweeping
from dfc_numba.sweep.sweep_file import read_sweep


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished sweep: its folder and its file."""
    folder = tmp_path_factory.mktemp("done")
    file = sweeps.write(folder)
    text = sweeps.dfc("sweep", file, "--out", folder / "a", cwd=folder)
    assert "runs: 2 waiting" in text and "runs: 2 done" in text
    return folder / "a", file


def test_a_dry_run_checks_and_writes_nothing(tmp_path):
    text = sweeps.dfc("sweep", sweeps.write(tmp_path), "--dry-run", cwd=tmp_path)
    assert "digits+network.hidden=6-seed1" in text and "memory" in text
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.toml"]


def test_finished_runs_are_not_started_again_and_the_status_shows_them(done):
    folder, file = done
    before = {path: path.stat().st_mtime_ns for path in folder.glob("digits*/*")}
    assert "runs: 2 done" in sweeps.dfc("sweep", file, "--out", folder)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("digits*/*")} == before
    status = sweeps.dfc("sweep", "status", folder)
    assert re.search(r"digits\+network.hidden=6-seed0 \| done +\| 2/2 +\| [\d.]+ % .*logs/0.log", status)
    assert "epochs: 4 of 4, 100 %" in status


@pytest.mark.slow
def test_a_terminal_shows_a_bar_for_the_whole_sweep_and_one_for_each_run(tmp_path):
    sweeps.write(tmp_path, epochs=30, samples=600)
    ours, theirs = pty.openpty()
    line = [sys.executable, "-m", "dfc_numba", "sweep", "tiny.toml", "--at-once", "1"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(line, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # the other end is closed
        while piece := os.read(ours, 4096):
            shown += piece
    assert process.wait(60) == 0
    text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", shown.decode(errors="replace"))
    assert re.search(r"runs of the sweep .*0/2", text) and re.search(r"runs of the sweep .*1/2", text)
    assert re.search(r"network.hidden=6-seed1 .*\d+/30", text)


def test_the_status_shows_no_control_characters_of_a_run(done):
    folder, _ = done
    file = folder / "digits+network.hidden=6-seed0" / "run.json"
    text = file.read_text()
    record = json.loads(text)
    file.write_text(json.dumps({**record, "status": "failed", "stop_reason": "no \x1b[2J room"}))
    try:
        assert "failed: no \\x1b[2J room" in sweeps.dfc("sweep", "status", folder)
    finally:
        file.write_text(text)


def test_a_sweep_started_with_nohup_survives_the_end_of_its_terminal():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with local_engine.signals() as came:
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert came == [signal.SIGTERM]


def test_one_table_has_all_runs_with_all_settings_whatever_else_lies_in_the_folder(done):
    table = sweeps.merged(done[0]).decode().splitlines()
    assert len(table) == 3 and "training.seed" in table[0] and "last_test_accuracy" in table[0]
    assert "seconds" not in table[0]


def test_a_run_equals_the_same_training_without_a_sweep(done, tmp_path):
    settings = [
        f"--set={line}" for line in json.loads((done[0] / "sweep.json").read_text())["runs"][1]["settings"]
    ]
    sweeps.dfc("train", "digits", *settings, "--threads", 1, "--out", tmp_path / "run")
    ours, theirs = (
        path / "weights_last.h5" for path in (done[0] / "digits+network.hidden=6-seed1", tmp_path / "run")
    )
    assert ours.read_bytes() == theirs.read_bytes()


def test_a_longer_sweep_goes_on_and_says_what_changed(done, tmp_path):
    file = sweeps.write(tmp_path, seeds=(0, 2), epochs=3)
    planned = read_sweep(file)
    folder, changes = sweep_folder.update(planned, done[0])
    assert changes == [
        "new runs: 1", "runs no longer in the sweep, whose directories stay: 1",
        "training.epochs = 2 in the run, 3 requested: in 1 runs, such as digits+network.hidden=6-seed0",
    ]  # fmt: skip
    states = folder.states()
    assert [(state.run.index, state.state) for state in states] == [(0, "stopped"), (2, "waiting")]


def test_a_change_of_a_run_that_has_begun_is_refused(done, tmp_path):
    file = sweeps.write(tmp_path, more='set."optimizer.learning_rate" = 0.5\n')
    with pytest.raises(
        ConfigurationError,
        match=r"has changed for a run that has started.*learning_rate = .* in the run, 0.5 requested",
    ):
        sweep_folder.update(read_sweep(file), done[0])


def test_a_failed_run_is_repeated_only_where_that_is_asked_for(tmp_path):
    file = sweeps.write(tmp_path, seeds=[0], more='set."network.start_from" = "net.h5"\n')
    sweeps.dfc("train", "digits", "--epochs", 1, "--set=training.method=bp", "--set=network.hidden=[6]", "--out", "net",
               cwd=tmp_path)  # fmt: skip
    (tmp_path / "net.h5").write_bytes((tmp_path / "net" / "weights_last.h5").read_bytes())
    planned = read_sweep(file)
    folder, _ = sweep_folder.update(planned, tmp_path / "a")
    with folder.claimed():
        sweep_folder.write_sources(folder, planned)
        folder.save()
    (tmp_path / "net.h5").rename(tmp_path / "gone.h5")  # after everything was checked
    assert "start_from" in sweeps.dfc("sweep", "run", tmp_path / "a", 0, cwd=tmp_path, code=2)
    (tmp_path / "gone.h5").rename(tmp_path / "net.h5")
    assert "not started again without --retry-failed: 1" in sweeps.dfc(
        "sweep", file, "--out", "a", cwd=tmp_path, code=1
    )
    assert "runs: 1 done" in sweeps.dfc("sweep", file, "--out", "a", "--retry-failed", cwd=tmp_path)


def test_a_signal_lets_every_run_write_a_checkpoint_and_the_sweep_goes_on_bit_for_bit(tmp_path):
    file = sweeps.write(tmp_path, epochs=20, samples=600, paced=True)
    process = sweeps.start("sweep", file, "--out", tmp_path / "a", "--at-once", 2, cwd=tmp_path)
    sweeps.until(lambda: sweeps.epochs_of(tmp_path / "a") > 1)
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 75 and "stopped" in text
    records = [json.loads(path.read_text()) for path in (tmp_path / "a").glob("digits*/run.json")]
    assert {record["status"] for record in records} == {"interrupted"}
    assert "runs: 2 stopped" in sweeps.dfc("sweep", "status", tmp_path / "a")
    sweeps.hurry(tmp_path)
    sweeps.dfc("sweep", file, "--out", tmp_path / "a", cwd=tmp_path)
    sweeps.dfc("sweep", file, "--out", tmp_path / "b", cwd=tmp_path)
    assert sweeps.merged(tmp_path / "a") == sweeps.merged(tmp_path / "b")


def test_the_runs_of_a_killed_sweep_end_with_it(tmp_path):
    file = sweeps.write(tmp_path, epochs=10000, samples=600, seeds=[0])
    process = sweeps.start("sweep", file, "--out", tmp_path / "a", cwd=tmp_path)
    sweeps.until(lambda: sweeps.epochs_of(tmp_path / "a") > 1)
    process.kill()
    process.communicate()
    record = next((tmp_path / "a").glob("digits*")) / "run.json"
    sweeps.until(lambda: json.loads(record.read_text())["status"] == "interrupted", seconds=20)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["status", "nowhere"], "nowhere holds no sweep"),
        (["run", "nowhere", "0"], "nowhere holds no sweep"),
        (["run", "nowhere"], "dfc sweep run DIR INDEX"),
        (["nothing.toml"], "nothing.toml: cannot be read"),
        (["tiny.toml", "--on", "pbs"], "--on pbs: must be local, slurm"),
        (["tiny.toml", "--on", "dask"], "--on dask: must be"),
        (["tiny.toml", "--out", "tiny.toml/a"], "cannot write to|Not a directory"),
    ],
)
def test_wrong_use_says_what_is_right(tmp_path, arguments, message):
    sweeps.write(tmp_path)
    assert re.search(message, sweeps.dfc("sweep", *arguments, cwd=tmp_path, code=2))


def test_data_that_are_missing_are_told_before_anything_starts(tmp_path):
    file = sweeps.write(tmp_path)
    file.write_text('[sweep]\npresets = ["digits"]\nset."data.name" = "none.npz"\n')
    text = sweeps.dfc("sweep", file, "--out", "a", cwd=tmp_path, code=2)
    assert "none.npz" in text and not (tmp_path / "a").exists()


def test_a_full_quota_is_told_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.setattr("dfc_numba.sweep.outlook.require_room", full)
    file = sweeps.write(tmp_path)
    with pytest.raises(
        ConfigurationError, match=r"2 runs need about .*\(Disk quota exceeded\); .*another disk with --out"
    ):
        sweeping.sweep(
            [str(file)], tmp_path / "a", "local", dry_run=False, retry_failed=False, at_once=1, threads=1
        )
    assert not list((tmp_path / "a").glob("digits*")) and not (tmp_path / "a" / "sweep.json").exists()


def full(folder, count):
    """What a file system says whose quota is used up."""
    assert folder.is_dir() and count > 0
    raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))


def test_a_run_stops_in_time_for_its_hours(tmp_path):
    settings = ["--set=training.method=bp", "--set=network.hidden=[6]", "--epochs", 100000]
    text = sweeps.dfc("train", "digits", *settings, "--max-hours", 0.0005, "--out", tmp_path / "run", code=75)
    assert "stopped to end within 0.0005 hours" in text
    assert "--max-hours" in sweeps.dfc("train", "digits", "--max-hours", 0, "--out", tmp_path / "no", code=2)
