"""Looking into files that someone else may have made: no link is followed, nothing but numbers and texts is read."""

import json

from dfc_numba import hdf5
from dfc_numba.storage import schema

LINK_KINDS = {"SoftLink": "a soft link", "ExternalLink": "a link to another file"}
FILTER_NAMES = {"32015": "zstd", "32001": "blosc"}
NUMBERS, SIMPLE = "fiu", "fiub"


def open_file(path):
    """A trajectory file, opened for reading.

    Raises:
        OSError: if it cannot be read. ValueError: if it is no trajectory file, a newer one, or holds links.
    """
    import h5py

    file = hdf5.open_checked(path, schema.SCHEMA, schema.SCHEMA_VERSION, schema.KIND)
    try:
        _refuse_links(file)
        for name in file:
            if file.get(name, getclass=True) is h5py.Group:
                _refuse_links(file[name])
    except BaseException:
        file.close()
        raise
    return file


def _refuse_links(group):
    for name in group:
        kind = type(group.get(name, getlink=True)).__name__
        if kind != "HardLink":
            raise ValueError(
                f"{group.file.filename}: {group.name.rstrip('/')}/{name} is {LINK_KINDS.get(kind, kind)}, "
                "which is not followed; copy what it leads to into the file"
            )


def phase_counts(file):
    """The number of records of each phase."""
    import h5py

    groups = (name for name in file if file.get(name, getclass=True) is h5py.Group)
    phases = (name for name in groups if name not in schema.PARAMETER_GROUPS.values())
    return {name: len(data_set(file[name], schema.RECORD)) for name in phases if schema.RECORD in file[name]}


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
    if not isinstance(found, h5py.Dataset) or found.dtype.kind not in NUMBERS:
        raise ValueError(f"{where} is no array of numbers")
    if schema.is_variable(name) and found.ndim != len(schema.variable(name).dims):
        raise ValueError(
            f"{where} has {found.ndim} dimensions; expected {', '.join(schema.variable(name).dims)}"
        )
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
            f"{where} is compressed with {name}, which the extra compression installs: "
            "pip install 'dfc-numba[compression]'"
        ) from None


def attributes(item):
    """The attributes of a file or group that are texts or numbers."""
    import h5py

    found = {}
    for name in item.attrs:
        kind = item.attrs.get_id(name).dtype
        if h5py.check_string_dtype(kind) is not None or kind.kind in SIMPLE:
            found[name] = item.attrs[name]
    return found


def parsed(item, name):
    """What an attribute says in JSON; None where it is empty or missing.

    Raises:
        ValueError: for something else than JSON.
    """
    text = attributes(item).get(name) or "null"
    try:
        return json.loads(text)
    except (ValueError, TypeError):
        raise ValueError(f"{item.file.filename}: {name} of {item.name} is not JSON: {text!r:.60}") from None
