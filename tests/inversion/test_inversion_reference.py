"""Errors of hidden layers beside those of the published code of dynamic inversion, and where that code has a slip."""

import numpy as np
import pytest
from inversion_reference import KINDS, comparisons, feedback, files, kind, problem, read
from reference_files import RESOURCES, label

import dfc_numba as dfc

BOUND = 1e-9
SHIPPED = sorted((RESOURCES / "inversion").glob("*.npz"))


@pytest.mark.parametrize("path", files(), ids=label)
def test_every_array_is_reproduced(path):
    found = {comparison.name: comparison.deviation for comparison in comparisons(path)}
    slips = {name for name in read(path) if name.endswith("__script")}
    wanted = {name for name in read(path) if name.startswith(("del", "ss_", "traj"))} - slips
    wanted = {n for n in wanted if not n.startswith(("del1clip", "del6", "traj_steps", "ss_ry"))}
    assert set(found) == wanted
    assert {name: deviation for name, deviation in found.items() if not deviation <= BOUND} == {}


def test_there_is_a_file_of_each_kind():
    assert {kind(path) for path in SHIPPED} - {None} == set(KINDS)


def nonlinear():
    """(path, arrays) of the files with nonlinear layers."""
    return [(path, read(path)) for path in files() if kind(path) == "nonlinear"]


def one_layer(arrays, i, above, rule, alpha, which):
    """Error of hidden layer i by our rule, from that of the layer above."""
    weights, derivatives, _ = problem(arrays)
    matrix = None if which is None else [feedback(arrays, which)[i]]
    return dfc.backward_errors(
        weights[i : i + 2], matrix, [derivatives[i]], above, rule=rule, alpha=alpha
    )[0]  # fmt: skip


@pytest.mark.parametrize("name", ["BP", "PBP", "FA_rand", "FA_negT", "NDI__stale__a0.01", "NDI__optim__a0"])
def test_the_published_script_has_the_derivative_twice_and_we_have_it_once(name):
    """Ours is the equation of the paper; the script's is ours times phi' again, in both layers."""
    rule, which, alpha = name, None, 0.0
    if name.startswith("FA"):
        rule, which = name.split("_")
    elif name.startswith("NDI"):
        rule, which, leak = name.split("__")
        alpha = float(leak[1:])
    for _, arrays in nonlinear():
        above = {"paper": problem(arrays)[2], "script": problem(arrays)[2]}
        for i in (1, 0):
            slope = problem(arrays)[1][i]
            for variant, factor in (("paper", 1.0), ("script", slope)):
                theirs = arrays[f"del{i + 1}__{name}__{variant}"].T
                ours = factor * one_layer(arrays, i, above[variant], rule.lower(), alpha, which)
                assert np.abs(ours - theirs).max() <= BOUND * np.abs(theirs).max()
                above[variant] = ours
            assert np.abs(above["paper"] - above["script"]).max() > 0.01 * np.abs(above["paper"]).max()


def test_scalar_loops_at_the_edge_of_stability():
    """W = s, B = -s: unstable beyond s = sqrt(12) in steps of 0.5; the single loop with B = -g beyond g = 6."""
    arrays = read(RESOURCES / "inversion" / "08_stability.npz")
    one = np.ones((1, 1))
    for s, theirs in zip(arrays["edge_s"], arrays["edge_rx100"], strict=True):
        (ours,) = dfc.backward_errors([one, s * one], [-s * one], None, one, rule="di", steps=100)
        np.testing.assert_allclose(ours[0, 0], theirs, rtol=BOUND)
    for g, theirs in zip(arrays["edge3_g"], arrays["edge3_rx100"], strict=True):
        ours = dfc.backward_errors([one, one, one], -g * one, None, one, rule="sldi", steps=100)
        np.testing.assert_allclose(ours[0][0, 0], theirs, rtol=BOUND)
    stable = arrays["edge_s"] < np.sqrt(12)
    assert np.abs(arrays["edge_rx100"][stable]).max() < 5 < np.abs(arrays["edge_rx100"][~stable]).min()
