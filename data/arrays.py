"""Data as people have them: inputs of any shape, labels of any type, as arrays or data frames, prepared and said so."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from dfc_numba.data import dataset
from dfc_numba.data.dataset import DataSet, Split, check_same_length, float_type, unknown_name, whole_number
from dfc_numba.support.array_types import DTypeLike

SCALES = ("auto", "none", "unit", "standardise")
PARTS = ("train", "val", "test")
LARGE = 20.0  # inputs beyond it saturate the units of a network with usual weights
MOST_CLASSES = 1000  # so many different whole numbers may be classes; more are the targets of a regression


def from_arrays(
    x_train: Any,
    y_train: Any,
    x_test: Any = None,
    y_test: Any = None,
    x_val: Any = None,
    y_val: Any = None,
    *,
    task: Literal["classification", "regression"] | None = None,
    scale: Literal["auto", "none", "unit", "standardise"] = "auto",
    classes: Sequence[Any] | None = None,
    validation_size: int = 0,
    test_size: int = 0,
    split_seed: int = 0,
    dtype: DTypeLike = "float64",
    name: str = "arrays",
) -> DataSet:
    """Make a `DataSet` of arrays or data frames; `.notes` says what was done to them.

    Args:
        x_train, x_test, x_val: inputs (N, ...), flattened to (N, n_0): arrays, lists or data frames.
        y_train, y_test, y_val: classes (N,): integers from any base, whole floats, booleans, texts, or one-hot (N, C); or
            targets of a regression (N,) or (N, n_L).
        task: "classification" or "regression"; None decides: floats that are not whole are targets.
        scale: "auto" divides unsigned bytes by 255 and leaves the rest; "none"; "unit" divides by the largest absolute value of
            the training inputs; "standardise" subtracts the mean of each training input and divides by its standard deviation.
        classes: names of the classes in their order, all of which need not occur; None takes those of y_train.
        validation_size, test_size: numbers of training samples to hold out at random, by split_seed.
        dtype: "float64" or "float32".

    Raises:
        ValueError, TypeError: for arrays that do not go together, columns that are not numbers, an unseen class, or values that
            are missing or not finite; the message names the array.
    """
    given = {
        "x_train": x_train,
        "y_train": y_train,
        "x_test": x_test,
        "y_test": y_test,
        "x_val": x_val,
        "y_val": y_val,
    }
    arrays = {key: as_numpy(value, f"{name}: {key}") for key, value in given.items() if value is not None}
    for part in ("test", "val"):
        if (f"x_{part}" in arrays) != (f"y_{part}" in arrays):
            raise ValueError(f"{name}: x_{part} and y_{part} go together; state both, or neither")
    if "x_val" in arrays and validation_size:
        raise ValueError(f"{name}: validation_size = {validation_size!r} with x_val; state one of them")
    if "x_test" in arrays and test_size:
        raise ValueError(f"{name}: test_size = {test_size!r} with x_test; state one of them")
    if task not in (None, "classification", "regression"):
        raise unknown_name("task", task, ["classification", "regression"])
    found = build(
        name, arrays, task=task, scale=scale, classes=classes, dtype=float_type(dtype), source="in memory",
        held_out={"test": test_size, "val": validation_size}, split_seed=split_seed,
    )  # fmt: skip
    for note in found.notes:
        if "unscaled" in note:
            warnings.warn(f"{name}: {note}", UserWarning, stacklevel=2)
    return found


def build(name, arrays, *, task, scale, classes, dtype, source, held_out, split_seed):
    """Return the `DataSet` of arrays by their names x_train, y_train, ...; for the rest see `from_arrays`."""
    if scale not in SCALES:
        raise unknown_name("value of scale:", scale, list(SCALES))
    arrays, notes = dict(arrays), []
    for part in [part for part in PARTS if f"x_{part}" in arrays]:
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if x.ndim == 0 or y.ndim == 0 or not len(x):
            raise ValueError(
                f"{name}: x_{part} has shape {x.shape}, y_{part} {y.shape}; (samples, inputs) are needed"
            )
        check_same_length(x, y, name, part)
    _hold_out(name, arrays, held_out, split_seed)
    parts = [part for part in PARTS if f"x_{part}" in arrays]
    ys, names, notes_y = answers(
        {part: arrays[f"y_{part}"] for part in parts}, name, task=task, classes=classes
    )
    xs, notes_x = inputs({part: arrays[f"x_{part}"] for part in parts}, name, scale, dtype)
    notes = (*notes_x, *notes_y)
    task = "classification" if names is not None else "regression"
    splits = {
        part: Split(xs[part], ys[part] if names is not None else np.ascontiguousarray(ys[part], dtype))
        for part in parts
    }
    n_outputs = len(names) if names is not None else ys["train"].shape[1]
    return DataSet(
        name,
        task,
        splits["train"],
        splits.get("val"),
        splits.get("test"),
        n_outputs,
        source,
        names or (),
        notes,
    )


def as_numpy(value, label):
    """Return an array of what may be a data frame, a series or a list; refuse columns that are not numbers in inputs."""
    columns = getattr(value, "columns", None)
    if columns is not None and ": x_" in label:
        kinds = getattr(value, "dtypes", [])
        wrong = [
            str(column)
            for column, kind in zip(columns, kinds, strict=False)
            if getattr(kind, "kind", "O") not in "biuf"
        ]
        if wrong:
            raise ValueError(
                f"{label}: the columns {', '.join(wrong[:5])} are not numbers; leave them out, or encode them "
                "(pandas.get_dummies)"
            )
    if np.ma.is_masked(value):
        raise ValueError(f"{label} has masked elements; fill or leave out what is missing")
    try:
        array = np.asarray(value)
    except ValueError:
        raise TypeError(
            f"{label} is {type(value).__name__} with rows of different lengths; an array is needed"
        ) from None
    if hasattr(value, "toarray"):
        raise TypeError(f"{label} is a sparse matrix; convert it with .toarray()")
    return array


def _hold_out(name, arrays, sizes, split_seed):
    """Move samples at random from the training part to the parts of these sizes."""
    sizes = {part: whole_number(f"{part}_size", size) for part, size in sizes.items()}
    if not any(sizes.values()):
        return
    count = len(arrays["x_train"])
    if sum(sizes.values()) >= count:
        raise ValueError(
            f"{name}: {sum(sizes.values()):,} samples held out of {count:,} leave nothing to train on"
        )
    order = dataset.random_order(count, split_seed)
    for part, size in sizes.items():
        if size:
            order, chosen = order[:-size], order[-size:]
            arrays |= {f"x_{part}": arrays["x_train"][chosen], f"y_{part}": arrays["y_train"][chosen]}
    arrays |= {"x_train": arrays["x_train"][order], "y_train": arrays["y_train"][order]}


# --- inputs -----------------------------------------------------------------------------------------------------------


def inputs(xs, name, scale, dtype):
    """Return the inputs by part as (N, n_0) floats, and notes on what was done to them."""
    notes, raw = [], xs["train"]
    for part, x in xs.items():
        if x.dtype.kind == "O":
            xs = {**xs, part: _as_floats(x, f"{name}: x_{part}")}
        elif x.dtype.kind not in "biuf":
            raise ValueError(f"{name}: x_{part} is {x.dtype}; must be numbers")
    if raw.ndim == 1:
        raise ValueError(
            f"{name}: x_train has shape {raw.shape}; must be (samples, inputs): one column is written x[:, None]"
        )
    if raw.ndim > 2:
        form = " x ".join(map(str, raw.shape[1:]))
        notes.append(f"inputs of {form} flattened to {int(np.prod(raw.shape[1:]))}")
    with np.errstate(over="ignore"):
        xs = {part: np.array(x.reshape(len(x), -1), dtype, order="C") for part, x in xs.items()}
    shift, factor, note = _scaling(xs["train"], raw.dtype, scale)
    if note:
        notes.append(note)
    for x in xs.values():
        if shift is not None and x.shape[1] == len(shift):
            x -= shift
        if factor is not None and (np.ndim(factor) == 0 or x.shape[1] == len(factor)):
            x /= factor
    return xs, (*notes, *unscaled(xs["train"]))


def unscaled(x, remedy="scale = 'unit' or 'standardise' scales them"):
    """Return a note on inputs that are far from a few units, in a list; an empty one where all is well."""
    low, high = float(x.min()), float(x.max())
    if not max(-low, high) > LARGE:
        return []
    return [
        f"inputs range from {low:.4g} to {high:.4g}, unscaled: units saturate beyond a few units; {remedy}"
    ]


def needs_numbering(y):
    """Return whether y are classes in another form than (N,) integers: texts, booleans, whole floats, one-hot, a column."""
    if y.dtype.kind in "USb" or _is_one_hot(y):
        return True
    if y.ndim == 2 and y.shape[1] == 1:
        return y.dtype.kind in "iu"
    return y.ndim == 1 and y.dtype.kind == "f" and _may_be_classes(y)


def _scaling(x, kind, scale):
    """Return (shift, divisor, note) of the inputs."""
    if scale == "auto" and kind == np.uint8 and x.max() > 1:
        return None, x.dtype.type(255), "unsigned bytes divided by 255"
    if scale == "unit":
        largest = max(float(np.abs(x).max()), 1e-300)
        return (
            None,
            x.dtype.type(largest),
            f"inputs divided by {largest:.6g}, the largest of the training set",
        )
    if scale == "standardise":
        std = x.std(axis=0)
        constant = int(np.count_nonzero(std == 0))
        left = f" ({constant} constant ones are only shifted)" if constant else ""
        return (
            x.mean(axis=0),
            np.where(std == 0, 1, std),
            f"each input standardised by the training set{left}",
        )
    return None, None, None


def _as_floats(values, label):
    try:
        return values.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{label} holds what is not a number ({error}); leave such columns out, or encode them"
        ) from None


# --- classes and targets ----------------------------------------------------------------------------------------------


def answers(ys, name, *, task=None, classes=None):
    """Return ({part: labels (N,) int64 or targets (N, n_L)}, names of the classes or None for a regression, notes)."""
    ys = {part: y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y for part, y in ys.items()}
    if ys["train"].ndim > 2:
        raise ValueError(
            f"{name}: y_train has shape {ys['train'].shape}; must be (samples,) or (samples, targets)"
        )
    ys = {part: _plain(y, f"{name}: y_{part}") for part, y in ys.items()}
    notes = []
    if task != "regression" and all(_is_one_hot(y) for y in ys.values()):
        notes.append(f"one-hot targets of {ys['train'].shape[1]} columns read as classes")
        names = classes or range(ys["train"].shape[1])
        if len(names) != ys["train"].shape[1]:
            raise ValueError(f"{name}: {len(names)} names of classes for {ys['train'].shape[1]} columns")
        return {part: np.argmax(y, axis=1) for part, y in ys.items()}, tuple(map(str, names)), notes
    if task == "regression" or (task is None and not _may_be_classes(ys["train"])):
        return _targets(ys, name), None, notes
    if ys["train"].ndim != 1:
        raise ValueError(
            f"{name}: y_train has shape {ys['train'].shape}; class labels are (samples,), or one-hot (samples, classes)"
        )
    known = _known(ys["train"], classes, name)
    for part, y in ys.items():
        unseen = np.setdiff1d(y, known)
        if unseen.size:
            raise ValueError(
                f"{name}: y_{part} holds the class {unseen[0].item()!r} (sample {int(np.argmax(y == unseen[0]))}), which is not "
                "among "
                f"those of {'classes' if classes else 'y_train'}: {_listed(known)}; name all of them with classes"
            )
    order = np.argsort(known, kind="stable")
    numbered = {
        part: order[np.searchsorted(known, y, sorter=order)].astype(np.int64) for part, y in ys.items()
    }
    names = tuple(str(name) for name in known.tolist())
    if names != tuple(map(str, range(len(names)))):
        notes.append(f"classes {_listed(known)} numbered from 0 in this order")
    return numbered, names, notes


def _known(y, classes, name):
    """Return the classes in their order."""
    if classes is None:
        known = np.unique(y)
        if known.dtype.kind in "f":
            known = known.astype(np.int64)
    else:
        known = np.asarray(list(classes))
        if len(np.unique(known)) < len(known):
            raise ValueError(f"{name}: classes = {list(classes)} lists a class twice")
    if len(known) < 2:
        raise ValueError(f"{name}: y_train holds one class, {_listed(known)}; at least 2 are needed")
    return known


def _targets(ys, name):
    for part, y in ys.items():
        if y.dtype.kind not in "biuf":
            raise ValueError(f"{name}: y_{part} is {y.dtype}; the targets of a regression must be numbers")
    return {part: y.reshape(len(y), -1) for part, y in ys.items()}


def _plain(y, label):
    """Return labels of objects as texts or numbers."""
    if y.dtype.kind == "O":
        missing = [value is None or value != value for value in y.ravel().tolist()]
        if any(missing):
            raise ValueError(f"{label}: the value of sample {missing.index(True)} is missing")
        kinds = {type(value) for value in y.ravel().tolist()}
        y = np.array(y.tolist(), str if str in kinds else None)
    if y.dtype.kind == "S":
        y = y.astype(str)
    if y.dtype.kind not in "biufU":
        raise ValueError(f"{label} is {y.dtype}; must be numbers or texts")
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        raise ValueError(
            f"{label} holds {y[~np.isfinite(y)][0]} (sample {int(np.argwhere(~np.isfinite(y))[0][0])})"
        )
    return y


def _may_be_classes(y):
    if y.ndim == 1 and y.dtype.kind == "f":
        return bool(np.all(y == np.round(y))) and len(np.unique(y)) <= min(MOST_CLASSES, max(2, len(y) // 2))
    return y.dtype.kind in "biuU"


def _is_one_hot(y):
    if y.ndim != 2 or y.shape[1] < 2 or y.dtype.kind not in "biuf":
        return False
    return bool(np.all((y == 0) | (y == 1)) and np.all(y.sum(axis=1) == 1))


def _listed(classes):
    names = [str(name) for name in np.asarray(classes).tolist()]
    return ", ".join(names) if len(names) <= 12 else f"{', '.join(names[:6])}, ... {names[-1]} ({len(names)})"
