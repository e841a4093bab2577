"""What an interactive session shows: short representations and a `dir` of public names."""

import numpy as np

import dfc_numba as dfc


def session():
    net = dfc.Network.create([4, 6, 3], seed=0)
    x, controller = (
        np.random.default_rng(0).normal(size=(5, 4)),
        dfc.Controller(dt=0.05, steps=20, alpha=0.01, k_p=0.5),
    )
    return net, x, dfc.output_target(net, x, np.arange(5) % 3, loss="cross_entropy"), controller


def test_results_show_their_shapes_and_not_their_numbers():
    arguments = session()
    trajectory = dfc.simulate(*arguments)
    assert "u=float64 (21, 5, 3)" in repr(trajectory) and "v=[(21, 5, 6), (21, 5, 3)]" in repr(trajectory)
    results = [trajectory, dfc.forward_update(*arguments), dfc.steady_state(*arguments)]
    results.append(dfc.conditions(arguments[0], arguments[1]))
    for result in results:
        assert repr(result).startswith(type(result).__name__ + "(") and len(repr(result)) < 700


def test_dir_lists_public_names_only():
    shown = {name for name in dir(dfc) if not name.startswith("__")}
    assert shown <= {*dfc.__all__, "data", "formulas"} and {"train", "simulate", "data"} <= shown
