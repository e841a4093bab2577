"""The scripts on the relatives: they print a row for each method, and what they compute by themselves is right."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def script(monkeypatch):
    """Imports a script by its name."""
    for folder in (FOLDER, FOLDER / "experiments"):
        monkeypatch.syspath_prepend(folder)
    return import_module


@pytest.fixture
def few_steps(script, monkeypatch):
    """The script on directed networks with phases of three steps."""
    module = script("directed_networks")
    monkeypatch.setattr(module, "STEPS", 3)
    return module


def test_every_setting_of_directed_networks_has_a_row(few_steps, capsys):
    few_steps.main(["--seeds", "2", "--epochs", "2", "--task", "and"])
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[0] == "and" and [row.split()[:2] for row in rows] == [
        [name, "2"] for name in few_steps.SETTINGS
    ]


def test_deep_learns_from_what_moves_in_the_nudged_phase(few_steps):
    """The update beside the same in plain loops: W_ij from the new rate of i and the change of j."""
    setting = few_steps.SETTINGS["deep-one-hot"]
    rng = np.random.default_rng(0)
    weights, state = rng.normal(0, 0.3, (1, 7, 7)), rng.uniform(0, 0.5, (1, 4, 7))
    target, expected, old = np.eye(2)[[0, 1, 1, 0]], np.zeros((7, 7)), state[0].copy()
    for _ in range(3):
        new = old.copy()
        for b in range(4):
            for j in range(3, 7):
                ds = sum(old[b, i] * weights[0, i, j] for i in range(7)) - old[b, j] * weights[0, j].sum()
                push = setting.beta * (target[b, j - 5] - old[b, j]) if j >= 5 else 0.0
                new[b, j] = min(1.0, max(0.0, old[b, j] + few_steps.DT * (ds + push)))
        for b in range(4):
            expected += np.outer(new[b], new[b] - old[b])
        old = new
    found = few_steps.update(setting, weights, state, 3, target)
    np.testing.assert_allclose(found[0], setting.eta / 3 * expected / 4, rtol=1e-12)


def test_the_digits_have_a_row_for_each_method(script, capsys):
    script("relatives_on_digits").main(["--epochs", "1", "--seeds", "1", "bp", "gnt", "lcp-di", "grapes-bp"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [row[0] for row in rows] == ["bp", "gnt", "lcp-di", "grapes-bp"]
    assert all(20 < float(row[1]) <= 100 for row in rows)


def test_the_benchmark_has_a_row_for_each_kernel(script, capsys, monkeypatch):
    module = script("bench_relatives")
    monkeypatch.delattr(
        module.os, "sched_setaffinity", raising=False
    )  # the other tests keep their processors
    code = module.main(["--sizes", "20,16,16,5", "--batch", "16", "--repeats", "1"])
    out = capsys.readouterr().out
    assert "perturbed passes" in out and "prototypical, free phase" in out and "gaussian" in out
    worst = float(out.split("worst: ")[1].split()[0])
    assert code == int(worst > module.LIMIT)


@pytest.mark.skipif(not find_spec("matplotlib"), reason="matplotlib is not installed")
def test_the_comparison_is_drawn_and_printed_by_short_names(script, tmp_path, capsys):
    head = "preset,epoch,train_loss,test_accuracy,seconds"
    runs = ["mnist-bp", "tp-mnist-dtp", "mnist-dfc-ss-fixed+training.method=dfc-ss-newton+optimizer.name=sgd"]
    for folder, change in (("mnist", ""), ("fashion", "+data.name=fashion_mnist")):
        (tmp_path / folder).mkdir()
        lines = [f"{run}{change},{epoch},0.5,0.{epoch},{epoch}.5" for run in runs for epoch in (8, 9)]
        (tmp_path / folder / "comparison.csv").write_text("\n".join([head, *lines]) + "\n")
    (tmp_path / "angles").mkdir()
    kept = [("last", "", "bp", 12.3), ("last", "", "gn", 44.8), ("last", "", "mn", 41.2)]
    kept += [("last", "1", "bp", 1.0), ("best", "", "bp", 5.0)]
    angles = [f"{which},9,angle_{name},{layer},,{value},degrees" for which, layer, name, value in kept]
    text = "\n".join(["weights,epoch,measurement,layer,sample,value,units", *angles])
    (tmp_path / "angles" / "tp-mnist-dtp-seed42.csv").write_text(text + "\n")
    script("draw_relatives").main([str(tmp_path), str(tmp_path / "out.png")])
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "| mnist-dfc-ss-fixed, Newton, SGD | 10.0 | 0.5 |  | 10.0 |" in printed
    assert "| tp-mnist-dtp | 10.0 | 0.5 | 12, 45, 41 | 10.0 |" in printed
