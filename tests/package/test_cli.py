"""The command line: what it prints, writes and returns, in real runs that are small."""

import csv
import json
import os
import re
import subprocess
import sys

import pytest
from command_line import invoked

from dfc_numba import cli
from dfc_numba._version import __version__
from dfc_numba.configuration.config_file import load_config, preset_names, preset_text
from dfc_numba.runs.run_directory import METRICS

SMALL = ["--set=network.hidden=[8]", "--set=controller.steps=9", "--set=feedback_controller.steps=9"]


def dfc(*arguments):
    """The result of a command: exit code, standard output, standard error."""
    return invoked(*arguments)


def rows(directory):
    with open(directory / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def record(directory):
    return json.loads((directory / "run.json").read_text())


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """The directory and the result of a small run."""
    directory = tmp_path_factory.mktemp("runs") / "small"
    return directory, dfc("train", *SMALL, "--epochs", 2, "--seed", 3, "--threads", 2, "--out", directory)


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["train", "--help"], ["compare", "--help"], ["presets", "-h"], ["info", "--help"]],
)
def test_every_command_has_help(arguments):
    result = dfc(*arguments)
    assert result.exit_code == 0 and "Usage: dfc" in result.stdout


def help_text(monkeypatch, *command):
    """The help of a command in a wide terminal, as one line without its frames."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERMINAL_WIDTH", "200")
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", dfc(*command, "--help").stdout).split())


def test_help_shows_brackets_as_they_are(monkeypatch):
    assert "as stated in [log]" in help_text(monkeypatch, "train")


@pytest.mark.parametrize(
    "command", sorted(info.name or info.callback.__name__ for info in cli.app.registered_commands)
)
def test_paragraphs_of_help_are_filled_anew(monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "2000")
    monkeypatch.setenv("TERMINAL_WIDTH", "2000")
    shown = dfc(command, "--help").stdout.split("╭")[0]
    described = [line.strip() for line in shown.splitlines()[2:] if line.strip()]
    callback = next(
        info.callback
        for info in cli.app.registered_commands
        if command in (info.name, info.callback.__name__)
    )
    assert len(described) == len(callback.__doc__.split("\n\n"))  # a line for each paragraph


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_and_version_load_nothing_heavy(arguments):
    code = "import sys; from dfc_numba.cli import app; app(sys.argv[1:], standalone_mode=False); "
    code += "print(*sys.modules)"
    text = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    ).stdout
    loaded = text.splitlines()[-1].split()
    assert not {"numba", "numpy", "scipy", "h5py", "pydantic"} & set(loaded)


def test_the_version_is_printed():
    assert dfc("--version").stdout == f"dfc-numba {__version__}\n"


def test_presets_are_listed_with_their_titles():
    lines = dfc("presets").stdout.splitlines()
    assert [line.split()[0] for line in lines] == preset_names()
    assert {"digits", "student-teacher", "mnist-dfc", "mnist-bp"} <= set(preset_names())
    assert all(len(line.split()) > 4 for line in lines)


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_printed_as_it_is(name):
    assert dfc("presets", name).stdout == preset_text(name)


def test_info_names_versions_processor_threads_and_cache():
    text = dfc("info").stdout
    assert all(
        word in text for word in ("dfc_numba", "python", "numba", "processor", "available", "blas", "cache")
    )


def test_a_run_writes_its_directory(small_run):
    directory, result = small_run
    assert result.exit_code == 0
    assert [row["epoch"] for row in rows(directory)] == ["1", "2"] and tuple(rows(directory)[0]) == METRICS
    assert all(0 <= float(row["test_accuracy"]) <= 1 for row in rows(directory))
    config, _ = load_config(directory / "config.toml")
    assert (config.training.epochs, config.training.seed, config.network.hidden) == (2, 3, (8,))
    run = record(directory)
    assert (run["status"], run["results"]["epochs"]) == ("done", 2)
    assert run["environment"]["dfc_numba"] == __version__ and run["environment"]["packages"]["numba"]


def test_a_run_tells_what_it_expects_does_and_did(small_run):
    directory, result = small_run
    assert re.search(
        r"expected, from a short trial: time about [\d.]+ \w+.*memory about [\d.]+ [MG]B", result.stdout
    )
    assert re.search(r"epoch 2/2  train [\d.]+ [\d.]+ %  val .*  test .*  [\d.]+ s", result.stdout)
    accuracy = float(rows(directory)[-1]["test_accuracy"])
    assert f"test accuracy {100 * accuracy:.2f} % at the end" in result.stdout
    files = "checkpoint.h5, checkpoint_previous.h5, config.toml, metrics.csv, run.json, weights_best.h5, weights_last.h5"
    assert f"results: {directory} ({files})" in result.stdout


def test_the_resolved_configuration_repeats_the_run(small_run, tmp_path):
    directory, _ = small_run
    assert dfc("train", directory / "config.toml", "--out", tmp_path / "again").exit_code == 0
    for row, other in zip(rows(directory), rows(tmp_path / "again"), strict=True):
        assert {**row, "seconds": ""} == {**other, "seconds": ""}


def test_a_run_starts_from_a_saved_network(small_run, tmp_path):
    directory, _ = small_run
    start = ["--set", f"network.start_from={directory / 'weights_last.h5'}"]
    assert dfc("train", *SMALL, *start, "--epochs", 1, "--out", tmp_path / "warm").exit_code == 0
    assert float(rows(tmp_path / "warm")[0]["train_loss"]) < float(rows(directory)[0]["train_loss"])
    refused = dfc("train", *start, "--out", tmp_path / "other")
    assert refused.exit_code == 2 and "has sizes" in refused.stderr and not (tmp_path / "other").exists()


def test_a_run_is_never_overwritten(small_run):
    directory, _ = small_run
    before = {file.name: file.read_bytes() for file in directory.iterdir()}
    result = dfc("train", *SMALL, "--epochs", 1, "--out", directory)
    assert result.exit_code == 2 and "never overwritten" in result.stderr
    assert {file.name: file.read_bytes() for file in directory.iterdir()} == before


@pytest.mark.parametrize("method", ["dfc", "dfc-ss", "dfc-ssa", "bp", "dfa"])
def test_every_method_runs_from_the_command_line(tmp_path, method):
    settings = SMALL if method in ("dfc", "dfc-ss") else SMALL[:1]
    result = dfc(
        "train", *settings, f"--set=training.method={method}", "--epochs", 1, "--out", tmp_path / "run"
    )
    assert result.exit_code == 0, result.stderr
    assert len(rows(tmp_path / "run")) == 1


def test_a_run_of_single_precision(tmp_path):
    result = dfc("train", *SMALL, "--epochs", 1, "--dtype", "float32", "--out", tmp_path / "run")
    assert result.exit_code == 0 and "float32" in result.stdout


def test_a_regression_reports_losses(tmp_path):
    options = ["--set=data.options={train_size=64, validation_size=0, test_size=32, teacher_hidden=[20]}"]
    steps = [
        "--set=controller.steps=9",
        "--set=feedback_controller.steps=9",
        "--set=feedback.pretraining_epochs=1",
    ]
    result = dfc("train", "student-teacher", *options, *steps, "--epochs", 1, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    assert re.search(r"test loss [\d.e-]+ at the end", result.stdout) and "accuracy" not in result.stdout
    assert rows(tmp_path / "run")[0]["val_loss"] == "nan"


def test_divergence_ends_with_1_and_says_where_and_what_to_change(tmp_path):
    wild = ["--set=optimizer.name=sgd", "--set=optimizer.learning_rate=1e200"]
    result = dfc("train", *SMALL, *wild, "--epochs", 3, "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert all(
        word in result.stderr for word in ("layer", "epoch", "minibatch", "lower optimizer.learning_rate")
    )
    assert "Traceback" not in result.output and record(tmp_path / "run")["status"] == "diverged"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digit"], "did you mean 'digits'?"),
        (["nowhere.toml"], "cannot be read"),
        (["--set", "training.epoch=3"], "did you mean 'epochs'?"),
        (["--set", "data.name=digit"], "Did you mean 'digits'?"),
        (["--set", "data.options.what=3"], "what"),
        (["--epochs", "0"], "training.epochs = 0: must be greater than or equal to 1"),
        (["--dtype", "float16"], "must be 'float64' or 'float32'"),
        (["--threads", "0"], "threads"),
        (["--set", "network.start_from=nowhere.h5"], "nowhere.h5"),
        (["student-teacher", "--set", "target.loss=cross_entropy"], "set target.loss = 'mse'"),
        (["student-teacher", "--set", "target.class_value=0.9"], "class_value has no meaning"),
        (["--out", os.devnull], "cannot write to"),
    ],
)
def test_wrong_use_ends_with_2_before_any_work(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = dfc("train", *arguments)
    assert result.exit_code == 2 and message in result.stderr and "Traceback" not in result.output
    assert not list(tmp_path.glob("runs/*"))


def test_an_unknown_preset_is_refused_by_the_list_too():
    result = dfc("presets", "digit")
    assert result.exit_code == 2 and "did you mean 'digits'?" in result.stderr


def test_an_unexpected_error_ends_with_1_and_is_recorded(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("the moon is full")

    monkeypatch.setattr("dfc_numba.runs.run_directory.RunDirectory.on_epoch", fail)
    result = dfc("train", *SMALL, "--epochs", 1, "--out", tmp_path / "run")
    assert result.exit_code == 1 and "RuntimeError: the moon is full" in result.stderr
    assert "Traceback" not in result.stderr
    run = record(tmp_path / "run")
    assert run["status"] == "failed" and "on_epoch" in run["traceback"]


@pytest.mark.slow
def test_the_default_run_learns_the_digits(tmp_path):
    assert dfc("train", "--out", tmp_path / "run").exit_code == 0
    last = rows(tmp_path / "run")[-1]
    assert float(last["test_accuracy"]) >= 0.95 and float(last["train_loss"]) < 0.1


@pytest.mark.slow
def test_a_published_configuration_learns_mnist(tmp_path, mnist_dir):
    result = dfc("train", "mnist-bp", "--epochs", 1, "--dtype", "float32", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    assert float(rows(tmp_path / "run")[0]["test_accuracy"]) > 0.93
