"""Measuring while training: what is noted and when, nothing of the training changes, the same bits after an interruption."""

import csv
import json
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
from small_runs import NEEDS, RECURRENT, SIZES, StopAfter, configuration, dataset, network, parameters, train

import dfc_numba as dfc
from dfc_numba.analysis import measurements
from dfc_numba.analysis.alignment import alignment, loss_decrease
from dfc_numba.analysis.conditions import conditions, null_space_fraction
from dfc_numba.analysis.control import control_effort, distance_to_linear, effort_update, feedback_ratio
from dfc_numba.analysis.directions import reference_update
from dfc_numba.analysis.monitor import Monitor
from dfc_numba.analysis.probe import Probe, probe_minibatch, probe_of
from dfc_numba.analysis.results import PHASES
from dfc_numba.analysis.stability import VERDICTS, stability
from dfc_numba.configuration.config_file import load_config
from dfc_numba.dynamics.plasticity import ForwardUpdate
from dfc_numba.errors import ConfigurationError
from dfc_numba.registry import MEASURES, METHODS

ANALYSES = ("alignment", "loss_decrease", "null_space", "conditions", "control", "stability")
from dfc_numba.learning.training import Trainer
from dfc_numba.runs import checkpoint
from dfc_numba.runs.experiment import Experiment

EVERY, SAMPLES = 4, 6
MINIBATCHES = 15  # of 20 samples in eights: an epoch of pre-training, then twice feedback and forward


def measured(method="dfc", what=None, **sections):
    """A configuration that measures."""
    sections = {**NEEDS.get(method, {}), **sections}
    plain = configuration(training={"method": method}, **sections)
    analysis = {
        "every": EVERY,
        "what": what or measurements.possible_in(plain),
        "samples": SAMPLES,
        "damping": 0.1,
    }
    return configuration(**{**sections, "training": {"method": method}, "analysis": analysis})


def created(config):
    """A network, with the feedback matrices of dynamic inversion for a method that has them."""
    net = network((SIZES[0], *config.network.hidden, SIZES[-1]))
    if METHODS[config.training.method].prepare:
        METHODS[config.training.method].prepare(net, config)
    return net


def monitored(config, **options):
    """(trainer, watcher, `Monitor`) of a run that was measured."""
    data_set = options.pop("data_set", None) or dataset()
    monitor = Monitor(config, data_set)
    net = options.pop("net", None) or created(config)
    trainer, watcher, outcome = train(config, data_set, net, analysis=monitor, **options)
    return trainer, watcher, monitor


def same_bits(ours, theirs):
    """Whether two dicts of arrays are the same but for the seconds."""
    return ours.keys() == theirs.keys() and all(
        ours[key].tobytes() == theirs[key].tobytes() and ours[key].dtype == theirs[key].dtype
        for key in ours
        if key != "seconds"
    )


@pytest.fixture(scope="module")
def whole():
    """A run that was measured and never interrupted."""
    return monitored(measured())


# --- what is noted ---------------------------------------------------------------------------------------------------------


def test_a_monitor_measures_at_the_start_after_every_nth_minibatch_and_at_the_end_of_epochs(whole):
    arrays = whole[2].arrays()
    assert arrays["minibatches"].tolist() == [0, 4, 8, 9, 12, 15]
    assert arrays["epoch"].tolist() == [0, 1, 1, 1, 2, 2]
    assert [PHASES[code] for code in arrays["phase"]] == [
        "start",
        "feedback",
        "forward",
        "forward",
        "feedback",
        "forward",
    ]
    assert (arrays["seconds"] > 0).all() and arrays["angle_bp_layer"].shape == (6, 3)


@pytest.mark.parametrize("stop_after", [None, 1, 9])
def test_the_number_of_measurements_is_known_before_the_run(whole, stop_after):
    trainer, _, monitor = monitored(measured(what=["null_space"]), stop_after=stop_after or 10**9)
    if stop_after is None:
        trainer, monitor = Trainer(network(), dataset(), measured()), Monitor(measured(), dataset())
    times, seconds = monitor.expected(trainer)
    assert times == 6 - len(monitor.notes) and seconds > 0


def test_the_expected_time_is_that_of_a_second_measurement(monkeypatch):
    """The first one compiles."""
    trainer, monitor = Trainer(network(), dataset(), measured()), Monitor(measured(), dataset())
    seconds = iter([100.0, 2.0])
    monkeypatch.setattr(monitor, "_note", lambda network: {"seconds": next(seconds)})
    assert monitor.expected(trainer) == (6, 12.0)


@pytest.mark.parametrize(("done", "times"), [(0, 6), (3, 6), (4, 5), (5, 5), (9, 3), (14, 2)])
def test_the_number_of_measurements_is_known_when_a_run_without_any_is_resumed(tmp_path, done, times):
    """At once, and then at 4, 8, 9, 12 and 15."""
    plain = configuration()
    trainer = Trainer(network(), dataset(), plain)
    if done:
        trainer, _, _ = train(plain, stop_after=done)
    checkpoint.save(trainer, tmp_path / "checkpoint.h5")
    config = measured(what=["null_space"])
    monitor = Monitor(config, dataset())
    resumed = Trainer(network(), dataset(), config, analysis=monitor)
    checkpoint.restore(resumed, tmp_path / "checkpoint.h5")
    assert monitor.expected(resumed)[0] == times
    resumed.run()
    assert len(monitor.notes) == times


RELAXING = (
    "ep",
    "ep-hopfield",
    "ep-vector-field",
    "ep-continual",
)  # to a state that is not a feedforward pass's


@pytest.mark.parametrize("method", RELAXING)
def test_nothing_is_measured_where_there_is_no_feedforward_pass(method):
    plain = configuration(training={"method": method}, **NEEDS.get(method, {}))
    assert not measurements.possible_in(plain)
    with pytest.raises(ValueError, match="nothing to measure: set analysis.every = 0"):
        measured(method, what=["alignment"])


@pytest.mark.parametrize("method", [name for name in METHODS if name not in (*RECURRENT, *RELAXING)])
def test_every_method_of_feedforward_networks_is_measured(method):
    trainer, watcher, monitor = monitored(measured(method))
    assert watcher.calls[-1] == "done"
    numbers = [value for name in monitor.names for value in np.ravel(monitor.notes[-1][name])]
    assert np.isfinite(numbers).all()
    if method == "bp":
        assert monitor.notes[-1]["angle_bp"] < 1e-6
        assert monitor.notes[-1]["decrease_own"] == pytest.approx(monitor.notes[-1]["decrease_bp"], rel=1e-12)
    if method == "dfc-ssa":
        assert monitor.notes[-1]["angle_ssa"] < 1e-6 and "eig_integral" not in monitor.names


def test_a_row_has_the_numbers_of_the_end_of_its_epoch_and_what_they_have_cost(whole):
    trainer, _, monitor = whole
    for row, note in zip(trainer.rows, (monitor.notes[3], monitor.notes[5]), strict=True):
        assert [row[name] for name in monitor.names] == [note[name] for name in monitor.names]
    seconds = [note["seconds"] for note in monitor.notes]
    assert trainer.rows[0]["analysis_seconds"] == pytest.approx(sum(seconds[:4]))
    assert trainer.rows[1]["analysis_seconds"] == pytest.approx(sum(seconds[4:]))
    cost = monitor.cost()
    assert cost["times"] == 6 and cost["seconds"] == pytest.approx(sum(cost["seconds_per_epoch"]))


def test_notes_are_measurements_of_the_network_at_their_time(whole):
    trainer, _, monitor = whole
    config = trainer.config
    probe = probe_of(trainer.network, probe_minibatch(trainer.network, dataset(), config), config)
    again = measurements.measure(probe, monitor.names)
    assert all(np.array_equal(again[name], monitor.notes[-1][name]) for name in again)
    own = METHODS["dfc"].gradients(
        trainer.network, probe_minibatch(trainer.network, dataset(), config), config
    )
    assert np.array_equal(probe.update.weights[1], -own.weights[1])


def test_measuring_leaves_the_training_unchanged():
    for method in ("dfc", "dfc-single-phase"):  # both draw noise
        config = measured(method)
        plain, _, _ = train(config)
        trainer, _, _ = monitored(config)
        ours, theirs = parameters(trainer.network), parameters(plain.network)
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_the_bits_do_not_depend_on_the_threads(whole):
    for threads in (1, 2):
        assert same_bits(monitored(measured(), threads=threads)[2].arrays(), whole[2].arrays())


def test_a_float32_network_is_measured_in_float64(whole):
    net = network(dtype="float32")
    _, _, monitor = monitored(measured(), data_set=dataset(dtype=np.float32), net=net)
    first = monitor.notes[0]
    assert first["angle_gn"] == pytest.approx(whole[2].notes[0]["angle_gn"], rel=1e-4)
    assert first["condition_2_sample"].dtype == np.float64


# --- what the numbers are --------------------------------------------------------------------------------------------------


def test_the_table_gives_what_the_functions_give(whole):
    trainer, _, monitor = whole
    config, net, note = trainer.config, trainer.network, monitor.notes[-1]
    minibatch = probe_minibatch(net, dataset(), config)
    x, y, loss = minibatch.x, minibatch.y, config.target.loss
    gradients = METHODS["dfc"].gradients(net, minibatch, config)
    own = ForwardUpdate(
        *([-2.0 * array for array in arrays] for arrays in (gradients.weights, gradients.biases))
    )
    target = dfc.output_target(net, x, y, loss=loss, step=config.target.step)
    references = {kind: reference_update(net, x, y, kind, loss=loss) for kind in ("bp", "gn", "mn")}
    references |= {
        f"{kind}_damped": reference_update(net, x, y, kind, loss=loss, damping=0.1) for kind in ("gn", "mn")
    }
    references["ssa"] = dfc.forward_update(net, x, target, config.controller, readout="analytic")
    rest = dfc.steady_state(net, x, target, config.controller, method="newton")
    references["effort"] = effort_update(net, x, rest.u, config.controller)
    for name, reference in references.items():
        found = alignment(own, reference)
        assert note[f"angle_{name}"] == pytest.approx(found.total, rel=1e-12)
        assert note[f"angle_{name}_layer"] == pytest.approx(found.layers, rel=1e-12)
        decrease = loss_decrease(net, x, y, reference, loss=loss)
        assert note[f"decrease_{name}"] == pytest.approx(decrease, rel=1e-12)
    assert note["decrease_own"] == pytest.approx(loss_decrease(net, x, y, own, loss=loss), rel=1e-12)
    fractions = null_space_fraction(net, x, own)
    norms = np.array([np.linalg.norm(array) for array in own.weights])
    assert note["null_space_layer"] == pytest.approx(fractions, rel=1e-9, abs=1e-12)
    assert note["null_space"] == pytest.approx(
        np.linalg.norm(norms * fractions) / np.linalg.norm(norms), rel=1e-9
    )
    assert np.array_equal(note["effort_sample"], control_effort(net, rest.u))
    assert note["effort"] == pytest.approx(control_effort(net, rest.u).mean(), rel=1e-12)
    assert note["feedback_ratio_layer"] == pytest.approx(
        feedback_ratio(net, x, rest.u).mean(axis=0), rel=1e-12
    )
    far = distance_to_linear(net, x, target, config.controller, rest.r[-1])
    assert np.array_equal(note["nonlinearity_sample"], far) and note["nonlinearity"] == pytest.approx(
        far.mean(), rel=1e-12
    )
    _check_conditions(note, conditions(net, x))
    _check_stability(note, stability(net, x, target, config.controller))


def _check_conditions(note, found):
    assert note["input_norm_layer"] == pytest.approx(found.input_norms.mean(axis=0), rel=1e-12)
    named = {"dev_r": "dev_r", "condition_2": "condition_2"}
    named |= {f"angle_q_{kind}": f"angle_{kind}" for kind in ("transpose", "pinv", "damped")}
    for ours, theirs in named.items():
        assert np.array_equal(note[f"{ours}_sample"], getattr(found, theirs)), ours
        assert note[ours] == pytest.approx(getattr(found, theirs).mean(), rel=1e-12)
    for kind in ("transpose", "pinv", "damped"):
        assert note[f"angle_q_mean_{kind}"] == getattr(found, f"mean_angle_{kind}")
    assert note["gamma"] == found.mean_damping and np.array_equal(note["gamma_sample"], found.damping)


def _check_stability(note, found):
    for name, theirs, worst in (
        ("eig_instantaneous", "instantaneous", max), ("eig_integral", "integral", max),
        ("eig_proportional", "proportional", max), ("euler_radius", "euler", max), ("largest_dt", "largest_dt", min),
    ):  # fmt: skip
        assert np.array_equal(note[f"{name}_sample"], getattr(found, theirs)), name
        assert note[name] == worst(getattr(found, theirs))
    assert [VERDICTS[code] for code in note["verdict_sample"]] == found.verdict.tolist()


@pytest.mark.parametrize(
    "sections",
    [
        {"controller": {"jacobian_feedback": True}, "feedback": {"train": False}},
        {"controller": {"error": "softmax"}, "target": {"feedback": "strong", "class_value": 0.9}},
        {"training": {"freeze_forward": True}},
        {"network": {"bias": False}, "target": {"loss": "mse", "step_per": "minibatch"}},
    ],
    ids=str,
)
def test_other_controllers_targets_and_phases_are_measured(sections):
    plain = configuration(**sections)
    analysis = {"every": 9, "samples": 3, "what": measurements.possible_in(plain)}
    config = configuration(**sections, analysis=analysis)
    net = network(bias=config.network.bias)
    _, watcher, monitor = monitored(config, net=net)
    assert watcher.calls[-1] == "done" and len(monitor.notes) >= 2
    assert all(np.isfinite(monitor.notes[-1][name]) for name in monitor.names)
    assert ("angle_ssa" in monitor.names) == (
        config.controller.error == "difference" and not plain.training.freeze_forward
    )
    assert ("condition_2" in monitor.names) == (not config.controller.jacobian_feedback)


# --- interruptions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop_after", [1, 9, 14])
def test_a_restored_run_notes_the_same_bits(whole, tmp_path, stop_after):
    trainer, _, monitor = monitored(measured(), stop_after=stop_after)
    checkpoint.save(trainer, tmp_path / "checkpoint.h5")
    after = Monitor(measured(), dataset())
    resumed = Trainer(network(), dataset(), measured(), analysis=after)
    checkpoint.restore(resumed, tmp_path / "checkpoint.h5")
    assert same_bits(after.arrays(), monitor.arrays()) and len(after.notes) < len(whole[2].notes)
    resumed.run()
    assert same_bits(after.arrays(), whole[2].arrays())
    for name in ("one.h5", "other.h5"):
        (after if name == "one.h5" else whole[2]).write(tmp_path / name)
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "other.h5").read_bytes()


def test_notes_of_other_measurements_are_refused(whole):
    monitor = Monitor(measured(what=["stability"]), dataset())
    arrays = {name: array for name, array in whole[2].arrays().items() if name != "largest_dt"}
    with pytest.raises(ValueError, match="lack largest_dt; they are of other settings"):
        monitor.restore(arrays)
    monitor.restore({})
    assert monitor.notes == []


SETTINGS = [
    "network.hidden=[8]", "controller.steps=9", "feedback_controller.steps=9", "feedback.pretraining_epochs=0",
    "training.batch_size=128", "training.epochs=2", "analysis.every=7", "analysis.samples=4",
    "analysis.what=[alignment,conditions]",
]  # fmt: skip


def metrics(directory):
    with open(directory / "metrics.csv", newline="") as file:
        return [{**row, "seconds": ""} for row in csv.DictReader(file)]


def test_a_run_directory_has_the_same_analysis_whether_it_was_interrupted_or_not(tmp_path):
    config, _ = load_config("digits", SETTINGS)
    for name, stop in (("whole", 10**9), ("stopped", 30)):
        Experiment(config, out=tmp_path / name).run([StopAfter(stop)])
    before = (tmp_path / "stopped" / "analysis.h5").read_bytes()
    Experiment(config, out=tmp_path / "stopped", resume=True).run()
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "stopped")
    files = [(tmp_path / name / "analysis.h5").read_bytes() for name in ("whole", "stopped")]
    assert files[0] == files[1] != before
    columns = list(metrics(tmp_path / "whole")[0])
    assert columns[8:] == measurements.configured(config) and columns[7] == "seconds"
    results = json.loads((tmp_path / "stopped" / "run.json").read_text())["results"]
    assert results["analysis"]["times"] == 9 and len(results["analysis"]["seconds_per_epoch"]) == 2
    assert results["last"]["analysis_seconds"] == results["analysis"]["seconds_per_epoch"][1] > 0


@pytest.mark.slow
def test_a_killed_run_that_goes_on_ends_with_the_same_analysis(tmp_path):
    settings = [f"--set={setting}" for setting in [*SETTINGS, "training.epochs=6"]]
    command = [sys.executable, "-m", "dfc_numba", "train", "digits", *settings, "--checkpoint-minutes", "0"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*command, "--out", whole], check=True, capture_output=True)
    with subprocess.Popen(
        [*command, "--out", killed], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        while not (killed / "analysis.h5").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        process.kill()
    with h5py.File(killed / "analysis.h5") as file:  # what is there can be read
        assert 0 < len(file["minibatches"]) < 27
    assert len(metrics(killed)) < 6
    subprocess.run([*command, "--out", killed, "--resume"], check=True, capture_output=True)
    assert (killed / "analysis.h5").read_bytes() == (whole / "analysis.h5").read_bytes()
    assert metrics(killed) == metrics(whole)


# --- the file --------------------------------------------------------------------------------------------------------------


def test_xarray_opens_the_file_as_it_is(whole, tmp_path):
    xarray = pytest.importorskip("xarray")
    whole[2].write(tmp_path / "analysis.h5")
    with xarray.open_dataset(tmp_path / "analysis.h5") as found:
        arrays = whole[2].arrays()
        assert dict(found.sizes) == {"minibatches": 6, "layer": 3, "sample": SAMPLES}
        assert set(found.coords) == {"minibatches", "layer", "sample", "epoch", "phase"}
        assert found.layer.values.tolist() == [1, 2, 3]
        for name in arrays.keys() - {"seconds"}:
            assert np.array_equal(found[name], arrays[name]), name
            assert found[name].attrs["long_name"] and found[name].attrs["units"]
        assert found.angle_bp_layer.dims == ("minibatches", "layer")
        assert found.condition_2_sample.dims == ("minibatches", "sample")
        assert found.angle_gn.sel(minibatches=8) == arrays["angle_gn"][2]
        assert found.verdict_sample.attrs["flag_meanings"].split()[1] == "dt_too_large"
        assert found.eig_integral.attrs["units"] == "1/tau_u"


def test_the_file_has_checksums_and_one_scale_on_each_axis(whole, tmp_path):
    whole[2].write(tmp_path / "analysis.h5")
    with h5py.File(tmp_path / "analysis.h5") as file:
        assert file.attrs["schema"] == "dfc-numba/analysis" and "seconds" not in file
        assert json.loads(file.attrs["config"])["analysis"]["every"] == EVERY
        for name, one in file.items():
            assert one.fletcher32 and one.chunks, name
            assert one.is_scale or all(len(dimension) == 1 for dimension in one.dims), name


# --- what cannot be measured -----------------------------------------------------------------------------------------------


def test_a_probe_batch_larger_than_the_training_set_is_refused_at_once():
    config = configuration(analysis={"every": 1, "samples": 21})
    with pytest.raises(
        ConfigurationError, match="a probe batch of 21 samples does not fit: clusters has 20 to train"
    ):
        Monitor(config, dataset())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("freeze", [False, True])
def test_what_a_configuration_allows_is_what_its_probe_has(method, freeze):
    training = {"method": method, "freeze_forward": freeze}
    if (freeze and METHODS[method].feedback is None) or (method == "dfc-single-phase" and freeze):
        return
    config = configuration(**{**NEEDS.get(method, {}), "training": training})
    net = created(config)
    probe = probe_of(net, probe_minibatch(net, dataset(), config, samples=3), config)
    assert measurements.possible(probe) == measurements.possible_in(config)
    for group in set(ANALYSES) - set(measurements.possible_in(config)):
        with pytest.raises(ValueError, match="training.method|training.freeze_forward"):
            measurements.require(probe, [group])


def test_every_kind_of_analysis_has_measurements_and_needs():
    assert set(MEASURES) == set(ANALYSES) and all(measure.columns for measure in MEASURES.values())


def test_what_is_undefined_is_nan_and_does_not_end_the_run():
    net = network()
    for q in net.feedback:
        q[...] = 0.0  # J Q is singular
    controller = dfc.Controller(dt=0.05, steps=5, alpha=0.0, k_p=0.5)
    x, y = np.ones((2, 4)), np.eye(3)[:2]
    update = ForwardUpdate(
        [np.full_like(w, np.nan) for w in net.weights], [np.full_like(b, np.nan) for b in net.biases]
    )
    target = dfc.output_target(net, x, y, loss="mse")
    probe = Probe(network=net, x=x, y=y, update=update, target=target, controller=controller, simulates=True)
    names = measurements.available(ANALYSES, probe.traits)
    found = measurements.measure(probe, names)
    for name in ("angle_bp", "angle_ssa", "decrease_own", "decrease_ssa", "null_space", "condition_2"):
        assert np.isnan(found[name]).all(), name
    assert np.isfinite(found["decrease_gn"]) and found["verdict"] == 0
    assert np.isnan(found["effort"]) and np.isnan(found["nonlinearity_sample"]).all()
    assert np.isnan(found["angle_effort"]) and np.isnan(found["feedback_ratio_layer"]).all()
