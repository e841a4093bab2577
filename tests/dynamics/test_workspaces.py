"""No result depends on what the memory that a kernel works in held before."""

import numpy as np
import problems
import pytest
import test_waveform
import test_waveform_wide
from test_waveform import OPTIONS
from waveform_updates import solved

import dfc_numba as dfc
from dfc_numba.support import memory


@pytest.fixture
def filled_with(monkeypatch):
    """Return a function after whose call kernels get working memory that is full of a number."""
    original = memory.PerThread.array

    def fill_with(value):
        def array(self):
            found = original(self)
            found.fill(value)
            return found

        monkeypatch.setattr(memory.PerThread, "array", array)

    return fill_with


def same(filled_with, compute):
    """Assert that a list of arrays is the same bit for bit in memory of zeros, of numbers and of NaN."""
    found = []
    for value in (0.0, -3.0, np.nan):
        filled_with(value)
        found.append(compute())
    for other in found[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(found[0], other, strict=True))
    assert all(np.isfinite(a).all() for a in found[0])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("readout", ["average", "final"])
def test_waveform_integrator(filled_with, dtype, options, readout):
    net = test_waveform.network(dtype=dtype)
    x, target, controller = test_waveform.problem(net, **options)

    def compute():
        update = solved(net, x, target, controller, readout=readout)
        return [*update.weights, *update.biases, update.estimated_error]

    same(filled_with, compute)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_waveform_integrator_with_wide_outputs(filled_with, dtype):
    net = test_waveform_wide.network(dtype=dtype)
    x, target, controller = test_waveform_wide.problem(net)

    def compute():
        update = solved(net, x[:15], target[:15], controller)
        return [*update.weights, *update.biases, update.estimated_error]

    same(filled_with, compute)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("readout", ["average", "final"])
@pytest.mark.parametrize("rule", ["nonlinear_difference", "derivative_matrix"])
def test_euler_method(filled_with, dtype, readout, rule):
    net = test_waveform.network(dtype=dtype)
    x, target, controller = test_waveform.problem(net, instant_transmission=False, tau_apical=0.1)

    def compute():
        update = dfc.forward_update(net, x, target, controller, readout=readout, rule=rule)
        return [*update.weights, *update.biases]

    same(filled_with, compute)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("options", [{}, {"tau_noise": 0.1}], ids=str)
def test_feedback_phase_with_noise(filled_with, dtype, options):
    net = dfc.Network(**problems.stable_parameters([12, 20, 16, 5], dtype=dtype))
    x = problems.inputs(37, 12)
    controller = dfc.Controller(dt=0.01, steps=30, alpha=0.5, k_p=0.1, tau_v=0.1, sigma=0.1, **options)
    target = net.forward(x).r[-1]

    def compute():
        return dfc.feedback_update(net, x, target, controller, noise=3).feedback

    same(filled_with, compute)
