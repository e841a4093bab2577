"""HDF5 files of this project: written as a whole, sealed where a damage must not go unseen, opened with a check.

What is not an HDF5 file, another kind of file, or newer, is refused with a reason; see `foreign` for all that is checked.
"""

import io
import os
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from dfc_numba.errors import DamagedFileError, UnusableFileError
from dfc_numba.support import files
from dfc_numba.support.foreign import attributes, damage_named, open_hdf5, open_regular

SEAL_BYTES = 512  # the smallest user block, which HDF5 leaves to others
SEALED = b"dfc-numba: "
CHECKSUM = "_crc32"  # after the name of a text
SEAL = "dfc-numba: the {size} bytes after these 512 have the CRC-32 {checksum:08x}\n"


@contextmanager
def replacing(path, *, keep=None, sealed=False, follow=False):
    """Yield a new file that replaces `path` at the end, as `files.replacing` does for any file.

    It is in memory until then, since HDF5 does not survive a write that fails, on a full disk, or is interrupted: it
    takes the process with it.

    Args:
        keep, follow: see `files.replacing`.
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
    with files.replacing(path, keep, follow=follow) as temporary:
        temporary.write_bytes(content)


def is_sealed(path):
    """Return whether a file begins as a sealed one does."""
    with open_regular(path) as file:
        return file.read(len(SEALED)) == SEALED


def check_seal(path):
    """Refuse a sealed file of which any byte has changed: HDF5 may hang or crash when it opens such a file.

    Raises:
        OSError: if the file is damaged, cut off, not sealed or not there.
    """
    try:
        with open_regular(path) as file:
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
    """Yield a file, opened for reading through `foreign`; every error of the body names the path.

    Args:
        schema, version: what the file's attributes `schema` and `schema_version` have to be; any minor version is taken.
        kind: what to call such a file in messages, e.g. "network file".

    Raises:
        OSError: if the file cannot be read. ValueError: if it is none of this kind, a newer or an incomplete one.
    """
    with open_checked(path, schema, version, kind) as file:
        try:
            with damage_named(path, passing=KeyError):
                yield file
        except KeyError as error:
            raise UnusableFileError(f"{path} is not a complete {kind}: {error.args[0]}") from None
        except DamagedFileError as error:
            where = str(error).removeprefix(f"{path}: ").removeprefix(f"{path} ")
            raise DamagedFileError(f"{path} cannot be read: damaged, or not an HDF5 file ({where})") from None
        except (OSError, ValueError) as error:
            if str(path) in str(error):
                raise
            raise DamagedFileError(f"{path} is not a complete {kind}: {error}") from None


def open_checked(path, schema, version, kind):
    """Return a file, opened for reading, with the required schema. For the arguments and errors see `opened`."""
    try:
        file = open_hdf5(path)
    except OSError as error:
        raise unreadable(path, error) from None
    try:
        _check_schema(path, attributes(file), schema, version, kind)
    except BaseException:
        file.close()
        raise
    return file


def unreadable(path, error):
    """Return the error with a message that names the file."""
    text = str(error)
    if isinstance(error, FileNotFoundError) or not Path(path).exists():
        return FileNotFoundError(f"there is no {path}")
    if error.errno:
        return type(error)(f"{path} cannot be read: {os.strerror(error.errno)}")
    if str(path) in text:
        return error
    return DamagedFileError(f"{path} cannot be read: damaged, or not an HDF5 file ({text})")


def _check_schema(path, attributes, schema, version, kind):
    found, found_version = attributes.get("schema"), str(attributes.get("schema_version"))
    if not isinstance(found, str) or found != schema:
        raise ValueError(
            f"{path} is not {'an' if kind[0] in 'aeiou' else 'a'} {kind}: its schema is {found!r:.80}, expected {schema!r}"
        )
    major = version.split(".")[0]
    if found_version.split(".")[0] != major:
        raise ValueError(
            f"{path} has schema version {found_version:.80}; this program reads {major}.x: use a newer one"
        )


def texts(attributes):
    """Return the attributes that are texts, or lists of them, as texts by name, without those that name the schema."""
    own = {
        name: _joined(value) for name, value in attributes.items() if name not in ("schema", "schema_version")
    }
    return {name: text for name, text in own.items() if text is not None}


def checksums(attributes):
    """Return checksums of the texts among attributes, as attributes themselves: HDF5 has none for them."""
    return {
        f"{name}{CHECKSUM}": zlib.crc32(text.encode(errors="surrogateescape"))
        for name, text in texts(attributes).items()
    }


def damaged_texts(attributes):
    """Return the names of attributes whose text does not fit its stored checksum; older files have none."""
    return [
        name.removesuffix(CHECKSUM)
        for name, checksum in checksums(attributes).items()
        if attributes.get(name, checksum) != checksum
    ]


def _joined(value):
    """Return a text, or an array or list of texts, as one text; None for anything else."""
    if isinstance(value, str):
        return value
    values = list(value) if isinstance(value, list | tuple | np.ndarray) and np.ndim(value) == 1 else []
    return "\0".join(values) if values and all(isinstance(one, str) for one in values) else None
