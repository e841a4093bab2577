"""Node-local scratch: what is copied back and when, killed runs, and links that are not followed."""

import pytest

from dfc_numba.errors import ConfigurationError
from dfc_numba.runs.scratch import Scratch


@pytest.fixture
def home(tmp_path):
    """A run directory."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "checkpoint.h5").write_text("old")
    return folder


def content(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_run_finds_its_files_in_scratch_and_only_complete_ones_go_back(home, tmp_path):
    scratch = Scratch(home, tmp_path)
    assert content(scratch.folder) == {"checkpoint.h5": "old"}
    (scratch.folder / "checkpoint.h5").write_text("new, longer")
    (scratch.folder / "trajectories").mkdir()
    (scratch.folder / "trajectories" / "000000.h5").write_text("a")
    (scratch.folder / "trajectories" / "000001.h5.part").write_text("half")
    assert content(home) == {"checkpoint.h5": "old"}
    scratch.copy_back()
    assert content(home) == {"checkpoint.h5": "new, longer", "trajectories/000000.h5": "a"}
    (scratch.folder / "trajectories" / "000000.h5").unlink()
    (scratch.folder / "trajectories.h5").write_text("all")
    scratch.copy_back()
    assert content(home) == {"checkpoint.h5": "new, longer", "trajectories.h5": "all"}
    assert not (home / "trajectories").exists()
    scratch.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_others_put_into_the_run_directory_stays(home, tmp_path):
    scratch = Scratch(home, tmp_path)
    (home / "notes.txt").write_text("mine")
    (home / "empty").mkdir()
    scratch.copy_back()
    assert (home / "notes.txt").read_text() == "mine" and (home / "empty").is_dir()


def test_a_link_in_the_run_directory_is_not_followed(home, tmp_path):
    (tmp_path / "victim").write_text("precious")
    (home / "metrics.csv").symlink_to(tmp_path / "victim")
    scratch = Scratch(home, tmp_path)
    assert not (scratch.folder / "metrics.csv").exists()
    (scratch.folder / "metrics.csv").write_text("rows")
    scratch.copy_back()
    assert (tmp_path / "victim").read_text() == "precious" and (home / "metrics.csv").read_text() == "rows"


def test_variables_are_replaced_and_unset_ones_refused(home, tmp_path, monkeypatch):
    monkeypatch.setenv("NODE_DISK", str(tmp_path))
    assert Scratch(home, "$NODE_DISK").folder.parent == tmp_path
    with pytest.raises(ConfigurationError, match="a variable is not set here"):
        Scratch(home, "$NO_SUCH_DISK/x")
    with pytest.raises(ConfigurationError, match="cannot write to"):
        Scratch(home, tmp_path / "nowhere")


def test_what_a_killed_copy_left_goes_and_what_belongs_to_others_stays(home, tmp_path):
    (home / ".checkpoint.h5.0123abcd.copy.tmp").write_text("half")
    (home / ".lock.0123abcd.tmp").write_text("of a process that waits")
    Scratch(home, tmp_path)
    assert not (home / ".checkpoint.h5.0123abcd.copy.tmp").exists()
    assert (home / ".lock.0123abcd.tmp").exists()
