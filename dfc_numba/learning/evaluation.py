"""Loss, accuracy and confusion of a network, in chunks so that memory stays small."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isnan, nan
from typing import Any

import numpy as np

from dfc_numba.model.network import Network
from dfc_numba.model.targets import MSE_LEFT_OUT, as_targets, loss_value, warn_of_default_loss
from dfc_numba.registry import LOSSES
from dfc_numba.support import validation
from dfc_numba.support.array_types import Array, ArrayLike
from dfc_numba.support.ranges import ClassValue
from dfc_numba.support.shapes import html_table
from dfc_numba.support.summation import tree_sum

CHUNK = 1024


@dataclass(frozen=True)
class Score:
    """Mean loss over the samples, and the fraction of them classified correctly (NaN for a regression)."""

    loss: float = nan
    accuracy: float = nan


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """Results of a network on labelled samples: N samples, C classes.

    Attributes:
        loss, accuracy: mean loss; fraction of samples classified correctly, NaN for a regression.
        confusion: (C, C) counts, a row for each true class, a column for each predicted one; None for a regression.
        outputs: (N, n_L) output rates of the network.
        predictions: (N,) predicted class numbers; for a regression the outputs.
        labels: (N,) true class numbers; for a regression the targets (N, n_L).
        classes: names of the classes.
    """

    loss: float
    accuracy: float
    confusion: Array | None
    outputs: Array
    predictions: Array
    labels: Array
    classes: tuple[Any, ...] = ()

    def per_class(self) -> list[dict[str, Any]]:
        """Return one dict per class: class, samples, predicted, correct, recall, precision, f1 (NaN where undefined)."""
        if self.confusion is None:
            return []
        correct, true, predicted = (
            np.diag(self.confusion),
            self.confusion.sum(axis=1),
            self.confusion.sum(axis=0),
        )
        return [
            {
                "class": name, "samples": int(n), "predicted": int(m), "correct": int(k),
                "recall": _ratio(k, n), "precision": _ratio(k, m), "f1": _ratio(2 * k, n + m),
            }
            for name, k, n, m in zip(self.classes, correct, true, predicted, strict=True)
        ]  # fmt: skip

    def __repr__(self) -> str:
        accuracy = "" if isnan(self.accuracy) else f"accuracy={self.accuracy:.4g}, "
        return f"Evaluation(loss={self.loss:.4g}, {accuracy}samples={len(self.outputs)})"

    def _repr_html_(self):
        rows = self.per_class()
        return html_table(repr(self), rows[0] if rows else (), [row.values() for row in rows])


def _ratio(part, whole):
    return float(part / whole) if whole else nan


@validation.silent()
def evaluate(
    network: Network,
    x: ArrayLike,
    y: ArrayLike,
    *,
    loss: str = MSE_LEFT_OUT,
    class_value: float = 1.0,
    classes: Sequence[Any] | None = None,
    predict: Callable[[Array], Array] | None = None,
) -> Evaluation:
    """Evaluate a network on labelled samples.

    Args:
        network: a `Network`.
        x: inputs (N, n_0).
        y: class labels (N,), or targets (N, n_L). With a cross-entropy, and where they are one-hot, these belong to
            classes; else the task is a regression.
        loss: "mse", "cross_entropy" (of softmax(r_L)) or "binary_cross_entropy" (of sigmoid(r_L), one output).
        class_value: target of the true class, as `target.class_value` of the configuration.
        classes: names of the classes; by default their numbers.
        predict: function of inputs that returns the outputs, for a network without a feedforward pass; by default
            `network.predict`.

    Returns:
        An `Evaluation`.

    Raises:
        ValueError, TypeError: for arrays that do not fit the network, numbers that are not finite, or an unknown loss.
    """
    n_outputs = network.sizes[-1]
    x = validation.samples("x", x, network.sizes[0], dtype=network.dtype)
    y = validation.as_array("y", y)
    targets = as_targets(y, n_outputs, count=len(x))
    validation.number("class_value", class_value, ClassValue)
    by_class = y.ndim == 1 or LOSSES.find(loss, key="loss").classes or is_one_hot(targets)
    task = "classification" if by_class else "regression"
    predict = network.predict if predict is None else predict
    outputs = np.concatenate([predict(x[i : i + CHUNK]) for i in range(0, len(x), CHUNK)])
    validation.finite_result("the output", outputs, "the network has diverged, or it or x is too large")
    answers = labels_of(y, n_outputs) if y.ndim == 1 else targets
    measured = _score(
        lambda start: outputs[start : start + CHUNK],
        answers,
        loss=loss,
        task=task,
        class_value=class_value,
        n_outputs=n_outputs,
    )
    validation.finite_result(
        "the mean loss", measured.loss, "outputs or targets are too large; scale them down"
    )
    if task == "regression":
        return Evaluation(measured.loss, nan, None, outputs, outputs, targets)
    labels, count = _classes(answers), max(n_outputs, 2)
    predictions = predicted_classes(outputs)
    names = tuple(map(str, range(count))) if classes is None else tuple(map(str, classes))
    if len(names) != count:
        raise ValueError(
            f"classes lists {len(names)} names; the network has {n_outputs} outputs for {count} classes"
        )
    warn_of_default_loss(loss, y)
    confusion = np.zeros((count, count), np.int64)
    np.add.at(confusion, (labels, predictions), 1)
    return Evaluation(measured.loss, measured.accuracy, confusion, outputs, predictions, labels, names)


def accuracy(output: ArrayLike, y: ArrayLike) -> float:
    """Return the fraction of samples whose largest output is that of their class; with one output, whose sign is.

    Args:
        output: output rates (N, n_L).
        y: class labels (N,), or one-hot or soft labels (N, n_L).

    Raises:
        ValueError, TypeError: for shapes that do not fit, labels out of range, or no sample.
    """
    output = validation.floats("output", output, (None, None))
    y = validation.as_array("y", y)
    as_targets(y, output.shape[1], count=len(output))
    if len(output) == 0:
        raise ValueError("output holds no samples; at least one is needed")
    answers = labels_of(y, output.shape[1]) if y.ndim == 1 else y
    return count_correct(output, answers, "classification") / len(output)


def is_one_hot(y):
    """Return whether every row of y (N, n_L) is 1 once and 0 elsewhere, in at least two columns."""
    return y.ndim == 2 and y.shape[1] > 1 and bool(np.all((y == 0) | (y == 1)) and np.all(y.sum(axis=1) == 1))


def score(network, split, *, loss, task, class_value=1.0, predict=None):
    """Return the `Score` of a network on a split, sample-weighted.

    Args:
        network: a `Network`.
        split: `.x` (N, n_0) and `.y`: labels (N,), or targets (N, n_L).
        loss: "mse" or "cross_entropy".
        task: "classification" or "regression".
        class_value: see `soft_targets`.
        predict: function of inputs that returns the outputs; None for `network.predict`.
    """
    options = {"loss": loss, "task": task, "class_value": class_value, "n_outputs": network.sizes[-1]}
    predict = network.predict if predict is None else predict
    return _score(lambda start: predict(split.x[start : start + CHUNK]), split.y, **options)


def _score(output_from, y, *, loss, task, class_value, n_outputs):
    """Return the `Score` of outputs, where `output_from(start)` gives a chunk of them."""
    losses, correct = [], 0.0
    for start in range(0, len(y), CHUNK):
        answers, output = y[start : start + CHUNK], output_from(start)
        targets = soft_targets(answers, n_outputs, class_value)
        losses.append(len(output) * loss_value(output, targets, loss))
        correct += count_correct(output, answers, task)
    return Score(tree_sum(losses) / len(y), correct / len(y))


def soft_targets(y, n_outputs, class_value=1.0):
    """Return targets (B, n_L) of labels y (B,): `class_value` for the true class, the others share the rest.

    With one output, the probability of class 1: `class_value` or the rest.

    A y with two axes is returned as it is.
    """
    targets = as_targets(y, n_outputs)
    if np.ndim(y) == 2 or class_value == 1:
        return targets
    rest = (1 - class_value) / max(n_outputs - 1, 1)
    return rest + (class_value - rest) * targets


def count_correct(output, y, task):
    """Count the samples whose largest output is at the label (or the largest soft target); one output: by its sign.

    NaN for a regression.
    """
    if task != "classification":
        return nan
    return float(np.count_nonzero(predicted_classes(output) == _classes(y)))


def predicted_classes(output):
    """Return the class number of each row (N,): that of the largest output; of one output, class 1 where it is above 0."""
    return np.argmax(output, axis=1) if output.shape[1] > 1 else (output[:, 0] > 0).astype(np.int64)


def _classes(y):
    """Return the class numbers (N,) of labels, or of soft labels (N, n_L)."""
    if np.ndim(y) == 1:
        return y
    return np.argmax(y, axis=1) if y.shape[1] > 1 else (y[:, 0] > 0.5).astype(np.int64)


def labels_of(y, n_outputs):
    """Return labels y (N,), checked, as int64."""
    return validation.labels("y", y, max(n_outputs, 2)).astype(np.int64)


def check_fit(network, dataset, loss):
    """Refuse a data set whose numbers of inputs and outputs are not the network's, or unfit for the loss."""
    got, needed = (dataset.n_inputs, dataset.n_outputs), (network.sizes[0], network.sizes[-1])
    if got != needed:
        raise ValueError(
            f"data set {dataset.name!r} has {got[0]} inputs and {got[1]} outputs, but the network "
            f"{needed[0]} and {needed[1]}; create the network with the sizes of the data set"
        )
    if LOSSES.find(loss, key="target.loss").classes and dataset.task != "classification":
        raise ValueError(
            f"target.loss = {loss!r} needs classes, but data set {dataset.name!r} is a regression; "
            "set target.loss = 'mse'"
        )
