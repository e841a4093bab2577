"""Opening HDF5 files of this project: what is no HDF5 file, another kind of file, or newer, is refused with a reason."""

from contextlib import contextmanager


@contextmanager
def opened(path, schema, version, kind):
    """Yields a file, opened for reading; errors of the body name the path too.

    Args:
        schema, version: what the file's attributes `schema` and `schema_version` have to be; any minor version is taken.
        kind: what to call such a file in messages, e.g. "network file".

    Raises:
        OSError: if the file cannot be read. ValueError: if it is none of this kind, a newer or an incomplete one.
    """
    try:
        with open_checked(path, schema, version, kind) as file:
            yield file
    except KeyError as error:
        raise ValueError(f"{path} is no complete {kind}: {error.args[0]}") from None
    except OSError as error:
        raise unreadable(path, error) from None


def open_checked(path, schema, version, kind):
    """A file, opened for reading, with the schema that it has to have. For the arguments and errors see `opened`."""
    import h5py

    try:
        file = h5py.File(path, "r", locking="best-effort", rdcc_nbytes=2**20)
    except OSError as error:
        raise unreadable(path, error) from None
    try:
        _check_schema(path, file.attrs, schema, version, kind)
    except BaseException:
        file.close()
        raise
    return file


def unreadable(path, error):
    """The error with a message that names the file."""
    text = str(error)
    if str(path) in text and "cannot be read" in text:
        return error
    return type(error)(f"{path} cannot be read: missing, damaged or no HDF5 file ({text})")


def _check_schema(path, attributes, schema, version, kind):
    found, found_version = attributes.get("schema"), str(attributes.get("schema_version"))
    if not isinstance(found, str) or found != schema:
        raise ValueError(f"{path} is no {kind}: its schema is {found!r}, expected {schema!r}")
    major = version.split(".")[0]
    if found_version.split(".")[0] != major:
        raise ValueError(
            f"{path} has schema version {found_version}; this program reads {major}.x: use a newer one"
        )
