"""Registered terms of the controller in the waveform integrator: linear ones to rtol, others refused."""

from dataclasses import replace

import numpy as np
import pytest
from test_waveform import network, problem
from waveform_updates import solved, within_rtol

import dfc_numba as dfc
from dfc_numba import formulas

ITEMS = (
    dfc.ControllerTerm("derivative", control=lambda de, k_d: k_d * de, parameters={"k_d": 0.03}),
    dfc.ControllerTerm(
        "memory",
        control=lambda e_int, du, u_int: 0.2 * e_int + 0.002 * du - 0.1 * u_int,
        integral=lambda u, u_free, e: 0.3 * (u - u_free) - 0.1 * e,
    ),
    dfc.ControllerTerm("attenuation", limit=lambda u: 0.8 * u),
    dfc.ControllerTerm(
        "saturation", limit=lambda u, u_max: formulas.clip(u, -u_max, u_max), parameters={"u_max": 1e6}
    ),
    dfc.ControllerTerm("offset", control=lambda e: e + 1e-3),
    dfc.ControllerTerm("overflow", control=lambda e: formulas.exp(1e9 * e)),
    dfc.ControllerTerm("runaway", integral=lambda u: 50.0 * u),
)
LINEAR = {
    "derivative": {"terms": {"derivative": {}}},
    "memory": {
        "terms": {"derivative": {"k_d": 0.01}, "memory": {}, "attenuation": {}},
        "leak": "integral",
        "proactive": False,
    },
}


@pytest.fixture(scope="module", autouse=True)
def registered():
    dfc.register(*ITEMS)
    yield
    for item in ITEMS:
        item.registry.remove(item.name)


@pytest.mark.parametrize("options", LINEAR.values(), ids=LINEAR)
@pytest.mark.parametrize("readout", ["average", "final"])
@pytest.mark.parametrize("rtol", [1e-2, 1e-3, 1e-4])
def test_linear_terms_have_the_update_of_the_euler_method_within_rtol(options, readout, rtol):
    net = network()
    x, target, controller = problem(net, **options)
    update, reference = within_rtol(net, x, target, controller, rtol=rtol, readout=readout)
    assert np.array_equal(update.converged, reference.converged)
    if readout == "average" and rtol >= 1e-3:
        assert not update.fallback.any()


@pytest.mark.parametrize("options", LINEAR.values(), ids=LINEAR)
def test_trajectory_under_linear_terms_is_near_that_of_euler_steps(options):
    net = network()
    x, target, controller = problem(net, **options)
    reference = dfc.simulate(net, x, target, controller)
    course = dfc.simulate(net, x, target, replace(controller, integrator="waveform", rtol=1e-4))
    for name in ("u", "u_int", "e"):
        ours, theirs = getattr(course, name), getattr(reference, name)
        assert np.abs(ours - theirs).max() <= 1e-2 * np.abs(theirs).max(), name
    without = dfc.simulate(net, x, target, replace(controller, terms={}))
    assert np.abs(without.u - reference.u).max() > 5e-2 * np.abs(reference.u).max()


def test_a_term_that_runs_away_is_stepped():
    net = network()
    x, target, controller = problem(net, terms={"runaway": {}}, alpha=0.0)
    with np.errstate(all="ignore"):
        reference = dfc.forward_update(net, x, target, controller)
        update = solved(net, x, target, controller)
    assert update.fallback.all() and np.array_equal(update.diverged, reference.diverged)


@pytest.mark.parametrize("name", ["saturation", "offset", "overflow"])
def test_terms_that_are_not_linear_are_refused(name):
    with pytest.raises(ValueError, match=f"terms.{name}, which is not linear"):
        dfc.Controller(integrator="waveform", terms={"derivative": {}, name: {}})


def test_terms_in_the_continuous_limit_are_refused():
    with pytest.raises(ValueError, match="limit = 'continuous' with terms"):
        dfc.Controller(integrator="waveform", limit="continuous", terms=["derivative"])
