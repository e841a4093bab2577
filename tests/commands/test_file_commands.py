"""`dfc simulate` and `dfc inspect`: what they print, write and return."""

import os
import re
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from command_line import invoked
from storage_files import flip, record, write

import dfc_numba as dfc
from dfc_numba import data
from dfc_numba.configuration.config_file import load_config
from dfc_numba.runs.experiment import create_network
from dfc_numba.storage.reader import open_trajectories
from dfc_numba.storage.segments import SegmentWriter

SMALL = ["--set=network.hidden=[8]", "--set=controller.steps=9"]


def run(*arguments):
    """The result of a command: exit code, standard output, standard error."""
    return invoked(*arguments)


@pytest.fixture
def simulated(tmp_path):
    """The file that a small simulation wrote, and the result of the command."""
    path = tmp_path / "one.h5"
    return path, run("simulate", *SMALL, "--seed", 3, "--out", path)


# --- dfc simulate -------------------------------------------------------------------------------------------


def test_a_simulation_tells_its_size_and_writes_everything(simulated):
    path, result = simulated
    assert result.exit_code == 0 and result.stderr == ""
    assert f"8 samples, 10 time points, 18 units: 65.9 kB in memory and in {path}" in result.stdout
    assert f"written: {path}" in result.stdout and "mean error" in result.stdout
    trajectory = dfc.Trajectory.load(path)
    assert trajectory.u.shape == (10, 8, 10) and [v.shape[2] for v in trajectory.v] == [8, 10]
    assert all(
        getattr(trajectory, name) is not None
        for name in ("u", "u_int", "e", "error", "v", "v_ff", "v_fb", "r")
    )


def test_simulate_takes_the_first_minibatch_of_the_run_at_its_initial_weights(simulated):
    path, _ = simulated
    config, _ = load_config("digits", ["network.hidden=[8]", "controller.steps=9", "training.seed=3"])
    digits = data.load("digits")
    network = create_network(config, digits)
    with open_trajectories(path) as file:
        assert file.phases == ("simulation",) and file.status == "complete"
        assert file.config["training"]["seed"] == 3 and file.attributes["seed"] == "3"
        recipe = file["simulation"][0].recipe()
    assert np.array_equal(recipe.network.weights[0], network.weights[0])
    assert np.array_equal(recipe.x, digits.train.x[recipe.indices])
    assert np.array_equal(recipe.labels.argmax(axis=1), digits.train.y[recipe.indices])
    assert recipe.controller == config.controller
    wanted = dfc.output_target(
        network, recipe.x, recipe.labels, loss="cross_entropy", step=config.target.step
    )
    assert (
        np.abs(recipe.target - wanted).max() < 1e-15
    )  # the same up to the rounding of the mean over the minibatch
    again = dfc.simulate(recipe.network, recipe.x, recipe.target, recipe.controller)
    assert np.array_equal(again.u, dfc.Trajectory.load(path).u)


def test_simulations_of_few_and_of_many_samples_have_the_same_first_ones(tmp_path, simulated):
    path, _ = simulated
    assert run("simulate", *SMALL, "--seed", 3, "--samples", 20, "--out", tmp_path / "more.h5").exit_code == 0
    few, more = dfc.Trajectory.load(path), dfc.Trajectory.load(tmp_path / "more.h5")
    assert more.u.shape == (10, 20, 10) and np.array_equal(more.u[:, :8], few.u)


def test_a_nudge_per_minibatch_is_that_of_the_whole_minibatch(tmp_path):
    options = [*SMALL, "--set=target.step_per=minibatch", "--set=training.batch_size=16"]
    errors = []
    for samples in (2, 16):
        path = tmp_path / f"{samples}.h5"
        assert run("simulate", *options, "--samples", samples, "--out", path).exit_code == 0
        errors.append(dfc.Trajectory.load(path).error[:, :2])
    assert np.array_equal(*errors)


def test_noise_dtype_and_threads(tmp_path):
    path = tmp_path / "noisy.h5"
    options = [
        "--set=controller.sigma=0.1",
        "--set=controller.tau_noise=0.1",
        "--dtype",
        "float32",
        "--threads",
        1,
    ]
    assert run("simulate", *SMALL, *options, "--out", path).exit_code == 0
    trajectory = dfc.Trajectory.load(path)
    recipe = trajectory.recipe
    assert (
        trajectory.v[0].dtype == recipe.x.dtype == np.float32
        and (recipe.noise.samples == recipe.indices).all()
    )
    again = dfc.simulate(recipe.network, recipe.x, recipe.target, recipe.controller, noise=recipe.noise)
    assert np.array_equal(again.v[0], trajectory.v[0])


def test_a_strong_target_is_the_label(tmp_path):
    options = [
        "--set=target.feedback=strong",
        "--set=target.class_value=0.9",
        "--set=controller.error=softmax",
    ]
    assert run("simulate", *SMALL, *options, "--out", tmp_path / "strong.h5").exit_code == 0
    recipe = dfc.Trajectory.load(tmp_path / "strong.h5").recipe
    assert np.array_equal(recipe.target, recipe.labels)


def test_divergence_is_written_told_and_returned(tmp_path):
    wild = ["--set=controller.steps=2000", "--set=controller.dt=0.2", "--set=controller.k_p=1e6", *SMALL[:1]]
    result = run("simulate", *wild, "--samples", 2, "--out", tmp_path / "wild.h5")
    assert result.exit_code == 1 and "the simulation diverged; try" in result.stderr
    with open_trajectories(tmp_path / "wild.h5") as file:
        assert file.status == "diverged"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digit"], "did you mean 'digits'"),
        (["--out", "nowhere/one.h5"], "there is no folder nowhere"),
        (["--samples", "100"], "--samples 100: a minibatch has 32; set training.batch_size"),
        (["--samples", "0"], "samples"),
        (
            ["--set", "controller.steps=2000000000"],
            r"TB, but only .* available; take fewer samples with --samples",
        ),
        (["--set", "training.method=bp"], "training.method = 'bp' simulates no feedback phase"),
        (["--set", "training.method=dfc-ssa"], "training.method = 'dfc-ssa' simulates no feedback phase"),
    ],
)
def test_wrong_use_ends_with_2_and_writes_nothing(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = run("simulate", *arguments, *([] if "--out" in arguments else ["--out", "one.h5"]))
    assert result.exit_code == 2 and "Traceback" not in result.output
    assert re.search(message, result.stderr)
    assert not list(tmp_path.iterdir())


def test_a_file_that_exists_is_left_alone(simulated):
    path, _ = simulated
    before = path.read_bytes()
    result = run("simulate", *SMALL, "--out", path)
    assert result.exit_code == 2 and "exists, and is not overwritten" in result.stderr
    assert path.read_bytes() == before


def test_a_disk_without_room_is_told_before(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    result = run("simulate", *SMALL, "--out", tmp_path / "one.h5")
    assert result.exit_code == 2 and "but the disk has 1 kB left" in result.stderr
    assert not list(tmp_path.iterdir())


# --- dfc inspect --------------------------------------------------------------------------------------------


def test_a_file_is_described(simulated):
    path, _ = simulated
    result = run("inspect", path)
    assert result.exit_code == 0 and result.stderr == ""
    for text in (
        f"{path}: trajectories, schema 1.2, complete", "versions    dfc_numba", "[network] hidden = [8]", "seed        3",
        "/simulation: 1 record (epoch 1, minibatch 1, number 0)", "controller  dt = 0.05, steps = 9",
        "record 1, step 10, sample 8, unit_1 8", "somatic voltage of layer 2", "time, in tau_u", "every checksum fits",
    ):  # fmt: skip
        assert text in result.stdout, text


def test_a_run_directory_is_described(tmp_path):
    with SegmentWriter(tmp_path) as writer:
        for n in range(3):
            writer.append(*record(n))
            writer.close_segment()
        writer.append(*record(3))
        (tmp_path / "trajectories" / "note").touch()
        result = run("inspect", tmp_path)
        assert result.exit_code == 0 and "000003.h5.part is left aside: it was never closed" in result.stderr
        assert "files       000000.h5, 000001.h5, 000002.h5" in result.stdout
        assert "/forward: 3 records (epoch 1, minibatch 1 to 3, number 0 to 2)" in result.stdout
        assert "update      readout = average" in result.stdout
    assert "/forward: 4 records" in run("inspect", tmp_path).stdout


def test_damage_is_told_and_ends_with_2(simulated):
    path, _ = simulated
    trajectory = dfc.Trajectory.load(path)
    flip(path, trajectory.v[1][5])
    flip(path, trajectory.u[5])
    result = run("inspect", path)
    assert (
        result.exit_code == 2 and "damaged: 2 parts" in result.stdout and "record 1, step 10" in result.stdout
    )
    for name in ("v_2", "u"):
        assert f"{path}: /simulation/{name} of record 0 is damaged" in result.stderr
    assert run("inspect", "--quick", path).exit_code == 0


def test_many_damages_are_not_all_listed(tmp_path):
    path = tmp_path / "a.h5"
    records = write(path, [record(n) for n in range(25)])
    for _, trajectory, _ in records:
        flip(path, trajectory.u[1])
    result = run("inspect", path)
    assert (
        result.exit_code == 2 and "... and 5 more" in result.stderr and "damaged: 25 parts" in result.stdout
    )


@pytest.mark.filterwarnings("default")
def test_a_run_with_a_damaged_segment_is_described_as_far_as_it_can_be_read(tmp_path):
    writer = SegmentWriter(tmp_path)
    for n in range(3):
        writer.append(*record(n))
        writer.close_segment()
    writer.close("interrupted")
    os.truncate(tmp_path / "trajectories" / "000001.h5", 3000)
    for options in ([], ["--quick"]):
        result = run("inspect", tmp_path, *options)
        assert result.exit_code == 2 and "/forward: 2 records" in result.stdout
        assert "000001.h5 cannot be read" in result.stderr


def test_a_file_without_trajectories_ends_with_exit_code_2(tmp_path):
    dfc.Network.create([2, 3]).save(tmp_path / "network.h5")
    (tmp_path / "text.h5").write_text("hello")
    with h5py.File(tmp_path / "new.h5", "w") as file:
        file.attrs.update(schema="dfc-numba/trajectory", schema_version="2.0")
    for name, message in {
        "network.h5": "is not a trajectory file", "text.h5": "cannot be read", "nothing.h5": f"dfc: there is no {tmp_path}",
        "new.h5": "use a newer one", ".": "a run has them if it is trained with --log",
    }.items():  # fmt: skip
        result = run("inspect", tmp_path / name)
        assert result.exit_code == 2 and message in result.stderr and "Traceback" not in result.output, name


@pytest.mark.parametrize("command", ["simulate", "inspect"])
def test_help_shows_usage_and_exit_codes(command):
    result = run(command, "--help")
    assert result.exit_code == 0 and "Usage: dfc" in result.stdout and "Exit code" in result.stdout
