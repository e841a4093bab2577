"""The embedded data set: 1,797 handwritten digits of 8 x 8 pixels, which a network learns within seconds.

E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, CC BY 4.0; see digits.md.
"""

from __future__ import annotations

import gzip
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from dfc_numba.data import dataset, images, own_file, tables, teachers
from dfc_numba.data.dataset import DataSet, Split, float_type, unknown_name, whole_number
from dfc_numba.registry import DATA_SOURCES, HOW_TO_LOAD, Extension, Option, register_built_ins
from dfc_numba.support.array_types import DTypeLike

# --- the embedded digits ------------------------------------------------------------------------------------

PIXEL_MAX, PIXEL_MEAN, PIXEL_STD = 16, 0.3053, 0.3760
SOURCE = "Optical Recognition of Handwritten Digits, E. Alpaydin & C. Kaynak, UCI ML Repository, CC BY 4.0"


def digits(*, dtype, train_size=None, validation_size=200, test_size=300, split_seed=0):
    """Load the embedded 8 x 8 handwritten digits (UCI; 1,797 images, 64 inputs, 10 classes); no download is needed.

    Inputs are (pixel/16 - 0.3053) / 0.3760: mean 0 and standard deviation 1 over all pixels of all images.
    Every part holds the ten classes in nearly equal proportions.

    Args:
        train_size: number of training images; not set means all that remain (1,297).
        validation_size: number of validation images, 0 for none.
        test_size: number of test images.
        split_seed: which images go where; the same seed gives the same split on every machine.
    """
    pixels, labels = _read()
    order = dataset.stratified_order(labels, split_seed)
    test_size = whole_number("test_size", test_size, least=1, most=len(order) - 1)
    train, validation = dataset.hold_out(order[test_size:], validation_size, train_size)
    x = ((pixels / PIXEL_MAX - PIXEL_MEAN) / PIXEL_STD).astype(dtype)

    def part(indices):
        return Split(x[indices], labels[indices])

    return DataSet(
        name="digits",
        task="classification",
        train=part(train),
        validation=None if validation is None else part(validation),
        test=part(order[:test_size]),
        n_outputs=10,
        source=SOURCE,
    )


def _read():
    """Return pixels (1797, 64) of 0 .. 16 and labels (1797,) from the file inside the package."""
    packed = resources.files(__package__).joinpath("digits.csv.gz").read_bytes()
    table = np.loadtxt(gzip.decompress(packed).decode("ascii").splitlines(), delimiter=",", dtype=np.int64)
    return table[:, :-1], np.ascontiguousarray(table[:, -1])


# --- data sets by name --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class DataSource(Extension):
    """A data set by name, or a family of them that options choose from.

    Args:
        name: by which `data.name` chooses it. summary: one line of documentation; the first line of the function's docstring
            if left out.
        load: function of (*, dtype, **options) that returns a `DataSet`; dtype is "float64" or "float32", the type of
            inputs and of regression targets.
        options: `Option`s that are checked before the function is called; left out, the keyword arguments of `load` with
            their defaults, which check themselves.
    """

    name: str
    _: KW_ONLY
    summary: str = ""
    load: Callable[..., DataSet]
    options: Sequence[Option] = ()

    registry = DATA_SOURCES

    def __post_init__(self):
        if not self.summary and callable(self.load):
            object.__setattr__(self, "summary", (inspect.getdoc(self.load) or "").partition("\n")[0])

    def check(self) -> None:
        """Raise a ValueError for a function that cannot be called with dtype and the options."""
        if not callable(self.load):
            raise ValueError(f"data set {self.name!r} has load = {self.load!r}; it needs to be a function")
        named = [option.name for option in self.options]
        try:
            inspect.signature(self.load).bind(dtype="float64", **dict.fromkeys(named or self._required()))
        except TypeError as error:
            raise ValueError(
                f"data set {self.name!r}: load is called as load(dtype=..., {', '.join(f'{name}=...' for name in named)}), "
                f"which it does not take ({error})"
            ) from None

    def _required(self):
        parameters = inspect.signature(self.load).parameters.values()
        kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        return [
            one.name
            for one in parameters
            if one.default is one.empty and one.name != "dtype" and one.kind in kinds
        ]

    def defaults(self) -> dict[str, Any]:
        """Return the options as {name: default}, with `inspect.Parameter.empty` for a required one."""
        if self.options:
            empty = inspect.Parameter.empty
            return {
                one.name: empty if one.default is Option.REQUIRED else one.default for one in self.options
            }
        parameters = inspect.signature(self.load).parameters
        return {key: parameter.default for key, parameter in parameters.items() if key != "dtype"}

    def loaded(self, dtype: DTypeLike, given: Mapping[str, Any]) -> DataSet:
        """Return the `DataSet` with these options, a dict."""
        values = {one.name: one.checked_or_default(given, "data.options") for one in self.options} or given
        found = self.load(dtype=dtype, **values)
        if not isinstance(found, DataSet):
            raise ValueError(
                f"data set {self.name!r}: load returns {type(found).__name__}; it has to be a dfc_numba.data.DataSet"
            )
        return found


register_built_ins(
    DataSource("digits", load=digits),
    DataSource("student_teacher", load=teachers.student_teacher),
    DataSource("uniform_teacher", load=teachers.uniform_teacher),
    DataSource("mnist", load=images.mnist),
    DataSource("fashion_mnist", load=images.fashion_mnist),
    DataSource("mnist_autoencoder", load=images.mnist_autoencoder),
    DataSource("file", load=own_file.load),
    DataSource("csv", load=tables.table),
    DataSource("idx", load=tables.idx),
)


def names() -> list[str]:
    """Return the names of the data sets."""
    return list(DATA_SOURCES)


def load(name: str | Path, *, dtype: DTypeLike = "float64", **options: Any) -> DataSet:
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
    return DATA_SOURCES[name].loaded(float_type(dtype), options)


def options(name: str | Path) -> dict:
    """Return the options of a data set as {name: default}, with `inspect.Parameter.empty` for a required one."""
    name, _ = _resolve(name, {})
    return DATA_SOURCES[name].defaults()


def check_options(name: str | Path, given: dict[str, Any]) -> None:
    """Raise `ValueError` for an option that a data set does not have, or that it needs; nothing is loaded."""
    name, given = _resolve(name, given)
    known = options(name)
    for key in given:
        if key not in known:
            raise unknown_name(f"option of data set {name!r}:", key, list(known))
    for key, default in known.items():
        if default is inspect.Parameter.empty and key not in given:
            raise ValueError(f"data set {name!r} needs the option {key}")
    for option in DATA_SOURCES[name].options:
        option.checked_or_default(given, "data.options")


def describe(name: str | Path) -> str:
    """Describe a data set for people: what it is, and its options with their defaults and meaning."""
    name, _ = _resolve(name, {})
    source = DATA_SOURCES[name]
    comments = {option.name: f"  # {option.description}" for option in source.options if option.description}
    lines = (
        f"    {key} = {_shown(default)}{comments.get(key, '')}" for key, default in options(name).items()
    )
    return f"{name}: {inspect.getdoc(source.load) or source.summary}\n\nDefaults:\n" + "\n".join(lines)


def _resolve(name, options):
    """Turn the path of a user's own file into the data set "file"; refuse unknown names."""
    kind = _kind_of_path(name)
    if kind is not None:
        key = "folder" if kind == "idx" else "path"
        if key in options:
            raise ValueError(
                f"data set {str(name)!r} is a path already; leave out the option {key} = {options[key]!r}"
            )
        return kind, {key: name, **options}
    if name not in names():
        suffixes = ", ".join(own_file.SUFFIXES + tables.SUFFIXES)
        others = (
            f"; or the path of a file that ends in {suffixes} (a data set of an extension: {HOW_TO_LOAD})"
        )
        raise unknown_name("data set", name, names(), others)
    return name, options


def _kind_of_path(name):
    """Return the data set that reads what a path names: "file", "csv" or "idx"; None for a name."""
    if not isinstance(name, str | Path):
        return None
    text = str(name).lower()
    if text.endswith(tables.SUFFIXES):
        return "csv"
    if text.endswith(own_file.SUFFIXES):
        return "file"
    folder = str(name) not in names() and (isinstance(name, Path) or "/" in text)
    return None if not folder else "idx" if Path(name).expanduser().is_dir() else "file"


def _shown(default):
    if default is inspect.Parameter.empty:
        return "(required)"
    return "(not set)" if default is None else repr(default)
