"""Evaluation in chunks, and targets from labels."""

import numpy as np
import pytest
from small_runs import dataset, network

from dfc_numba.learning.evaluation import CHUNK, score, soft_targets
from dfc_numba.model.targets import mean_loss


def test_evaluation_in_chunks_equals_the_whole():
    data_set = dataset(n_train=2 * CHUNK + 7)
    net, split = network(), data_set.train
    measured = score(net, split, loss="cross_entropy", task="classification", class_value=0.9)
    output = net.predict(split.x)
    expected = mean_loss(output, soft_targets(split.y, 3, 0.9), "cross_entropy")
    assert measured.loss == pytest.approx(expected, rel=1e-12)
    assert measured.accuracy == np.mean(output.argmax(axis=1) == split.y)


def test_soft_targets_have_the_given_probability_of_the_label():
    expected = np.array([[0.05, 0.9, 0.05], [0.9, 0.05, 0.05]])
    np.testing.assert_allclose(soft_targets(np.array([1, 0]), 3, 0.9), expected, rtol=1e-14)
    assert np.array_equal(soft_targets(np.array([1, 0]), 3), np.eye(3)[[1, 0]])
    given = np.array([[0.2, 0.8]])
    assert np.array_equal(soft_targets(given, 2, 0.9), given)
