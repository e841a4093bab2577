"""Loss and accuracy of a network on a split of a data set, in chunks so that memory stays small."""

from dataclasses import dataclass
from math import nan

import numpy as np

from dfc_numba.model.targets import as_targets, mean_loss
from dfc_numba.support.summation import tree_sum

CHUNK = 1024


@dataclass(frozen=True)
class Score:
    """Mean loss over the samples, and the fraction of them classified rightly (NaN for a regression)."""

    loss: float = nan
    accuracy: float = nan


def evaluate(network, split, *, loss, task, class_value=1.0):
    """The `Score` of a network on a split, sample-weighted.

    Args:
        network: a `Network`.
        split: `.x` (N, n_0) and `.y`: labels (N,), or targets (N, n_L).
        loss: "mse" or "cross_entropy".
        task: "classification" or "regression".
        class_value: see `soft_targets`.
    """
    losses, correct = [], 0.0
    for start in range(0, len(split.x), CHUNK):
        x, y = split.x[start : start + CHUNK], split.y[start : start + CHUNK]
        targets = soft_targets(y, network.sizes[-1], class_value)
        output = network.predict(x)
        losses.append(len(x) * mean_loss(output, targets, loss))
        correct += count_correct(output, y, task)
    return Score(tree_sum(losses) / len(split.x), correct / len(split.x))


def soft_targets(y, n_outputs, class_value=1.0):
    """Targets (B, n_L) of labels y (B,): `class_value` for the true class, the others share the rest.

    A y with two axes is returned as it is.
    """
    targets = as_targets(y, n_outputs)
    if np.ndim(y) == 2 or class_value == 1:
        return targets
    rest = (1 - class_value) / (n_outputs - 1)
    return rest + (class_value - rest) * targets


def count_correct(output, y, task):
    """How many samples have their largest output at the label (or at the largest of soft targets).

    NaN for a regression.
    """
    if task != "classification":
        return nan
    labels = y if np.ndim(y) == 1 else np.argmax(y, axis=1)
    return float(np.count_nonzero(np.argmax(output, axis=1) == labels))
