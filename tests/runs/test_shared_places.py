"""Runs in places that others can write to: links, damaged records, environments."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from functools import partial

import numpy as np
import pytest
from typer.testing import CliRunner

import dfc_numba as dfc
from dfc_numba import cli
from dfc_numba.configuration.config_file import load_config
from dfc_numba.errors import ConfigurationError, UnusableFileError
from dfc_numba.runs.run_directory import OWN, read_record
from dfc_numba.storage.schema import root_attributes
from dfc_numba.storage.segments import SegmentWriter
from dfc_numba.support import files, threads

FAST = ["--set=training.method=bp", "--set=network.hidden=[8]", "--epochs=1", "--threads=1"]


def train(*arguments):
    return CliRunner().invoke(cli.app, ["train", *map(str, arguments)])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("shared") / "run"
    assert train("digits", *FAST, "--out", directory).exit_code == 0
    return directory


@pytest.fixture
def run(finished, tmp_path):
    import shutil

    return shutil.copytree(finished, tmp_path / "run")


@pytest.mark.parametrize("name", OWN)
def test_a_link_within_a_run_is_refused_and_what_it_leads_to_stays(run, tmp_path, name):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(victim)
    result = train("--resume", "--epochs=2", "--out", run)
    assert result.exit_code == 2 and "is a symbolic link" in result.stderr
    assert victim.read_text() == "precious" and (run / name).is_symlink()


def test_a_run_directory_may_be_a_link_itself(run, tmp_path):
    (tmp_path / "link").symlink_to(run)
    assert train("--resume", "--epochs=2", "--out", tmp_path / "link", "--threads=1").exit_code == 0


def test_a_linked_folder_of_trajectories_is_not_written_to(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "trajectories").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnusableFileError, match="trajectories is a symbolic link"):
        SegmentWriter(tmp_path, attributes={})
    with pytest.raises(UnusableFileError, match="trajectories is a symbolic link"):
        dfc.open_trajectories(tmp_path)


def test_saving_to_a_link_writes_its_target(tmp_path):
    (tmp_path / "link.h5").symlink_to(tmp_path / "real.h5")
    network = dfc.Network.create([4, 3], seed=1)
    network.save(tmp_path / "link.h5")
    assert (tmp_path / "link.h5").is_symlink()
    np.testing.assert_array_equal(dfc.Network.load(tmp_path / "real.h5").weights[0], network.weights[0])


@pytest.mark.parametrize(
    "text",
    [
        "3", '{"results": 3}', '{"results": {"epochs": "x"}, "status": "done"}', '{"earlier_sessions": 5}',
        '{"earlier_sessions": [5]}', "[" * 20000, "{", '{"status": 7, "name": []}',
    ],
)  # fmt: skip
def test_a_damaged_record_is_named_and_the_run_goes_on(run, text):
    (run / "run.json").write_text(text)
    with pytest.warns(UserWarning, match="run.json is damaged"):
        read_record(run)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        result = train("--resume", "--epochs=2", "--out", run)
    assert result.exit_code == 0 and "run.json is damaged" in result.stderr
    assert json.loads((run / "run.json").read_text())["status"] == "done"


def test_a_record_without_a_reason_is_taken(run):
    (run / "run.json").write_text('{"status": "diverged"}')
    result = train("--resume", "--epochs=2", "--out", run)
    assert result.exit_code == 1 and "holds a run that diverged" in result.stderr


def test_names_at_the_limit_of_the_file_system_are_written(tmp_path):
    path = tmp_path / ("n" * 252 + ".h5")
    dfc.Network.create([4, 3]).save(path)
    assert dfc.Network.load(path).sizes == (4, 3) or list(dfc.Network.load(path).sizes) == [4, 3]


def test_a_folder_that_cannot_be_forced_to_disk_is_no_error(tmp_path, monkeypatch):
    def refuse(descriptor):
        import stat

        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    files.write_text(tmp_path / "file", "text")
    assert (tmp_path / "file").read_text() == "text"


def test_a_file_that_cannot_be_forced_to_disk_is_an_error(tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space"):
        files.write_text(tmp_path / "file", "text")


def process(command, **options):
    return subprocess.run(["sh", "-c", f'"{sys.executable}" -m dfc_numba {command}'], timeout=120, **options)


@pytest.mark.parametrize(
    "redirection", ["2>&-", ">&-", ">&- 2>&-", "> /dev/full", "> /dev/full 2> /dev/full", "<&-"]
)
def test_a_run_ends_well_whatever_its_outputs_are(tmp_path, redirection):
    command = (
        f"train digits --set training.method=bp --set 'network.hidden=[8]' --epochs 1 --out r {redirection}"
    )
    done = process(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "r" / "run.json").read_text())["status"] == "done"


def test_a_terminal_of_ascii_is_no_error(tmp_path):
    folder = tmp_path / "Größe"
    folder.mkdir()
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    command = "train digits --set training.method=bp --set 'network.hidden=[8]' --epochs 1 --out r"
    done = process(command, cwd=folder, capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_sighup_leaves_a_checkpoint(tmp_path):
    command = [
        sys.executable,
        "-m",
        "dfc_numba",
        "train",
        "digits",
        "--epochs",
        "500",
        "--out",
        str(tmp_path / "r"),
    ]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    # a parent that was started by nohup would hand on that the signal is ignored
    hears = partial(signal.signal, signal.SIGHUP, signal.SIG_DFL)
    with subprocess.Popen(command, preexec_fn=hears, **quiet) as running:
        try:
            while not (tmp_path / "r" / "weights_last.h5").exists() and running.poll() is None:
                time.sleep(0.05)
            running.send_signal(signal.SIGHUP)
            assert running.wait(60) == 75
        finally:
            running.kill()
    assert json.loads((tmp_path / "r" / "run.json").read_text())["status"] == "interrupted"


def test_a_process_without_threads_goes_on_with_one(monkeypatch):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", refuse)
    done = []
    with threads.limit_threads(4):
        threads.run(8, done.append, work=1e12)
    assert sorted(done) == list(range(8))


def test_a_log_without_a_thread_of_its_own_is_written_at_once(monkeypatch):
    from dfc_numba.storage.background import Background

    def refuse(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", refuse)
    done, ended = [], []
    background = Background(100)
    background.reserve(10)
    background.submit(done.append, 1, size=10)
    assert done == [1]
    background.finish()
    background.end(last=lambda: ended.append(True))
    assert ended == [True]


def test_limits_of_threads_that_overlap_hold_and_are_taken_back():
    import threading

    from threadpoolctl import threadpool_info

    def count():
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    with threads.limit_threads(2):
        before = count()
        first, second, left = threading.Event(), threading.Event(), threading.Event()

        def other():
            with threads.limit_threads(1):
                first.set()
                second.wait(10)
            left.set()

        thread = threading.Thread(target=other)
        thread.start()
        first.wait(10)
        with threads.limit_threads(1):
            second.set()
            left.wait(10)
            assert set(count()) == {1}
            with threads.limit_threads(2):
                assert set(count()) == {2}
            assert set(count()) == {1}
        thread.join()
        assert count() == before


def test_the_name_of_a_preset_means_the_preset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").write_text("")
    with pytest.warns(
        UserWarning, match="digits is taken for the preset; for the file of this name write ./digits"
    ):
        config, _ = load_config("digits")
    assert config == load_config(None)[0] or config.data.name == "digits"


def test_an_empty_configuration_is_refused(tmp_path):
    (tmp_path / "empty.toml").write_text("# nothing\n")
    with pytest.raises(ConfigurationError, match="empty.toml: is empty"):
        load_config(str(tmp_path / "empty.toml"))


def test_a_configuration_with_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "a.toml").write_bytes(b"\xef\xbb\xbf[training]\nepochs = 7\n")
    assert load_config(str(tmp_path / "a.toml"))[0].training.epochs == 7


def test_a_configuration_that_is_nested_without_end_is_refused(tmp_path):
    (tmp_path / "a.toml").write_text("a = " + "[" * 50000)
    with pytest.raises(ConfigurationError, match="a.toml: is not a TOML file"):
        load_config(str(tmp_path / "a.toml"))


def test_a_missing_file_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=f"nothing.toml: cannot be read .*looked for in {tmp_path}"):
        load_config("nothing.toml")


def test_the_home_folder_is_meant_by_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert train("digits", *FAST, "--out=~/there").exit_code == 0
    assert (tmp_path / "there" / "run.json").exists() and not (tmp_path / "~").exists()
    assert dfc.Network.load("~/there/weights_last.h5").sizes[0] == 64


def test_control_characters_of_files_are_not_printed(tmp_path):
    from dfc_numba.support.output import printable

    assert printable("a\x1b[2Jb\x07\u202ec\td\n") == "a\\x1b[2Jb\\x07\\u202ec\td\n"


@pytest.mark.parametrize("clip", [-1.0, 0.0, float("nan"), float("inf")])
def test_a_clip_that_is_no_positive_number_is_refused(clip):
    network = dfc.Network.create([4, 5, 3], seed=0)
    network.backward = [-network.weights[1].T]
    x = np.random.default_rng(0).normal(size=(6, 4))
    with pytest.raises(ValueError, match="clip_error is"):
        dfc.inversion_update(network, x, network.predict(x), dfc.Inversion(steps=5), clip_error=clip)


def test_inputs_beyond_float32_are_refused_by_simulations_too():
    network = dfc.Network.create([2, 2], seed=0, dtype="float32")
    x, target, controller = np.array([[1e300, 1.0]]), np.zeros((1, 2)), dfc.Controller(steps=3)
    for function in (dfc.simulate, dfc.forward_update):
        with pytest.raises(ValueError, match="x.* is inf in float32"):
            function(network, x, target, controller)


def test_an_update_that_overflows_is_flagged():
    network = dfc.Network.create([2, 2], seed=0, dtype="float32")
    x = np.array([[1e38, 1.0], [1, 1]])
    with np.errstate(all="ignore"):
        update = dfc.forward_update(network, x, np.zeros((2, 2)), dfc.Controller(steps=3))
    assert np.isfinite(update.weights[0]).all() or update.diverged.any()


def test_names_that_are_no_utf_8_are_written_and_read(tmp_path):
    """Bytes of a file name that are no text: config.toml, run.json and the command in HDF5 have them with backslashes."""
    directory = tmp_path / os.fsdecode(b"run-\xff\xfe")
    changes = {
        "training.method": "bp",
        "network.hidden": [4],
        "training.epochs": 1,
        "data.options.train_size": 50,
    }
    dfc.train(dfc.load_config("digits", changes), directory)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_record(directory)["status"] == "done"
        assert load_config(str(directory / "config.toml"))[0].training.epochs == 1
    files.write_text(
        tmp_path / "config.toml", f"# {directory.name}\n"
    )  # the heading where the settings have such a name
    assert (tmp_path / "config.toml").read_text() == "# run-\\udcff\\udcfe\n"
    assert root_attributes(command=["dfc", str(directory)])["command"].endswith("run-\\udcff\\udcfe")
