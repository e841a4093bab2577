"""Comparisons and sweeps from Python, bars in a notebook, trajectories as data sets of xarray."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

import dfc_numba as dfc
from dfc_numba.display import progress
from dfc_numba.support import bars
from dfc_numba.sweep import sweep_report

QUICK = {"training.epochs": 1, "network.hidden": (8,), "data.options.train_size": 200}


@pytest.fixture
def notebook(monkeypatch):
    """What a notebook's cell is shown; without a front end, nobody reads it."""
    shown = []

    class Handle:
        def update(self, html):
            shown.append(html)

    def display(html, display_id):
        assert display_id is True
        return Handle()

    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(HTML=str, display=display))
    return shown


def test_a_notebook_gets_a_bar_that_goes_away(notebook, capsys):
    assert bars.is_watched() and isinstance(progress.choose_display(), progress.NotebookDisplay)
    dfc.train(dfc.load_config("digits", {**QUICK, "training.method": "bp"}))
    assert any("<progress value='7' max='7'></progress> forward 1/1" in html for html in notebook)
    assert notebook[-1] == "" and capsys.readouterr().out.startswith("epoch 1/1")


def test_a_trainer_takes_a_progress_bar(notebook):
    from dfc_numba import data

    config = dfc.load_config("digits", {**QUICK, "training.method": "bp", "network.hidden": (8,)})
    net = dfc.Network.create([64, 8, 10], seed=0)
    dfc.Trainer(
        net, data.load("digits", train_size=200), config, observers=[dfc.ProgressBar(label="mine, ")]
    ).run()
    assert any("mine, forward 1/1" in html for html in notebook) and notebook[-1] == ""


def test_a_sweep_has_a_bar_in_a_notebook(notebook):
    with sweep_report.choose_display(None, 3, 1) as display:
        display._show([(SimpleNamespace(name="a", epochs=5), 2)])
    assert "<progress value='1' max='3'></progress> 1/3 runs; a 2/5" in notebook[-2] and notebook[-1] == ""


def test_nothing_is_shown_where_nobody_looks(capsys):
    dfc.train(dfc.load_config("digits", {**QUICK, "training.method": "bp"}))
    assert not bars.is_watched() and capsys.readouterr() == ("", "")


def test_a_comparison_from_python_is_kept_and_summarised(tmp_path):
    sources = ["digits+training.method=bp", "digits+training.method=dfa"]
    found = dfc.compare(sources, seeds=2, changes=QUICK, out=tmp_path)
    assert [run.status for run in found.runs] == ["done"] * 4 and found.directory == tmp_path
    assert [row["preset"] for row in found.summary] == sources and found.summary[0]["test_error_mean"] > 0
    assert found.summary[0]["test_loss_mean"] is None and "nan" not in (tmp_path / "summary.csv").read_text()
    assert "4 of 4 runs done" in repr(found) and "test_error_mean" in found._repr_html_()
    again = dfc.compare(sources, seeds=2, changes=QUICK, out=tmp_path)
    assert again.summary == found.summary


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"sources": "digits"}, TypeError, "must be a list of texts"),
        ({"sources": ["digitz"]}, ValueError, "did you mean 'digits'"),
        ({"sources": ["digits"], "seeds": 0}, ValueError, "seeds is 0"),
        ({"sources": ["digits"], "changes": {"training.epoch": 1}}, ValueError, "did you mean 'epochs'"),
    ],
)
def test_a_wrong_comparison_is_refused(arguments, error, message, tmp_path):
    with pytest.raises(error, match=message):
        dfc.compare(**arguments, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_sweep_from_python_leaves_all_runs(tmp_path):
    (tmp_path / "mine.toml").write_text(
        '[sweep]\npresets = ["digits"]\nset."training.method" = ["bp", "dfa"]\nset."training.epochs" = 1\n'
    )
    found = dfc.run_sweep(tmp_path / "mine.toml", tmp_path / "out")
    assert (
        sorted(run.status for run in found.runs) == ["done", "done"]
        and (tmp_path / "out" / "runs.csv").exists()
    )
    with pytest.raises(ValueError, match="cannot|no such|not"):
        dfc.run_sweep(tmp_path / "other.toml", tmp_path / "out2")


def test_a_trajectory_in_memory_is_the_data_set_of_its_file(tmp_path):
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    net, x = dfc.Network.create([4, 6, 3], seed=1), np.random.default_rng(0).normal(size=(2, 4))
    trajectory = dfc.simulate(net, x, net.predict(x) + 0.1, dfc.Controller(dt=0.05, steps=10, k_p=0.5))
    ours = trajectory.to_xarray()
    trajectory.save(tmp_path / "file.h5")
    with xarray.open_dataset(tmp_path / "file.h5", group="simulation", engine="h5netcdf") as file:
        theirs = file.isel(record=0).load()
    assert {"u", "error", "v_1", "v_2", "r_2", "converged"} <= set(ours.data_vars)
    for name, variable in ours.data_vars.items():
        assert variable.dims == theirs[name].dims and np.array_equal(variable, theirs[name]), name
        assert variable.attrs["long_name"] == theirs[name].attrs["long_name"]
    for name in ("time", "step", "unit_2", "output", "sample"):
        assert np.array_equal(ours[name], theirs[name]), name
    assert ours.time.attrs["units"] == "tau_u"


def test_without_xarray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "xarray", None)
    net, x = dfc.Network.create([4, 3], seed=1), np.ones((1, 4))
    trajectory = dfc.simulate(net, x, net.predict(x), dfc.Controller(dt=0.05, steps=2, k_p=0.5))
    with pytest.raises(ImportError, match=r"dfc-numba\[xarray\]"):
        trajectory.to_xarray()
