"""The file of an analysis: measurements with named dimensions, opened by xarray as it is; and the same as a CSV table.

An HDF5 file is written as a whole. It holds no time stamp: equal measurements give equal files, byte for byte.
"""

import csv
import io

import numpy as np

from dfc_numba._version import __version__
from dfc_numba.storage.schema import checked
from dfc_numba.storage.table import filters, texts
from dfc_numba.support import files, foreign, hdf5

SCHEMA, SCHEMA_VERSION, KIND = "dfc-numba/analysis", "1.0", "analysis file"


def write(path, variables, *, dimensions, config=None):
    """Write an HDF5 file; an older one is replaced as a whole.

    Args:
        variables: (`schema.VariableDescription`, array) by name; one that has the name of its only dimension gives the
            coordinates             along it.
        dimensions: what the dimensions without coordinates of their own are, by name: 0, 1, ..., or for "layer" 1, 2, ...
        config: the `Config` that was measured, None where there is none.

    Raises:
        OSError: if it cannot be written; then the older file is as it was.
    """
    variables = dict(sorted(variables.items()))  # the order is part of the bytes
    with hdf5.replacing(path) as file:
        text = "" if config is None else config.model_dump_json()
        file.attrs.update(
            **checked(
                {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, "dfc_numba": __version__, "config": text}
            )
        )
        for name, length in _lengths(variables).items():
            _add_scale(file, name, length, variables.get(name), dimensions)
        for name, (about, array) in variables.items():
            if name not in about.dims:
                _add(file, name, about, array)


def read_course(path):
    """Return the measurements of a whole probe in a run's file: arrays (times,) by name, and "minibatches".

    Raises:
        OSError: if the file is missing or damaged. ValueError: for a newer schema, or a file of another kind.
    """
    with hdf5.opened(path, SCHEMA, SCHEMA_VERSION, KIND) as file:
        minibatches = foreign.dataset(file, "minibatches")
        found = {name: foreign.dataset(file, name) for name in foreign.names(file)}
        return {
            name: foreign.read(file, name) for name, data in found.items() if data.shape == minibatches.shape
        }


def _lengths(variables):
    """Return the length of each dimension."""
    return {
        dim: length
        for about, array in variables.values()
        for dim, length in zip(about.dims, array.shape, strict=True)
    }


def _add_scale(file, name, length, variable, dimensions):
    if variable is None:
        values = np.arange(length) + (name == "layer")
        scale = _dataset(file, name, values)
        scale.attrs.update(long_name=dimensions[name], units="1")
    else:
        about, values = variable
        scale = _dataset(file, name, values)
        scale.attrs.update(texts(about))
    scale.make_scale(name)


def _add(file, name, about, array):
    dataset = _dataset(file, name, array)
    dataset.attrs.update(texts(about))
    for axis, dim in enumerate(about.dims):
        dataset.dims[axis].attach_scale(file[dim])


def _dataset(file, name, array):
    return file.create_dataset(name, data=array, chunks=array.shape, **filters("none"))


def read_parts(path, names):
    """Return those of the named measurements that a run's file has, and "minibatches": arrays (times, ...) by name.

    Raises:
        OSError, ValueError: as `read_course`.
    """
    with hdf5.opened(path, SCHEMA, SCHEMA_VERSION, KIND) as file:
        return {
            name: foreign.read(file, name) for name in foreign.names(file) if name in {"minibatches", *names}
        }


def write_csv(path, columns, rows):
    """Write a CSV file; an older one is replaced as a whole."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.write_text(path, text.getvalue())
