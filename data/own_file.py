"""A user's own data: a .npz or .h5 file with x_train, y_train, x_test, y_test and perhaps x_val, y_val."""

from pathlib import Path

import numpy as np

from dfc_numba.data import arrays as arrays_module
from dfc_numba.data import dataset
from dfc_numba.data.dataset import (
    DataSet,
    DataUnavailableError,
    Split,
    check_matrix,
    check_same_length,
    unknown_name,
    whole_number,
)
from dfc_numba.errors import UnusableFileError
from dfc_numba.support import foreign, memory
from dfc_numba.support.archives import read_npz

NPZ, HDF5 = (".npz",), (".h5", ".hdf5")
SUFFIXES = NPZ + HDF5
REQUIRED = ("x_train", "y_train", "x_test", "y_test")
VALIDATION = ("x_val", "y_val")
KINDS = "biuf"  # of numbers
MOST_CLASSES = 100_000  # a larger label needs n_classes: it is rather a mistake than the size of a network


def load(*, dtype, path, validation_size=0, split_seed=0, n_classes=None):
    """Load your own .npz or .h5 file: x_train, y_train, x_test, y_test, and optionally x_val, y_val.

    Inputs x are numbers of shape (samples, inputs), used as they are: scale them to a few units. Images, of shape (samples,
    height, width), are flattened, and divided by 255 if they are bytes. Integer y of shape (samples,) are class labels counted
    from 0; texts, booleans, whole floats and one-hot rows are classes, too. Other float y of shape (samples, outputs) are
    targets (regression). Objects that would need pickle are refused.

    Args:
        path: the file.
        validation_size: number of validation samples taken at random from x_train; 0 where the file has x_val
            or no validation is wanted.
        split_seed: which samples those are.
        n_classes: number of classes; not set means the largest label in y_train plus one.
    """
    path = _existing(path)
    arrays = _read(path)
    _check_names(path, arrays)
    arrays, classes, notes = _prepared(path, arrays, dtype)
    task = _task(path, arrays)
    splits = {
        part: _split(path, part, arrays, task, dtype)
        for part in ("train", "val", "test")
        if f"x_{part}" in arrays
    }
    n_outputs = _n_outputs(path, task, splits, n_classes)
    train, validation = _with_validation(path, splits, validation_size, split_seed)
    notes += arrays_module.unscaled(train.x, "scale them in the file")
    if task == "classification" and classes is None:
        notes += _empty_classes(splits["train"].y, n_outputs)
    names = classes if classes is not None and len(classes) == n_outputs else ()
    return DataSet(
        str(path), task, train, validation, splits["test"], n_outputs, f"file {path}", names, tuple(notes)
    )


def _prepared(path, arrays, dtype):
    """Return the arrays with images flattened and classes numbered, the names of the classes or None, and notes on both."""
    parts = [part for part in ("train", "val", "test") if f"x_{part}" in arrays]
    notes, classes = [], None
    if all(arrays[f"x_{part}"].ndim > 2 and arrays[f"x_{part}"].dtype.kind in "biuf" for part in parts):
        xs, more = arrays_module.inputs(
            {part: arrays[f"x_{part}"] for part in parts}, str(path), "auto", dtype
        )
        notes += [note for note in more if "unscaled" not in note]
        arrays = {**arrays, **{f"x_{part}": x for part, x in xs.items()}}
    if arrays_module.needs_numbering(arrays["y_train"]):
        answers = {part: arrays[f"y_{part}"] for part in parts}
        ys, classes, more = arrays_module.answers(answers, str(path), task="classification")
        notes += more
        arrays = {**arrays, **{f"y_{part}": y for part, y in ys.items()}}
    return arrays, classes, notes


def _existing(path):
    if not isinstance(path, str | Path):
        raise TypeError(
            f"data option path = {path!r}: must be the path of a file that ends in {', '.join(SUFFIXES)}"
        )
    path = Path(path).expanduser()
    if path.suffix.lower() not in SUFFIXES:
        hint = "; a .mat of MATLAB 7.3 (save -v7.3) is HDF5: name it .h5" * (path.suffix.lower() == ".mat")
        raise ValueError(
            f"data option path = {str(path)!r}: the name must end in {', '.join(SUFFIXES)}{hint}"
        )
    if not path.exists():
        where = "" if path.is_absolute() else f" (looked for in {Path.cwd()})"
        raise DataUnavailableError(f"{path}: there is no such file{where}")
    if not path.is_file():
        raise DataUnavailableError(f"{path}: is not a file; name a regular file, no folder or pipe")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty")
    return path


def _read(path):
    """Return all arrays of the file whose names begin with x_ or y_."""
    reader = _read_npz if path.suffix.lower() in NPZ else _read_hdf5
    try:
        return reader(path)
    except (UnusableFileError, MemoryError) as error:
        raise ValueError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
    except Exception as error:  # noqa: BLE001 (a damaged file makes libraries raise anything)
        reason = str(error).removeprefix(f"{path} ").removeprefix("cannot be read: ")
        raise ValueError(f"{path}: cannot be read, damaged or not a {path.suffix} file ({reason})") from None


def _read_npz(path):
    return read_npz(
        path, lambda name: name.startswith(("x_", "y_")), lambda names: _nothing_found(path, names)
    )


def _read_hdf5(path):
    with foreign.open_hdf5(path, alone=True) as file:
        names = foreign.names(file)
        chosen = [name for name in names if name.startswith(("x_", "y_"))]
        if not chosen:
            raise UnusableFileError(_nothing_found(path, names))
        found = {name: _numbers(path, file, name) for name in chosen if name in REQUIRED + VALIDATION}
        _require_memory(path, sum(item.nbytes for item in found.values()))
        arrays = {name: foreign.read(file, name, kinds=KINDS) for name in found}
        return arrays | dict.fromkeys(set(chosen) - set(found))


def _numbers(path, file, name):
    """Return the data set of an array; refuse anything else with what it is."""
    import h5py

    item = foreign.member(file, name)
    if isinstance(item, h5py.Group):
        held = ", ".join(foreign.names(item)) or "nothing"
        raise UnusableFileError(
            f"{path}: {name} missing: it is a group (with {held}), as pandas and PyTables make it; store it as one array"
        )
    if isinstance(item, h5py.Dataset) and item.dtype.kind not in KINDS:
        raise UnusableFileError(f"{path}: {name} is {item.dtype}; must be numbers")
    return foreign.dataset(file, name, kinds=KINDS)


def _nothing_found(path, names):
    held = ", ".join(sorted(map(str, names))[:12]) or "nothing"
    return (
        f"{path}: {', '.join(REQUIRED)} missing; the file holds no array whose name begins with x_ or y_, but {held}; "
        "write the arrays under these names, at the top level"
    )


def _require_memory(path, size):
    memory.require(size, f"the data in {path}", "use a smaller part of them")


def _check_names(path, arrays):
    """Refuse missing arrays, half a validation set, and other names in x_ or y_, which look misspelt."""
    for name in arrays:
        if name not in REQUIRED + VALIDATION:
            raise unknown_name(f"array in {path}:", name, list(REQUIRED + VALIDATION))
    has_validation = any(name in arrays for name in VALIDATION)
    missing = [name for name in REQUIRED + VALIDATION * has_validation if name not in arrays]
    if missing:
        present = ", ".join(sorted(arrays)) or "no array whose name begins with x_ or y_"
        raise ValueError(f"{path}: {', '.join(missing)} missing; the file holds {present}")


def _task(path, arrays):
    """Return the task that y_train implies: integers are labels, floats are targets."""
    kind = arrays["y_train"].dtype.kind
    if kind not in "iuf":
        raise ValueError(
            f"{path}: y_train is {arrays['y_train'].dtype}; must be integer labels or float targets"
        )
    return "regression" if kind == "f" else "classification"


def _split(path, part, arrays, task, dtype):
    x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
    x = _floats(x, f"{path}: x_{part}", dtype)
    check_matrix(x, f"{path}: x_{part}", "inputs")
    check_same_length(x, y, path, part)
    label = f"{path}: y_{part}"
    return Split(x, _targets(y, label, dtype) if task == "regression" else _labels(y, label))


def _floats(values, label, dtype):
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{label} is {values.dtype}; must be numbers")
    with np.errstate(over="ignore"):  # too large for float32: infinite now, refused as such by DataSet
        return np.asarray(values, dtype=dtype, order="C")


def _targets(y, label, dtype):
    if y.dtype.kind != "f":
        raise ValueError(
            f"{label} is {y.dtype} but y_train holds floats; store targets as floats in every part"
        )
    if y.ndim == 1:
        raise ValueError(
            f"{label} is {y.dtype} of shape {y.shape}; store class labels as integers, "
            "a single target per sample as y[:, None]"
        )
    return _floats(y, label, dtype)


def _labels(y, label):
    if y.dtype.kind not in "iu":
        raise ValueError(
            f"{label} is {y.dtype} but y_train holds integers; store labels as integers in every part"
        )
    if y.ndim != 1:
        raise ValueError(
            f"{label} is {y.dtype} of shape {y.shape}; labels must be (samples,), targets must be floats"
        )
    return np.ascontiguousarray(y, dtype=np.int64)


def _n_outputs(path, task, splits, n_classes):
    labels = splits["train"].y
    if task == "regression":
        if n_classes is not None:
            raise ValueError(
                f"data option n_classes = {n_classes!r}: {path} holds float targets, which have no classes"
            )
        check_matrix(labels, f"{path}: y_train", "targets")
        return labels.shape[1]
    if n_classes is not None:
        return whole_number("n_classes", n_classes, least=1)
    _refuse_labels(
        path,
        "y_train",
        labels,
        labels < 0,
        "labels are counted from 0: take numpy.unique(y, return_inverse=True)[1]",
    )
    _refuse_labels(
        path, "y_train", labels, labels >= MOST_CLASSES,
        f"labels must be 0 to {MOST_CLASSES - 1} unless n_classes is stated",
    )  # fmt: skip
    count = int(labels.max()) + 1
    for part, split in splits.items():
        needed = (
            f"a class that y_train lacks needs the data option n_classes = {int(split.y.max(initial=0)) + 1}"
        )
        wrong = split.y >= count
        _refuse_labels(path, f"y_{part}", split.y, wrong, f"labels must be 0 to {count - 1}; {needed}")
    return count


def _empty_classes(labels, count):
    """Return a note on outputs for which y_train has no sample, in a list; labels counted from 1 leave class 0 empty."""
    empty = np.flatnonzero(np.bincount(labels, minlength=count)[:count] == 0)
    if not len(empty):
        return []
    named = ", ".join(map(str, empty[:5])) + (" ..." if len(empty) > 5 else "")
    return [
        f"y_train has no sample of {'class' if len(empty) == 1 else 'classes'} {named}; labels are counted from 0"
    ]


def _refuse_labels(path, name, labels, wrong, allowed):
    """Refuse labels where some are wrong, with the first of them."""
    found = np.flatnonzero(wrong)
    if found.size:
        raise ValueError(
            f"{path}: {name} holds the label {labels[found[0]]} (sample {found[0]}, {found.size:,} in all); {allowed}"
        )


def _with_validation(path, splits, validation_size, split_seed):
    """Return training and validation part: as in the file, or with `validation_size` samples held out."""
    whole = splits["train"]
    train, held_out = dataset.hold_out(dataset.random_order(len(whole), split_seed), validation_size)
    if held_out is None:
        return whole, splits.get("val")
    if "val" in splits:
        raise ValueError(f"data option validation_size = {validation_size}: {path} has x_val already; use 0")
    return Split(whole.x[train], whole.y[train]), Split(whole.x[held_out], whole.y[held_out])
