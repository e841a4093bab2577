"""A data file of one's own that is no longer where the run found it: stated relative to another folder, or moved."""

import numpy as np
import pytest
from typer.testing import CliRunner

from dfc_numba import cli
from dfc_numba.configuration.config import Config
from dfc_numba.runs.data_files import data_facts, located

BRIEF = ["--set", "training.method=bp", "--set", "network.hidden=[3]"]


def write_data(path, seed=0):
    x = np.random.default_rng(seed).normal(size=(40, 4))
    np.savez(path, x_train=x[:30], y_train=np.arange(30) % 3, x_test=x[30:], y_test=np.arange(10) % 3)


def dfc(*arguments):
    return CliRunner().invoke(cli.app, list(map(str, arguments)))


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of one epoch, on data that are stated relative to the folder it was started in."""
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    write_data(tmp_path / "first" / "own.npz")
    monkeypatch.chdir(tmp_path / "first")
    done = dfc("train", *BRIEF, "--set", "data.name=own.npz", "--epochs", 1, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    monkeypatch.chdir(tmp_path / "second")
    return tmp_path / "run"


def test_a_run_resumes_and_is_evaluated_from_another_folder(run):
    assert dfc("train", "--resume", "--epochs", 2, "--out", run).exit_code == 0
    assert dfc("evaluate", run).exit_code == 0


@pytest.mark.parametrize("place", ["second/own.npz", "run/own.npz", "own.npz"])
def test_moved_data_are_found_by_name_and_checksum(run, place):
    (run.parent / "first" / "own.npz").rename(run.parent / place)
    done = dfc("train", "--resume", "--epochs", 2, "--out", run)
    assert done.exit_code == 0, done.output


def test_other_data_of_the_same_name_are_not_taken(run):
    (run.parent / "first" / "own.npz").unlink()
    write_data(run / "own.npz", seed=1)
    refused = dfc("train", "--resume", "--epochs", 2, "--out", run)
    assert refused.exit_code == 2 and "own.npz: there is no such file (looked for in" in refused.output
    write_data(run.parent / "second" / "own.npz", seed=1)
    assert dfc("train", "--resume", "--epochs", 2, "--out", run).exit_code == 2


def test_data_sets_without_a_file_and_records_without_a_checksum_stay(tmp_path):
    assert data_facts(Config()) == {}
    config = Config.model_validate({"data": {"name": "file", "options": {"path": str(tmp_path / "own.npz")}}})
    for record in (None, {}, {"data": None}, {"data": {"sha256": 3}}):
        assert located(config, record, tmp_path) is config
    (tmp_path / "moved").mkdir()
    write_data(tmp_path / "own.npz")
    record = {"data": data_facts(config)}
    (tmp_path / "own.npz").rename(tmp_path / "moved" / "own.npz")
    found = located(config, record, tmp_path / "moved")
    assert found.data.options["path"] == str(tmp_path / "moved" / "own.npz")
