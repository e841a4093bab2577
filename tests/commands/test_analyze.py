"""`dfc analyze`: runs and logged minibatches measured without training again, tables, files, and what cannot be read."""

import csv
import shutil

import h5py
import numpy as np
import pytest
from command_line import invoked

import dfc_numba
from dfc_numba.analysis.alignment import alignment
from dfc_numba.analysis.directions import reference_update
from dfc_numba.analysis.stability import VERDICTS, stability
from dfc_numba.configuration.config_file import load_config
from dfc_numba.display import reports
from dfc_numba.registry import MEASURES
from dfc_numba.runs.experiment import Experiment
from dfc_numba.storage.reader import open_trajectories

SETTINGS = [
    "network.hidden=[4]", "controller.steps=19", "feedback_controller.steps=9", "feedback.pretraining_epochs=0",
    "training.batch_size=128", "training.epochs=2", "log.every=5", "log.samples=2", "analysis.every=100",
    "analysis.samples=4", "analysis.what=[alignment,conditions]",
]  # fmt: skip


def dfc(*arguments):
    """The result of `dfc analyze`: exit code, standard output, standard error."""
    return invoked("analyze", *arguments)


def refused(*arguments):
    """What a refusal says."""
    result = dfc(*arguments)
    assert result.exit_code == 2 and "Traceback" not in result.stderr
    return result.stderr


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run directory with a log and an analysis; not to be changed."""
    config, _ = load_config("digits", SETTINGS)
    directory = tmp_path_factory.mktemp("runs") / "run"
    Experiment(config, out=directory).run()
    return directory


@pytest.fixture
def copied(run, tmp_path):
    return shutil.copytree(run, tmp_path / "run")


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def value(rows, **where):
    """The only value of a table with these entries."""
    (found,) = [row["value"] for row in rows if all(row[key] == str(text) for key, text in where.items())]
    return found


# --- runs ------------------------------------------------------------------------------------------------------------------


def test_a_run_gives_what_it_has_measured_in_the_end(run, tmp_path):
    result = dfc(run, "--what", "alignment,conditions", "--out", tmp_path / "a.csv")
    assert result.exit_code == 0, result.stderr
    assert "alignment: angles in degrees" in result.stdout and "stability:" not in result.stdout
    rows, (first, last) = table(tmp_path / "a.csv"), table(run / "metrics.csv")
    best = last if float(last["val_accuracy"]) > float(first["val_accuracy"]) else first
    for weights, row in (("last", last), ("best", best)):
        for name in list(row)[8:]:
            found = value(rows, weights=weights, measurement=name, layer="", sample="")
            assert float(found) == float(row[name]), name
    assert {row["epoch"] for row in rows if row["weights"] == "last"} == {"2"}
    assert {row["layer"] for row in rows if row["measurement"] == "angle_gn"} == {"", "1", "2"}


def test_everything_that_there_is_is_measured_by_default(run):
    result = dfc(run / "checkpoint.h5", "--samples", 3)
    assert result.exit_code == 0, result.stderr
    headings = [
        line.split(":")[0] for line in result.stdout.splitlines() if ": " in line and not line.startswith(" ")
    ]
    assert headings[1:] == list(MEASURES) and "probe batch of 3 training samples" in result.stdout


def test_the_file_of_a_run_is_opened_by_xarray(run, tmp_path):
    xarray = pytest.importorskip("xarray")
    assert dfc(run, "--what", "null_space,stability", "--out", tmp_path / "a.h5").exit_code == 0
    with xarray.open_dataset(tmp_path / "a.h5") as found:
        assert dict(found.sizes) == {"weights": 2, "layer": 2, "sample": 4}
        assert found.weights.attrs["flag_meanings"] == "last best" and set(found.coords) > {
            "weights",
            "epoch",
        }
        assert (found.verdict_sample == 0).all() and (found.largest_dt_sample > 0).all()


def test_damping_is_that_of_the_command(run, tmp_path):
    for name, damping in (("a.csv", "0"), ("b.csv", "1e4")):
        dfc(run, "--what", "alignment", "--damping", damping, "--out", tmp_path / name)
    assert {row["measurement"] for row in table(tmp_path / "a.csv")}.isdisjoint(
        {"angle_gn_damped", "angle_mn_damped"}
    )
    rows = [row for row in table(tmp_path / "b.csv") if row["weights"] == "last" and not row["layer"]]
    angle = {row["measurement"]: float(row["value"]) for row in rows}
    assert (
        angle["angle_mn_damped"]
        == pytest.approx(angle["angle_bp"], rel=1e-3)
        != pytest.approx(angle["angle_mn"], rel=1e-3)
    )


def test_a_step_that_is_too_large_is_told_from_an_unstable_network(tmp_path):
    net, rng = (
        dfc_numba.Network.create([5, 8, 3], feedback_init="weight_product", seed=1),
        np.random.default_rng(0),
    )
    x = rng.standard_normal((4, 5))
    controller = dfc_numba.Controller(dt=0.19, steps=5, alpha=0.001, k_p=4.0, tau_v=0.2)
    for name in ("dt", "network"):
        target = dfc_numba.output_target(net, x, np.eye(3)[[0, 1, 2, 0]])
        dfc_numba.simulate(net, x, target, controller).save(tmp_path / f"{name}.h5")
        net.feedback[0] *= -1.0  # the controller drives the output away from its target
        net.feedback[1] *= -1.0
    text = dfc(tmp_path / "dt.h5", "--what", "stability", "--out", tmp_path / "dt.csv").stdout
    assert (
        "0 of 4 samples are stable" in text and "dt too large: 4, samples 0, 1, 2, 3; all are stable" in text
    )
    rows = table(tmp_path / "dt.csv")
    assert [row["sample"] for row in rows if row["measurement"] == "verdict"] == ["", "0", "1", "2", "3"]
    smallest = float(value(rows, measurement="largest_dt", sample=""))
    assert f"are stable up to controller.dt = {smallest:.4g}, individually up to" in text and smallest < 0.19
    text = dfc(tmp_path / "network.h5", "--what", "stability").stdout
    assert (
        "unstable: 4, samples 0, 1, 2, 3; perturbations grow by a factor of" in text
        and "a smaller dt does not help" in text
    )


@pytest.mark.filterwarnings("default")
def test_a_damaged_checkpoint_is_replaced_by_the_one_before(copied):
    (copied / "checkpoint.h5").write_bytes((copied / "checkpoint.h5").read_bytes()[:-10])
    result = dfc(copied, "--what", "null_space")
    assert result.exit_code == 0 and "analysing the older checkpoint_previous.h5" in result.stderr
    assert (copied / "checkpoint.h5").exists() and "(epoch 1)" in result.stdout
    assert "checksum" in refused(copied / "checkpoint.h5")
    (copied / "checkpoint_previous.h5").write_bytes(b"nothing")
    assert "has no checkpoint that can be read" in refused(copied)


def test_a_run_with_other_data_is_refused(run, monkeypatch):
    real = Experiment.__init__.__globals__["load_data"]

    def changed(config):
        found = real(config)
        found.train.x[0, 0] += 1
        return found

    monkeypatch.setattr("dfc_numba.runs.analysis_subjects.load_data", changed)
    assert "belongs to a run on other data than digits now has" in refused(run)


# --- logged minibatches ----------------------------------------------------------------------------------------------------


def test_logged_minibatches_are_measured_from_the_file(run, tmp_path):
    file = run / "trajectories.h5"
    result = dfc(file, "--what", "alignment", "--out", tmp_path / "a.csv")
    assert result.exit_code == 0, result.stderr
    assert "6 logged minibatches of phase 'forward'" in result.stdout and "greatest" in result.stdout
    rows = table(tmp_path / "a.csv")
    assert {row["record"] for row in rows} == set("012345") and {row["phase"] for row in rows} == {"forward"}
    with open_trajectories(file) as opened:
        record = opened["forward"][4]
        recipe, update = record.recipe(), record.update()
    reference = reference_update(recipe.network, recipe.x, recipe.labels, "gn", loss="cross_entropy")
    angle = value(rows, record=4, measurement="angle_gn", layer="", sample="")
    assert float(angle) == alignment(update, reference).total
    assert dfc(file, "--what", "stability", "--record", 4, "--out", tmp_path / "b.csv").exit_code == 0
    rows = table(tmp_path / "b.csv")
    expected = stability(recipe.network, recipe.x, recipe.target, recipe.controller)
    stable = [row for row in rows if row["measurement"] == "verdict" and row["sample"]]
    assert [row["value"] for row in stable] == expected.verdict.tolist()
    assert [int(row["sample"]) for row in stable] == recipe.indices.tolist()


def test_one_record_or_phase_is_chosen(run, tmp_path):
    result = dfc(run, "--record", -1, "--what", "null_space", "--out", tmp_path / "a.h5")
    assert result.exit_code == 0 and "forward 5" in result.stdout and "layer 2" in result.stdout
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["record"][...].tolist() == [5] and file["null_space_layer"].shape == (1, 2)
        assert file["sample_index"].shape[0] == 1 and file["number"][0] > 10
    result = dfc(run, "--phase", "feedback", "--record", 0)
    assert result.exit_code == 0 and "conditions:" in result.stdout and "alignment:" not in result.stdout


def test_an_update_that_is_not_stored_is_computed_anew(run, tmp_path):
    config, _ = load_config(
        "digits", [*SETTINGS[:6], "log.minibatches=[11]", "log.recipe_only=true", "training.epochs=1"]
    )
    Experiment(config, out=tmp_path / "recipes").run()
    for source, out in ((tmp_path / "recipes", "a.csv"), (run, "b.csv")):
        assert (
            dfc(
                source, "--phase", "forward", "--record", 0, "--what", "alignment", "--out", tmp_path / out
            ).exit_code
            == 0
        )
    assert [row["value"] for row in table(tmp_path / "a.csv")] == [
        row["value"] for row in table(tmp_path / "b.csv")
    ]


def test_a_damaged_record_is_named_and_the_others_are_measured(copied):
    path = copied / "trajectories.h5"
    with h5py.File(path) as file:
        place = file["forward/dW_1"].id.get_chunk_info_by_coord((2, 0, 0)).byte_offset
    with open(path, "r+b") as file:
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ 255]))
    result = dfc(path, "--what", "null_space")
    assert result.exit_code == 2 and "forward 2: " in result.stderr and "damaged" in result.stderr
    assert "null_space" in result.stdout and "Traceback" not in result.stderr


# --- the tables ------------------------------------------------------------------------------------------------------------


def stable_note(verdicts, radius, largest):
    codes = np.array([VERDICTS.index(verdict) for verdict in verdicts], np.int8)
    return {
        "sample_index": np.array([30, 20, 10]), "verdict": np.mean(codes == 0), "verdict_sample": codes,
        "euler_radius_sample": np.array(radius), "largest_dt_sample": np.array(largest),
    }  # fmt: skip


def test_many_minibatches_are_summarised_without_those_that_are_undefined():
    numbers = [1.0, np.nan, 3.0, 5.0, np.nan]
    notes = {
        f"forward {n}": {"angle_bp": a, "angle_bp_layer": np.array([a, np.nan])}
        for n, a in enumerate(numbers)
    }
    _, heading, columns, total, first, second = reports.analysis_lines(notes, ["angle_bp"], ["alignment"])
    assert heading.startswith("alignment: ") and columns.split() == ["mean", "least", "greatest"]
    assert total.split()[:4] == ["angle_bp", "3", "1", "5"] and total.endswith("backpropagation update")
    assert first.split() == ["layer", "1", "3", "1", "5"] and second.split()[2:] == ["nan"] * 3


def test_few_minibatches_have_a_column_each():
    notes = {
        "last": {"dev_r": 0.5, "dev_r_sample": np.zeros(2)},
        "best": {"dev_r": 0.25, "dev_r_sample": np.zeros(2)},
    }
    *_, columns, row = reports.analysis_lines(notes, ["dev_r"], ["conditions"])
    assert columns.split() == ["last", "best"] and row.split()[:3] == ["dev_r", "0.5", "0.25"]


def test_what_is_wrong_with_which_samples_is_said_in_words():
    first = stable_note(["stable", "dt too large", "dt too large"], [0.9, 1.2, 1.3], [0.2, 0.05, 0.04])
    second = stable_note(["stable", "unstable", "no steady state"], [0.9, 1.5, np.nan], [0.2, 0.0, np.nan])
    text = list(reports.analysis_lines({"last": first, "best": second}, ["verdict"], ["stability"]))
    assert text[-5:] == [
        "  last: 1 of 3 samples are stable",
        "    dt too large: 2, samples 20, 10; all are stable up to controller.dt = 0.04, individually up to "
        "0.04 to 0.05",
        "  best: 1 of 3 samples are stable",
        "    unstable: 1, sample 20; perturbations grow by a factor of 1.5 per step, and also in continuous time: a smaller "
        f"dt does not help; {reports.UNSTABLE_REMEDY}",
        "    no steady state: 1, sample 10; Newton's method has not found one",
    ]
    many = {f"forward {n}": first for n in range(5)}
    text = list(reports.analysis_lines(many, ["verdict"], ["stability"]))
    assert text[-2] == "  5 minibatches: 5 of 15 samples are stable"
    assert "dt too large: 10, samples 20, 10, 20, 10, 20, 10, 20, 10 and 2 more; all" in text[-1]


# --- what is refused -------------------------------------------------------------------------------------------------------


def test_what_is_missing_is_named(run, tmp_path):
    text = refused(run, "--phase", "feedback", "--what", "alignment")
    assert "record 0 of 'feedback' has no update of the forward weights" in text
    with open_trajectories(run / "trajectories.h5") as file:
        file["forward"][0].trajectory().save(tmp_path / "alone.h5")
    text = refused(tmp_path / "alone.h5", "--what", "alignment")
    assert "is in a file without the configuration of a run, which states the loss" in text
    assert dfc(tmp_path / "alone.h5", "--what", "stability").exit_code == 0
    config, _ = load_config("digits", ["training.method=bp", "training.epochs=1", "network.hidden=[4]"])
    Experiment(config, out=tmp_path / "bp").run()
    assert "training.method = 'bp' runs no controller" in refused(tmp_path / "bp", "--what", "stability")
    assert "with these settings has no feedback weights" in refused(tmp_path / "bp", "--what", "conditions")


def test_wrong_use_is_refused(run, tmp_path):
    assert "did you mean 'stability'?" in refused(run, "--what", "stabilty")
    assert "ends in .csv or .h5" in refused(run, "--out", tmp_path / "a.txt")
    assert "exists, and is not overwritten" in refused(run, "--out", run / "metrics.csv")
    assert "there is no folder" in refused(run, "--out", tmp_path / "no" / "a.csv")
    assert "does not fit: digits has 1297 to train" in refused(run, "--samples", 2000)
    assert "a logged minibatch has its own samples" in refused(run, "--phase", "forward", "--samples", 3)
    assert "only a run directory" in refused(run / "weights_best.h5")
    assert "holds no checkpoint of a run, and no trajectories" in refused(tmp_path)
    assert "there is no" in refused(tmp_path / "nothing.h5")
    assert "cannot be read" in refused(run / "metrics.csv")
