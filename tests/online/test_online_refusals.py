"""What online plasticity refuses, and what it says."""

import itertools
from dataclasses import replace

import numpy as np
import online_streams as streams
import problems
import pytest
from online_streams import length, make_stream

import dfc_numba as dfc
from dfc_numba.online.learning import simulate_online

X, TARGET = problems.inputs(2, 4), problems.inputs(2, 3)
NOT_FINITE = np.where(np.arange(8).reshape(2, 4) == 5, np.nan, 1.0)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"tau_w": 1, "rule": "linear_difference"}, "rule is 'linear_difference'; .* did you mean 'nonlinear_difference'"),
        ({"rule": "voltage_difference"}, "rule='voltage_difference' is for forward weights that learn; set tau_w"),
        ({"feedback_decay": 0.1}, "feedback_decay is for feedback weights that learn; set tau_q"),
        ({"high_pass": 0.1, "tau_w": 1}, "high_pass is for feedback weights that learn; set tau_q"),
        ({"tau_w": 0}, "tau_w, a time constant that dt has to resolve, is 0; a finite number >= 0.05"),
        ({"tau_w": -1}, "tau_w, .* is -1; a finite number >= 0.05"),
        ({"tau_q": 0.01}, "tau_q, .* is 0.01; a finite number >= 0.05"),
        ({"tau_q": 1, "high_pass": 0.01}, "high_pass, .* is 0.01; a finite number >= 0.05"),
        ({"tau_q": 1, "feedback_decay": -1}, "feedback_decay is -1; a finite number >= 0"),
        ({"tau_q": 1, "feedback_decay": 21}, "feedback_decay = 21 with tau_q = 1 overshoots .* <= tau_q / dt"),
        ({"tau_q": 1, "controller": {"jacobian_feedback": True}}, "with jacobian_feedback .* tau_q has to be None"),
        ({"reset": "segments"}, "reset is 'segments'; allowed are 'none', 'segment'; did you mean 'segment'"),
        ({"controller": {"sigma": 0.1}}, "sigma = 0.1.*noise is None; pass noise=<int seed>"),
        ({"controller": {"sigma": 0.1}, "noise": streams.given_noise(10, 2)}, r"noise\[0\] has shape \(11, 2, 6\)"),
        ({"record": dfc.Record(samples=(0, 2))}, r"Record.samples is \(0, 2\); different positions from 0 to 1"),
        ({"steps": 0}, "steps is 0; a whole number from 1"),
        ({"record_weights": 0}, "record_weights is 0; a whole number from 1"),
        ({"stream": []}, "stream is empty"),
        ({"stream": iter([])}, "stream is empty"),
        ({"stream": iter(make_stream(2)), "record": dfc.Record()}, "record needs to know how long .* set steps="),
        ({"stream": iter(make_stream(2)), "record_weights": 9}, "record_weights needs to know how long the stream is"),
        (
            {"stream": iter(make_stream(2)), "controller": {"sigma": 1}, "noise": streams.given_noise(9, 2)},
            "noise as draws needs to know how long the stream is",
        ),
        ({"stream": [(X, TARGET), (X[:, :3], TARGET)]}, r"segment 1 of the stream: x has shape \(2, 3\); expected"),
        ({"stream": [(X, TARGET[:, :2])]}, r"segment 0 of the stream: target has shape \(2, 2\); expected \(any, 3\)"),
        ({"stream": [(X, TARGET), (X[:1], TARGET[:1])]}, "segment 1 .* 1 samples where there are 2"),
        ({"stream": [(X, TARGET[:1])]}, "segment 0 .* 1 samples where there are 2"),
        ({"stream": [(X[None].repeat(3, 0), TARGET[None].repeat(4, 0))]}, "takes 3 steps, but has a series of 4"),
        ({"stream": [(X[None], TARGET[None].repeat(4, 0))]}, "takes 1 steps, but has a series of 4"),
        ({"stream": [(X[:0], TARGET[:0])]}, r"segment 0 of the stream: x is empty \(shape \(0, 4\)\)"),
        ({"stream": [(X[None][:0], TARGET)]}, r"segment 0 of the stream: x is empty \(shape \(0, 2, 4\)\)"),
        ({"stream": [(NOT_FINITE, TARGET)]}, r"segment 0 of the stream: x\[1, 1\] is nan"),
        ({"stream": [(X, lambda network, x: TARGET[:, :2])]}, r"segment 0 of the stream: target has shape \(2, 2\)"),
        ({"stream": [(X, lambda network, x: TARGET[:1])]}, "segment 0 .* 1 samples where there are 2"),
        ({"stream": [(X, lambda network, x: TARGET[None].repeat(3, 0))]}, "takes 12 steps, but has a series of 3"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)  # fmt: skip
def test_values_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        streams.call(**options)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"stream": (X, TARGET)}, r"segment 0 of the stream is ndarray; expected a pair \(x, target\)"),
        ({"stream": X}, "stream is ndarray; expected an iterable of pairs"),
        ({"stream": 3}, "stream is int; expected an iterable of pairs"),
        ({"stream": [([[1, 2], [3]], TARGET)]}, "segment 0 of the stream: x must be an array of numbers"),
        ({"stream": [("text", TARGET)]}, "segment 0 of the stream: x must be an array of numbers"),
        (
            {"stream": [(X, TARGET, TARGET)]},
            r"segment 0 of the stream is tuple; expected a pair \(x, target\)",
        ),
        ({"net": "network"}, "network must be a Network"),
        ({"state": 3}, "state must be a OnlineState"),
        ({"record": 3}, "record must be a Record"),
        ({"tau_w": "1"}, "tau_w, .* is '1'; a finite number"),
        ({"noise": "seed", "controller": {"sigma": 1}}, "noise is str; expected an int seed"),
    ],
)
def test_types_that_are_refused(options, message):
    with pytest.raises(TypeError, match=message):
        streams.call(**options)


def test_a_controller_that_is_none_is_refused():
    with pytest.raises(TypeError, match="controller must be a Controller"):
        simulate_online(streams.network(), [(X, TARGET)], "controller")


def test_a_bad_list_is_refused_before_anything_runs():
    ran = []

    def target(network, x):
        ran.append(1)
        return TARGET

    with pytest.raises(ValueError, match="segment 1 of the stream: x"):
        streams.call(stream=[(X, target), (X[:, :2], target)])
    assert ran == []


def test_a_state_of_another_network_is_refused():
    run = streams.call()
    other = dfc.Network(**problems.parameters([4, 7, 5, 3]))
    with pytest.raises(ValueError, match=r"state.v_ff\[0\] has shape \(2, 6\); expected \(2, 7\)"):
        streams.call(net=other, state=run.state)
    with pytest.raises(ValueError, match=r"state.v_ff\[0\] has shape \(2, 6\); expected \(3, 6\)"):
        streams.call(stream=make_stream(3), state=run.state)


def test_numbers_of_steps_that_the_noise_cannot_tell_apart_are_refused():
    run = streams.call()
    late = replace(run.state, step=2**32 - 5)
    with pytest.raises(
        ValueError, match="keyed by the number of the step, which would reach 4294967296; .* step=0"
    ):
        streams.call(state=late, controller={"sigma": 0.1}, noise=1)
    assert streams.call(state=late).steps == length(make_stream(2))


def test_what_does_not_fit_into_memory_is_refused(monkeypatch):
    from dfc_numba.support import memory

    monkeypatch.setattr(memory, "available_bytes", lambda: 10_000)
    endless = itertools.cycle(make_stream(2))
    with pytest.raises(
        MemoryError, match="a trajectory of 1000001 time points, 2 samples, 14 units needs .*GB.*record fewer"
    ):
        streams.call(stream=endless, steps=1_000_000, record=dfc.Record())
    with pytest.raises(
        MemoryError, match="keeping 125 parameters at 100001 time points needs 100 MB.*larger record_weights"
    ):
        streams.call(stream=endless, steps=1_000_000, record_weights=10)
