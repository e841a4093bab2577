"""Streams of online plasticity: cut and continued, restarted, endless; what is recorded."""

import itertools
from dataclasses import replace

import numpy as np
import online_streams as streams
import pytest
from online_streams import LAYER_VARIABLES, LEARNING, PARAMETERS, SHORT, SIZES, length, make_stream

import dfc_numba as dfc
from dfc_numba.online.learning import simulate_online

each_controller = pytest.mark.parametrize("controller", streams.CONTROLLERS)
each_dtype = pytest.mark.parametrize("dtype", ["float64", "float32"])


# --- streams that are cut, continued, restarted ------------------------------------------------------------------------


@each_dtype
@each_controller
def test_a_stream_that_is_cut_gives_the_bits_of_the_whole(controller, dtype):
    options = {**SHORT, **streams.CONTROLLERS[controller]}
    jacobian = options.get("jacobian_feedback", False)
    learning = {"tau_w": 2.0} if jacobian else {**LEARNING, "high_pass": 0.4, "feedback_decay": 0.3}
    net, stream = streams.network(dtype=dtype), make_stream(3)
    call = {"noise": 5 if "sigma" in options else None, "record": dfc.Record(), **learning}
    whole = simulate_online(net, stream, dfc.Controller(**options), **call)
    for cut in range(1, len(stream)):
        first = simulate_online(net, stream[:cut], dfc.Controller(**options), **call)
        second = simulate_online(
            first.network, stream[cut:], dfc.Controller(**options), state=first.state, **call
        )
        assert first.steps + second.steps == whole.steps
        streams.assert_same_bits(second.network, whole.network)
        streams.assert_same_bits(second.state, whole.state)
        assert second.state.step == whole.state.step
        for name in LAYER_VARIABLES:
            for a, b in zip(getattr(second.trajectory, name), getattr(whole.trajectory, name), strict=True):
                assert np.array_equal(a, b[first.steps :])
        assert np.array_equal(second.trajectory.step, whole.trajectory.step[first.steps :])
        assert np.array_equal(second.trajectory.error[1:], whole.trajectory.error[first.steps + 1 :])


def test_a_series_may_be_cut_anywhere():
    net, controller = streams.network(), dfc.Controller(**SHORT)
    x, target = streams.series(30, 2, SIZES[0], 1), streams.series(30, 2, SIZES[-1], 2)
    whole = simulate_online(net, [(x, target)], controller, **LEARNING)
    pieces = simulate_online(
        net, [(x[a : a + 10], target[a : a + 10]) for a in (0, 10, 20)], controller, **LEARNING
    )
    streams.assert_same_bits(pieces.network, whole.network)
    streams.assert_same_bits(pieces.state, whole.state)


def test_a_generator_gives_the_bits_of_the_list_and_may_be_endless():
    net, controller = streams.network(), dfc.Controller(**SHORT)
    stream = make_stream(3)
    from_list = simulate_online(net, stream, controller, **LEARNING)
    streams.assert_same_bits(
        simulate_online(net, iter(stream), controller, **LEARNING).network, from_list.network
    )
    endless = simulate_online(
        net, itertools.cycle(stream), controller, steps=100, record=dfc.Record(), **LEARNING
    )
    assert endless.steps == 100 and endless.status == "finished" and len(endless.trajectory.time) == 101
    short = simulate_online(
        net, iter(stream), controller, steps=1000, record=dfc.Record(every=4), record_weights=7, **LEARNING
    )
    streams.assert_same_bits(short.network, from_list.network)
    assert len(short.trajectory.u) == from_list.steps // 4 + 1
    assert len(short.weights.time) == from_list.steps // 7 + 1


def test_a_segment_that_restarts_begins_at_the_feedforward_state():
    controller = dfc.Controller(**SHORT, tau_control=0.2, sigma=0.1, tau_noise=0.2)
    net, stream = streams.network(), make_stream(3)
    options = {**LEARNING, "high_pass": 0.4, "reset": "segment"}
    whole = simulate_online(net, stream, controller, noise=5, **options)
    state = None
    for pair in stream:
        run = simulate_online(net, [pair], controller, noise=5, state=state, **options)
        net, state = run.network, run.state
    streams.assert_same_bits(run.network, whole.network)
    carried = simulate_online(net, stream, controller, noise=5, **{**options, "reset": "none"})
    assert not np.array_equal(carried.network.weights[0], whole.network.weights[0])
    assert whole.state.age == 12 and carried.state.age == carried.steps


def test_the_given_network_is_not_changed():
    net = streams.network()
    before = net.copy()
    run = simulate_online(net, make_stream(2), dfc.Controller(**SHORT), **LEARNING)
    streams.assert_same_bits(net, before)
    assert not np.array_equal(run.network.weights[0], net.weights[0])


def test_keyed_noise_is_that_of_the_running_step():
    """The keyed draws of one long run, given as arrays, reproduce it; samples keep theirs whatever is beside them."""
    net, controller = streams.network(), dfc.Controller(**SHORT, sigma=0.1)
    stream = [(x[:1], t[:1]) for x, t in make_stream(3) if np.ndim(x) == 2 == np.ndim(t)]
    key = dfc.NoiseKey(5, 1, [2])
    alone = simulate_online(net, stream, controller, noise=key, record=dfc.Record())
    x, target = stream[0]
    beside = dfc.simulate(
        net, np.repeat(x, 3, 0), np.repeat(target, 3, 0), controller, noise=dfc.NoiseKey(5, 1)
    )
    streams.assert_close(alone.trajectory.u[:13, 0], beside.u[:, 2])
    later = simulate_online(net, stream[:1], controller, noise=key, record=dfc.Record())
    again = simulate_online(net, stream[:1], controller, noise=key, state=replace(later.state, step=0))
    other = simulate_online(net, stream[:1], controller, noise=key, state=later.state)
    assert not np.array_equal(again.state.v_fb[0], other.state.v_fb[0])


# --- what is recorded ------------------------------------------------------------------------------------------------------


def test_weights_recorded_at_a_step_are_those_of_a_run_that_ends_at_it():
    controller = dfc.Controller(**SHORT, sigma=0.1)
    net, stream = streams.network(), make_stream(3)
    options = {"noise": 5, **LEARNING, "feedback_decay": 0.2}
    run = simulate_online(net, stream, controller, record_weights=5, **options)
    streams.assert_same_bits(run.network, simulate_online(net, stream, controller, **options).network)
    assert list(run.weights.step) == list(range(0, length(stream) + 1, 5))
    np.testing.assert_allclose(run.weights.time, 0.05 * run.weights.step)
    assert run.weights.weights[0].shape == (len(run.weights.step), 6, 4) and run.weights.feedback[1].shape[
        1:
    ] == (5, 3)
    for k, step in enumerate(run.weights.step):
        expected = (
            net if step == 0 else simulate_online(net, stream, controller, steps=int(step), **options).network
        )
        for name in PARAMETERS:
            for kept, array in zip(getattr(run.weights, name), getattr(expected, name), strict=True):
                assert np.array_equal(kept[k], array), (name, step)


def test_a_part_of_a_stream_can_be_recorded():
    net, stream, controller = (
        streams.network(),
        make_stream(3),
        dfc.Controller(**SHORT),
    )
    everything = simulate_online(net, stream, controller, record=dfc.Record(), **LEARNING).trajectory
    record = dfc.Record(variables=("u", "r", "error"), samples=(2, 0), every=5)
    part = simulate_online(net, stream, controller, record=record, **LEARNING).trajectory
    assert np.array_equal(part.u, everything.u[::5][:, [2, 0]]) and part.v is None and part.u_int is None
    assert np.array_equal(part.error, everything.error[::5][:, [2, 0]])
    assert np.array_equal(part.r[1], everything.r[1][::5][:, [2, 0]])
    assert np.array_equal(part.step, np.arange(0, length(stream) + 1, 5))
    assert simulate_online(net, stream, controller).trajectory is None
    assert simulate_online(net, stream, controller).weights is None
