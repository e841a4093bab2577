"""The data sets by name; the options of each are the keyword arguments of its loader."""

import inspect
from pathlib import Path

from . import checks, digits, images, own_file, student_teacher, uniform_teacher
from .dataset import DataSet

LOADERS = {
    "digits": digits.load,
    "student_teacher": student_teacher.load,
    "uniform_teacher": uniform_teacher.load,
    "mnist": images.mnist,
    "fashion_mnist": images.fashion_mnist,
    "mnist_autoencoder": images.mnist_autoencoder,
    "file": own_file.load,
}


def names() -> list[str]:
    """Names of the data sets, in a list."""
    return list(LOADERS)


def load(name: str | Path, *, dtype="float64", **options) -> DataSet:
    """Load a data set.

    Args:
        name: one of `names()`, or the path of a .npz or .h5 file (short for `load("file", path=...)`).
        dtype: type of the inputs and of regression targets, "float64" or "float32".
        options: the options of that data set; `describe(name)` explains them.

    Returns:
        A `DataSet`.

    Raises:
        ValueError: for an unknown name or option (with the nearest valid one), an option that cannot be
            honoured, and files that are damaged or hold impossible values; the message names the file and
            what is wrong.
        TypeError: for an option of the wrong type.
        DataUnavailableError: (a `ValueError` and an `OSError`) for files that are neither here nor
            downloadable.
    """
    name, options = _resolve(name, options)
    check_options(name, options)
    return LOADERS[name](dtype=checks.float_type(dtype), **options)


def options(name: str | Path) -> dict:
    """The options of a data set as {name: default}, with `inspect.Parameter.empty` for a required one."""
    name, _ = _resolve(name, {})
    parameters = inspect.signature(LOADERS[name]).parameters
    return {key: parameter.default for key, parameter in parameters.items() if key != "dtype"}


def check_options(name: str | Path, given: dict) -> None:
    """Raise `ValueError` for an option that a data set does not have, or that it needs; nothing is loaded."""
    name, given = _resolve(name, given)
    known = options(name)
    for key in given:
        if key not in known:
            raise checks.unknown_name(f"option of data set {name!r}:", key, list(known))
    for key, default in known.items():
        if default is inspect.Parameter.empty and key not in given:
            raise ValueError(f"data set {name!r} needs the option {key}")


def describe(name: str | Path) -> str:
    """A text for people: what the data set is, and its options with their defaults and meaning."""
    name, _ = _resolve(name, {})
    defaults = "\n".join(f"    {key} = {_shown(default)}" for key, default in options(name).items())
    return f"{name}: {inspect.getdoc(LOADERS[name])}\n\nDefaults:\n{defaults}"


def _resolve(name, options):
    """Turn the path of a user's own file into the data set "file"; refuse unknown names."""
    if isinstance(name, Path) or (isinstance(name, str) and name.lower().endswith(own_file.SUFFIXES)):
        if "path" in options:
            raise ValueError(
                f"data set {str(name)!r} is a path already; leave out the option path = {options['path']!r}"
            )
        return "file", {"path": name, **options}
    if name not in names():
        suffixes = ", ".join(own_file.SUFFIXES)
        raise checks.unknown_name(
            "data set", name, names(), f"; or the path of a file that ends in {suffixes}"
        )
    return name, options


def _shown(default):
    if default is inspect.Parameter.empty:
        return "(required)"
    return "(not set)" if default is None else repr(default)
