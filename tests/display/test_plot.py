"""Figures of trajectories and runs: what is drawn are the stored numbers, and the files are pictures."""

import csv
import shutil
import sys

import numpy as np
import pytest
from command_line import invoked
from recorded import SAMPLES, recipe, training, write
from simulations import NOISY, SHORT, SIZES

import dfc_numba as dfc
from dfc_numba.analysis.measurements import all_measurements
from dfc_numba.display import plots, trajectory_figures
from dfc_numba.runs.run_directory import METRICS
from dfc_numba.storage import analysis_file
from dfc_numba.storage.reader import open_trajectories
from dfc_numba.storage.schema import VariableDescription

pytest.importorskip("matplotlib")
PNG = b"\x89PNG"
TITLES = [
    "output, and its target (dashed)",
    "control signal",
    "error of all samples",
    "what the layers learn from",
]


def dfc_plot(*arguments):
    """(exit code, standard output, standard error) of `dfc plot`."""
    result = invoked("plot", *arguments)
    return result.exit_code, result.stdout.strip(), result.stderr


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A file with one record."""
    return write(tmp_path_factory.mktemp("plot") / "file.h5", [recipe(epoch=2, minibatch=3)])


@pytest.fixture
def run(tmp_path):
    """A run directory with learning curves, of a classification or a regression."""

    def make(accuracies=(0.5, 0.75), trajectories=None):
        directory = tmp_path / "run-001"
        directory.mkdir()
        with open(directory / "metrics.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, METRICS, restval="nan")
            writer.writeheader()
            for epoch, accuracy in enumerate(accuracies, 1):
                writer.writerow(
                    {"epoch": epoch, "train_loss": 10.0**-epoch, "test_loss": 0.3, "test_accuracy": accuracy}
                )
        if trajectories is not None:
            shutil.copy(trajectories, directory / "trajectories.h5")
        return directory

    return make


@pytest.fixture
def drawn(monkeypatch):
    """The figures that would be written, as matplotlib has them."""
    found = []
    monkeypatch.setattr(plots, "save", lambda figure, path: found.append(figure))
    return found


def panels(figure):
    """The axes of a figure by their titles."""
    return {axes.get_title(): axes for axes in figure.axes}


def lines(axes):
    """The lines of a panel by their labels."""
    return {line.get_label(): line for line in axes.lines}


# --- trajectories -----------------------------------------------------------------------------------------------


def test_a_file_is_drawn_beside_itself(stored):
    before = "matplotlib.pyplot" in sys.modules
    code, path, _ = dfc_plot(stored)
    assert code == 0 and path == str(stored.with_suffix(".png"))
    assert stored.with_suffix(".png").read_bytes().startswith(PNG)
    assert ("matplotlib.pyplot" in sys.modules) is before


@pytest.mark.parametrize(("ending", "start"), [("svg", b"<?xml"), ("pdf", b"%PDF"), ("png", PNG)])
def test_the_ending_says_the_format(stored, tmp_path, ending, start):
    assert dfc_plot(stored, "--out", tmp_path / f"figure.{ending}")[0] == 0
    assert (tmp_path / f"figure.{ending}").read_bytes().startswith(start)
    assert len(list(tmp_path.iterdir())) == 1


def test_every_panel_has_its_labels(stored, drawn):
    plots.plot(stored, units=[(1, 2), (3, 0)])
    found = panels(drawn[0])
    assert list(found)[:4] == TITLES and len(found) == 6
    for axes in found.values():
        assert axes.get_xlabel() == r"time ($\tau_u$)" and axes.get_ylabel()
        drawn[0].canvas.draw()
        box, legend = axes.get_window_extent(), axes.get_legend().get_window_extent()
        assert legend.x0 >= box.x1  # covers no data
    assert drawn[0].subfigs[0].get_suptitle() == "simulation, record 0 (epoch 2, minibatch 3), sample 0"


def test_output_and_control_are_the_stored_numbers(stored, drawn):
    plots.plot(stored, sample=3)
    trajectory, target = dfc.Trajectory.load(stored), recipe().target
    output, control, error, differences, *_ = panels(drawn[0]).values()
    for unit in range(SIZES[-1]):
        line = lines(output)[f"unit {unit}"]
        assert np.array_equal(line.get_xdata(), trajectory.time)
        assert np.allclose(line.get_ydata(), trajectory.r[-1][:, 3, unit])
        assert np.array_equal(lines(control)[f"unit {unit}"].get_ydata(), trajectory.u[:, 3, unit])
    dashed = [line.get_ydata()[0] for line in output.lines if line.get_linestyle() == "--"]
    assert np.allclose(dashed, target[3])
    assert np.array_equal(lines(error)["sample 3"].get_ydata(), trajectory.error[:, 3])
    assert len(error.lines) == SAMPLES and error.get_yscale() == differences.get_yscale() == "log"
    expected = np.linalg.norm(trajectory.v[2][:, 3] - trajectory.v_ff[2][:, 3], axis=1)
    assert np.allclose(lines(differences)["layer 3"].get_ydata(), expected)


def test_small_nudges_are_drawn_as_changes(tmp_path, drawn):
    one = recipe()
    start = one.network.predict(one.x)
    path = tmp_path / "file.h5"
    dfc.simulate(one.network, one.x, start + 1e-3 * (one.target - start), one.controller).save(path)
    plots.plot(path)
    output = panels(drawn[0])[TITLES[0]]
    assert output.get_ylabel() == "change of the rate"
    rates = dfc.Trajectory.load(path).r[-1][:, 0, 1]
    assert np.allclose(lines(output)["unit 1"].get_ydata(), rates - rates[0], atol=1e-12)


def test_the_softmax_error_is_drawn_as_a_softmax(tmp_path, drawn):
    plots.plot(write(tmp_path / "file.h5", [recipe({**SHORT, "error": "softmax"})]))
    found = panels(drawn[0])
    assert found[TITLES[0]].get_ylabel() == "softmax of the rates"
    assert found["error of all samples"].get_ylabel() == "cross-entropy"
    assert all((0 < np.asarray(line.get_ydata())).all() for line in found[TITLES[0]].lines)


def test_compartments_are_those_of_the_chosen_units(stored, drawn):
    plots.plot(stored, sample=1, units=[plots.unit("2:4")])
    trajectory = dfc.Trajectory.load(stored)
    (axes,) = [axes for title, axes in panels(drawn[0]).items() if title.startswith("layer 2, unit 4, ")]
    start = trajectory.v[1][0, 1, 4]
    found = [line.get_ydata() for line in axes.lines]
    expected = [trajectory.v[1] - start, trajectory.v_ff[1] - start, trajectory.v_fb[1]]
    assert all(np.array_equal(a, b[:, 1, 4]) for a, b in zip(found, expected, strict=True))


def test_by_default_the_units_with_the_largest_feedback_are_shown(stored, drawn):
    plots.plot(stored)
    trajectory = dfc.Trajectory.load(stored)
    units = [int(np.abs(v_fb[:, 0]).max(axis=0).argmax()) for v_fb in trajectory.v_fb]
    titles = list(panels(drawn[0]))[4:]
    assert [title.split(", from")[0] for title in titles] == [
        f"layer {n}, unit {u}" for n, u in enumerate(units, 1)
    ]


def test_only_some_outputs_and_layers_are_shown_where_there_are_many(tmp_path):
    net = dfc.Network.create([4, *[6] * 8, 12], seed=1)
    x = np.ones((2, 4))
    target = net.predict(x) + np.linspace(0, 1, 12)
    trajectory = dfc.simulate(net, x, target, dfc.Controller(**SHORT))
    shown = trajectory_figures.control_trace(trajectory)
    assert list(shown.outputs()) == [7, 8, 9, 10, 11]
    assert [layer for layer, _ in shown.units] == [1, 3, 5, 7, 9]


@pytest.mark.parametrize(
    ("variables", "titles"),
    [(("u",), TITLES[1:2]), (("error",), TITLES[2:3]), (("r",), TITLES[:1]), (("u", "e"), TITLES[:2])],
)
def test_what_was_not_stored_is_left_out(tmp_path, drawn, variables, titles):
    plots.plot(write(tmp_path / "file.h5", [recipe()], record=dfc.Record(variables=variables)))
    assert list(panels(drawn[0])) == titles


def test_a_diverged_or_resting_trajectory_is_drawn(tmp_path):
    one = recipe({**SHORT, "dt": 0.1, "k_p": 400.0, "steps": 400})
    path = write(tmp_path / "file.h5", [one])
    assert not np.isfinite(dfc.Trajectory.load(path).u).all()
    assert dfc_plot(path)[0] == 0
    at_rest = dfc.simulate(one.network, one.x, one.network.predict(one.x), dfc.Controller(**SHORT))
    assert (at_rest.error == 0).all()
    at_rest.save(tmp_path / "rest.h5")
    assert dfc_plot(tmp_path / "rest.h5")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sample", 9], "sample 9 is not stored; stored are 0, 1, 2, 3, 4"),
        (["--record", 4], "no record 4"),
        (["--phase", "forward"], "phase is 'forward'"),
        (["--unit", "2.4"], "'2.4' is not a unit"),
        (
            ["--unit", "4:0"],
            "there is no unit 0 in layer 4; layers and their units: 1 with 0 to 5, 2 with",
        ),
        (["--unit", "3:3"], "there is no unit 3 in layer 3"),
        (["--out", "figure.xyz"], "'xyz' is not supported"),
    ],
)
def test_wrong_use_is_refused(stored, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, complaints = dfc_plot(stored, *arguments)
    assert code == 2 and message in complaints
    assert not list(tmp_path.iterdir())


def test_what_has_no_trajectory_is_refused(tmp_path):
    path = write(tmp_path / "file.h5", [recipe()], recipe_only=True)
    code, _, complaints = dfc_plot(path)
    assert code == 2 and "recipe without trajectory" in complaints
    path = write(tmp_path / "noise.h5", [recipe(NOISY, noise=3)], record=dfc.Record(variables=("noise",)))
    code, _, complaints = dfc_plot(path)
    assert code == 2 and "nothing is stored that a figure shows" in complaints
    assert dfc_plot(tmp_path)[0] == dfc_plot(tmp_path / "nothing.h5")[0] == 2


# --- runs -------------------------------------------------------------------------------------------------------


def test_a_run_has_learning_curves(run, drawn):
    assert plots.plot(run()).name == "figure.png"
    loss, accuracy = panels(drawn[0]).values()
    assert (loss.get_title(), accuracy.get_title()) == ("loss", "accuracy")
    assert np.array_equal(lines(loss)["training"].get_xydata(), [[1, 0.1], [2, 0.01]])
    assert loss.get_yscale() == "log" and "validation" not in lines(loss)
    assert list(lines(accuracy)) == ["test"]


def test_a_regression_has_no_accuracy(run, drawn):
    plots.plot(run(accuracies=("nan", "nan", "nan")))
    assert list(panels(drawn[0])) == ["loss"]


def test_a_run_with_trajectories_shows_the_last_one_of_the_forward_phase(run, drawn, tmp_path):
    directory = run(trajectories=write(tmp_path / "file.h5", training()))
    plots.plot(directory)
    assert list(panels(drawn[0]))[:6] == ["loss", "accuracy", *TITLES]
    titles = [part.get_suptitle() for part in drawn[0].subfigs]
    assert titles == ["run-001", "forward, record 2 (epoch 1, minibatch 3), sample 0"]
    plots.plot(directory, phase="feedback", record=0)
    assert drawn[1].subfigs[1].get_suptitle() == "feedback, record 0 (epoch 1, minibatch 1), sample 0"


def write_analysis(directory, names, times=(0, 10, 20)):
    """The analysis.h5 of a run with these measurements; the numbers."""
    values = dict(zip(names, 1.0 + np.arange(len(names) * len(times)).reshape(-1, len(times)), strict=True))
    about = {name: VariableDescription(name, ("minibatches",)) for name in names}
    per_layer = VariableDescription("per layer", ("minibatches", "layer"))
    axis = VariableDescription("number of minibatches", ("minibatches",))
    analysis_file.write(
        directory / "analysis.h5",
        {
            "minibatches": (axis, np.array(times)),
            "angle_bp_layer": (per_layer, np.ones((len(times), 2))),
            **{name: (about[name], values[name]) for name in names},
        },
        dimensions={"layer": "number of the layer"},
    )
    return values


def test_a_run_shows_what_was_measured(run, drawn):
    directory = run()
    values = write_analysis(directory, ["angle_bp", "angle_gn", "condition_2", "largest_dt"])
    plots.plot(directory)
    shown = panels(drawn[0])
    titles = ["angles of the update", "conditions", "Euler step, the worst sample"]
    assert list(shown) == ["loss", "accuracy", *titles]
    angles = lines(shown[titles[0]])
    assert list(angles) == ["BP", "GN"]
    assert np.array_equal(angles["GN"].get_xydata(), np.column_stack([(0, 10, 20), values["angle_gn"]]))
    assert shown[titles[0]].get_ylabel() == "degrees" and list(lines(shown[titles[1]])) == ["condition 2"]


def test_every_measurement_of_a_whole_probe_has_a_place():
    drawn_names = {name for *_, names in plots.PANELS for name in names}
    beside = {"input_norm", "gamma"}  # norms are drawn as their deviation; gamma may be infinite
    means = {name for name in all_measurements() if name.startswith("angle_q_mean")}
    assert drawn_names | beside | means == {*all_measurements()}


def test_figures_of_a_run_are_written(run, tmp_path):
    directory = run(trajectories=write(tmp_path / "file.h5", training()))
    code, path, _ = dfc_plot(directory)
    assert code == 0 and path == str(directory / "figure.png")
    assert (directory / "figure.png").read_bytes().startswith(PNG)


def test_a_log_of_recipes_leaves_the_learning_curves(run, drawn, tmp_path):
    directory = run(trajectories=write(tmp_path / "file.h5", training(), recipe_only=True))
    plots.plot(directory)
    assert list(panels(drawn[0])) == ["loss", "accuracy"]
    with pytest.raises(ValueError, match="recipe without trajectory"):
        plots.plot(directory, record=0)


def test_a_run_without_epochs_needs_trajectories(run, drawn, tmp_path):
    directory = run(accuracies=())
    with pytest.raises(OSError, match="holds no trajectories"):
        plots.plot(directory)
    shutil.copy(write(tmp_path / "file.h5", training()), directory / "trajectories.h5")
    plots.plot(directory)
    assert list(panels(drawn[0]))[:4] == TITLES


def test_one_epoch_has_whole_numbers_on_its_axis(run, drawn):
    plots.plot(run(accuracies=(0.5,)))
    for axes in drawn[0].axes:
        drawn[0].canvas.draw()
        low, high = axes.get_xlim()
        assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [1]


def test_without_matplotlib_the_extra_is_named(stored, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, _, complaints = dfc_plot(stored)
    assert code == 2 and "dfc-numba[plot]" in complaints


def test_a_record_of_an_open_file_is_taken(stored):
    with open_trajectories(stored) as file:
        assert trajectory_figures.control_trace(file["simulation"][0], sample=2).place == 2
