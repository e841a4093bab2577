"""Looking into files that someone else may have made: no link is followed, nothing but numbers and texts is read."""

from dfc_numba import hdf5
from dfc_numba.storage import schema

LINK_KINDS = {"SoftLink": "a soft link", "ExternalLink": "a link to another file"}
FILTER_NAMES = {"32015": "zstd", "32001": "blosc"}


def open_file(path):
    """A trajectory file, opened for reading.

    Raises:
        OSError: if it cannot be read. ValueError: if it is no trajectory file, a newer one, or holds links.
    """
    file = hdf5.open_checked(path, schema.SCHEMA, schema.SCHEMA_VERSION, schema.KIND)
    try:
        for group in groups(file).values():
            _refuse_links(group)
    except BaseException:
        file.close()
        raise
    return file


def groups(file):
    """The groups of a file by name.

    Raises:
        ValueError: if some are links.
    """
    import h5py

    _refuse_links(file)
    return {name: file[name] for name in file if file.get(name, getclass=True) is h5py.Group}


def _refuse_links(group):
    for name in group:
        kind = type(group.get(name, getlink=True)).__name__
        if kind != "HardLink":
            raise ValueError(
                f"{group.file.filename}: {group.name.rstrip('/')}/{name} is {LINK_KINDS.get(kind, kind)}, "
                "which is not followed; "
                "copy what it leads to into the file"
            )


def length(group, dim):
    """The length of a dimension."""
    return len(data_set(group, dim))


def data_set(group, name):
    """A data set of plain numbers that is in the file itself.

    Raises:
        ValueError: for anything else, or if a filter is missing.
    """
    import h5py

    where = f"{group.file.filename}: {group.name}/{name}"
    if name not in group:
        raise ValueError(f"{where} is missing; the file is not complete")
    found = group[name]
    if not isinstance(found, h5py.Dataset) or found.dtype.kind not in "fiu":
        raise ValueError(f"{where} is no array of numbers")
    if found.is_virtual or found.external:
        raise ValueError(f"{where} is kept in other files, which are not opened")
    for number in found._filters:
        _require_filter(where, number)
    return found


def _require_filter(where, number):
    """The filters that h5py has not built in come with the extra `compression`."""
    if not number.isdigit():
        return
    try:
        import hdf5plugin  # noqa: F401  (registers its filters)
    except ImportError:
        name = FILTER_NAMES.get(number, f"filter {number}")
        raise ValueError(
            f"{where} is compressed with {name}, which the extra compression installs: pip install 'dfc-numba[compression]'"
        ) from None


def attributes(item):
    """The attributes that are numbers or texts."""
    return {
        name: value
        for name, value in item.attrs.items()
        if isinstance(value, str | int | float) or hasattr(value, "dtype")
    }
