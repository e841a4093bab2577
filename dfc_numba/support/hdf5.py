"""HDF5 files of this project: written as a whole, sealed where a damage must not go unseen, opened with a check.

What is no HDF5 file, another kind of file, or newer, is refused with a reason.
"""

import io
import os
import re
import zlib
from contextlib import contextmanager
from pathlib import Path

from dfc_numba.support import files

SEAL_BYTES = 512  # the smallest user block, which HDF5 leaves to others
SEALED = b"dfc-numba: "
OPEN_FAILED = re.compile(r"Unable to (?:synchronously )?open file \(([^:)]*).*")  # HDF5's words around a short reason
SEAL = "dfc-numba: the {size} bytes after these 512 have the CRC-32 {checksum:08x}\n"


@contextmanager
def replacing(path, *, keep=None, sealed=False):
    """Yields a new file that takes the place of `path` at the end, as `files.replacing` does for any file.

    It is in memory until then, since HDF5 does not survive a write that fails, on a full disk, or is interrupted: it
    takes the process with it.

    Args:
        keep: see `files.replacing`.
        sealed: whether a checksum of everything goes before it, for `check_seal`.
    """
    import h5py

    image = io.BytesIO()
    with h5py.File(
        image, "w", libver=("v110", "v110"), userblock_size=SEAL_BYTES if sealed else None
    ) as file:
        yield file
    content = image.getbuffer()
    if sealed:
        seal = _seal(len(content) - SEAL_BYTES, zlib.crc32(content[SEAL_BYTES:]))
        content[:SEAL_BYTES] = seal
    with files.replacing(path, keep) as temporary:
        temporary.write_bytes(content)


def is_sealed(path):
    """Whether a file begins as a sealed one does."""
    with open(path, "rb") as file:
        return file.read(len(SEALED)) == SEALED


def check_seal(path):
    """Refuses a sealed file of which any byte has changed. HDF5 may hang or crash when it opens such a file.

    Raises:
        OSError: if the file is damaged, cut off, not sealed or not there.
    """
    try:
        with open(path, "rb") as file:
            seal, size, checksum = file.read(SEAL_BYTES), 0, 0
            while block := file.read(2**20):
                size, checksum = size + len(block), zlib.crc32(block, checksum)
    except OSError as error:
        raise unreadable(path, error) from None
    if seal != _seal(size, checksum):
        raise unreadable(path, OSError("its checksum is missing or does not fit what it holds"))


def _seal(size, checksum):
    return SEAL.format(size=size, checksum=checksum).encode().ljust(SEAL_BYTES, b"\0")


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
        # complete files never change, and some file systems of clusters have no locks
        file = h5py.File(path, "r", locking=False, rdcc_nbytes=2**20)
    except OSError as error:
        raise unreadable(path, error) from None
    try:
        _check_schema(path, file.attrs, schema, version, kind)
    except BaseException:
        file.close()
        raise
    return file


def unreadable(path, error):
    """The error with a message that names the file, without the words that HDF5 has for it."""
    text = str(error)
    if not Path(path).exists():
        return FileNotFoundError(f"there is no {path}")
    if error.errno:
        return type(error)(f"{path} cannot be read: {os.strerror(error.errno)}")
    if str(path) in text and "cannot be read" in text:
        return error
    reason = OPEN_FAILED.sub(r"\1", text)
    return type(error)(f"{path} cannot be read: damaged, or no HDF5 file ({reason})")


def _check_schema(path, attributes, schema, version, kind):
    found, found_version = attributes.get("schema"), str(attributes.get("schema_version"))
    if not isinstance(found, str) or found != schema:
        raise ValueError(f"{path} is no {kind}: its schema is {found!r}, expected {schema!r}")
    major = version.split(".")[0]
    if found_version.split(".")[0] != major:
        raise ValueError(
            f"{path} has schema version {found_version}; this program reads {major}.x: use a newer one"
        )
