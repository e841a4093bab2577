"""Offline analysis: what is computed from stored trajectories is what the kernels give, and what is missing is named."""

from dataclasses import replace

import numpy as np
import pytest
from command_line import invoked
from problems import draws, inputs, parameters, probabilities, relative_deviation, stable_parameters
from scipy.special import softmax
from simulations import NOISY, SHORT, SIZES

import dfc_numba as dfc
from dfc_numba.analysis import analysed_phase as sources
from dfc_numba.analysis import offline
from dfc_numba.model.recording import StoredUpdate
from dfc_numba.storage.reader import open_trajectories
from dfc_numba.storage.writer import TrajectoryWriter

RULES = ["nonlinear_difference", "voltage_difference", "derivative_matrix"]

SAMPLES = 7
CONTROLLERS = {
    "plain": SHORT,
    "retarded": {**SHORT, "instant_transmission": False, "proactive": False},
    "slow apical, filtered control": {**SHORT, "tau_apical": 0.2, "tau_control": 0.3},
    "Jacobian feedback": {**SHORT, "jacobian_feedback": True},
    "softmax error": {**SHORT, "error": "softmax"},
    "noise": NOISY,
}
FORWARD = {
    "function": "forward_update",
    "readout": "average",
    "rule": "nonlinear_difference",
    "samples": "all",
}
FEEDBACK = {"function": "feedback_update", "scaling": True, "high_pass": 0.5, "sigma_floor": 0.01}
BOTH = {
    **FEEDBACK,
    "function": "forward_and_feedback_update",
    "rule": "voltage_difference",
    "samples": "converged",
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Trajectories are read in several parts, the last of which is shorter."""
    monkeypatch.setattr(sources, "BLOCK_BYTES", 9 * SAMPLES * sum(SIZES) * 8)


def problem(options=SHORT, bias=True, build=parameters):
    """Arguments of `simulate`."""
    net = dfc.Network(**build(SIZES, bias=bias, activation=["tanh", "leakyrelu"]))
    x = inputs(SAMPLES, SIZES[0])
    target = net.predict(x, dtype="float64") + 0.3 * inputs(SAMPLES, SIZES[-1], seed=5)
    if options.get("error") == "softmax":
        target = probabilities(SAMPLES, SIZES[-1])
    return net, x, target, dfc.Controller(**options)


def noise_for(controller):
    return draws(controller, SIZES, SAMPLES) if controller.noisy else None


@pytest.fixture
def stored(tmp_path):
    """Stores the trajectory of a problem in 0.h5 (the next in 1.h5, ...), and opens it; takes arguments of `Record` too."""
    files = []

    def store(*arguments, update=None, options=None, noise=None, recipe=True, **record):
        trajectory = dfc.simulate(*arguments, noise=noise, record=dfc.Record(**record))
        path = tmp_path / f"{len(files)}.h5"
        with TrajectoryWriter(path) as writer:
            written = replace(trajectory.recipe, update=options or {}) if recipe else None
            writer.append(written, trajectory, update)
        files.append(open_trajectories(path))
        return files[-1]["simulation"][0]

    yield store
    for file in files:
        file.close()


def assert_close(found, expected, bound=1e-12):
    for ours, theirs in zip(found, expected, strict=True):
        assert relative_deviation(ours, theirs) < bound


# --- updates ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("readout", ["average", "final"])
@pytest.mark.parametrize("kind", CONTROLLERS)
def test_forward_updates_are_those_of_the_kernels(stored, kind, readout, rule):
    arguments = problem(CONTROLLERS[kind])
    noise = noise_for(arguments[3])
    expected = dfc.forward_update(*arguments, readout=readout, rule=rule, noise=noise)
    record = stored(*arguments, noise=noise)
    assert len(sources.AnalysedPhase(record).blocks()) == 4
    found = offline.forward_update(record, readout=readout, rule=rule)
    assert_close([*found.weights, *found.biases], [*expected.weights, *expected.biases])
    assert np.array_equal(found.converged, expected.converged)
    assert np.array_equal(found.diverged, expected.diverged)


def test_a_trajectory_in_memory_is_taken_like_a_stored_one(stored):
    arguments = problem()
    found = offline.forward_update(dfc.simulate(*arguments))
    expected = offline.forward_update(stored(*arguments))
    assert all(np.array_equal(a, b) for a, b in zip(found.weights, expected.weights, strict=True))


@pytest.mark.parametrize("readout", ["analytic", "newton"])
def test_updates_at_the_steady_state_need_the_recipe_alone(stored, readout):
    arguments = problem()
    found = offline.forward_update(stored(*arguments, variables=("u",), every=7), readout=readout)
    expected = dfc.forward_update(*arguments, readout=readout)
    assert_close([*found.weights, *found.biases], [*expected.weights, *expected.biases])


def test_a_network_without_biases_has_no_update_of_biases(stored):
    arguments = problem(bias=False)
    found = offline.forward_update(stored(*arguments), readout="final")
    assert found.biases is None
    assert_close(found.weights, dfc.forward_update(*arguments, readout="final").weights)


def test_samples_that_have_not_converged_contribute_nothing(stored):
    arguments = problem({**SHORT, "steps": 600, "convergence_epsilon": 0.9})
    expected = dfc.forward_update(*arguments, samples="converged")
    assert 0 < expected.converged.sum() < SAMPLES
    assert_close(offline.forward_update(stored(*arguments), samples="converged").weights, expected.weights)


def test_the_mean_is_over_the_stored_samples(stored):
    net, x, target, controller = problem()
    found = offline.forward_update(stored(net, x, target, controller, samples=(5, 2)))
    assert_close(found.weights, dfc.forward_update(net, x[[5, 2]], target[[5, 2]], controller).weights)


def test_rates_are_made_from_voltages_where_they_are_missing(stored):
    arguments = problem()
    record = stored(*arguments, variables=("v", "v_ff"))
    assert_close(offline.forward_update(record).weights, dfc.forward_update(*arguments).weights)


@pytest.mark.parametrize("scaling", [False, True])
@pytest.mark.parametrize("high_pass", [None, 0.5])
@pytest.mark.parametrize("normalise", [None, (0.3, 0.2)])
def test_feedback_updates_are_those_of_the_kernels(stored, scaling, high_pass, normalise):
    arguments = problem(NOISY)
    options = {"scaling": scaling, "high_pass": high_pass, "normalise": normalise}
    noise = noise_for(arguments[3])
    found = offline.feedback_update(stored(*arguments, noise=noise), **options)
    assert_close(found.feedback, dfc.feedback_update(*arguments, noise=noise, **options).feedback)


def applied(options, *arguments, noise):
    """The update of `Recipe.update`, by the kernels."""
    options = dict(options)
    made = getattr(dfc, options.pop("function"))(*arguments, noise=noise, **options)
    parts = {
        key: value for part in np.atleast_1d(np.array(made, object)) for key, value in vars(part).items()
    }
    return StoredUpdate(**{key: parts.get(key) for key in ("weights", "biases", "feedback")})


@pytest.mark.parametrize("options", [FORWARD, FEEDBACK, BOTH], ids=lambda options: options["function"])
def test_what_a_run_applied_is_what_its_trajectories_give(stored, options):
    arguments = problem({**NOISY, "sigma": 1e-8, "steps": 600, "convergence_epsilon": 0.9})
    update = applied(options, *arguments, noise=4)
    record = stored(*arguments, noise=4, update=update, options=options)
    assert 0 < record["converged"].sum() < SAMPLES
    deviations = offline.update_deviations(record)
    kinds = {"dW", "db"} if options is FORWARD else {"dQ"} if options is FEEDBACK else {"dW", "db", "dQ"}
    assert {name[:2] for name in deviations} == kinds and len(deviations) == 3 * len(kinds)
    assert max(deviations.values()) < 1e-12


def test_an_update_that_was_changed_is_found(stored):
    arguments = problem()
    update = dfc.forward_update(*arguments)
    update.weights[1][2, 3] *= 1.5
    deviations = offline.update_deviations(stored(*arguments, update=update, options=FORWARD))
    assert deviations["dW_2"] > 1e-3 and deviations["dW_1"] < 1e-12


def test_deviations_need_an_update_that_trajectories_give(stored):
    arguments = problem()
    update = dfc.forward_update(*arguments, readout="newton")
    assert offline.update_deviations(stored(*arguments)) is None
    assert offline.update_deviations(stored(*arguments, update=update)) is None
    newton = {**FORWARD, "readout": "newton"}
    assert offline.update_deviations(stored(*arguments, update=update, options=newton)) is None


def test_deviations_need_all_samples(stored):
    arguments = problem()
    record = stored(*arguments, update=dfc.forward_update(*arguments), options=FORWARD, samples=(0, 1))
    with pytest.raises(ValueError, match="mean over 7 samples, of which 2 are stored"):
        offline.update_deviations(record)


# --- convergence, statistics ------------------------------------------------------------------------------------


def test_convergence_time_is_when_the_error_gets_below_a_fraction_for_good(stored):
    error = np.array(
        [[1, 1, 1, 1, 4], [0.2, 2, 0.2, 0.2, 0.3], [0.2, 0.2, 1, 0.2, np.nan], [0.2, 0.2, 0.2, 1, np.nan]]
    )
    trajectory = replace(dfc.simulate(*problem({**SHORT, "steps": 3})), error=np.pad(error, [(0, 0), (0, 2)]))
    times = offline.convergence_time(trajectory, fraction=0.25)
    assert np.allclose(times[:5], [0.05, 0.1, 0.15, np.nan, np.nan], equal_nan=True)
    assert np.isnan(offline.convergence_time(trajectory, fraction=0.1)[:5]).all()
    assert (offline.convergence_time(trajectory, fraction=1.5)[:1] == 0).all()


@pytest.mark.parametrize("leak", ["total", "integral"])
@pytest.mark.parametrize("error", ["difference", "softmax"])
def test_the_residual_vanishes_in_the_steady_state(stored, error, leak):
    options = {**SHORT, "error": error, "leak": leak}
    settled = problem({**options, "steps": 4000}, build=stable_parameters)
    assert offline.steady_state_residual(stored(*settled, every=100)).max() < 1e-9
    assert offline.steady_state_residual(stored(*problem(options))).mean() > 0.1


def test_the_residual_is_the_one_that_convergence_is_judged_by(stored):
    net, x, target, controller = problem()
    found = dfc.simulate(net, x, target, controller)
    expected = np.linalg.norm(target - controller.alpha * found.u[-1] - found.r[-1][-1], axis=1)
    expected /= np.linalg.norm(found.r[-1][0], axis=1)
    assert_close([offline.steady_state_residual(found)], [expected])
    without_e = stored(net, x, target, controller, variables=("u", "r"))
    assert_close([offline.steady_state_residual(without_e)], [expected])


def test_errors_are_made_from_rates_where_they_are_missing(stored):
    arguments = problem({**SHORT, "error": "softmax"})
    record = stored(*arguments, variables=("v",))
    expected = arguments[2] - softmax(dfc.simulate(*arguments).r[-1], axis=-1)
    assert_close([offline.statistics(record, "e").rms], [np.sqrt((expected**2).sum(axis=2).mean(axis=0))])


@pytest.mark.parametrize(("name", "layer"), [("u", None), ("e", None), ("v_fb", 2)])
def test_statistics_are_those_of_numpy(stored, name, layer):
    arguments = problem()
    whole = getattr(dfc.simulate(*arguments), name)
    whole = whole if layer is None else whole[layer - 1]
    found = offline.statistics(stored(*arguments), name, layer)
    assert_close([found.mean, found.std], [whole.mean(axis=(0, 2)), whole.std(axis=(0, 2))])
    assert np.array_equal(found.least, whole.min(axis=(0, 2))) and np.array_equal(
        found.greatest, whole.max(axis=(0, 2))
    )
    norms = np.linalg.norm(whole, axis=2)
    assert_close([found.rms, found.last], [np.sqrt((norms**2).mean(axis=0)), norms[-1]])


def test_a_diverged_sample_shows_up_in_its_own_statistics_alone():
    trajectory = dfc.simulate(*problem())
    trajectory.u[5:, 2] = np.inf
    trajectory.u[20:, 2] = np.nan
    found = offline.statistics(trajectory, "u")
    assert np.isnan(found.mean[2]) and np.isfinite(np.delete(found.mean, 2)).all()


def test_layer_differences_are_norms_over_units(stored):
    arguments = problem()
    found = dfc.simulate(*arguments)
    differences = offline.layer_differences(stored(*arguments), samples=[4, 1])
    leaky = [np.where(v >= 0, v, 0.2 * v) for v in (found.v[1], found.v_ff[1])]
    expected = [np.tanh(found.v[0]) - np.tanh(found.v_ff[0]), leaky[0] - leaky[1], found.v[2] - found.v_ff[2]]
    assert_close(differences, [np.linalg.norm(one[:, [4, 1]], axis=2) for one in expected])


# --- what is missing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("compute", "missing"),
    [
        (offline.forward_update, "v_1"),
        (offline.feedback_update, "u"),
        (offline.convergence_time, "error"),
        (offline.steady_state_residual, "r_3"),
        (lambda record: offline.statistics(record, "v", 2), "v_2"),
        (offline.layer_differences, "v_1"),
    ],
)
def test_a_missing_variable_is_named(stored, compute, missing):
    record = stored(*problem(), variables=("v_ff",))
    with pytest.raises(ValueError, match=f"'{missing}', which was not stored.*--expand"):
        compute(record)


@pytest.mark.parametrize("compute", [offline.forward_update, offline.feedback_update])
def test_means_over_time_need_every_time_point(stored, compute):
    with pytest.raises(ValueError, match=r"all 31 time points, of which 11 are stored \(steps 0, 3, 6 ...\)"):
        compute(stored(*problem(), every=3))


def test_the_final_readout_needs_the_last_time_point(stored):
    arguments = problem()
    with pytest.raises(
        ValueError, match="after step 30, but the last one that is stored is that after step 28"
    ):
        offline.forward_update(stored(*arguments, every=4), readout="final")
    found = offline.forward_update(stored(*arguments, every=5), readout="final")
    assert_close(found.weights, dfc.forward_update(*arguments, readout="final").weights)


def test_a_trajectory_needs_its_recipe(stored):
    with pytest.raises(ValueError, match="has no recipe"):
        offline.convergence_time(replace(dfc.simulate(*problem()), recipe=None))
    with pytest.raises(ValueError, match="has no recipe"):
        offline.convergence_time(stored(*problem(), recipe=False))


def test_a_recipe_alone_has_no_trajectory(tmp_path):
    with TrajectoryWriter(tmp_path / "recipe.h5") as writer:
        writer.append(dfc.simulate(*problem()).recipe)
    with open_trajectories(tmp_path / "recipe.h5") as file:
        with pytest.raises(ValueError, match="recipe without trajectory; `dfc replay --expand`"):
            offline.layer_differences(file["simulation"][0])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"readout": "mean"}, "readout is 'mean'"),
        ({"rule": "hebb"}, "rule is 'hebb'"),
        ({"samples": "none"}, "samples is"),
    ],
)
def test_wrong_options_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        offline.forward_update(dfc.simulate(*problem()), **options)


def test_what_is_neither_record_nor_trajectory_is_refused():
    with pytest.raises(TypeError, match="expected a StoredRecord or a Trajectory, not list"):
        offline.convergence_time([1, 2])


# --- the command ------------------------------------------------------------------------------------------------


def analysis(path, *arguments):
    """(exit code, standard output, standard error) of `dfc inspect --analysis`."""
    result = invoked("inspect", path, *arguments)
    return result.exit_code, result.stdout, result.stderr


def test_the_command_shows_what_the_functions_find(stored, tmp_path):
    arguments = problem({**SHORT, "steps": 600}, build=stable_parameters)
    record = stored(*arguments, update=dfc.forward_update(*arguments), options=FORWARD)
    code, text, _ = analysis(tmp_path / "0.h5", "--analysis")
    times = offline.convergence_time(record)
    assert code == 0 and f"simulation 0: {SAMPLES} samples, 601 time points" in text
    assert (
        f"7 of 7 samples after {times.min():.3g} to {times.max():.3g}, median {np.median(times):.3g} tau_u"
        in text
    )
    assert f"{offline.steady_state_residual(record).max():.3g}, median" in text
    assert "differs from that of the trajectories by" in text
    rows = {
        line.split()[0]: line.split()[1:]
        for line in text.splitlines()
        if line.startswith(("  u ", "  e ", "  v_fb"))
    }
    assert list(rows) == ["u", "e", "v_fb_1", "v_fb_2", "v_fb_3"]
    found = offline.statistics(record, "v_fb", 2)
    whole = record["v_fb_2"]
    expected = [
        whole.mean(),
        whole.std(),
        whole.min(),
        whole.max(),
        np.sqrt(np.mean(found.rms**2)),
        found.last.mean(),
    ]
    assert rows["v_fb_2"] == [f"{number:.4g}" for number in expected]


def test_the_command_says_what_is_missing(stored, tmp_path):
    stored(*problem(), variables=("u",))
    code, text, _ = analysis(tmp_path / "0.h5", "--analysis")
    assert code == 0 and "unknown: this needs the variable 'error'" in text and "'r_3'" in text
    assert "none is stored that trajectories give" in text


def test_the_command_chooses_records(stored, tmp_path):
    stored(*problem())
    path = tmp_path / "0.h5"
    assert "simulation 0" in analysis(path, "--analysis", "--phase", "simulation", "--record", "-1")[1]
    code, _, complaint = analysis(path, "--record", "0")
    assert code == 2 and "state --analysis" in complaint
    assert analysis(path, "--analysis", "--record", "5")[0] == 2
