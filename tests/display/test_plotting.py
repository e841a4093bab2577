"""Figures of objects in memory and of files: panels by name, axes of one's own, and nothing on top of each other."""

import itertools

import numpy as np
import pytest

import dfc_numba as dfc
from dfc_numba.runs import summary

pytest.importorskip("matplotlib")
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

METRICS = [
    "train_loss",
    "train_accuracy",
    "val_loss",
    "val_accuracy",
    "test_loss",
    "test_accuracy",
    "seconds",
]


@pytest.fixture(scope="module")
def trajectory():
    net = dfc.Network.create([4, 6, 5, 10], seed=1)
    x = np.random.default_rng(0).normal(size=(3, 4))
    return dfc.simulate(
        net, x, net.predict(x) + np.linspace(0.1, 1, 10), dfc.Controller(dt=0.05, steps=60, k_p=0.5)
    )


def rows(start, epochs=3):
    return [{"epoch": n, **dict.fromkeys(METRICS, start / n)} for n in range(1, epochs + 1)]


def result(start, epochs=3, status="done"):
    outcome = type("Outcome", (), {"status": status, "message": "", "epochs": epochs, "best_epoch": 1})()
    return dfc.TrainingResult(None, None, rows(start, epochs), outcome, None, None)


def texts(figure):
    """Boxes of everything that is written beside the axes, by its text; legends as a whole."""
    FigureCanvasAgg(figure).draw()
    found = {}
    for n, axes in enumerate(figure.axes):
        for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
            found[f"{n} {text.get_text()}"] = text.get_window_extent()
        if axes.get_legend() is not None and axes.get_legend().get_visible():
            found[f"{n} legend"] = axes.get_legend().get_window_extent()
        found[f"{n} axes"] = axes.get_window_extent()
    for n, legend in enumerate(figure.legends):
        found[f"legend {n}"] = legend.get_window_extent()
    for text in (figure._suptitle, figure._supxlabel):
        if text is not None:
            found[text.get_text()] = text.get_window_extent()
    return found


def overlaps(figure):
    """Pairs of texts that touch, and texts that leave the figure."""
    boxes = texts(figure)
    outside = [
        name for name, box in boxes.items() if box.x0 < -1 or box.x1 > figure.bbox.x1 + 1 or box.y0 < -1
    ]
    return outside + [
        (a, b)
        for (a, first), (b, second) in itertools.combinations(boxes.items(), 2)
        if first.overlaps(second)
    ]


@pytest.mark.parametrize("size", [None, (7, 6), (12, 4)])
def test_a_trajectory_is_drawn_without_overlaps(trajectory, size):
    figure = dfc.plot_trajectory(trajectory, size=size)
    assert isinstance(figure, Figure) and len(figure.axes) == 7 and overlaps(figure) == []
    assert all(axes.get_xlabel() and axes.get_ylabel() and axes.get_title() for axes in figure.axes)
    note = figure._supxlabel.get_text().replace("\n", " ")
    assert "5 of 10" in note and "the 2 other stored samples" in note and "largest feedback" in note
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_a_single_panel_has_ones_own_names_labels_and_format(trajectory, tmp_path):
    figure = dfc.plot_trajectory(
        trajectory, panels="control", names={"unit 9": "class nine"}, labels={"title": "u", "ylabel": "control"},
        size=(3.4, 2.6), out=tmp_path / "u.pdf",
    )  # fmt: skip
    (axes,) = figure.axes
    assert (axes.get_title(), axes.get_ylabel()) == ("u", "control")
    assert "class nine" in [text.get_text() for text in axes.get_legend().get_texts()]
    assert (tmp_path / "u.pdf").read_bytes().startswith(b"%PDF") and overlaps(figure) == []


def test_given_axes_are_drawn_into(trajectory):
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots(1, 2)
    assert dfc.plot_trajectory(trajectory, axes, panels=["error", "output"], sample=1) is figure
    assert np.array_equal(axes[0].lines[-1].get_ydata(), trajectory.error[:, 1])
    assert axes[1].get_title() == "output, and its target (dashed)"
    assert dfc.plot_trajectory(trajectory, axes[0], panels="control", legend=False) is figure


def test_a_file_and_its_object_look_the_same(trajectory, tmp_path):
    trajectory.save(tmp_path / "file.h5")
    ours, theirs = (dfc.plot_trajectory(each, panels="units") for each in (trajectory, tmp_path / "file.h5"))
    assert len(ours.axes) == len(theirs.axes) == 3
    for one, other in zip(ours.axes, theirs.axes, strict=True):
        assert np.array_equal(one.lines[0].get_ydata(), other.lines[0].get_ydata())


def test_every_layer_of_a_deep_network_has_a_line():
    net = dfc.Network.create([4, *[5] * 9, 3], seed=1)
    deep = dfc.simulate(
        net, np.ones((1, 4)), net.predict(np.ones((1, 4))), dfc.Controller(dt=0.05, steps=5, k_p=0.5)
    )
    (axes,) = dfc.plot_trajectory(deep, panels="differences").axes
    assert len(axes.lines) == 10 and len({line.get_color() for line in axes.lines}) == 10


@pytest.mark.parametrize("size", [None, (3.4, 5), (7, 3)])
def test_a_run_is_drawn_from_its_result_or_its_metrics(size):
    figure = dfc.plot_run(result(0.5), size=size)
    assert [axes.get_title() for axes in figure.axes] == ["loss", "accuracy"] and overlaps(figure) == []
    again = dfc.plot_run(rows(0.5), panels="loss", names={"training": "train"})
    assert [text.get_text() for text in again.legends[0].get_texts()] == ["train", "validation", "test"]


@pytest.mark.parametrize("size", [None, (3.4, 5), (7, 3.4)])
def test_a_comparison_explains_bands_and_omissions(size):
    runs = {"DFC": [result(0.5), result(0.6, epochs=2)], "BP": [result(0.4), result(0.1, status="diverged")]}
    figure = dfc.plot_comparison(runs, size=size)
    note = figure._supxlabel.get_text().replace("\n", " ")
    assert "mean over 1 to 2 seeds" in note and "± one standard deviation" in note
    assert "left out: 1 diverged of 4 runs" in note and "as far as all seeds have epochs" in note
    assert overlaps(figure) == []
    line = figure.axes[1].lines[0]
    assert np.allclose(line.get_ydata(), [0.55, 0.275])


def test_the_table_of_a_comparison_is_read(tmp_path):
    header = ",".join(["preset", "seed", "status", "epoch", *METRICS])
    lines = [f"a,{seed},done,{epoch},{','.join(['0.5'] * 7)}" for seed in (0, 1) for epoch in (1, 2)]
    (tmp_path / summary.ROWS_NAME).write_text("\n".join([header, *lines, ""]))
    assert len(dfc.plot_comparison(tmp_path).axes) == 2
    (tmp_path / summary.ROWS_NAME).write_text("preset,seed\na,1\n")
    with pytest.raises(ValueError, match="not a table of a comparison"):
        dfc.plot_comparison(tmp_path)


@pytest.mark.parametrize(
    ("draw", "error", "message"),
    [
        (lambda t: dfc.plot_trajectory(t, panels="outputs"), ValueError, "did you mean 'output'"),
        (lambda t: dfc.plot_trajectory(t, [1], panels="output"), TypeError, "must be matplotlib axes"),
        (lambda t: dfc.plot_trajectory(t, Figure().subplots()), ValueError, "1 axes for 7 panels"),
        (lambda t: dfc.plot_trajectory(t, size=(2, 1)), ValueError, "too small for 7 panels"),
        (lambda t: dfc.plot_trajectory(t, size=(0, 1)), ValueError, "in inches"),
        (lambda t: dfc.plot_trajectory(t, labels={"x": "t"}), ValueError, "a key of labels"),
        (lambda t: dfc.plot_trajectory(t, phase="forward"), ValueError, "choose a record of a file"),
        (lambda t: dfc.plot_trajectory([t]), TypeError, "not list"),
        (lambda t: dfc.plot_run("nowhere"), OSError, "not a run directory"),
        (lambda t: dfc.plot_run([]), ValueError, "nothing to draw"),
        (lambda t: dfc.plot_run(3), TypeError, "not int"),
        (lambda t: dfc.plot_comparison("nowhere"), OSError, "not a folder of a comparison"),
        (lambda t: dfc.plot_comparison({"a": 3}), TypeError, "dict of results"),
        (lambda t: dfc.plot_comparison({"a": result(1.0, status="failed")}), ValueError, "nothing to draw"),
    ],
)
def test_wrong_use_is_refused(trajectory, draw, error, message):
    with pytest.raises(error, match=message):
        draw(trajectory)
