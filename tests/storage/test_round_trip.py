"""What is written to a trajectory file comes back with the same bits, whatever was recorded, in either dtype."""

import tracemalloc
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from problems import draws, inputs
from simulations import NOISY, SHORT, SIZES
from storage_files import (
    EVERYTHING,
    LAYERED,
    SIMPLE,
    assert_same,
    assert_same_recipe,
    assert_same_trajectory,
    network,
    record,
    write,
)

import dfc_numba as dfc
from dfc_numba.model.recording import Recipe, StoredUpdate
from dfc_numba.storage.reader import open_trajectories
from dfc_numba.storage.writer import TrajectoryWriter

KEPT = Path(__file__).parents[1] / "resources" / "trajectory-1.0.h5"


def saved(tmp_path, trajectory, **options):
    trajectory.save(tmp_path / "trajectory.h5", **options)
    return dfc.Trajectory.load(tmp_path / "trajectory.h5")


# --- Trajectory.save and load -------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_a_trajectory_comes_back_with_its_recipe(tmp_path, dtype, bias, compression):
    _, trajectory, _ = record(3, net=network(bias=bias, dtype=dtype), phase="simulation")
    found = saved(tmp_path, trajectory, compression=compression)
    assert_same_trajectory(found, trajectory)
    assert_same_recipe(found.recipe, trajectory.recipe)


@pytest.mark.parametrize(
    "keep",
    [
        {},
        {"variables": []},
        {"variables": ["u", "r"], "samples": [4, 1], "every": 7},
        {"variables": ["e", "noise"], "every": 1000},
    ],
    ids=str,
)
def test_what_was_recorded_is_what_is_stored(tmp_path, keep):
    _, trajectory, _ = record(3, keep=dfc.Record(**keep))
    assert_same_trajectory(saved(tmp_path, trajectory), trajectory)


def test_every_field_of_a_trajectory_is_compared():
    assert {field.name for field in fields(dfc.Trajectory)} == {*SIMPLE, *LAYERED, "formulas", "recipe"}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("source", ["seed", "key", "draws"])
def test_a_stored_recipe_repeats_the_simulation(tmp_path, dtype, source):
    controller = dfc.Controller(**NOISY)
    noise = {"seed": 11, "key": dfc.NoiseKey(2**64 - 1, 5, [9, 2, 7]), "draws": draws(controller, SIZES, 3)}[
        source
    ]
    net, x = network(dtype=dtype), inputs(3, SIZES[0])
    trajectory = dfc.simulate(
        net, x, inputs(3, SIZES[-1], seed=4), controller, noise=noise, record=EVERYTHING
    )
    recipe = saved(tmp_path, trajectory).recipe
    again = dfc.simulate(
        recipe.network, recipe.x, recipe.target, recipe.controller, noise=recipe.noise, record=EVERYTHING
    )
    assert_same_trajectory(again, trajectory)


def test_a_recipe_does_not_change_with_what_it_was_made_of():
    net, x, controller = network(), inputs(3, SIZES[0]), dfc.Controller(**NOISY)
    target, noise = inputs(3, SIZES[-1], seed=4), draws(controller, SIZES, 3)
    arguments = [net.weights[0], net.biases[1], net.feedback[2], x, target, *noise]
    trajectory = dfc.simulate(net, x, target, controller, noise=noise)
    for array in arguments:
        array += 1.0
    again = trajectory.recipe
    again = dfc.simulate(again.network, again.x, again.target, again.controller, noise=again.noise)
    assert_same_trajectory(again, trajectory)


def test_trajectories_may_be_stored_in_single_precision(tmp_path):
    _, trajectory, _ = record(3)
    found = saved(tmp_path, trajectory, dtype="float32")
    for name in ("u", "u_int", "e", "error"):
        assert_same(getattr(found, name), getattr(trajectory, name).astype(np.float32), name)
    for name in LAYERED:
        for ours, theirs in zip(getattr(found, name), getattr(trajectory, name), strict=True):
            assert_same(ours, theirs.astype(np.float32), name)
    assert_same_recipe(found.recipe, trajectory.recipe)


def test_numbers_that_are_not_finite_are_stored_as_they_are(tmp_path):
    _, trajectory, _ = record(3)
    trajectory.u[-1] = np.inf, -np.inf, np.nan
    trajectory.v[1][-1, 0] = 1e300
    assert_same_trajectory(saved(tmp_path, trajectory), trajectory)
    assert np.isinf(saved(tmp_path, trajectory, dtype="float32").v[1][-1, 0]).all()


def test_a_trajectory_without_recipe_is_saved_and_says_so(tmp_path):
    _, trajectory, _ = record(3)
    trajectory = replace(trajectory, recipe=None)
    found = saved(tmp_path, trajectory)
    assert_same_trajectory(found, trajectory)
    assert found.recipe is None
    with open_trajectories(tmp_path / "trajectory.h5") as file:
        with pytest.raises(ValueError, match="record 0 of 'simulation' has no recipe: .* saved without"):
            file["simulation"][0].recipe()


def test_saving_replaces_the_older_file_and_leaves_nothing_else(tmp_path):
    for number in (1, 2):
        _, trajectory, _ = record(number)
        assert_same_trajectory(saved(tmp_path, trajectory), trajectory)
    assert [path.name for path in tmp_path.iterdir()] == ["trajectory.h5"]


# --- records ------------------------------------------------------------------------------------------------


def test_records_come_back_in_their_order_by_phase(tmp_path):
    phases = ["forward", "extra feedback", "forward", "pretraining", "forward"]
    records = write(tmp_path / "a.h5", [record(n, phase=phase, epoch=n) for n, phase in enumerate(phases)])
    with open_trajectories(tmp_path / "a.h5") as file:
        assert set(file.phases) == {"forward", "extra_feedback", "pretraining"} and len(file) == 5
        for phase in set(phases):
            stored = file[phase]
            assert stored.phase == phase and len(stored) == phases.count(phase)
            expected = [one for one in records if one[0].phase == phase]
            for found, (recipe, trajectory, update) in zip(stored, expected, strict=True):
                assert_same_trajectory(found.trajectory(), trajectory)
                assert_same_recipe(found.recipe(), recipe)
                for kind in ("weights", "biases"):
                    for a, b in zip(getattr(found.update(), kind), getattr(update, kind), strict=True):
                        assert_same(a, b, kind)
                assert found.update().feedback is None


def test_a_loaded_record_has_to_be_chosen(tmp_path):
    records = write(
        tmp_path / "a.h5", [record(n, phase=p) for n, p in enumerate(["forward", "feedback", "forward"])]
    )
    load = dfc.Trajectory.load
    assert_same_trajectory(load(tmp_path / "a.h5", phase="forward", record=-1), records[2][1])
    assert_same_trajectory(load(tmp_path / "a.h5", phase="feedback"), records[1][1])
    with pytest.raises(ValueError, match="holds the phases feedback, forward; choose one with phase="):
        load(tmp_path / "a.h5")
    with pytest.raises(ValueError, match="holds 2 records of 'forward'; choose one with record="):
        load(tmp_path / "a.h5", phase="forward")
    with pytest.raises(IndexError, match="record 2 of 'forward': there are 2"):
        load(tmp_path / "a.h5", phase="forward", record=2)
    with pytest.raises(ValueError, match="phase is 'forwards'; .*did you mean 'forward'"):
        load(tmp_path / "a.h5", phase="forwards")


@pytest.mark.parametrize("order", [[5, 2, 5], [2, 5, 3], [1, 1, 5]], ids=str)
def test_smaller_minibatches_are_padded_and_come_back_without_padding(tmp_path, order):
    records = write(tmp_path / "a.h5", [record(n, count=count) for n, count in enumerate(order)])
    with open_trajectories(tmp_path / "a.h5") as file:
        stored = file["forward"]
        for found, (recipe, trajectory, _) in zip(stored, records, strict=True):
            assert_same_trajectory(found.trajectory(), trajectory)
            assert_same_recipe(found.recipe(), recipe)
        v, positions = stored.variable("v", layer=1), stored.variable("sample_index")
        assert v.shape == (3, 31, max(order), 6)
        for n, count in enumerate(order):
            assert np.isnan(v[n, :, count:]).all() and not np.isnan(v[n, :, :count]).any()
            assert (positions[n, count:] == -1).all() and (positions[n, :count] >= 0).all()


def test_a_recipe_alone_takes_no_trajectory(tmp_path):
    records = write(tmp_path / "a.h5", [(record(n)[0],) for n in range(3)])
    with open_trajectories(tmp_path / "a.h5") as file:
        stored = file["forward"]
        assert stored.step is None and "u" not in stored.variables
        for found, (recipe,) in zip(stored, records, strict=True):
            assert_same_recipe(found.recipe(), recipe)
            assert found.update() is None
            with pytest.raises(ValueError, match="is a recipe without trajectory"):
                found.trajectory()


def test_a_record_may_lack_what_others_have(tmp_path):
    recipe, trajectory, update = record(0)
    write(tmp_path / "a.h5", [(recipe, trajectory, update), (recipe,), (recipe, trajectory)])
    with open_trajectories(tmp_path / "a.h5") as file:
        stored = file["forward"]
        assert_same_trajectory(stored[2].trajectory(), trajectory)
        with pytest.raises(ValueError, match="is a recipe without trajectory"):
            stored[1].trajectory()
        assert stored[0].update() is not None and stored[1].update() is None and stored[2].update() is None


def test_one_shot_draws_and_updates_of_feedback_weights(tmp_path):
    net, x = network(), inputs(4, SIZES[0])
    given = [inputs(4, n, seed=n) for n in SIZES[1:]]
    update = dfc.one_shot_feedback_update(net, x, sigma=0.1, noise=given)
    recipe = Recipe(network=net, controller=None, x=x, target=net.predict(x), noise=given, phase="feedback")
    write(tmp_path / "a.h5", [(recipe, None, update)])
    with open_trajectories(tmp_path / "a.h5") as file:
        found = file["feedback"][0]
        assert_same_recipe(found.recipe(), recipe)
        assert found.update().weights is None
        for a, b in zip(found.update().feedback, update.feedback, strict=True):
            assert_same(a, b, "feedback")


def test_parameters_are_stored_once_per_change(tmp_path):
    net, before, records = network(), network(), []
    for change in (None, net.weights[0], None, net.feedback[1], net.biases[2]):
        if change is not None:
            change += 0.25
        records.append(record(len(records), net=net))
    net.weights[0], net.biases[2] = before.weights[0], before.biases[2]
    records.append(record(5, net=net))  # forward parameters as at the start, feedback weights not
    write(tmp_path / "a.h5", records)
    with open_trajectories(tmp_path / "a.h5") as file:
        stored = file["forward"]
        assert stored.variable("weights_snapshot")[:].tolist() == [0, 1, 1, 1, 2, 0]
        assert stored.variable("feedback_snapshot")[:].tolist() == [0, 0, 0, 1, 1, 1]
        for found, (recipe, _, _) in zip(stored, records, strict=True):
            assert_same_recipe(found.recipe(), recipe)


# --- what a file cannot hold --------------------------------------------------------------------------------


def different(change, **facts):
    """A record that differs from the usual one in what is stored once for all of them."""
    recipe, trajectory, update = record(1, **facts)
    return (replace(recipe, **change), trajectory, update)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            different({"controller": dfc.Controller(**SHORT)}),
            "/forward of .* has controller .*goes to another file",
        ),
        (different({"update": {"readout": "final"}}), "has update .*goes to another file"),
        (different({}, keep=dfc.Record(every=2)), "/forward has other values of step"),
        (different({}, net=network(dtype=np.float32)), "network .* goes to another file"),
        (different({}, net=network(bias=False)), "network .* goes to another file"),
    ],
    ids=["controller", "update", "steps", "dtype", "bias"],
)
def test_a_record_that_does_not_fit_is_refused_and_leaves_the_file_sound(tmp_path, other, message):
    first, last = record(0), record(2)
    with TrajectoryWriter(tmp_path / "a.h5") as writer:
        writer.append(*first)
        with pytest.raises(ValueError, match=message):
            writer.append(*other)
        writer.append(*last)
    with open_trajectories(tmp_path / "a.h5") as file:
        assert file["forward"].variable("number")[:].tolist() == [0, 2]
        assert_same_trajectory(file["forward"][1].trajectory(), last[1])


def test_inputs_of_more_digits_than_those_before_are_refused(tmp_path):
    recipe, *_ = record(0)
    with TrajectoryWriter(tmp_path / "a.h5") as writer:
        writer.append(replace(recipe, x=recipe.x.astype(np.float32)))
        with pytest.raises(ValueError, match="/forward/inputs has float64 numbers, but is stored as float32"):
            writer.append(recipe)


def test_a_file_that_exists_is_not_written_to(tmp_path):
    write(tmp_path / "a.h5", [record(0)])
    with pytest.raises(FileExistsError, match="a.h5"):
        TrajectoryWriter(tmp_path / "a.h5")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compression": "zip"}, "compression is 'zip'; allowed are 'none', 'gzip', 'zstd', 'blosc'"),
        ({"dtype": "float16"}, "dtype is 'float16'; allowed are"),
    ],
)
def test_wrong_options_are_refused_before_there_is_a_file(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        TrajectoryWriter(tmp_path / "a.h5", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_a_record_is_written_piece_by_piece(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr("dfc_numba.storage.table.BLOCK_BYTES", 2**16)
    monkeypatch.setattr("dfc_numba.storage.table.CHUNK_BYTES", 2**14)
    one = record(0, count=500)
    size = sum(array.nbytes for array in one[1].v)
    with TrajectoryWriter(tmp_path / "a.h5", dtype=dtype) as writer:
        writer.append(*one)  # creates the variables
        tracemalloc.start()
        writer.append(*one)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert 5 * peak < size


# --- compression and attributes -----------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["zstd", "blosc"])
def test_compressions_of_the_extra(tmp_path, compression):
    pytest.importorskip("hdf5plugin")
    _, trajectory, _ = record(3)
    assert_same_trajectory(saved(tmp_path, trajectory, compression=compression), trajectory)


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "hdf5plugin", None)
    _, trajectory, _ = record(3)
    with pytest.raises(
        ImportError, match=r"compression 'zstd' needs hdf5plugin.*pip install 'dfc-numba\[compression\]'"
    ):
        trajectory.save(tmp_path / "a.h5", compression="zstd")
    assert not list(tmp_path.iterdir())


def test_a_file_says_how_it_was_made_and_how_it_ended(tmp_path):
    write(tmp_path / "good.h5", [record(0)])
    with pytest.raises(ZeroDivisionError), TrajectoryWriter(tmp_path / "bad.h5") as writer:
        writer.append(*record(0))
        1 / 0
    with open_trajectories(tmp_path / "good.h5") as good, open_trajectories(tmp_path / "bad.h5") as bad:
        assert (good.status, bad.status) == ("complete", "failed") and len(bad) == 1
        assert (
            good.attributes["schema"] == "dfc-numba/trajectory" and good.attributes["schema_version"] == "1.2"
        )
        assert good.attributes["cpu"] and good.attributes["started"] and good.config is None


# --- for ever -----------------------------------------------------------------------------------------------


def kept_records():
    """What tests/resources/trajectory-1.0.h5 was written from: numbers that do not depend on a simulation."""

    def numbers(shape, start):
        return np.sin(start + np.arange(np.prod(shape))).reshape(shape)

    sizes, records = [2, 3, 2], []
    for n, count in enumerate([2, 1]):
        net = dfc.Network(
            weights=[numbers((3, 2), n), numbers((2, 3), 5)], biases=[numbers(3, 7), numbers(2, 8)],
            feedback=[numbers((3, 2), 20), numbers((2, 2), 30)], hidden_activation="tanh",
        )  # fmt: skip
        recipe = Recipe(
            network=net, controller=dfc.Controller(steps=4, sigma=0.1), x=numbers((count, 2), 1), phase="extra feedback",
            target=numbers((count, 2), 2), noise=dfc.NoiseKey(3, n, np.arange(count) + 10), indices=np.arange(count) + 10,
            epoch=1, minibatch=n + 1, number=n, update={"function": "feedback_update", "high_pass": None},
        )  # fmt: skip
        layers = {
            name: [numbers((5, count, size), i) for size in sizes[1:]] for i, name in enumerate(LAYERED)
        }
        trajectory = dfc.Trajectory(
            time=0.02 * np.arange(5), step=np.arange(5), u=numbers((5, count, 2), 3), u_int=numbers((5, count, 2), 4),
            e=numbers((5, count, 2), 6), error=numbers((5, count), 9), **layers, samples=np.arange(count),
            converged=np.arange(count) > 0, diverged=np.arange(count) > 1, recipe=recipe,
        )  # fmt: skip
        records.append(
            (recipe, trajectory, StoredUpdate(feedback=[numbers((3, 2), 40), numbers((2, 2), 41)]))
        )
    return records


def test_a_file_of_version_1_0_opens_for_ever():
    with open_trajectories(KEPT) as file:
        assert file.phases == ("extra_feedback",) and file.status == "complete"
        for found, (recipe, trajectory, update) in zip(file["extra feedback"], kept_records(), strict=True):
            assert_same_recipe(found.recipe(), recipe)
            assert_same_trajectory(found.trajectory(), trajectory)
            for a, b in zip(found.update().feedback, update.feedback, strict=True):
                assert_same(a, b, "feedback")
