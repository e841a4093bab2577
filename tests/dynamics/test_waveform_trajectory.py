"""Trajectories of the waveform integrator: the interpolant at the recorded steps."""

from dataclasses import replace

import numpy as np
import pytest
from test_waveform import network, problem

import dfc_numba as dfc


@pytest.mark.parametrize("every", [1, 50])
@pytest.mark.parametrize("options", [{}, {"instant_transmission": False, "tau_apical": 0.05}], ids=str)
def test_trajectory_is_near_that_of_euler_steps(options, every):
    net = network()
    x, target, controller = problem(net, **options)
    record = dfc.Record(every=every, samples=(3, 20, 36))
    reference = dfc.simulate(net, x, target, controller, record=record)
    solved = dfc.simulate(
        net, x, target, replace(controller, integrator="waveform", rtol=1e-4), record=record
    )
    assert np.array_equal(solved.step, reference.step) and np.array_equal(solved.samples, reference.samples)
    assert np.array_equal(solved.converged, reference.converged)
    for name in ("v", "v_ff", "v_fb", "r"):
        for ours, theirs in zip(getattr(solved, name), getattr(reference, name), strict=True):
            scale = np.abs(theirs - theirs[0]).max()
            assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
            assert np.abs(ours - theirs).max() <= 2e-2 * scale + 1e-15
    for name in ("u", "u_int", "e", "error"):
        ours, theirs = getattr(solved, name), getattr(reference, name)
        assert np.abs(ours - theirs).max() <= 2e-2 * np.abs(theirs).max()


def test_an_update_with_a_record_is_the_same_update():
    net = network()
    x, target, controller = problem(net)
    controller = replace(controller, integrator="waveform")
    plain = dfc.forward_update(net, x, target, controller)
    recorded = dfc.forward_update(net, x, target, controller, record=dfc.Record(variables=("u",), every=100))
    assert all(np.array_equal(a, b) for a, b in zip(plain.weights, recorded.weights, strict=True))
    assert recorded.trajectory.u.shape == (5, len(x), 5) and recorded.trajectory.v is None


def test_saved_trajectory_is_computed_again_to_the_same_bits(tmp_path):
    net = network()
    x, target, controller = problem(net)
    controller = replace(controller, integrator="waveform")
    first = dfc.simulate(net, x, target, controller, record=dfc.Record(every=40))
    first.save(tmp_path / "trajectory.h5")
    loaded = dfc.Trajectory.load(tmp_path / "trajectory.h5")
    assert loaded.recipe.controller == controller
    again = dfc.simulate(
        loaded.recipe.network, loaded.recipe.x, loaded.recipe.target, loaded.recipe.controller,
        record=dfc.Record(every=40),
    )  # fmt: skip
    assert np.array_equal(again.u, first.u)
    assert all(np.array_equal(a, b) for a, b in zip(again.v, loaded.v, strict=True))
