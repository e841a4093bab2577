"""The order of samples, and the estimate of the time left."""

import numpy as np
import pytest

from dfc_numba.learning.schedule import Clock, shuffled_minibatches


def test_minibatches_partition_the_samples_anew_in_every_pass():
    passes = [("forward", 0), ("forward", 1), ("feedback", 0), ("extra feedback", 0), ("pretraining", 0)]
    orders = [np.concatenate(shuffled_minibatches(20, 8, 5, *which)) for which in passes]
    assert all(np.array_equal(np.sort(order), np.arange(20)) for order in orders)
    assert len({tuple(order) for order in orders}) == len(orders)
    assert [len(part) for part in shuffled_minibatches(20, 8, 5, "forward", 0)] == [8, 8, 4]
    assert np.array_equal(orders[0], np.concatenate(shuffled_minibatches(20, 8, 5, "forward", 0)))


def test_the_order_of_samples_is_the_same_for_ever():
    """A changed order would break the continuation of runs that older versions started."""
    assert shuffled_minibatches(6, 6, 7, "forward", 2)[0].tolist() == [3, 4, 2, 1, 0, 5]


def test_the_clock_estimates_the_time_left():
    clock = Clock({"feedback": 3, "forward": 4}, {"feedback": 10, "forward": 100})
    clock.minibatch_done("feedback", 50.0)  # compiles
    assert clock.seconds_left() is None
    clock.minibatch_done("feedback", 2.0)
    assert clock.seconds_left() == pytest.approx(1 * 2 + 4 * 20)
    clock.minibatch_done("forward", 90.0)
    clock.minibatch_done("forward", 30.0)
    assert clock.seconds_left() == pytest.approx(1 * 2 + 2 * 30)
