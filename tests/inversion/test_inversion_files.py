"""Dynamic inversion on record: simulated, saved, logged while training, replayed bit for bit, changed, drawn."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from command_line import invoked
from inversion_cases import random_problem, sequential_loop, single_feedback, single_loop
from small_runs import configuration, dataset, train
from storage_files import assert_same, record, write

import dfc_numba as dfc
from dfc_numba.configuration.config_file import load_config
from dfc_numba.inversion.dynamic_inversion import Inversion, recorded_bytes, simulate_inversion
from dfc_numba.inversion.measures import distances_to_rest, inversion_errors, states_at_rest
from dfc_numba.inversion.trajectory import InversionTrajectory
from dfc_numba.learning.inversion_methods import create_backward, inversion_update
from dfc_numba.model.recording import Recipe
from dfc_numba.runs.logger import Logger
from dfc_numba.storage.reader import open_trajectories
from dfc_numba.storage.replay import expand, replay, what_if
from dfc_numba.storage.writer import TrajectoryWriter

SIZES, COUNT = [4, 7, 5, 3], 6
RULES = ("di", "sldi")
KEPT = Path(__file__).parents[1] / "resources" / "inversion-1.1.h5"
SHORT = {"steps": 12, "alpha": 0.01}
PHASES = {"learn": {"function": "inversion_update", "clip_error": 0.1, "normalise": True}, "simulate": {}}


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """Nobody cuts the power during these tests."""
    monkeypatch.setattr("os.fsync", lambda _: None)


def problem(rule="di", dtype="float64", seed=0, **options):
    """(network, x, y, inversion) of a small problem with stable loops."""
    weights, feedback, _, _ = random_problem(SIZES, 1, dtype, seed)
    rng = np.random.default_rng(seed)
    net = dfc.Network(
        weights=weights, biases=[rng.normal(size=n) for n in SIZES[1:]], feedback=[np.zeros((n, 3)) for n in SIZES[1:]],
        backward=[single_feedback(weights)] if rule == "sldi" else feedback,
    )  # fmt: skip
    x, y = rng.normal(size=(COUNT, SIZES[0])), rng.normal(size=(COUNT, SIZES[-1]))
    inversion = Inversion(rule=rule, **{**SHORT, **options})
    return net, x.astype(dtype), probabilities(y) if inversion.loss == "cross_entropy" else y, inversion


def probabilities(values):
    """The softmax of each row."""
    return np.exp(values) / np.exp(values).sum(axis=1, keepdims=True)


def given(net, x, y, inversion):
    """(phi' of the hidden layers, delta_L) by the equations, in float64."""
    activity = net.forward(x, dtype="float64")
    output = activity.r[-1]
    if inversion.loss == "cross_entropy":
        output = probabilities(output)
    return [1 - r**2 for r in activity.r[:-1]], y - output


def run(*arguments):
    """The result of a command."""
    return invoked(*arguments)


def assert_same_states(found, expected):
    """The same numbers in the same types, layer by layer."""
    for name in ("time", "step", "diverged", "samples"):
        assert_same(getattr(found, name), getattr(expected, name), name)
    assert found.depth == expected.depth
    for name in ("r_x", "r_y"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert (ours is None) == (theirs is None) and len(ours or []) == len(theirs or [])
        for a, b in zip(ours or [], theirs or [], strict=True):
            assert_same(a, b, name)


# --- simulations ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nonlinearity", ["linear", "tanh", "linearized"])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_the_loops_are_those_that_are_written_down(loss, nonlinearity):
    options = {"alpha": 0.01, "dt": 0.5, "steps": 12, "nonlinearity": nonlinearity}
    net, x, y, inversion = problem("di", loss=loss, nonlinearity=nonlinearity)
    slopes, delta = given(net, x, y, inversion)
    found = simulate_inversion(net, x, y, inversion)
    for b in range(COUNT):
        above = delta[b]
        for i in (1, 0):
            r_x, r_y = sequential_loop(net.weights[i + 1], net.backward[i], slopes[i][b], above, **options)
            np.testing.assert_allclose(found.r_x[i][:, b], r_x, rtol=1e-11, atol=1e-14)
            np.testing.assert_allclose(found.r_y[i][:, b], r_y, rtol=1e-11, atol=1e-14)
            above = r_x[-1] * (slopes[i][b] if nonlinearity == "linear" else 1.0)
    net, x, y, inversion = problem("sldi", loss=loss, nonlinearity=nonlinearity)
    found = simulate_inversion(net, x, y, inversion)
    for b in range(COUNT):
        states = single_loop(net.weights[1:], net.backward[0], [s[b] for s in slopes], delta[b], **options)
        for ours, theirs in zip([*found.r_x, *found.r_y], states, strict=True):
            np.testing.assert_allclose(ours[:, b], theirs, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_recorded_is_a_part_of_all(rule, dtype):
    net, x, y, inversion = problem(rule, dtype)
    whole = simulate_inversion(net, x, y, inversion)
    keep = dfc.Record(samples=(4, 0), every=5, variables=("r_y",))
    part = simulate_inversion(net, x, y, inversion, record=keep)
    assert part.r_x is None and list(part.samples) == [4, 0] and list(part.step) == [0, 5, 10]
    assert np.array_equal(part.time, [0.0, 2.5, 5.0]) and part.diverged.shape == (2,)
    for few, many in zip(part.r_y, whole.r_y, strict=True):
        assert_same(few, many[::5, [4, 0]], "r_y")
    assert sum(r.nbytes for r in part.r_y) == recorded_bytes(net, inversion, 2, keep)
    assert sum(r.nbytes for r in [*whole.r_x, *whole.r_y]) == recorded_bytes(
        net, inversion, COUNT, dfc.Record()
    )


@pytest.mark.parametrize("rule", RULES)
def test_labels_are_one_hot_targets(rule):
    net, x, _, inversion = problem(rule, loss="cross_entropy")
    labels = np.arange(COUNT) % 3
    by_label, by_target = (simulate_inversion(net, x, y, inversion) for y in (labels, np.eye(3)[labels]))
    assert_same_states(by_label, by_target)
    assert np.array_equal(by_label.recipe.target, np.eye(3)[labels])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", [{}, {"clip_error": 1e-3}, {"normalise": True}])
def test_the_update_is_made_of_the_errors_and_has_the_same_bits_on_record(rule, dtype, options):
    net, x, y, inversion = problem(rule, dtype)
    slopes, delta = given(net, x, y, inversion)
    plain = inversion_update(net, x, y, inversion, **options)
    noted = inversion_update(net, x, y, inversion, record=dfc.Record(samples=(3, 1)), **options)
    for kind in ("weights", "biases", "errors"):
        for a, b in zip(getattr(plain, kind), getattr(noted, kind), strict=True):
            assert_same(a, b, kind)
    assert plain.trajectory is None and noted.trajectory.recipe is None
    whole = simulate_inversion(net, x, y, inversion, record=dfc.Record(samples=(3, 1)))
    assert_same_states(noted.trajectory, whole)
    if not options:
        rates = [x, *net.forward(x, dtype="float64").r[:-1]]
        for layer, error in enumerate([*plain.errors, delta]):
            expected = 2 / 3 / COUNT * error.T.astype(np.float64) @ rates[layer]
            scale = np.abs(expected).max()
            assert (
                np.abs(plain.weights[layer] - expected).max()
                < (1e-5 if dtype == "float32" else 1e-13) * scale
            )


def test_wrong_arguments_are_named():
    net, x, y, inversion = problem()
    calls = [
        (lambda: simulate_inversion(replaced(net, None), x, y, inversion), r"network.backward is None; .*\[-w.T"),
        (lambda: simulate_inversion(net, x[:, 1:], y, inversion), r"x has shape \(6, 3\)"),
        (lambda: simulate_inversion(net, x, y[:2], inversion), "y has shape"),
        (lambda: simulate_inversion(net, x, y, inversion, record=dfc.Record(samples=(6,))), "positions from 0 to 5"),
        (lambda: simulate_inversion(net, x, y, inversion, record=dfc.Record(variables=("u",))), "'u'; a dynamic inv.* r_x"),
        (lambda: Inversion(rule="ndi"), "Inversion.rule"),
        (lambda: Inversion(alpha=-1.0), "Inversion.alpha"),
        (lambda: Inversion(k_p=1.0), "Inversion has no option 'k_p'"),
        (lambda: dfc.simulate(net, x, y, dfc.Controller(), record=dfc.Record(variables=("r_x",))), "'r_x'; a feedback ph"),
    ]  # fmt: skip
    for call, message in calls:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="inversion must be a"):
        simulate_inversion(net, x, y, dfc.Controller())


def replaced(net, backward):
    """A copy of a network with other feedback matrices."""
    net = net.copy()
    net.backward = backward
    return net


# --- measures ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("nonlinearity", ["linear", "tanh", "linearized"])
def test_loops_come_to_rest_and_invert_without_a_leak(rule, nonlinearity):
    net, x, y, inversion = problem(rule, nonlinearity=nonlinearity, steps=6000, alpha=0.0, dt=0.5)
    y = given(net, x, y, inversion)[1] * 0.05 + net.predict(x)  # errors that tanh can show
    found = simulate_inversion(net, x, y, inversion, record=dfc.Record(every=100))
    distances, errors = distances_to_rest(found), inversion_errors(found)
    assert len(distances) == 2 and len(errors) == {"di": 2, "sldi": 1}[rule]
    for distance in distances:
        assert (distance[0] == 1).all() and (distance[-1] < 1e-4).all()
    assert (errors[-1][0] == 1).all() and (errors[-1][-1] < 1e-4).all()


def test_rest_is_the_fixed_point_of_the_loop_for_the_error_received():
    net, x, y, inversion = problem(alpha=0.1)
    found = simulate_inversion(net, x, y, inversion, record=dfc.Record(samples=(2,)))
    slopes, delta = given(net, x, y, inversion)
    above = delta[2]
    for i in (1, 0):
        w, b = net.weights[i + 1], net.backward[i]
        expected = b @ np.linalg.solve(w @ b - 0.1 * np.eye(len(w)), above)
        np.testing.assert_allclose(states_at_rest(found)[i][0], expected, rtol=1e-9)
        wanted = np.linalg.norm(w @ found.r_x[i][-1, 0] - above) / np.linalg.norm(above)
        assert inversion_errors(found)[i][-1, 0] == pytest.approx(wanted, rel=1e-9)
        above = slopes[i][2] * found.r_x[i][-1, 0]
    with pytest.raises(ValueError, match="no recipe"):
        states_at_rest(replace(found, recipe=None))
    for measure in (distances_to_rest, inversion_errors):
        with pytest.raises(ValueError, match="has no r_x; record it"):
            measure(replace(found, r_x=None))


# --- files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_saved_trajectory_comes_back_with_its_recipe(tmp_path, rule, dtype):
    net, x, y, inversion = problem(rule, dtype)
    saved = simulate_inversion(net, x, y, inversion)
    net.backward[0][...] = 0.0  # the recipe has copies
    saved.save(tmp_path / "one.h5")
    found = InversionTrajectory.load(tmp_path / "one.h5")
    assert_same_states(found, saved)
    assert found.recipe.inversion == inversion and found.recipe.controller is None
    for kind in ("weights", "biases", "backward"):
        for a, b in zip(
            getattr(found.recipe.network, kind), getattr(saved.recipe.network, kind), strict=True
        ):
            assert_same(a, b, kind)
    again = simulate_inversion(found.recipe.network, found.recipe.x, found.recipe.target, inversion)
    assert_same_states(again, saved)


@pytest.mark.parametrize("rule", RULES)
def test_dimensions_have_names_and_time_its_unit(tmp_path, rule):
    simulate_inversion(*problem(rule)).save(tmp_path / "one.h5")
    with h5py.File(tmp_path / "one.h5") as file:
        phase, feedback = file["simulation"], file["feedback_snapshots"]
        states = {
            name: [dim[0].name.rpartition("/")[2] for dim in phase[name].dims]
            for name in phase
            if name[:2] == "r_"
        }
        expected = {name: ["record", "step", "sample", f"unit_{name[-1]}"] for name in states}
        assert states == expected
        assert sorted(states) == ["r_x_1", "r_x_2", *(["r_y_2"] if rule == "di" else []), "r_y_3"]
        assert phase["time"].attrs["units"] == "tau_r" and phase["r_x_1"].attrs["units"] == "1"
        assert phase.attrs["controller"] == "" and '"rule": ' in phase.attrs["inversion"]
        assert file.attrs["schema_version"] == "1.2"
        matrices = {name: feedback[name].shape[1:] for name in feedback if name.startswith("B")}
    assert matrices == ({"B_single": (7, 3)} if rule == "sldi" else {"B_1": (7, 5), "B_2": (5, 3)})


def test_raw_errors_are_stored_without_a_recipe(tmp_path):
    weights, feedback, derivatives, delta = random_problem(SIZES, COUNT)
    _, states = dfc.backward_errors(
        weights, feedback, derivatives, delta, rule="di", steps=9, dt=0.25, trajectory=True
    )
    states.save(tmp_path / "raw.h5")
    found = InversionTrajectory.load(tmp_path / "raw.h5")
    assert_same_states(found, states)
    assert found.recipe is None and found.time[-1] == 2.25
    (one,) = replay(tmp_path / "raw.h5")
    assert one.status == "unusable" and "no recipe" in one.problem


def test_xarray_opens_a_trajectory_of_dynamic_inversion_with_names(tmp_path):
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    saved = simulate_inversion(*problem("sldi"))
    saved.save(tmp_path / "one.h5")
    with xarray.open_dataset(tmp_path / "one.h5", engine="h5netcdf", group="simulation") as phase:
        assert phase.r_x_2.dims == ("record", "step", "sample", "unit_2") and phase.time.units == "tau_r"
        late = phase.r_y_3.sel(record=0).where(phase.time > 4, drop=True)
        assert np.array_equal(late.values, saved.r_y[0][saved.time > 4])


def test_a_file_of_one_kind_is_not_loaded_as_another(tmp_path):
    simulate_inversion(*problem()).save(tmp_path / "one.h5")
    with pytest.raises(
        ValueError, match="holds a dynamic inversion in 'simulation'; .* dfc.InversionTrajectory.load"
    ):
        dfc.Trajectory.load(tmp_path / "one.h5")
    write(tmp_path / "two.h5", [record(0)])
    with pytest.raises(ValueError, match="holds a feedback phase in 'forward'; .* dfc.Trajectory.load"):
        InversionTrajectory.load(tmp_path / "two.h5")
    mixed = replace(simulate_inversion(*problem()).recipe, phase="forward", network=record(0)[0].network)
    with (
        pytest.raises(ValueError, match="what differs in it"),
        TrajectoryWriter(tmp_path / "three.h5") as writer,
    ):
        writer.append(*record(0))
        writer.append(mixed)


def test_networks_with_and_without_backward_share_a_file(tmp_path):
    net, x, y, inversion = problem()
    recipe = replace(simulate_inversion(net, x, y, inversion).recipe, phase="forward")
    plain = replace(recipe, network=replaced(net, None), phase="feedback", inversion=None)
    with TrajectoryWriter(tmp_path / "both.h5") as writer:
        for one in (plain, recipe, replace(plain, phase="extra feedback")):
            writer.append(one)
    with open_trajectories(tmp_path / "both.h5") as file:
        networks = {name: file[name][0].recipe().network for name in file.phases}
    assert networks["feedback"].backward is None and networks["extra_feedback"].backward is None
    for a, b in zip(networks["forward"].backward, net.backward, strict=True):
        assert_same(a, b, "backward")


# --- replay -----------------------------------------------------------------------------------------------------


@pytest.fixture(params=RULES)
def stored(tmp_path, request):
    """A file with a record in each of two phases, in one of them with an update, and the simulation."""
    net, x, y, inversion = problem(request.param)
    trajectory = simulate_inversion(net, x, y, inversion, record=dfc.Record(samples=(5, 2), every=4))
    with TrajectoryWriter(tmp_path / "stored.h5") as writer:
        for (phase, update), number in zip(PHASES.items(), range(2), strict=True):
            recipe = replace(trajectory.recipe, phase=phase, update=update, number=number)
            options = {name: value for name, value in update.items() if name != "function"}
            made = inversion_update(net, x, y, inversion, **options) if update else None
            writer.append(recipe, replace(trajectory, recipe=recipe), made)
    return tmp_path / "stored.h5", trajectory


def test_replays_have_the_same_bits_and_differences_are_told(stored):
    path, _ = stored
    assert [one.status for one in replay(path)] == ["identical"] * 2
    compared = {one.phase: one.compared for one in replay(path)}
    assert {"r_x_1", "r_y_3", "diverged", "dW_1", "db_3"} < {*compared["learn"]}
    assert run("replay", path).exit_code == 0
    with h5py.File(path, "a") as file:
        file["learn"]["r_x_2"][0, 2, 1, 3] += 1e-9
    statuses = {one.phase: one for one in replay(path)}
    assert statuses["learn"].status == "different" and statuses["simulate"].status == "identical"
    (deviation,) = statuses["learn"].deviations
    assert deviation.variable == "r_x_2" and deviation.absolute.place == {"step": 8, "sample": 2, "unit_2": 3}
    assert run("replay", path).exit_code == 1


def test_another_leak_is_what_the_loops_would_do(stored, tmp_path):
    path, trajectory = stored
    recipe = trajectory.recipe
    result = run(
        "replay", path, "--phase", "simulate", "--set", "inversion.alpha=0.1", "--out", tmp_path / "leaky.h5"
    )
    assert result.exit_code == 0 and "leaky.h5: 1 records" in result.stdout
    found = InversionTrajectory.load(tmp_path / "leaky.h5")
    leaky = replace(recipe.inversion, alpha=0.1)
    keep = dfc.Record(samples=(5, 2), every=4)
    assert found.recipe.inversion == leaky
    assert_same_states(found, simulate_inversion(recipe.network, recipe.x, recipe.target, leaky, record=keep))
    assert run("replay", tmp_path / "leaky.h5").exit_code == 0
    what_if(path, tmp_path / "two.h5", {"rule": recipe.inversion.rule, "steps": 8}, phase="learn")
    assert [one.status for one in replay(tmp_path / "two.h5")] == ["identical"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["controller.alpha=0.1"], "has no controller to change, but its inversion"),
        (["inversion.k_p=1"], "no option 'k_p'"),
        (["inversion.alpha=0.1", "controller.alpha=0.1"], "what it can change is controller.KEY=VALUE"),
        (["training.seed=3"], "training.seed: a replay takes"),
    ],
)
def test_other_changes_are_refused(stored, tmp_path, settings, message):
    options = [option for setting in settings for option in ("--set", setting)]
    result = run("replay", stored[0], *options, "--out", tmp_path / "new.h5")
    assert result.exit_code == 2 and message in " ".join(result.stderr.split())
    assert not (tmp_path / "new.h5").exists()


# --- runs -------------------------------------------------------------------------------------------------------


def inversion_run(folder, log, rule="di", **sections):
    """A trainer after a logged run, and the outcome."""
    given = {"training": {"method": rule, "epochs": 1, "batch_size": 8}, "inversion": SHORT, **sections}
    config = configuration(log=log, **given)
    folder.mkdir(exist_ok=True)
    net = dfc.Network.create([4, 6, 5, 3], seed=1, dtype=config.training.dtype)
    create_backward(net, config)
    with Logger(folder, config) as logger:
        trainer, _, outcome = train(config, dataset(dtype=config.training.dtype), net, log=logger)
    return trainer, outcome


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_logged_run_learns_the_same_and_replays(tmp_path, rule, dtype):
    training = {"method": rule, "dtype": dtype, "epochs": 1, "batch_size": 8, "clip_error": 0.5}
    log = {"every": 1, "samples": [1, 0], "every_step": 3, "dtype": dtype}
    sections = {"training": training, "inversion": {**SHORT, "restabilise": "euler"}}
    trainer, outcome = inversion_run(tmp_path / "run", log, rule, **sections)
    assert outcome.status == "done"
    with open_trajectories(tmp_path / "run") as file:
        assert file.phases == ("forward",) and len(file["forward"]) == 3
        records = file["forward"]
        assert (
            records.inversion == Inversion(rule=rule, loss="cross_entropy", **SHORT)
            and records.controller is None
        )
        last = records[-1].recipe()
        assert len(last.x) == 4 and np.array_equal(last.target, last.labels)
        assert records[0].trajectory().r_x[1].shape == (5, 2, 5)
    with h5py.File(tmp_path / "run" / "trajectories.h5") as file:
        assert file["forward/time"].attrs["units"] == "tau_r" and "inversion_crc32" in file["forward"].attrs
    assert [one.status for one in replay(tmp_path / "run")] == ["identical"] * 3
    plain, _ = inversion_run(tmp_path / "plain", {"minibatches": [99]}, rule, **sections)
    for a, b in zip(plain.network.weights, trainer.network.weights, strict=True):
        assert_same(a, b, "weights")


def test_recipes_become_what_the_run_would_have_logged(tmp_path):
    inversion_run(tmp_path / "full", {"every": 1, "dtype": "float64"})
    inversion_run(
        tmp_path / "recipes", {"every": 1, "dtype": "float64", "recipe_only": True, "updates": True}
    )
    assert {one.status for one in replay(tmp_path / "recipes")} == {"identical"}  # the updates
    assert expand(tmp_path / "recipes", tmp_path / "expanded.h5").records == 3
    with (
        open_trajectories(tmp_path / "full") as full,
        open_trajectories(tmp_path / "expanded.h5") as expanded,
    ):
        for ours, theirs in zip(expanded["forward"], full["forward"], strict=True):
            assert_same_states(ours.trajectory(), theirs.trajectory())
    expand(tmp_path / "recipes", tmp_path / "few.h5", record=0, keep=dfc.Record(variables=("r_x",), every=6))
    few = InversionTrajectory.load(tmp_path / "few.h5")
    assert few.r_y is None and few.depth == 3 and list(few.step) == [0, 6, 12]


def test_the_size_of_a_log_is_about_what_is_expected(tmp_path):
    trainer, _ = inversion_run(tmp_path, {"every": 1, "dtype": "float64"}, inversion={**SHORT, "steps": 400})
    records, size = trainer.log.expected(trainer)
    stored = sum(path.stat().st_size for path in tmp_path.rglob("*.h5"))
    assert records == 3 and 0.7 * stored < size < 1.5 * stored


def test_a_minibatch_that_diverges_is_on_disk(tmp_path):
    wild = {"steps": 3000, "feedback": "transpose", "feedback_scale": 5.0}
    _, outcome = inversion_run(tmp_path, {"every": 1}, inversion=wild)
    assert outcome.status == "diverged" and "the loop is unstable" in outcome.message
    with open_trajectories(tmp_path) as file:
        assert file.status == "diverged" and file["forward"][-1].trajectory().diverged.any()
    assert {one.status for one in replay(tmp_path)} == {"identical"}


def test_the_variables_of_a_controller_cannot_be_chosen():
    with pytest.raises(ValueError, match="log.variables.*stores r_x and r_y"):
        load_config("regression-linear-di", ["log.every=1", "log.variables=['u']"])


# --- commands ---------------------------------------------------------------------------------------------------


@pytest.fixture
def simulated(tmp_path):
    """The file of `dfc simulate`, and the result."""
    path = tmp_path / "one.h5"
    settings = ["inversion.steps=60", "training.batch_size=3", "network.hidden=[9,6]"]
    return path, run(
        "simulate", "regression-strong-di", *(f"--set={text}" for text in settings), "--out", path
    )


def test_a_simulation_is_told_written_inspected_and_replayed(simulated):
    path, result = simulated
    assert result.exit_code == 0 and "3 samples, 61 time points" in result.stdout
    assert "mean distance of r_x to rest at the end" in result.stdout
    found = InversionTrajectory.load(path)
    assert [r.shape for r in found.r_x] == [(61, 3, 9), (61, 3, 6)] and found.recipe.labels is not None
    inspected = run("inspect", path)
    assert inspected.exit_code == 0 and "inversion   rule = di, loss = mse" in inspected.stdout
    assert "in tau_r" in inspected.stdout
    assert run("replay", path).exit_code == 0
    assert "this is a dynamic inversion" in run("inspect", "--analysis", path).stdout


def test_what_diverges_is_written_and_returned(tmp_path):
    settings = ["inversion.feedback_scale=50.0", "network.init_range=1.0"]
    result = run(
        "simulate",
        "regression-linear-di",
        *(f"--set={text}" for text in settings),
        "--out",
        tmp_path / "a.h5",
    )
    assert result.exit_code == 1 and "the simulation diverged; try a smaller inversion.dt" in result.stderr
    assert "not finite at the end: 1 samples" in result.stdout
    with open_trajectories(tmp_path / "a.h5") as file:
        assert file.status == "diverged"


def test_a_loop_without_rest_is_written_and_told(tmp_path):
    settings = ["inversion.nonlinearity=tanh", "inversion.alpha=0.0", "data.options.teacher_range=50.0"]
    out = tmp_path / "b.h5"
    result = run("simulate", "regression-linear-di", *(f"--set={text}" for text in settings), "--out", out)
    assert result.exit_code == 0 and "no state of rest was found for 1 of 1 samples" in result.stdout
    assert InversionTrajectory.load(out).recipe.inversion.nonlinearity == "tanh"


def test_a_trajectory_of_dynamic_inversion_is_drawn(simulated, monkeypatch):
    pytest.importorskip("matplotlib")
    from dfc_numba.display import plots

    path, drawn = simulated[0], []
    monkeypatch.setattr(plots, "save", lambda figure, _: drawn.append(figure))
    plots.plot(path, sample=2)
    plots.plot(path, units=[(1, 3), (1, 0), (2, 5)])
    axes = {one.get_title(): one for one in drawn[0].axes}
    titles = [
        "hidden populations",
        "error populations",
        "distance to the exact rest (NDI)",
        "error of the inversion",
    ]
    assert list(axes)[:4] == titles and len(axes) == 6
    trajectory = InversionTrajectory.load(path)
    lines = {title: {line.get_label(): line.get_ydata() for line in one.lines} for title, one in axes.items()}
    assert np.allclose(lines[titles[0]]["layer 2"], np.linalg.norm(trajectory.r_x[1][:, 2], axis=1))
    assert np.allclose(lines[titles[1]]["layer 3"], np.linalg.norm(trajectory.r_y[1][:, 2], axis=1))
    assert np.allclose(lines[titles[2]]["layer 1"], distances_to_rest(trajectory)[0][:, 2])
    assert np.allclose(lines[titles[3]]["layer 2"], inversion_errors(trajectory)[0][:, 2])
    assert all(one.get_xlabel() == r"time ($\tau_r$)" for one in drawn[0].axes)
    chosen = {one.get_title(): one for one in drawn[1].axes}["layer 1, and at rest (dashed)"]
    assert np.array_equal(chosen.lines[0].get_ydata(), trajectory.r_x[0][:, 0, 3])
    for options, message in [
        ({"sample": 7}, "sample 7 is not stored"),
        ({"units": [(3, 0)]}, "no unit 0 in layer 3"),
    ]:
        with pytest.raises(ValueError, match=message):
            plots.plot(path, **options)


# --- for ever ---------------------------------------------------------------------------------------------------


def kept_records():
    """What tests/resources/inversion-1.1.h5 was written from: numbers that do not depend on a simulation."""

    def numbers(shape, start):
        return np.sin(start + np.arange(np.prod(shape))).reshape(shape)

    for n, rule in enumerate(RULES):
        backward = [numbers((2, 3), 20 + n), numbers((3, 1), 30)] if rule == "di" else [numbers((2, 1), 40)]
        net = dfc.Network(
            weights=[numbers((2, 2), n), numbers((3, 2), 5), numbers((1, 3), 6)], biases=None, backward=backward,
            feedback=[np.zeros((size, 1)) for size in (2, 3, 1)],
        )  # fmt: skip
        inversion = Inversion(rule=rule, loss="cross_entropy", alpha=0.25, dt=0.125, steps=3)
        recipe = Recipe(
            network=net, inversion=inversion, x=numbers((2, 2), 1), target=numbers((2, 1), 2), phase=f"phase {rule}",
            update={"function": "inversion_update", "clip_error": None, "normalise": False}, number=n,
        )  # fmt: skip
        yield recipe, InversionTrajectory(
            time=0.125 * np.arange(4), step=np.arange(4), depth=3, diverged=np.arange(2) > 0, samples=np.arange(2)[::-1],
            r_x=[numbers((4, 2, size), size) for size in (2, 3)],
            r_y=[numbers((4, 2, size), 9) for size in ((3, 1) if rule == "di" else (1,))], recipe=recipe,
        )  # fmt: skip


def test_a_file_of_version_1_1_opens_for_ever():
    with open_trajectories(KEPT) as file:
        for recipe, trajectory in kept_records():
            found = file[recipe.phase][0].trajectory()
            assert_same_states(found, trajectory)
            assert (found.recipe.inversion, found.recipe.update) == (recipe.inversion, recipe.update)
            for name in ("x", "target"):
                assert_same(getattr(found.recipe, name), getattr(recipe, name), name)
            for kind in ("weights", "backward"):
                pairs = zip(getattr(found.recipe.network, kind), getattr(recipe.network, kind), strict=True)
                assert all(np.array_equal(a, b) for a, b in pairs)
