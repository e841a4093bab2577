"""A group of data sets that grow together along their first dimension: chunks, filters, dimension scales, padding.

A row may be smaller than those before along a dimension that grows (fewer samples): what it lacks is filled with NaN, or
-1 in integers. A row that is larger makes the dimension grow, and the rows before are filled.
"""

import numpy as np

from dfc_numba.errors import MissingExtra
from dfc_numba.storage import schema

CHUNK_BYTES = 2**19
SMALL_ROW_BYTES, SMALL_CHUNK_BYTES = 2**12, 2**14  # rows below this size share a chunk
BLOCK_BYTES = 2**23  # written at a time
COMPRESSIONS = ("none", "gzip", "zstd", "blosc")


def filters(compression):
    """Keyword arguments of h5py's `create_dataset`: checksums, and the compression of this name.

    Raises:
        ValueError: for an unknown name. MissingExtra: if it needs the extra `compression`.
    """
    if compression not in COMPRESSIONS:
        raise ValueError(f"compression is {compression!r}; allowed are {', '.join(map(repr, COMPRESSIONS))}")
    if compression == "none":
        return {"fletcher32": True}
    if compression == "gzip":
        return {"fletcher32": True, "shuffle": True, "compression": "gzip", "compression_opts": 1}
    try:
        import hdf5plugin
    except ImportError:
        raise MissingExtra(
            f"compression {compression!r} needs hdf5plugin, which the extra compression installs: "
            "pip install 'dfc-numba[compression]'"
        ) from None
    if compression == "zstd":
        return {"fletcher32": True, "shuffle": True, **hdf5plugin.Zstd(clevel=3)}
    return {"fletcher32": True, **hdf5plugin.Blosc(cname="lz4", clevel=5, shuffle=hdf5plugin.Blosc.SHUFFLE)}


def chunk_shape(shape, itemsize):
    """The chunk of a variable whose rows have this shape: a part of a row, or several rows where they are small."""
    row_bytes = int(np.prod(shape, dtype=np.int64)) * itemsize
    if row_bytes <= SMALL_ROW_BYTES:
        return SMALL_CHUNK_BYTES // max(row_bytes, 1), *shape
    chunk = list(shape)
    for axis, length in enumerate(shape):
        rest = int(np.prod(chunk[axis + 1 :], dtype=np.int64)) * itemsize
        fitting = max(1, CHUNK_BYTES // rest)
        chunk[axis] = -(-length // -(-length // fitting))  # parts as even as possible
        if fitting > 1:
            break
    return 1, *chunk


def pieces(shape, chunk, itemsize):
    """Slices along the first axis of an array that are moved at a time: whole chunks, a few MB.

    Args:
        shape: of the array. chunk: length of the chunks along its first axis.
    """
    bytes_each = int(np.prod(shape[1:], dtype=np.int64)) * itemsize
    length = max(1, BLOCK_BYTES // max(bytes_each, 1) // chunk) * chunk
    return [slice(start, min(start + length, shape[0])) for start in range(0, shape[0], length)]


class Table:
    """A group of an open file whose variables grow along `leading`.

    Args:
        file: an `h5py.File`, open for writing.
        name: of the group. leading: its first dimension, "record" or "snapshot".
        attributes: of the group.
        options: filters, see `filters`.
        dtype: that trajectories are stored in; None for that of the first array.
    """

    def __init__(self, file, name, leading, *, attributes, options, dtype=None):
        self.group = file.create_group(name)
        self.group.attrs.update(attributes)
        self.attributes = dict(attributes)
        self._leading, self._options, self._dtype = leading, options, dtype
        self._variables, self._scales = {}, {}
        self._add_scale(leading, np.arange(0))

    def __len__(self):
        return len(self._scales[self._leading])

    def append(self, arrays, coordinates=()):
        """Add a row.

        Args:
            arrays: arrays or numbers by the names of variables.
            coordinates: values by the names of dimensions that are not 0, 1, ..., and of what lies along them; the same
                for every row.

        Raises:
            ValueError: for shapes or coordinates other than those of the rows before.
        """
        row = len(self)
        arrays = {name: np.asarray(array) for name, array in arrays.items()}
        self._set_coordinates(dict(coordinates))
        for name, array in arrays.items():
            self._make_room(name, array.shape, array.dtype)
        self._extend(self._leading, row + 1)
        for name, array in arrays.items():
            _write(self._variables[name], row, array)

    def copy(self, source, stop=None, **replaced):
        """Add the rows of a group of this kind in another file, up to row `stop`, a few MB at a time.

        Args:
            source: an `h5py.Group`. replaced: arrays to take in the place of variables.
        """
        first, count = len(self), len(source[self._leading]) if stop is None else stop
        variables = {name: source[name] for name in source if not schema.is_dimension(name)}
        along = {
            name: data for name, data in variables.items() if schema.variable(name).dims[0] != self._leading
        }
        steps = {name: source[name][...] for name in ("step",) if name in source}
        self._set_coordinates(steps | {name: data[...] for name, data in along.items()})
        rows = {name: data for name, data in variables.items() if name not in along}
        for name, data in rows.items():
            self._make_room(name, data.shape[1:], data.dtype)
        self._extend(self._leading, first + count)
        for name, data in rows.items():
            if name in replaced:
                self._variables[name][first:] = replaced[name][:count]
            else:
                _copy_rows(data, self._variables[name], first, count)

    def _set_coordinates(self, values):
        for name, array in values.items():
            there = self._scales.get(name, self._variables.get(name))
            if there is None and schema.is_dimension(name):
                self._add_scale(name, array)
            elif there is None:
                self._add_variable(name, array.dtype)
                self._variables[name][...] = array
            elif not np.array_equal(there[...], array):
                raise ValueError(
                    f"{self.group.name} is to hold other values of {name} than for the records before; all records of "
                    "a phase in one file have the same steps"
                )

    def _make_room(self, name, shape, dtype):
        """Let a row of this shape fit into the variable, which is created if it is new."""
        for dim, length in zip(schema.variable(name).dims[1:], shape, strict=True):
            if dim not in self._scales:
                self._add_scale(dim, np.arange(length))
            there = len(self._scales[dim])
            if length > there and dim in schema.GROWING:
                self._extend(dim, length)
            elif length != there and dim not in schema.GROWING:
                raise ValueError(
                    f"{self.group.name}/{name} is to hold {length} along {dim}, but the records before have {there}; "
                    "all records of a phase in one file have the same network and steps"
                )
        if name not in self._variables:
            self._add_variable(name, dtype)

    def _extend(self, dim, length):
        """Make a dimension longer, with all variables along it."""
        scale = self._scales[dim]
        before = len(scale)
        scale.resize(length, axis=0)
        scale[before:] = np.arange(before, length)
        for name, dataset in self._variables.items():
            if dim in schema.variable(name).dims:
                dataset.resize(length, axis=schema.variable(name).dims.index(dim))

    def _add_scale(self, dim, values):
        chunk = SMALL_CHUNK_BYTES // 8 if dim in schema.GROWING else max(1, len(values))
        scale = self.group.create_dataset(
            dim, data=np.asarray(values, np.int64), maxshape=_maximum([dim], [len(values)]), chunks=(chunk,),
            fillvalue=-1, **self._options,
        )  # fmt: skip
        scale.attrs.update(long_name=schema.dimension_text(dim), units="1")
        scale.make_scale(dim)
        self._scales[dim] = scale

    def _add_variable(self, name, dtype):
        one = schema.variable(name)
        if self._dtype is not None and schema.is_trajectory(name):
            dtype = np.dtype(self._dtype)
        shape = [len(self._scales[dim]) for dim in one.dims]
        chunk = chunk_shape(shape[1:], dtype.itemsize) if one.dims[0] == self._leading else tuple(shape)
        dataset = self.group.create_dataset(
            name, shape=shape, dtype=dtype, maxshape=_maximum(one.dims, shape), chunks=chunk,
            fillvalue=schema.FILL[dtype.kind], **self._options,
        )  # fmt: skip
        dataset.attrs.update(_texts(one))
        for axis, dim in enumerate(one.dims):
            dataset.dims[axis].attach_scale(self._scales[dim])
        self._variables[name] = dataset


def _maximum(dims, shape):
    """The shape that a data set may grow to."""
    return tuple(None if dim in schema.GROWING else length for dim, length in zip(dims, shape, strict=True))


def _texts(one):
    """The attributes of a variable."""
    texts = {"long_name": one.long_name, "units": one.units}
    if one.coordinates:
        texts["coordinates"] = one.coordinates
    if one.meanings:
        texts |= {
            "flag_values": np.arange(len(one.meanings.split()), dtype=np.int8),
            "flag_meanings": one.meanings,
        }
    return texts


def _write(dataset, row, array):
    """Write a row, which may be smaller than its place, piece by piece in the stored dtype."""
    if array.ndim == 0:
        dataset[row] = array
        return
    rest = tuple(slice(length) for length in array.shape[1:])
    for piece in pieces(array.shape, dataset.chunks[1], dataset.dtype.itemsize):
        with np.errstate(over="ignore"):
            block = array[piece].astype(dataset.dtype, copy=False)
        dataset[(row, piece, *rest)] = block


def _copy_rows(source, target, first, count):
    """Copy the first rows of a data set to the rows of another from `first` on."""
    if source.chunks[0] == 1 and source.ndim > 1:
        for row in range(count):
            for piece in pieces(source.shape[1:], target.chunks[1], source.dtype.itemsize):
                rest = tuple(slice(length) for length in source.shape[2:])
                target[(first + row, piece, *rest)] = source[row, piece]
        return
    rest = tuple(slice(length) for length in source.shape[1:])
    for piece in pieces((count, *source.shape[1:]), source.chunks[0], source.dtype.itemsize):
        target[(slice(first + piece.start, first + piece.stop), *rest)] = source[piece]
