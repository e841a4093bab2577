"""The result of every loader: training, validation and test arrays, checked on construction."""

from __future__ import annotations

import difflib
import zlib
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Integral, Real
from typing import Literal

import numpy as np

from dfc_numba.support.array_types import Array, DTypeLike
from dfc_numba.support.shapes import html_table

# --- checks of options --------------------------------------------------------------------------------------

LARGEST_SEED = 2**32 - 1


class DataUnavailableError(OSError, ValueError):
    """A file is neither on this machine nor to be had from the network; the message says where to put it."""


def unknown_name(kind, name, allowed, remedy=""):
    """Return the `ValueError` for a name that is none of `allowed`; it names the nearest one and lists them all."""
    near = difflib.get_close_matches(str(name).lower(), allowed, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    listing = ", ".join(allowed) or "none"
    return ValueError(f"unknown {kind} {name!r}.{hint} Allowed: {listing}{remedy}")


def whole_number(option, value, *, least=0, most=None):
    """Return `value` as an int between `least` and `most`; refuse booleans and floats with a `TypeError`."""
    upper = "" if most is None else f" and at most {most:,}"
    allowed = f"must be a whole number of at least {least:,}{upper}"
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"data option {option} = {value!r}: {allowed}")
    if value < least or (most is not None and value > most):
        raise ValueError(f"data option {option} = {value}: {allowed}")
    return int(value)


def checked_seed(option, value):
    """Return `value` as a seed of NumPy's `RandomState`."""
    return whole_number(option, value, most=LARGEST_SEED)


def positive_number(option, value):
    """Return `value` as a positive, finite float."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"data option {option} = {value!r}: must be a positive, finite number")
    if not 0 < value < float("inf"):
        raise ValueError(f"data option {option} = {value}: must be a positive, finite number")
    return float(value)


def layer_widths(option, value):
    """Return `value` as a tuple of layer widths, each at least 1; an empty list means no hidden layer."""
    if not isinstance(value, list | tuple):
        raise TypeError(
            f"data option {option} = {value!r}: must be a list of layer widths such as [100, 100]"
        )
    return tuple(whole_number(f"{option}[{i}]", width, least=1) for i, width in enumerate(value))


def float_type(dtype):
    """Return `dtype` as a NumPy dtype, float32 or float64."""
    try:
        resolved = np.dtype(dtype)
    except TypeError:
        resolved = None
    if dtype is None or resolved is None or resolved.name not in ("float32", "float64"):
        raise ValueError(f"data dtype = {dtype!r}: must be 'float32' or 'float64'")
    return resolved


# --- data sets ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Inputs and targets of one part of a data set.

    Args:
        x: (N, n_0) inputs, float32 or float64.
        y: (N,) int64 class labels, or (N, n_L) targets of the same type as `x`.
    """

    x: Array
    y: Array

    def __post_init__(self):
        for name, array in (("x", self.x), ("y", self.y)):
            if not isinstance(array, np.ndarray):
                raise TypeError(f"Split.{name} is {type(array).__name__}; must be a NumPy array")

    def __len__(self):
        return len(self.x)

    def __repr__(self):
        return f"Split(x={_form(self.x)}, y={_form(self.y)})"


@dataclass(frozen=True, eq=False)
class DataSet:
    """A data set in three parts.

    Args:
        name: what it is called in messages.
        task: "classification" (labels) or "regression" (targets).
        train, validation, test: the parts; `validation` and `test` are None where there is none.
        n_outputs: number of classes or of target values, the n_L of a network for this data set; 1 for two classes at one output.
        source: one line that says where the data come from.
        classes: names of the classes, as texts; empty for a regression, and where they are the numbers 0, 1, ...
        notes: what was done to the data as they came, a sentence each.

    Raises:
        ValueError: for empty, mismatched or non-finite arrays and for labels out of range. The message names
            the part as `x_train`, `y_val` and so on, and the first offending sample.
    """

    name: str
    task: Literal["classification", "regression"]
    train: Split
    validation: Split | None
    test: Split | None
    n_outputs: int
    source: str
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        if self.classes and len(self.classes) != max(self.n_outputs, 2):
            raise ValueError(
                f"{self.name}: {len(self.classes)} names of classes for {self.n_outputs} outputs"
            )
        if self.task not in ("classification", "regression"):
            raise ValueError(f"{self.name}: task = {self.task!r}; must be 'classification' or 'regression'")
        for part, split in self.parts().items():
            self._check_inputs(split.x, f"{self.name}: x_{part}")
            check_same_length(split.x, split.y, self.name, part)
            self._check_answers(split.y, f"{self.name}: y_{part}")

    @property
    def n_inputs(self) -> int:
        """Number of inputs, the n_0 of a network for this data set."""
        return self.train.x.shape[1]

    @property
    def summary(self) -> str:
        """One line for people: name, sizes and source."""
        sizes = ", ".join(f"{len(split):,} {part}" for part, split in self.parts().items())
        kind = f"{self.n_outputs} targets"
        if self.task == "classification":
            kind = f"{max(self.n_outputs, 2)} classes" + (" at one output" if self.n_outputs == 1 else "")
        return f"{self.name}: {self.n_inputs} inputs, {kind}; samples: {sizes}; {self.source}"

    def _repr_html_(self):
        rows = [(part, *map(_form, (split.x, split.y))) for part, split in self.parts().items()]
        return html_table(self.summary, ("part", "x", "y"), rows)

    @cached_property
    def checksums(self) -> dict[str, int]:
        """A number per part by which a continued run sees whether its data are the same, {"train": ..., ...}."""
        return {
            part: zlib.crc32(
                np.ascontiguousarray(split.y).data, zlib.crc32(np.ascontiguousarray(split.x).data)
            )
            for part, split in self.parts().items()
        }

    def astype(self, dtype: DTypeLike) -> DataSet:
        """Return the data set with inputs and regression targets of this type; itself where they are."""
        dtype = float_type(dtype)
        if dtype == self.train.x.dtype:
            return self

        def converted(split):
            if split is None:
                return None
            y = split.y if self.task == "classification" else split.y.astype(dtype)
            return Split(split.x.astype(dtype), y)

        parts = {name: converted(getattr(self, name)) for name in ("train", "validation", "test")}
        return replace(self, **parts)

    def parts(self) -> dict[str, Split]:
        """Return the parts that exist, as {"train": ..., "val": ..., "test": ...}."""
        parts = {"train": self.train, "val": self.validation, "test": self.test}
        return {part: split for part, split in parts.items() if split is not None}

    def _check_inputs(self, x, label):
        check_matrix(x, label, "inputs")
        if x.shape[1] != self.n_inputs:
            raise ValueError(f"{label} has {x.shape[1]} inputs per sample, but x_train has {self.n_inputs}")
        self._check_floats(x, label)

    def _check_answers(self, y, label):
        if self.task == "classification":
            check_labels(y, label, max(self.n_outputs, 2))
            return
        check_matrix(y, label, "targets")
        if y.shape[1] != self.n_outputs:
            raise ValueError(f"{label} has {y.shape[1]} targets per sample; expected {self.n_outputs}")
        self._check_floats(y, label)

    def _check_floats(self, values, label):
        expected = self.train.x.dtype
        if expected not in (np.float32, np.float64) or values.dtype != expected:
            raise ValueError(
                f"{label} is {values.dtype}; all inputs and targets must be float32, or all float64"
            )
        check_finite(values, label)


def check_matrix(values, label, columns):
    """Refuse anything but a (samples, columns) array with at least one of each."""
    if values.ndim != 2:
        raise ValueError(
            f"{label} has shape {values.shape}; must have two dimensions, (samples, {columns})"
            + (": flatten each sample, x.reshape(len(x), -1)" if values.ndim > 2 else "")
            + (": one column is written x[:, None]" if values.ndim == 1 else "")
        )
    if 0 in values.shape:
        raise ValueError(f"{label} is empty: its shape is {values.shape}, i.e. (samples, {columns})")


def check_same_length(x, y, name, part):
    """Refuse inputs and answers of different numbers of samples."""
    if y.ndim == 0 or len(x) != len(y):
        got = "a single value" if y.ndim == 0 else f"{len(y):,} samples"
        transposed = (x.ndim == y.ndim == 2 and x.shape[1] == y.shape[1]) or (
            y.ndim == 1 and x.shape[1:] == y.shape
        )
        hint = (
            f"; x_{part} is (inputs, samples), as MATLAB writes it: store it transposed" if transposed else ""
        )
        raise ValueError(
            f"{name}: x_{part} has {len(x):,} samples but y_{part} has {got}; must be the same number{hint}"
        )


def check_labels(y, label, n_classes):
    """Refuse anything but (samples,) int64 labels in 0 .. n_classes - 1."""
    if y.ndim != 1 or y.dtype != np.int64:
        raise ValueError(f"{label} is {_form(y)}; class labels must be (samples,) of int64")
    wrong = np.flatnonzero((y < 0) | (y >= n_classes))
    if wrong.size:
        raise ValueError(
            f"{label} holds the label {y[wrong[0]]} (sample {wrong[0]}, {wrong.size:,} in all); "
            f"labels must be 0 to {n_classes - 1}"
        )


def check_finite(values, label):
    """Refuse NaN and infinity, naming the first; minimum and maximum find them without a temporary array."""
    if np.isfinite(values.min()) and np.isfinite(values.max()):
        return
    wrong = np.argwhere(~np.isfinite(values))
    sample, column = wrong[0]
    raise ValueError(
        f"{label} holds {values[sample, column]} (sample {sample}, column {column}, {len(wrong):,} in all); "
        f"all values must be finite in {values.dtype}"
    )


def _form(array):
    return f"{array.dtype} {array.shape}"


# --- orders and validation sets -----------------------------------------------------------------------------


def random_order(n_samples, split_seed):
    """Return a random permutation of `n_samples` indices that depends on the seed alone."""
    return np.random.RandomState(checked_seed("split_seed", split_seed)).permutation(n_samples)


def stratified_order(labels, split_seed):
    """Return a random permutation in which every stretch holds the classes in nearly their overall proportions.

    The k-th sample of a class with n members is placed at (k + 1/2) / n.
    """
    order = random_order(len(labels), split_seed)
    position = np.empty(len(labels))
    for label in np.unique(labels):
        members = order[labels[order] == label]
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    return order[np.argsort(position[order], kind="stable")]


def hold_out(order, validation_size, train_size=None):
    """Cut an order of the training samples into (training indices, validation indices or None).

    The validation set is the end of the order, so that it stays the same whatever `train_size` is.

    Args:
        order: (N,) indices.
        validation_size: number of validation samples, 0 for none.
        train_size: number of training samples; None for all that remain.

    Raises:
        ValueError: when the two do not leave or find enough samples.
    """
    validation_size = whole_number("validation_size", validation_size)
    available = len(order) - validation_size
    if available < 1:
        raise ValueError(
            f"data option validation_size = {validation_size:,} leaves nothing to train on: there are "
            f"{len(order):,} samples for training and validation together; choose a smaller one"
        )
    validation = order[available:] if validation_size else None
    return limited(order[:available], "train_size", train_size), validation


def limited(order, option, size):
    """Return the first `size` indices of an order; None for all of them."""
    if size is None:
        return order
    return order[: whole_number(option, size, least=1, most=len(order))]
