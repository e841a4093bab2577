"""Looking into files that someone else may have made: no link is followed, nothing but numbers and texts is read."""

import json
import zlib
from contextlib import contextmanager, suppress

from dfc_numba.errors import DamagedFileError
from dfc_numba.storage import schema
from dfc_numba.support import hdf5

FILTER_NAMES = {"32015": "zstd", "32001": "blosc"}
NUMBERS, SIMPLE = "fiu", "fiub"


def open_file(path):
    """A trajectory file, opened for reading.

    Raises:
        OSError: if it cannot be read. ValueError: if it is no trajectory file, a newer one, or holds links.
    """
    file = hdf5.open_checked(path, schema.SCHEMA, schema.SCHEMA_VERSION, schema.KIND)
    try:
        with damage_named(path):
            _refuse_links(file)
            for name in group_names(file):
                _refuse_links(file[name])
    except BaseException:
        file.close()
        raise
    return file


def group_names(file):
    """Names of the groups of a file."""
    import h5py

    return [name for name in file if file.get(name, getclass=True) is h5py.Group]


@contextmanager
def damage_named(where):
    """Turns the errors that h5py has for damaged parts of a file into one that says where."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (KeyError, RuntimeError, OSError) as error:
        text = error.args[0] if error.args else error
        raise DamagedFileError(f"{where} is damaged, or cannot be read: {text}") from None


def _refuse_links(group):
    from h5py import h5l

    for name in group.id:
        kind = group.id.links.get_info(name).type
        if kind != h5l.TYPE_HARD:
            what = {h5l.TYPE_SOFT: "a soft link", h5l.TYPE_EXTERNAL: "a link to another file"}.get(
                kind, "a link"
            )
            raise ValueError(
                f"{group.file.filename}: {group.name.rstrip('/')}/{name.decode(errors='replace')} is {what}, "
                "which is not followed; copy what it leads to into the file"
            )


def group(file, name):
    """A group of a file."""
    with damage_named(f"{file.filename}: /{name}"):
        return file[name]


def phase_counts(file):
    """The number of records of each phase."""
    with damage_named(file.filename):
        phases = [name for name in group_names(file) if name not in schema.PARAMETER_GROUPS.values()]
        return {
            name: len(data_set(file[name], schema.RECORD)) for name in phases if schema.RECORD in file[name]
        }


def data_set(group, name):
    """A data set of plain numbers that is in the file itself.

    Raises:
        ValueError: for anything else, or if a filter is missing.
    """
    import h5py

    where = f"{group.file.filename}: {group.name}/{name}"
    with damage_named(where):
        if name not in group:
            raise ValueError(f"{where} is missing; the file is not complete")
        found = group[name]
        filters = found._filters if isinstance(found, h5py.Dataset) else ()
    if not isinstance(found, h5py.Dataset) or found.dtype.kind not in NUMBERS:
        raise ValueError(f"{where} is no array of numbers")
    if schema.is_variable(name) and found.ndim != len(schema.variable(name).dims):
        raise ValueError(
            f"{where} has {found.ndim} dimensions; expected {', '.join(schema.variable(name).dims)}"
        )
    if found.is_virtual or found.external:
        raise ValueError(f"{where} is kept in other files, which are not opened")
    for number in filters:
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
    with damage_named(f"{item.file.filename}: {item.name}"):
        for name in item.attrs:
            with suppress(TypeError):  # of a type that NumPy does not have
                kind = item.attrs.get_id(name).dtype
                if h5py.check_string_dtype(kind) is not None or kind.kind in SIMPLE:
                    found[name] = item.attrs[name]
    return found


def parsed(item, name):
    """What an attribute says in JSON; None where it is empty or missing.

    Raises:
        DamagedFileError: if its checksum does not fit. ValueError: for something else than JSON.
    """
    there = attributes(item)
    text, checksum = there.get(name, ""), there.get(f"{name}_crc32")
    where = f"{item.file.filename}: attribute {name} of {item.name}"
    if checksum is not None and checksum != crc32(text):
        raise DamagedFileError(f"{where} is damaged")
    try:
        return json.loads(text or "null")
    except (ValueError, TypeError):
        raise ValueError(f"{where} is not JSON: {text!r:.60}") from None


def crc32(text):
    """The checksum of a text: HDF5 has none for attributes of any length."""
    return zlib.crc32(str(text).encode(errors="surrogateescape"))


def checked(texts):
    """Attributes, with the checksums of those that are JSON."""
    return {**texts, **{f"{name}_crc32": crc32(texts[name]) for name in schema.JSON_TEXTS if name in texts}}
