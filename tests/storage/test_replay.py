"""Replay: what a file holds is computed again to the same bits, what was changed is found, recipes become trajectories."""

import shutil
import tracemalloc
from dataclasses import replace

import h5py
import numpy as np
import pytest
from command_line import invoked
from recorded import (
    AVERAGE,
    FEEDBACK,
    FINAL,
    NEWTON,
    ONE_SHOT,
    SAMPLES,
    SINGLE_PHASE,
    made,
    recipe,
    training,
    write,
)
from simulations import NOISY, SHORT
from typer.testing import CliRunner

import dfc_numba as dfc
from dfc_numba import cli
from dfc_numba.configuration.config import Config
from dfc_numba.storage import replay as deviations
from dfc_numba.storage import schema
from dfc_numba.storage.reader import open_trajectories
from dfc_numba.storage.replay import expand, replay, what_if
from dfc_numba.storage.segments import SegmentWriter
from dfc_numba.storage.writer import TrajectoryWriter
from dfc_numba.support import hdf5

KEYED = {"options": NOISY, "noise": dfc.NoiseKey(3, 4, np.arange(SAMPLES) + 9)}
CASES = {
    "simulation": {},
    "average": {"update": AVERAGE},
    "final": {"update": FINAL},
    "newton": {"update": NEWTON},
    "keyed noise": {**KEYED, "update": AVERAGE},
    "given noise": {"options": NOISY, "noise": "given", "update": AVERAGE},
    "white noise": {"options": {**SHORT, "sigma": 0.1, "sigma_output": 0.05}, "noise": 5, "update": FEEDBACK},
    "feedback": {**KEYED, "update": FEEDBACK, "phase": "extra feedback"},
    "single phase": {**KEYED, "update": SINGLE_PHASE},
    "one shot": {"options": None, "noise": dfc.NoiseKey(1, 2), "update": ONE_SHOT, "phase": "feedback"},
    "softmax": {"options": {**SHORT, "error": "softmax"}, "update": AVERAGE},
    "Jacobian": {"options": {**SHORT, "jacobian_feedback": True}, "update": AVERAGE},
    "slow apical": {"options": {**SHORT, "tau_apical": 0.2, "tau_control": 0.3}, "update": AVERAGE},
    "retarded": {"options": {**SHORT, "instant_transmission": False, "proactive": False}, "update": FINAL},
    "instant": {"options": {**SHORT, "k_p": 0.0, "instant_dynamics": True, "leak": "integral"}},
    "no biases": {"bias": False, "update": AVERAGE},
}
EVERYTHING = dfc.Record(variables=("u", "u_int", "error", "v", "v_ff", "v_fb", "r", "e", "noise"))


def statuses(path, **options):
    return [replayed.status for replayed in replay(path, **options)]


def dfc_replay(*arguments):
    """(exit code, standard output, standard error) of `dfc replay`."""
    result = invoked("replay", *arguments)
    return result.exit_code, result.stdout, result.stderr


def data_sets(path):
    """All data sets of a file by their names."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: found.update({name: item[...]} if isinstance(item, h5py.Dataset) else {})
        )
    return found


def assert_same_data(ours, theirs):
    ours, theirs = data_sets(ours), data_sets(theirs)
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        assert array.dtype == theirs[name].dtype and np.array_equal(array, theirs[name], equal_nan=True), name


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A full log of a short run."""
    return write(tmp_path_factory.mktemp("replay") / "whole.h5", training())


@pytest.fixture(scope="module")
def recipes(whole):
    """The log of the same run with recipes alone."""
    return write(whole.with_name("recipes.h5"), training(), recipe_only=True)


@pytest.fixture
def changed(whole, tmp_path):
    """A function that changes numbers of a copy of the full log."""

    def change(name, place, value):
        path = shutil.copy(whole, tmp_path / "changed.h5")
        with h5py.File(path, "r+") as file:
            file[name][place] = value
        return path

    return change


# --- the same bits ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_record_is_replayed_to_the_same_bits(tmp_path, case, dtype):
    one = recipe(**CASES[case], dtype=dtype)
    noisy = one.controller is not None and one.controller.noisy
    path = write(tmp_path / "file.h5", [one], record=EVERYTHING if noisy else dfc.Record())
    (replayed,) = replay(path)
    assert replayed.status == "identical" and not replayed.left_out
    with open_trajectories(path) as file:
        stored = {name for name in file[one.phase].variables if name[0] in "uevrn" and name[:3] != "num"}
    stored -= {
        name
        for name in stored
        if name.startswith(("epoch", "noise_kind", "noise_seed", "noise_mini", "noise_sam"))
    }
    updates = {name for name in replayed.compared if name[:2] in ("dW", "db", "dQ")}
    assert stored <= set(replayed.compared)
    assert bool(updates) == bool(one.update)


def test_what_is_stored_in_float32_is_compared_in_float32(tmp_path):
    path = write(tmp_path / "file.h5", [recipe(update=AVERAGE)], dtype="float32")
    assert data_sets(path)["simulation/v_1"].dtype == np.float32
    assert statuses(path) == ["identical"]
    with h5py.File(path, "r+") as file:
        file["simulation/v_1"][0, 9, 1, 2] *= np.float32(1 + 2e-7)
    assert statuses(path) == ["different"]


def test_a_float32_network_stored_in_float64_is_replayed(tmp_path):
    assert statuses(write(tmp_path / "file.h5", [recipe(dtype="float32")], dtype="float64")) == ["identical"]


@pytest.mark.parametrize("every", [4, 31])
def test_a_part_of_a_trajectory_is_replayed(tmp_path, every):
    record = dfc.Record(variables=("v", "error"), samples=(4, 1), every=every)
    (replayed,) = replay(write(tmp_path / "file.h5", [recipe(update=FINAL)], record=record))
    assert replayed.status == "identical" and "v_2" in replayed.compared and "u" not in replayed.compared


def test_a_sample_that_diverges_is_replayed(tmp_path):
    unstable = {**SHORT, "dt": 0.1, "k_p": 400.0, "steps": 400}
    path = write(tmp_path / "file.h5", [recipe(unstable)])
    assert not np.isfinite(data_sets(path)["simulation/v_3"]).all()
    assert statuses(path) == ["identical"]


def test_a_run_is_replayed_phase_by_phase(whole):
    found = list(replay(whole))
    assert [(one.phase, one.record) for one in found] == [
        (p, n) for p in ("feedback", "forward") for n in range(3)
    ]
    assert {one.status for one in found} == {"identical"}
    assert [(one.phase, one.record) for one in replay(whole, phase="forward", record=-1)] == [("forward", 2)]
    assert [(one.phase, one.record) for one in replay(whole, record=1)] == [("feedback", 1), ("forward", 1)]


def interrupted_run(folder):
    """A run whose minibatches are in segments of their own."""
    writer = SegmentWriter(folder)
    for one in training():
        writer.append(one, *made(one, dfc.Record()))
        writer.close_segment()
    writer.close("interrupted")


def test_a_run_directory_is_replayed(tmp_path):
    interrupted_run(tmp_path)
    (tmp_path / "trajectories" / "000009.h5.part").write_bytes(b"")
    code, text, complaints = dfc_replay(tmp_path, "--all")
    assert code == 0 and "records: 6, of which 6 identical" in text
    assert "000009.h5.part is left aside" in complaints


def test_threads_do_not_change_the_bits(whole):
    assert dfc_replay(whole, "--threads", 1)[0] == dfc_replay(whole, "--threads", 3)[0] == 0


# --- other bits -------------------------------------------------------------------------------------------------


def test_a_changed_number_is_found_with_its_place(changed, monkeypatch):
    monkeypatch.setattr(
        deviations, "pieces", lambda shape, *_: [slice(n, n + 7) for n in range(0, shape[0], 7)]
    )
    path = changed("forward/v_2", (1, 17, 3, 4), 123.0)
    different = [one for one in replay(path) if one.status != "identical"]
    assert [(one.phase, one.record) for one in different] == [("forward", 1)]
    (found,) = different[0].deviations
    assert (found.variable, found.count, found.size) == ("v_2", 1, 31 * SAMPLES * 5)
    assert found.absolute.place == found.relative.place == {"step": 17, "sample": 3, "unit_2": 4}
    assert 120 < found.absolute.value < 126 and found.relative.value == found.absolute.value / 123.0


def test_the_place_is_told_in_steps_and_positions(tmp_path):
    record = dfc.Record(samples=(4, 1), every=5)
    path = write(tmp_path / "file.h5", [recipe()], record=record)
    with h5py.File(path, "r+") as file:
        file["simulation/u"][0, 3, 1, 2] = 9.0
    (replayed,) = replay(path)
    assert replayed.deviations[0].absolute.place == {"step": 15, "sample": 1, "output": 2}


def test_the_largest_deviations_are_told(changed):
    path = changed("forward/u", (0, slice(4, 7), 2, 1), [1.0, 50.0, 1e-9])
    (found,) = next(one for one in replay(path, phase="forward")).deviations
    assert found.count == 3
    assert found.absolute.place["step"] == 5 and found.relative.place["step"] == 6
    assert found.relative.value > 1e3


@pytest.mark.parametrize(("value", "relative"), [(np.nan, np.inf), (np.inf, np.inf), (0.0, np.inf)])
def test_numbers_without_a_finite_deviation_count_as_different(changed, value, relative):
    (found,) = next(one for one in replay(changed("feedback/r_1", (0, 5, 0, 0), value), record=0)).deviations
    assert found.count == 1 and found.relative.value == relative


def test_the_sign_of_zero_is_a_bit(tmp_path):
    path = write(tmp_path / "file.h5", [recipe()])
    with h5py.File(path, "r+") as file:
        assert file["simulation/u"][0, 0, 0, 0] == 0.0
        file["simulation/u"][0, 0, 0, 0] = -0.0
    (replayed,) = replay(path)
    assert replayed.status == "different" and replayed.deviations[0].absolute.value == 0.0


@pytest.mark.parametrize("name", ["forward/dW_2", "forward/db_1", "forward/converged", "forward/e"])
def test_updates_and_judgements_are_compared_too(changed, name):
    with h5py.File(changed(name, 0, 1)) as file:
        assert (file[name][0] == 1).all()
        path = file.filename
    (replayed,) = replay(path, phase="forward", record=0)
    assert [one.variable for one in replayed.deviations] == [name.split("/")[1]]


def test_other_weights_change_what_follows_from_them(changed):
    path = changed("weights_snapshots/W_2", (1, 0, 0), 3.0)
    assert set(statuses(path)) == {"identical", "different"}


def test_the_command_shows_a_table_of_deviations(changed):
    code, text, _ = dfc_replay(changed("forward/v_2", (1, 17, 3, 4), 123.0))
    assert code == 1 and "forward 1: 1 of 24 variables differ" in text
    row = next(line for line in text.splitlines() if line.startswith("  v_2"))
    assert "1 of 775" in row and row.count("step 17, sample 3, unit_2 4") == 2
    assert "records: 6, of which 5 identical, 1 different" in text


def test_other_versions_are_told(whole, tmp_path):
    path = shutil.copy(whole, tmp_path / "old.h5")
    assert "bits may differ" not in dfc_replay(path, "--record", 0)[1]
    with h5py.File(path, "r+") as file:
        attributes = {"cpu": "Babbage's"}
        file.attrs.update(attributes | hdf5.checksums(attributes))
    assert "recorded with the processor Babbage's (here " in dfc_replay(path, "--record", 0)[1]


# --- what cannot be replayed ------------------------------------------------------------------------------------


def test_a_damaged_record_is_named_and_the_others_are_replayed(tmp_path):
    record = dfc.Record(variables=("v",))
    path = write(
        tmp_path / "file.h5", [recipe({**SHORT, "steps": 300}, number=n) for n in range(3)], record=record
    )
    with h5py.File(path) as file:
        chunk = file["simulation/v_2"].id.get_chunk_info_by_coord((1, 0, 0, 0))
    with open(path, "r+b") as file:
        file.seek(chunk.byte_offset + 1000)
        byte = file.read(1)
        file.seek(chunk.byte_offset + 1000)
        file.write(bytes([byte[0] ^ 1]))
    assert statuses(path) == ["identical", "unusable", "identical"]
    code, text, complaints = dfc_replay(path)
    assert code == 2 and "simulation 1: " in complaints and "damaged" in complaints and "2 identical" in text


@pytest.mark.filterwarnings("default")
def test_a_damaged_segment_of_a_run_does_not_go_unseen(tmp_path):
    interrupted_run(tmp_path)
    segment = tmp_path / "trajectories" / "000002.h5"
    segment.write_bytes(segment.read_bytes()[:5000])
    code, text, complaints = dfc_replay(tmp_path)
    assert code == 2 and "5 identical, 1 unusable" in text and "000002.h5" in complaints
    code, text, complaints = dfc_replay(tmp_path, "--expand", tmp_path / "rest.h5")
    assert code == 2 and "rest.h5: 5 records" in text
    assert "000002.h5" in complaints and "records it lacks: 1" in complaints
    assert statuses(tmp_path / "rest.h5") == ["identical"] * 5


def test_recipes_alone_have_nothing_to_compare(recipes):
    code, _, complaints = dfc_replay(recipes)
    assert code == 2 and "--expand" in complaints
    assert set(statuses(recipes)) == {"nothing to compare"}


def test_a_trajectory_without_recipe_is_unusable(tmp_path):
    path = tmp_path / "file.h5"
    replace(
        dfc.simulate(*(vars(recipe())[key] for key in ("network", "x", "target", "controller"))), recipe=None
    ).save(path)
    code, _, complaints = dfc_replay(path)
    assert code == 2 and "no recipe" in complaints


@pytest.mark.parametrize(
    ("update", "match"),
    [({"function": "backpropagation"}, "forward_update"), ({**AVERAGE, "speed": 3}, "speed")],
)
def test_an_update_that_nobody_knows_is_a_problem(tmp_path, update, match):
    one = recipe(update=AVERAGE)
    with TrajectoryWriter(tmp_path / "file.h5") as writer:
        writer.append(replace(one, update=update), *made(one, dfc.Record()))
    (replayed,) = replay(tmp_path / "file.h5")
    assert replayed.status == "unusable" and match in replayed.problem


def test_an_update_of_unknown_origin_is_not_compared(tmp_path):
    one = recipe(update=AVERAGE)
    with TrajectoryWriter(tmp_path / "file.h5") as writer:
        writer.append(replace(one, update={}), None, made(one)[1])
    (replayed,) = replay(tmp_path / "file.h5")
    assert replayed.status == "nothing to compare" and "dW_1" in replayed.left_out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--record", 3], "no record 3; there are 3 of feedback, 3 of forward"),
        (["--phase", "backward"], "phase is 'backward'"),
        (["--record", 0, "--all"], "state one of them"),
        (["--samples", 2], "--samples: not used without"),
        (["--expand", "a.h5", "--out", "b.h5"], "either with --expand"),
        (["--set", "controller.k_p=1"], "either with --expand"),
        (["--out", "a.h5"], "either with --expand"),
        (["--set", "target.step=1", "--out", "a.h5"], "target.step: a replay takes network, inputs, target"),
        (["--set", "controller.kp=1", "--out", "a.h5"], "did you mean 'k_p'"),
        (["--set", "controller.k_p=-1", "--out", "a.h5"], "k_p is -1"),
        (["--expand", "a.h5", "--samples", "few"], "write how many"),
        (["--expand", "a.h5", "--variables", "u,w"], "variables"),
    ],
)
def test_wrong_use_is_refused(whole, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, complaints = dfc_replay(whole, *arguments)
    assert code == 2 and message in complaints
    assert not list(tmp_path.iterdir())


def test_a_file_without_trajectories_is_refused(tmp_path):
    (tmp_path / "text.h5").write_text("hello")
    recipe().network.save(tmp_path / "network.h5")
    for name in ("text.h5", "network.h5", "nothing.h5"):
        assert dfc_replay(tmp_path / name)[0] == 2


def test_nothing_is_overwritten(whole, recipes, tmp_path):
    before = whole.read_bytes()
    code, _, complaints = dfc_replay(recipes, "--expand", whole)
    assert code == 2 and "nothing is overwritten" in complaints and whole.read_bytes() == before


# --- new files --------------------------------------------------------------------------------------------------


def test_expanded_recipes_are_the_full_log(whole, recipes, tmp_path):
    code, text, _ = dfc_replay(recipes, "--expand", tmp_path / "expanded.h5")
    assert code == 0 and "6 records" in text
    assert_same_data(tmp_path / "expanded.h5", whole)
    assert set(statuses(tmp_path / "expanded.h5")) == {"identical"}


LOGGED = [
    "network.hidden=[8]",
    "log.every=19",
    "feedback.pretraining_epochs=1",
    "feedback_controller.steps=9",
]
METHODS = {
    "dfc": ["controller.steps=9"],
    "dfc-ss-newton": [],
    "dfc-single-phase": [
        "controller.steps=9", "controller.sigma=0.01", "controller.tau_noise=0.1", "feedback.extra_epochs=1",
    ],
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_logs_recipes_becomes_one_that_logged_everything(tmp_path, method):
    for name, recipe_only in {"whole": "false", "recipes": "true"}.items():
        settings = [*LOGGED, f"training.method={method}", *METHODS[method], f"log.recipe_only={recipe_only}"]
        options = [f"--set={setting}" for setting in settings]
        result = CliRunner().invoke(
            cli.app, ["train", "--epochs", "1", "--out", str(tmp_path / name), *options]
        )
        assert result.exit_code == 0, result.stderr
    assert dfc_replay(tmp_path / "whole", "--all")[0] == 0
    assert dfc_replay(tmp_path / "recipes", "--expand", tmp_path / "expanded.h5")[0] == 0
    assert_same_data(tmp_path / "expanded.h5", tmp_path / "whole" / "trajectories.h5")


def test_memory_does_not_grow_with_the_number_of_records(tmp_path):
    peaks = []
    for count in (2, 2, 12):  # the first one loads and compiles what is needed
        path = write(
            tmp_path / f"{len(peaks)}.h5",
            [recipe({**SHORT, "steps": 800}) for _ in range(count)],
            recipe_only=True,
        )
        tracemalloc.start()
        expand(path, tmp_path / f"{len(peaks)}-expanded.h5")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.3 * peaks[1]


def test_a_part_of_a_recipe_is_expanded(recipes, tmp_path):
    options = [
        "--variables",
        "u,v",
        "--samples",
        "3,0",
        "--every",
        5,
        "--dtype",
        "float32",
        "--compression",
        "gzip",
    ]
    code, *_ = dfc_replay(recipes, "--expand", tmp_path / "expanded.h5", "--phase", "forward", *options)
    record = dfc.Record(variables=("u", "v"), samples=(3, 0), every=5)
    forward = [one for one in training() if one.phase == "forward"]
    assert code == 0
    with open_trajectories(tmp_path / "expanded.h5") as file:
        assert file.phases == ("forward",)
        for stored, one in zip(file["forward"], forward, strict=True):
            there = [sample for sample in record.samples if sample < len(one.x)]
            trajectory, _ = made(one, replace(record, samples=tuple(there)))
            assert list(stored["position"]) == there
            assert np.array_equal(stored["v_2"], trajectory.v[1].astype("float32"))
    with h5py.File(tmp_path / "expanded.h5") as file:
        assert file["forward/v_2"].compression == "gzip"


def test_the_first_samples_are_meant_by_a_number(recipes, tmp_path):
    dfc_replay(recipes, "--expand", tmp_path / "expanded.h5", "--samples", 4, "--record", 0)
    assert data_sets(tmp_path / "expanded.h5")["forward/position"].tolist() == [[0, 1, 2, 3]]


def test_what_the_run_would_have_logged_is_expanded(tmp_path):
    config = Config.model_validate(
        {"log": {"samples": 3, "every_step": 4, "variables": ["u", "r"], "dtype": "float32"}}
    )
    attributes = schema.root_attributes(config=config, seed=5)
    path = write(tmp_path / "recipes.h5", training(), recipe_only=True, attributes=attributes)
    full = tmp_path / "full.h5"
    write(
        full,
        training(last=SAMPLES),
        record=dfc.Record(variables=("u", "r"), samples=(0, 1, 2), every=4),
        dtype="float32",
    )
    whole = write(tmp_path / "recipes2.h5", training(last=SAMPLES), recipe_only=True, attributes=attributes)
    expand(whole, tmp_path / "expanded.h5")
    assert_same_data(tmp_path / "expanded.h5", full)
    expand(path, tmp_path / "smaller.h5", phase="forward")
    assert data_sets(tmp_path / "smaller.h5")["forward/position"].tolist() == [
        [0, 1, 2],
        [0, 1, 2],
        [0, 1, -1],
    ]
    with open_trajectories(tmp_path / "smaller.h5") as file:
        assert file.attributes["seed"] == "5" and file.config["log"]["samples"] == 3


def test_phases_that_simulate_nothing_stay_recipes(tmp_path):
    cases = [
        recipe(update=NEWTON, phase="forward"),
        recipe(None, update=ONE_SHOT, noise=3, phase="feedback", number=1),
    ]
    expand(write(tmp_path / "recipes.h5", cases, recipe_only=True), tmp_path / "expanded.h5")
    assert_same_data(tmp_path / "expanded.h5", write(tmp_path / "full.h5", cases))


def test_a_damaged_recipe_leaves_no_file(changed, tmp_path):
    path = changed("forward/target", (1, 0, 0), np.nan)
    code, *_ = dfc_replay(path, "--expand", tmp_path / "expanded.h5")
    assert code == 2 and sorted(file.name for file in tmp_path.iterdir()) == ["changed.h5"]


@pytest.mark.parametrize("case", ["simulation", "average", "keyed noise", "given noise"])
def test_what_if_is_the_simulation_with_that_controller(tmp_path, case):
    one = recipe(**CASES[case])
    path = write(tmp_path / "file.h5", [one], recipe_only=True)
    code, text, _ = dfc_replay(
        path, "--set", "controller.k_p=1", "--set", "controller.tau_v=0.4", "--out", tmp_path / "new.h5"
    )
    assert code == 0 and "new.h5: 1 records" in text
    other = replace(one, controller=replace(one.controller, k_p=1.0, tau_v=0.4))
    trajectory, update = made(other, dfc.Record())
    with open_trajectories(tmp_path / "new.h5") as file:
        (stored,) = file["simulation"]
        assert stored.recipe().controller == other.controller
        assert np.array_equal(stored["u"], trajectory.u) and np.array_equal(stored["v_1"], trajectory.v[0])
        assert update is None or np.array_equal(stored["dW_2"], update.weights[1])
    assert not np.array_equal(data_sets(write(tmp_path / "old.h5", [one]))["simulation/u"][0], trajectory.u)
    assert statuses(tmp_path / "new.h5") == ["identical"]


def test_what_if_keeps_what_was_stored(tmp_path):
    record = dfc.Record(variables=("u", "error"), samples=(3, 0), every=2)
    path = write(tmp_path / "file.h5", [recipe()], record=record)
    assert what_if(path, tmp_path / "new.h5", {"k_p": 1.0}) == (1, ())
    assert data_sets(tmp_path / "new.h5").keys() == data_sets(path).keys()


def test_what_if_needs_a_controller(tmp_path):
    path = write(tmp_path / "file.h5", [recipe(None, update=ONE_SHOT, noise=3, phase="feedback")])
    with pytest.raises(ValueError, match="'feedback' has no controller to change"):
        what_if(path, tmp_path / "new.h5", {"k_p": 1.0})


# --- files of earlier versions ----------------------------------------------------------------------------------


def test_a_file_of_an_earlier_arithmetic_is_announced(changed):
    path = changed("forward/v_2", (1, 17, 3, 4), 123.0)
    with h5py.File(path, "r+") as file:
        del file.attrs["arithmetic"]
    code, text, _ = dfc_replay(path)
    assert code == 1 and "written by an earlier version, which took sums in another order" in text
    assert "arithmetic 1 (here 2)" in text


def test_deviations_are_told_from_rounding(whole, tmp_path):
    """By the largest value of the variable."""
    path = shutil.copy(whole, tmp_path / "old.h5")
    with h5py.File(path, "r+") as file:
        file["forward/v_2"][1, 17, 3, 4] += 1e-7 * np.nanmax(np.abs(file["forward/v_2"][:]))
    (replayed,) = replay(path, phase="forward", record=1)
    assert replayed.status == "different" and replayed.within_rounding
    assert "1 of 24 variables differ, by at most 1e-05 of their largest value" in dfc_replay(path)[1]
    with h5py.File(path, "r+") as file:
        file["forward/v_2"][1, 17, 3, 4] += 1e-4 * np.nanmax(np.abs(file["forward/v_2"][:]))
    (replayed,) = replay(path, phase="forward", record=1)
    assert replayed.status == "different" and not replayed.within_rounding


@pytest.mark.parametrize("number", ["two", [1, 2], 1.5])
def test_an_arithmetic_that_is_no_number_counts_as_the_first(whole, tmp_path, number):
    path = shutil.copy(whole, tmp_path / "odd.h5")
    with h5py.File(path, "r+") as file:
        file.attrs["arithmetic"] = number
    code, text, _ = dfc_replay(path, "--record", 0)
    assert code == 0 and "arithmetic 1 (here 2)" in text
