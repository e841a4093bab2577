"""Interrupting and resuming runs through the command line: signals, killed processes, damage, what is refused."""

import csv
import json
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings

import pytest
from command_line import invoked
from small_runs import StopAfter

import dfc_numba
from dfc_numba.configuration.config_file import load_config
from dfc_numba.runs import checkpoint
from dfc_numba.runs.experiment import Experiment
from dfc_numba.support.locks import Lock

SETTINGS = [
    "network.hidden=[8]",
    "controller.steps=9",
    "feedback_controller.steps=9",
    "feedback.pretraining_epochs=1",
    "training.batch_size=64",
]
SMALL = [f"--set={setting}" for setting in SETTINGS]
EPOCHS = 3
RUN = ["digits", *SMALL, "--epochs", EPOCHS, "--seed", 3]
MINIBATCHES = 21 * (1 + 2 * EPOCHS)  # an epoch of pre-training, then feedback and forward


def dfc(*arguments):
    """The result of a command: exit code, standard output, standard error."""
    return invoked("train", *arguments)


def started(*arguments, **options):
    """A command in a process of its own."""
    command = [sys.executable, "-m", "dfc_numba", "train", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def resume(directory, *arguments):
    """Standard output and error of a process that goes on with a run to its end."""
    process = started("--out", directory, "--resume", *arguments)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return output, errors


def rows(directory):
    with open(directory / "metrics.csv", newline="") as file:
        return [{**row, "seconds": ""} for row in csv.DictReader(file)]


def record(directory):
    return json.loads((directory / "run.json").read_text())


def outcome(directory):
    """What has to be the same whether a run was interrupted or not."""
    return rows(directory), [
        (directory / name).read_bytes() for name in ("weights_last.h5", "weights_best.h5")
    ]


def interrupted(directory, minibatches):
    """The directory of a run that was interrupted after some minibatches."""
    config, _ = load_config("digits", [*SETTINGS, f"training.epochs={EPOCHS}", "training.seed=3"])
    result = Experiment(config, out=directory).run([StopAfter(minibatches)])
    assert result.outcome.status == "interrupted"
    return directory


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The directory of a run that was never interrupted."""
    directory = tmp_path_factory.mktemp("runs") / "whole"
    assert dfc(*RUN, "--out", directory).exit_code == 0
    return directory


@pytest.fixture(scope="module")
def halfway(tmp_path_factory):
    """The directory of a run that was interrupted in its second epoch; not to be changed."""
    return interrupted(tmp_path_factory.mktemp("runs") / "halfway", 100)


@pytest.fixture
def stopped(halfway, tmp_path):
    """A copy of `halfway`."""
    return shutil.copytree(halfway, tmp_path / "stopped")


# --- the same bits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("minibatches", [1, 21, 50, 63, 80, 100, MINIBATCHES - 1])
def test_an_interrupted_run_continues_to_the_same_bits(whole, tmp_path, minibatches):
    directory = interrupted(tmp_path / "run", minibatches)
    result = dfc("--out", directory, "--resume", "--threads", 1)
    assert result.exit_code == 0, result.stderr
    assert f"and {minibatches} minibatches in all" in result.stdout
    assert outcome(directory) == outcome(whole)
    run = record(directory)
    assert (run["status"], run["resumed"]) == ("done", 1)
    assert run["resumed_after"]["minibatches"] == minibatches
    assert run["earlier_sessions"][0]["stop_reason"].startswith("interrupted by SIGTERM")


def test_a_run_may_be_interrupted_again_and_again(whole, tmp_path):
    directory = interrupted(tmp_path / "run", 50)
    config, _ = load_config(str(directory / "config.toml"))
    for minibatches in (1, 30, 40):
        Experiment(config, out=directory, resume=True).run([StopAfter(minibatches)])
    assert dfc("--out", directory, "--resume").exit_code == 0
    assert outcome(directory) == outcome(whole)
    after = [session["resumed_after"]["minibatches"] for session in record(directory)["earlier_sessions"][1:]]
    assert after == [50, 51, 81] and record(directory)["resumed_after"]["minibatches"] == 121


def test_a_finished_run_says_so_and_may_get_more_epochs(whole, tmp_path):
    directory = tmp_path / "run"
    assert dfc(*RUN, "--epochs", 1, "--out", directory).exit_code == 0
    before = {file.name: file.read_bytes() for file in directory.iterdir()}
    result = dfc("--out", directory, "--resume")
    assert (
        result.exit_code == 0
        and "is finished, with 1 epochs; to continue it, raise --epochs" in result.stderr
    )
    assert {file.name: file.read_bytes() for file in directory.iterdir()} == before
    assert dfc("--out", directory, "--resume", "--epochs", EPOCHS).exit_code == 0
    assert outcome(directory) == outcome(whole)
    assert load_config(str(directory / "config.toml"))[0].training.epochs == EPOCHS


def test_the_last_run_of_a_name_is_resumed_or_the_first_begun(whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = dfc("--resume")
    assert result.exit_code == 2 and "no run to resume" in result.stderr and not list(tmp_path.iterdir())
    (tmp_path / "runs").mkdir()
    for number in (1, 2):
        interrupted(tmp_path / "runs" / f"digits-00{number}", 10)
    assert dfc(*RUN, "--resume").exit_code == 0
    assert outcome(tmp_path / "runs" / "digits-002") == outcome(whole)
    assert record(tmp_path / "runs" / "digits-001")["status"] == "interrupted"


def test_the_same_command_begins_and_resumes(whole, tmp_path):
    directory = tmp_path / "new"
    command = [*RUN, "--out", directory, "--resume"]
    assert dfc(*command).exit_code == 0
    assert outcome(directory) == outcome(whole) and record(directory)["resumed"] == 0
    assert "is finished" in dfc(*command).stderr


# --- signals ------------------------------------------------------------------------------------------------


def wait_for(condition, process):
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_a_signal_stops_a_run_after_a_checkpoint(whole, tmp_path, name):
    directory = tmp_path / "run"
    process = started(*RUN, "--epochs", 100000, "--out", directory)
    wait_for(lambda: (directory / "weights_last.h5").exists(), process)
    process.send_signal(signal.Signals[name])
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 75 and "Traceback" not in errors
    assert (
        f"interrupted by {name}" in errors and f"resume with: dfc train --out {directory} --resume" in errors
    )
    assert f"results: {directory}" in output
    run = record(directory)
    assert run["status"] == "interrupted" and run["results"]["epochs"] == len(rows(directory)) >= 1
    assert run["checkpoints"]["written"] == run["results"]["epochs"] + 2
    assert not list(directory.glob(".*.tmp"))


@pytest.mark.timing
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_a_second_signal_stops_a_run_at_once(whole, stopped, name):
    """In the middle of a minibatch that would take minutes; the last checkpoint stays as it was."""
    code = (
        "import sys, time\n"
        "from types import SimpleNamespace\n"
        "from dfc_numba import cli\n"
        "from dfc_numba.learning import methods\n"
        "from dfc_numba.runs.experiment import Experiment\n"
        "def slow(*arguments):\n"
        "    print('slow', flush=True); time.sleep(300)\n"
        "methods.Method.gradients = slow\n"
        "Experiment.expect = lambda self: SimpleNamespace(seconds=None, memory=0)\n"
        "cli.app(sys.argv[1:])\n"
    )
    before = (stopped / "checkpoint.h5").read_bytes()
    command = [sys.executable, "-c", code, "train", "--out", str(stopped), "--resume"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.stdout.readline() != "slow\n":
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.Signals[name])
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.Signals[name]
    assert (
        "interrupted at once" in errors
        and f"--out {stopped} --resume" in errors
        and "Traceback" not in errors
    )
    assert record(stopped)["status"] == "interrupted" and "at once" in record(stopped)["stop_reason"]
    assert (stopped / "checkpoint.h5").read_bytes() == before
    resume(stopped)
    assert outcome(stopped) == outcome(whole)


@pytest.mark.parametrize(("name", "begun"), [("SIGINT", False), ("SIGTERM", True), ("SIGUSR1", False)])
def test_a_signal_before_the_training_leaves_a_run_to_resume(whole, halfway, tmp_path, name, begun):
    """While the trial that expects the time, and may compile, takes minutes."""
    directory = tmp_path / "run"
    if begun:
        shutil.copytree(halfway, directory)
    code = (
        "import sys, time\n"
        "from dfc_numba import cli\n"
        "from dfc_numba.runs import experiment\n"
        "def slow(*arguments, **options):\n"
        "    print('slow', flush=True); time.sleep(300)\n"
        "experiment.expect = slow\n"
        "cli.app(sys.argv[1:])\n"
    )
    command = [sys.executable, "-c", code, "train", *map(str, RUN), "--out", str(directory), "--resume"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.stdout.readline() != "slow\n":
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.Signals[name])
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75 and "Traceback" not in errors
    reason = f"interrupted by {name} before the training began"
    assert f"dfc: {reason}; the run in {directory} can be resumed" in errors
    assert f"dfc: resume with: dfc train --out {directory} --resume\n" in errors
    assert (record(directory)["status"], record(directory)["stop_reason"]) == ("interrupted", reason)
    assert dfc("--out", directory, "--resume").exit_code == 0
    assert outcome(directory) == outcome(whole)
    assert record(directory).get("resumed_after", {})["minibatches"] == (100 if begun else 0)


# --- damage -------------------------------------------------------------------------------------------------


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip(path):
    content = bytearray(path.read_bytes())
    content[2000] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip, os.unlink])
def test_the_previous_checkpoint_serves_where_the_newest_is_damaged(whole, stopped, damage):
    damage(stopped / "checkpoint.h5")
    _, errors = resume(stopped)
    assert "dfc: " in errors and "continuing from" in errors and "checkpoint_previous.h5" in errors
    assert outcome(stopped) == outcome(whole)


@pytest.mark.parametrize(
    ("damage", "message"),
    [(flip, "no checkpoint to continue from"), (os.unlink, "holds a run without a checkpoint")],
)
def test_without_any_checkpoint_a_run_is_not_resumed(stopped, damage, message):
    for name in ("checkpoint.h5", "checkpoint_previous.h5"):
        damage(stopped / name)
    before = {file.name: file.read_bytes() for file in stopped.iterdir()}
    result = dfc("--out", stopped, "--resume")
    assert (
        result.exit_code == 2
        and message in result.stderr
        and "start a new run in another directory" in result.stderr
    )
    assert {file.name: file.read_bytes() for file in stopped.iterdir()} == before


def test_a_full_disk_stops_the_run_with_its_last_checkpoint_intact(whole, tmp_path):
    """Simulated by a limit on the size of files, which only a checkpoint reaches."""
    directory, limits = tmp_path / "run", resource.getrlimit(resource.RLIMIT_FSIZE)

    class Filling:
        def on_epoch(self, row):
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))

    config, _ = load_config(str(whole / "config.toml"))
    try:
        with pytest.raises(OSError, match="checkpoint.h5 cannot be written"):
            Experiment(config, out=directory).run([Filling()])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert record(directory)["status"] == "failed" and "File too large" in record(directory)["stop_reason"]
    resume(directory)
    assert outcome(directory) == outcome(whole)


def test_a_run_on_a_full_disk_ends_with_1_and_says_how_to_go_on(tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    environment = {**os.environ, "NUMBA_DISABLE_CACHING": "1"}
    process = started(*RUN, "--out", tmp_path / "run", preexec_fn=limit, env=environment)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1 and "Traceback" not in errors
    assert f"dfc: {tmp_path / 'run'}/checkpoint.h5 cannot be written (File too large)" in errors
    assert f"resume with: dfc train --out {tmp_path / 'run'} --resume" in errors


# --- what is refused ----------------------------------------------------------------------------------------


def test_a_directory_of_a_live_run_is_refused(stopped):
    lock = Lock(stopped / ".lock")
    result = dfc("--out", stopped, "--resume")
    assert result.exit_code == 2 and f"in use by process {os.getpid()} on" in result.stderr
    lock.release()
    assert dfc("--out", stopped, "--resume").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set=optimizer.learning_rate=0.5"], "optimizer.learning_rate = 0.005 in the run, 0.5 requested"),
        (["digits"], "network.hidden = [8] in the run, [128, 64] requested"),
        (["--seed", 4], "training.seed = 3 in the run, 4 requested"),
        (["--dtype", "float32"], 'training.dtype = "float64" in the run, "float32" requested'),
        (["--epochs", 2], "training.epochs = 3 in the run, 2 requested, but only more are possible"),
        (["--set=training.method=bp"], 'training.method = "dfc" in the run, "bp" requested'),
        (["student-teacher"], 'data.name = "digits" in the run, "student_teacher" requested'),
        (["nowhere.toml"], "nowhere.toml: cannot be read"),
    ],
)
def test_a_contradiction_is_refused_with_what_differs(halfway, arguments, message):
    before = {file.name: file.read_bytes() for file in halfway.iterdir()}
    result = dfc(*arguments, "--out", halfway, "--resume")
    assert result.exit_code == 2 and message in result.stderr, result.stderr
    assert {file.name: file.read_bytes() for file in halfway.iterdir()} == before


def test_what_is_logged_may_change_but_not_what_a_record_holds(whole, stopped):
    log = ["--log", "--set=log.every=9", "--set=log.variables=[u]"]
    begun = dfc("--out", stopped, "--resume", *log, "--epochs", EPOCHS + 1)
    assert begun.exit_code == 0, begun.stderr
    with dfc_numba.open_trajectories(stopped) as file:
        assert file["forward"].variable("minibatch")[...].tolist() == [19] + [1, 10, 19] * 2
    before = {file.name: file.read_bytes() for file in stopped.iterdir()}
    refused = dfc("--out", stopped, "--resume", "--set=log.variables=[u,v]", "--epochs", EPOCHS + 2)
    assert (
        refused.exit_code == 2 and "log.variables = ['u'] in the run, ['u', 'v'] requested" in refused.stderr
    )
    assert {file.name: file.read_bytes() for file in stopped.iterdir()} == before
    result = dfc("--out", stopped, "--resume", "--set=log.every=20", "--epochs", EPOCHS + 2)
    assert result.exit_code == 0, result.stderr
    with dfc_numba.open_trajectories(stopped) as file:
        assert file["forward"].variable("minibatch")[...].tolist() == [19] + [1, 10, 19] * 2 + [1, 21]
    assert rows(stopped)[:EPOCHS] == rows(whole)


def test_changes_of_what_is_noted_and_of_the_epochs_are_announced(tmp_path):
    directory = tmp_path / "run"
    noting = ["--log", "--set=analysis.every=20"]
    assert dfc(*RUN, *noting, "--epochs", 1, "--out", directory).exit_code == 0
    result = dfc(*RUN, "--epochs", 2, "--out", directory, "--resume")
    assert (
        f"dfc: the run in {directory} resumes with changes: analysis.every = 20 in the run, 0 requested; "
        "log.on = true in the run, false requested; training.epochs = 1 in the run, 2 requested\n"
        in result.stderr
    )
    assert "with changes" not in dfc("--out", directory, "--resume").stderr


MEASURING = ["--set=analysis.every=20", "--set=analysis.samples=4"]


def angles(directory):
    """Whether the rows of a metrics.csv have a finite angle."""
    return [math.isfinite(float(row["angle_bp"])) for row in rows(directory)]


def test_a_run_may_begin_and_cease_to_be_measured_and_loses_nothing(whole, tmp_path):
    directory = tmp_path / "run"
    sessions = [MEASURING, [], MEASURING, MEASURING]
    for number, measuring in enumerate(sessions, start=1):
        result = dfc(*RUN, *measuring, "--epochs", number, "--out", directory, "--resume")
        assert result.exit_code == 0, result.stderr
    assert angles(directory) == [True, False, True, True]
    seconds = record(directory)["results"]["analysis"]["seconds_per_epoch"]
    assert len(seconds) == 3 and min(seconds) > 0
    scores = list(rows(whole)[0])
    assert [{name: row[name] for name in scores} for row in rows(directory)][:EPOCHS] == rows(whole)


def test_a_run_that_is_measured_from_a_later_epoch_on_keeps_the_measurements(tmp_path):
    directory = tmp_path / "run"
    assert dfc(*RUN, "--epochs", 1, "--out", directory).exit_code == 0
    assert dfc("--out", directory, "--resume", "--epochs", 2, *MEASURING).exit_code == 0
    before = rows(directory)
    assert dfc("--out", directory, "--resume", "--epochs", 3).exit_code == 0
    assert rows(directory)[:2] == before and angles(directory) == [False, True, True]


def test_what_is_measured_stays_while_a_run_is_measured(tmp_path):
    directory = tmp_path / "run"
    assert dfc(*RUN, *MEASURING, "--epochs", 1, "--out", directory).exit_code == 0
    before = {file.name: file.read_bytes() for file in directory.iterdir()}
    refused = {
        "what=[alignment,control]": 'analysis.what = ["alignment"] in the run, ["alignment", "control"] requested',
        "samples=5": "analysis.samples = 4 in the run, 5 requested",
    }
    for change, message in refused.items():
        result = dfc("--out", directory, "--resume", "--epochs", 2, f"--set=analysis.{change}")
        assert result.exit_code == 2 and f"({message}); leave that out" in result.stderr
    assert {file.name: file.read_bytes() for file in directory.iterdir()} == before
    result = dfc("--out", directory, "--resume", "--epochs", 2, "--set=analysis.every=7")
    assert result.exit_code == 0, result.stderr


def test_a_resumed_run_that_fails_before_a_checkpoint_leaves_the_configuration(stopped, monkeypatch):
    def fail(*_):
        raise KeyError("unexpected")

    before = (stopped / "config.toml").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("dfc_numba.runs.checkpoint._store_rows", fail)
        assert dfc("--out", stopped, "--resume", "--epochs", EPOCHS + 4).exit_code == 1
    assert record(stopped)["status"] == "failed" and (stopped / "config.toml").read_bytes() == before
    assert dfc("--out", stopped, "--resume", "--epochs", EPOCHS + 1).exit_code == 0


def test_a_run_without_its_configuration_goes_on_when_it_is_named(whole, stopped):
    (stopped / "config.toml").unlink()
    result = dfc("--out", stopped, "--resume")
    assert result.exit_code == 2
    assert f"{stopped}/config.toml is missing; name the preset or file that" in result.stderr
    assert dfc(*RUN, "--out", stopped, "--resume").exit_code == 0
    assert outcome(stopped) == outcome(whole)


def test_an_edited_configuration_is_refused(stopped):
    path = stopped / "config.toml"
    path.write_text(path.read_text().replace("learning_rate = 0.005", "learning_rate = 0.05"))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        result = dfc("--out", stopped, "--resume")
    assert result.exit_code == 2 and "config.toml is not as the run wrote it" in result.stderr
    assert (
        "checkpoint is that of another configuration (optimizer.learning_rate = 0.005 in the run"
        in result.stderr
    )


def test_a_directory_without_a_run_is_refused_where_nothing_is_named(tmp_path):
    result = dfc("--out", tmp_path, "--resume")
    assert result.exit_code == 2 and f"{tmp_path} holds no run to resume; name a preset" in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_diverged_run_is_not_resumed(tmp_path):
    wild = ["--set=optimizer.name=sgd", "--set=optimizer.learning_rate=1e200"]
    assert dfc("digits", *SMALL, *wild, "--out", tmp_path / "run").exit_code == 1
    result = dfc("--out", tmp_path / "run", "--resume")
    assert (
        result.exit_code == 1 and "holds a run that diverged, and would again: training div" in result.stderr
    )


def test_a_run_that_was_killed_before_it_began_is_begun(whole, tmp_path):
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / "run.json").touch()
    assert dfc(*RUN, "--out", directory, "--resume").exit_code == 0
    assert outcome(directory) == outcome(whole)


# --- killed -------------------------------------------------------------------------------------------------


def done(directory):
    """Number of minibatches in the newest checkpoint of a run that goes on; 0 while it is being replaced."""
    try:
        return checkpoint.load(directory / "checkpoint.h5").state.counters.minibatches
    except OSError:
        return 0


@pytest.mark.slow
def test_a_run_that_is_killed_at_any_moment_continues_to_the_same_bits(whole, tmp_path):
    """With a checkpoint after every minibatch, so that many moments are in the middle of writing one."""
    command = [*RUN, "--checkpoint-minutes", 0, "--out"]
    chance, preparing, minibatches = random.Random(0), 0.0, []
    for number in range(20):
        directory, began = tmp_path / f"run-{number}", time.monotonic()
        process = started(*command, directory)
        if number % 4 == 3:
            time.sleep(chance.uniform(0, preparing))
        else:
            wait_for((directory / "checkpoint.h5").exists, process)
            preparing = time.monotonic() - began
            least = chance.randrange(MINIBATCHES - 20)
            wait_for(lambda: done(directory) >= least, process)
            time.sleep(chance.uniform(0, 0.02))
        process.kill()
        process.communicate()
        process = started(*RUN, "--out", directory, "--resume")
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert outcome(directory) == outcome(whole)
        minibatches.append(record(directory).get("resumed_after", {}).get("minibatches", 0))
    assert len(set(minibatches)) > 7, minibatches
