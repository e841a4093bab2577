"""Updates whose simulation is recorded: the same bits as without, and the trajectory that `simulate` gives."""

from dataclasses import replace
from functools import partial

import numpy as np
import problems
import pytest

import dfc_numba as dfc

SIZES = [5, 7, 6, 3]
QUIET = dfc.Controller(dt=0.05, steps=40, alpha=0.01, k_p=0.5)
NOISY = dfc.Controller(dt=0.02, steps=30, alpha=0.1, k_p=0.2, sigma=0.1, tau_noise=0.1)
FEW = dfc.Record(variables=("u", "v", "e"), samples=(4, 0, 19), every=7)
VARIABLES = ("u", "u_int", "e", "error", "v", "v_ff", "v_fb", "r", "noise")


def problem(dtype="float64", count=20):
    """(network, x, target)"""
    network = dfc.Network(**problems.stable_parameters(SIZES), dtype=dtype)
    x = problems.inputs(count, SIZES[0])
    return network, x, network.predict(x, dtype="float64") + 0.1 * problems.inputs(count, SIZES[-1])


def arrays(update):
    """All arrays of an update, or of several."""
    if isinstance(update, tuple):
        return [array for one in update for array in arrays(one)]
    kinds = ("weights", "biases", "feedback")
    return [array for kind in kinds for array in getattr(update, kind, None) or []]


def same(ours, theirs):
    return len(ours) == len(theirs) > 0 and all(map(np.array_equal, ours, theirs))


def recorded(trajectory):
    """All that a trajectory holds, as a list."""
    values = [
        getattr(trajectory, name) for name in (*VARIABLES, "time", "step", "samples", "converged", "diverged")
    ]
    return [
        array
        for value in values
        if value is not None
        for array in (value if isinstance(value, list) else [value])
    ]


def one_trajectory(update):
    """The trajectory that an update, or both of them, have."""
    first, *others = update if isinstance(update, tuple) else (update,)
    assert all(other.trajectory is first.trajectory for other in others)
    return first.trajectory


CASES = [
    (dfc.forward_update, QUIET, {}),
    (dfc.forward_update, QUIET, {"readout": "final"}),
    (dfc.forward_update, QUIET, {"rule": "derivative_matrix"}),
    (dfc.forward_update, replace(QUIET, jacobian_feedback=True), {}),
    (dfc.forward_update, replace(QUIET, instant_transmission=False), {}),
    (dfc.forward_update, NOISY, {"noise": dfc.NoiseKey(3, 1)}),
    (dfc.feedback_update, NOISY, {"noise": 5}),
    (dfc.forward_and_feedback_update, NOISY, {"noise": 5, "scaling": True, "high_pass": 0.2}),
]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("function", "controller", "options"), CASES)
def test_a_recorded_update_has_the_same_bits_and_its_trajectory(dtype, function, controller, options):
    arguments = *problem(dtype), controller
    full, few = (function(*arguments, **options, record=record) for record in (dfc.Record(), FEW))
    plain = function(*arguments, **options)
    assert same(arrays(full), arrays(plain)) and same(arrays(few), arrays(plain))
    full, few = one_trajectory(full), one_trajectory(few)
    assert (
        full.recipe is None
        and list(few.samples) == [4, 0, 19]
        and list(few.step) == list(range(0, full.step[-1], 7))
    )
    for name in FEW.variables:
        parts, wholes = (
            [value] if name != "v" else value for value in (getattr(few, name), getattr(full, name))
        )
        assert all(
            np.array_equal(part, whole[::7, [4, 0, 19]]) for part, whole in zip(parts, wholes, strict=True)
        )


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("function", "controller", "options"), CASES)
def test_the_recorded_trajectory_is_that_of_a_simulation(dtype, function, controller, options):
    """Up to rounding for the readout "average", whose kernel makes rates and factors with a common division."""
    arguments = *problem(dtype), controller
    found = recorded(one_trajectory(function(*arguments, **options, record=dfc.Record())))
    simulated = recorded(dfc.simulate(*arguments, noise=options.get("noise")))
    if function is dfc.feedback_update or options.get("readout") == "final":
        assert same(found, simulated)
    tolerance = 1e-13 if dtype == "float64" else 1e-5
    assert all(map(partial(np.allclose, rtol=tolerance, atol=tolerance), found, simulated))


@pytest.mark.parametrize(("function", "controller", "options"), [CASES[0], CASES[1], CASES[-1]])
def test_samples_that_are_left_out_of_the_update_are_recorded_all_the_same(function, controller, options):
    network, x, target = problem()
    target[::3] += 100.0  # out of reach within these steps
    arguments = network, x, target, controller
    update = function(*arguments, **options, samples="converged", record=dfc.Record())
    assert same(arrays(update), arrays(function(*arguments, **options, samples="converged")))
    trajectory = one_trajectory(update)
    whole = one_trajectory(function(*arguments, **options, record=dfc.Record()))
    assert not trajectory.converged.all() and same(recorded(trajectory), recorded(whole))


def test_an_update_keeps_nothing_of_its_simulation_unless_told_so():
    network, x, target = problem()
    assert dfc.forward_update(network, x, target, QUIET).trajectory is None
    assert dfc.feedback_update(network, x, target, NOISY).trajectory is None


@pytest.mark.parametrize("readout", ["analytic", "newton"])
def test_what_simulates_nothing_records_nothing(readout):
    with pytest.raises(ValueError, match="simulates nothing; leave out record"):
        dfc.forward_update(*problem(), QUIET, readout=readout, record=dfc.Record())


@pytest.mark.parametrize(
    ("record", "error", "message"),
    [
        (dfc.Record(samples=(20,)), ValueError, "from 0 to 19 are allowed"),
        (dfc.Record(variables=("noise",)), ValueError, "the controller has none"),
        (5, TypeError, "record must be a Record"),
    ],
)
def test_what_cannot_be_recorded_is_refused(record, error, message):
    with pytest.raises(error, match=message):
        dfc.forward_update(*problem(), QUIET, record=record)
