"""A group of data sets that grow together along their first dimension, with their dimension scales.

A row may be smaller than those before along a dimension that grows (fewer samples): what it lacks is filled with NaN, or
-1 in integers. A row that is larger makes the dimension grow, and the rows before are filled.
"""

import itertools

import numpy as np

from dfc_numba.errors import DamagedFileError, MissingExtra
from dfc_numba.storage import hdf5_fast, schema
from dfc_numba.support import foreign

# --- layout: chunks, compression, checksums -----------------------------------------------------------------

CHUNK_BYTES = 2**19
SMALL_ROW_BYTES, SMALL_CHUNK_BYTES = 2**10, 2**11  # rows below this size share a chunk
BLOCK_BYTES = 2**23  # moved at a time
COMPRESSIONS = ("none", "gzip", "zstd", "blosc")


def filters(compression):
    """Return keyword arguments of h5py's `create_dataset`: checksums, and the compression of this name.

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
    """Return the chunk of a variable whose rows have this shape: a part of a row, or several rows if they are small."""
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
    """Return slices along the first axis of an array that are moved at a time: whole chunks, a few MB.

    Args:
        shape: of the array. chunk: length of the chunks along its first axis.
    """
    bytes_each = int(np.prod(shape[1:], dtype=np.int64)) * itemsize
    length = max(1, BLOCK_BYTES // max(bytes_each, 1) // chunk) * chunk
    return [slice(start, min(start + length, shape[0])) for start in range(0, shape[0], length)]


# --- data sets that grow together ---------------------------------------------------------------------------


class Table:
    """A group of an open file whose variables grow along `leading`.

    Args:
        file: an `h5py.File`, open for writing.
        name: of the group. leading: its first dimension, "record" or "snapshot".
        attributes: of the group.
        options: from `layout.filters`.
        units: of variables that do not always have the same, by name.
        dtype: that trajectories are stored in; None for that of the first array.
    """

    def __init__(self, file, name, leading, *, attributes, options, units=None, dtype=None):
        self.group = file.create_group(name)
        self.group.attrs.update(schema.checked(attributes))
        self.attributes = dict(attributes)
        self._leading, self._options, self._units, self._dtype = leading, options, units or {}, dtype
        self._variables, self._scales, self._lengths = {}, {}, {}
        self._add_scale(leading, np.arange(0))

    def __len__(self):
        return self._lengths[self._leading]

    def append(self, arrays, coordinates=(), twins=()):
        """Add a row.

        Args:
            arrays: arrays or numbers by the names of variables.
            coordinates: values by the names of dimensions that are not 0, 1, ..., and of what lies along them; the same
                for every row.
            twins: tables of other files that get the row, too, each with a dict of its own numbers; the bytes that are
                stored are made once for all of them.

        Raises:
            ValueError: for shapes, types or coordinates other than those of the rows before; nothing is added.
        """
        arrays = {name: np.asarray(array) for name, array in arrays.items()}
        kinds = {name: (array.shape, array.dtype) for name, array in arrays.items()}
        tables = [self, *(twin for twin, _ in twins)]
        rows = [len(table) for table in tables]
        for table, row in zip(tables, rows, strict=True):
            table._make_room(kinds, dict(coordinates), row + 1)
        for name, array in arrays.items():
            _write([(table._variables[name], row) for table, row in zip(tables, rows, strict=True)], array)
        for (twin, numbers), row in zip(twins, rows[1:], strict=True):
            for name, number in numbers.items():
                twin._variables[name][row] = number

    def copy(self, source, stop=None, **replaced):
        """Add the rows of a group of this kind in another file, up to row `stop`, a few MB at a time.

        Args:
            source: an `h5py.Group`. replaced: arrays to take in the place of variables.

        Raises:
            DamagedFileError: if something in it cannot be read.
        """
        first, count = len(self), len(source[self._leading]) if stop is None else stop
        names = [name for name in source if not schema.is_dimension(name)]
        rows = {name: source[name] for name in names if schema.variable(name).dims[0] == self._leading}
        along = [name for name in ("step", *names) if name in source and name not in rows]
        coordinates = {name: source[name][...] for name in along}
        self._make_room(
            {name: (d.shape[1:], d.dtype) for name, d in rows.items()}, coordinates, first + count
        )
        for name, data in rows.items():
            if name in replaced:
                self._variables[name][first:] = replaced[name][:count]
            else:
                _copy_rows(data, 0, count, self._variables[name], first)

    def _make_room(self, kinds, coordinates, count):
        """Make room for `count` rows of these kinds, (shape, dtype) by name, and coordinates; or refuse and change nothing."""
        for name, array in coordinates.items():
            self._check_coordinate(name, array)
        lengths = {name: len(array) for name, array in coordinates.items()} | self._lengths
        for name, (shape, dtype) in kinds.items():
            self._check_shape(name, shape, lengths)
            self._check_dtype(name, dtype)
        for name, array in coordinates.items():
            self._set_coordinate(name, array)
        for name, (shape, dtype) in kinds.items():
            self._make_room_for(name, shape, dtype)
        self._extend(self._leading, count)

    def _check_shape(self, name, shape, lengths):
        for dim, length in zip(schema.variable(name).dims[1:], shape, strict=True):
            there = lengths.setdefault(dim, length)
            if length != there and dim not in schema.GROWING:
                raise ValueError(
                    f"{self.group.name}/{name} has length {length} along {dim}; earlier records have {there}; "
                    "all records of a phase in one file have the same network and steps"
                )

    def _check_dtype(self, name, dtype):
        chosen = self._stored_dtype(name, dtype)
        stored = self._variables[name].dtype if name in self._variables else chosen
        if not np.can_cast(dtype, stored, "same_kind" if stored == chosen else "safe"):
            raise ValueError(
                f"{self.group.name}/{name} has {dtype} numbers, but is stored as {stored}, which has fewer digits; "
                "all records of a phase in one file have the same types"
            )

    def _check_coordinate(self, name, array):
        there = self._scales.get(name, self._variables.get(name))
        if there is not None and not np.array_equal(there[...], array):
            raise ValueError(
                f"{self.group.name} has other values of {name} than the earlier records; all records of "
                "a phase in one file have the same steps"
            )

    def _set_coordinate(self, name, array):
        if name in self._scales or name in self._variables:
            return
        if schema.is_dimension(name):
            self._add_scale(name, array)
        else:
            self._add_variable(name, array.dtype)
            self._variables[name][...] = array

    def _make_room_for(self, name, shape, dtype):
        """Make room for a row of this shape in the variable, which is created if it is new."""
        for dim, length in zip(schema.variable(name).dims[1:], shape, strict=True):
            if dim not in self._scales:
                self._add_scale(dim, np.arange(length))
            if length > self._lengths[dim]:
                self._extend(dim, length)
        if name not in self._variables:
            self._add_variable(name, dtype)

    def _stored_dtype(self, name, dtype):
        chosen = self._dtype is not None and schema.is_trajectory(name)
        return self._dtype if chosen else dtype

    def _extend(self, dim, length):
        """Make a dimension longer, with all variables along it."""
        before, self._lengths[dim] = self._lengths[dim], length
        scale = self._scales[dim]
        scale.resize(length, axis=0)
        scale[before:] = np.arange(before, length)
        for name, dataset in self._variables.items():
            dims = schema.variable(name).dims
            if dim in dims:
                dataset.resize(length, axis=dims.index(dim))

    def _add_scale(self, dim, values):
        chunk = SMALL_CHUNK_BYTES // 8 if dim in schema.GROWING else max(1, len(values))
        scale = self.group.create_dataset(
            dim, data=np.asarray(values, np.int64), maxshape=_maximum([dim], [len(values)]), chunks=(chunk,),
            fillvalue=-1, **self._options,
        )  # fmt: skip
        scale.attrs.update(long_name=schema.dimension_text(dim), units="1")
        scale.make_scale(dim)
        self._scales[dim], self._lengths[dim] = scale, len(values)

    def _add_variable(self, name, dtype):
        about, dtype = schema.variable(name), self._stored_dtype(name, dtype)
        shape = [self._lengths[dim] for dim in about.dims]
        grows = about.dims[0] == self._leading
        dataset = self.group.create_dataset(
            name, shape=shape, dtype=dtype, maxshape=_maximum(about.dims, shape), fillvalue=schema.FILL[dtype.kind],
            chunks=chunk_shape(shape[1:], dtype.itemsize) if grows else tuple(shape), **self._options,
        )  # fmt: skip
        dataset.attrs.update(texts(about) | ({"units": self._units[name]} if name in self._units else {}))
        for axis, dim in enumerate(about.dims):
            dataset.dims[axis].attach_scale(self._scales[dim])
        self._variables[name] = dataset


def _maximum(dims, shape):
    """Return the shape that a data set may grow to."""
    return tuple(None if dim in schema.GROWING else length for dim, length in zip(dims, shape, strict=True))


def texts(about):
    """Return the attributes of a variable."""
    texts = {"long_name": about.long_name, "units": about.units}
    if about.coordinates:
        texts["coordinates"] = about.coordinates
    if about.meanings:
        texts["flag_values"] = np.arange(len(about.meanings.split()), dtype=np.int8)
        texts["flag_meanings"] = about.meanings
    return texts


def _write(places, array):
    """Write a row, which may be smaller than its places, to each of them: (data set, row)."""
    if array.ndim == 0:
        for dataset, row in places:
            dataset[row] = array
        return
    for alike in _grouped(places):
        (dataset, row), *others = alike
        if hdf5_fast.takes_whole_chunks(dataset, array.shape):
            _write_chunks(alike, array)
            continue
        _write_pieces(dataset, row, array)
        for target, target_row in others:
            if dataset.chunks[0] == 1:
                _copy_rows(dataset, row, row + 1, target, target_row)
            else:
                _write_pieces(target, target_row, array)


def _grouped(places):
    """Group the places whose chunks are alike."""
    groups = {}
    for dataset, row in places:
        groups.setdefault((*_encoding(dataset), dataset.shape[1:]), []).append((dataset, row))
    return groups.values()


def _encoding(dataset):
    return dataset.chunks, dataset.dtype.str, str(dataset._filters)


def _write_chunks(places, array):
    """Write a row in the stored dtype, whole chunk by whole chunk."""
    length, rest = places[0][0].chunks[1], (0,) * (array.ndim - 1)
    for start in range(0, len(array), length):
        corners = [(dataset, (row, start, *rest)) for dataset, row in places]
        hdf5_fast.write_chunk(corners, array[start : start + length])


def _write_pieces(dataset, row, array):
    """Write a row in the stored dtype through HDF5."""
    rest = tuple(map(slice, array.shape[1:]))
    for piece in pieces(array.shape, dataset.chunks[1], dataset.dtype.itemsize):
        with np.errstate(over="ignore"):
            dataset[(row, piece, *rest)] = array[piece].astype(dataset.dtype, copy=False)


def _copy_rows(source, start, stop, target, first):
    """Copy some rows of a data set to the rows of another from `first` on, chunk by chunk."""
    as_stored = source.chunks[0] == 1 and _encoding(source) == _encoding(target)
    for part in chunks(source, stop, start):
        corner = tuple(piece.start for piece in part)
        place = first + corner[0] - start
        info = source.id.get_chunk_info_by_coord(corner)
        if info.byte_offset is None:
            continue  # nothing but padding was ever written there
        if not as_stored:
            target[(slice(place, place + part[0].stop - part[0].start), *part[1:])] = read_checked(
                source, part
            )
        elif not hdf5_fast.copy_chunk(source, info, target, (place, *corner[1:])):
            read_checked(source, part)  # says what is damaged, if it is


def chunks(dataset, stop, start=0):
    """Yield the part of each chunk that lies within some rows, which begin with a chunk: slices, one per dimension."""
    first, lengths = (start, *(0,) * (dataset.ndim - 1)), (stop, *dataset.shape[1:])
    sizes = dataset.chunks or dataset.shape
    for corner in itertools.product(*map(range, first, lengths, sizes)):
        yield tuple(map(slice, corner, np.minimum(np.add(corner, sizes), lengths)))


def read_checked(dataset, part):
    """Read a part of a data set; an error says where its checksum is wrong."""
    try:
        return dataset[part]
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        leading = schema.variable(dataset.name.rpartition("/")[2]).dims[0]
        rows = f"{leading} {part[0].start}" + (
            f" to {part[0].stop - 1}" if part[0].stop - part[0].start > 1 else ""
        )
        raise DamagedFileError(
            f"{foreign.file_name(dataset)}: {dataset.name} of {rows} is damaged, or cannot be read ({error})"
        ) from None
