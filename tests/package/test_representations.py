"""What Python shows of results: short texts, HTML tables, and signatures that can be read."""

import inspect
import re

import numpy as np
import pytest

import dfc_numba as dfc
from dfc_numba import data

CALLABLES = [
    name for name in dfc.__all__ if callable(getattr(dfc, name)) and not name.startswith("Divergence")
]
NET = dfc.Network.create([64, 12, 10], seed=0)
DIGITS = data.load("digits")
X, TARGET, CONTROLLER = DIGITS.test.x[:6], np.zeros((6, 10)), dfc.Controller(dt=0.05, steps=30, k_p=0.5)


def results():
    config = dfc.load_config(
        "digits", {"training.method": "bp", "training.epochs": 1, "data.options.train_size": 200}
    )
    trained = dfc.train(config)
    trajectory = dfc.simulate(NET, X, TARGET, CONTROLLER)
    return {
        "trajectory": trajectory, "recipe": trajectory.recipe, "network": NET, "activity": NET.forward(X),
        "update": dfc.forward_update(NET, X, TARGET, CONTROLLER), "data": DIGITS, "config": config, "trained": trained,
        "evaluation": trained.evaluate(), "controller": CONTROLLER, "key": dfc.NoiseKey(0, 0, np.arange(1000)),
    }  # fmt: skip


def test_results_are_shown_in_a_few_lines_and_as_tables():
    for name, item in results().items():
        assert len(repr(item)) < 400, name
        html = item._repr_html_()
        assert html.startswith("<b>") and html.count("<tr>") == html.count("</tr>") > 0, name
        assert len(html) < 12000, name


def test_what_a_table_shows_is_escaped():
    evaluation = dfc.evaluate(
        NET, DIGITS.test.x, DIGITS.test.y, loss="cross_entropy", classes=["<script>", *map(str, range(1, 10))]
    )
    assert "<script>" not in evaluation._repr_html_() and "&lt;script&gt;" in evaluation._repr_html_()


@pytest.mark.parametrize("name", CALLABLES)
def test_a_signature_can_be_read(name):
    text = str(inspect.signature(getattr(dfc, name)))
    assert "Annotated" not in text and "FieldInfo" not in text and len(text) < 900
    assert inspect.getdoc(getattr(dfc, name))


def test_a_controller_shows_plain_types():
    signature = str(inspect.signature(dfc.Controller))
    assert re.search(r"dt: float = 0.02, steps: int = 999", signature)
    assert "tau_apical: float | None = None" in signature
