"""HDF5 past its own filters and drivers: whole chunks with their checksums, and files whose disk may fill."""

import io
import threading

import numpy as np

from dfc_numba.kernels.checksum import fletcher32

# --- chunks as they are stored ------------------------------------------------------------------------------

CHECKSUM_BYTES = 4
FLETCHER32 = "fletcher32"

_own = threading.local()


def takes_whole_chunks(dataset, shape):
    """Return whether rows of this shape are whole chunks of the data set, in a row, with a checksum and no more.

    The last chunk of a row may be longer than what is left of the row.
    """
    chunk = dataset.chunks
    return (
        {*dataset._filters} == {FLETCHER32} and chunk[0] == 1 and chunk[2:] == shape[1:] == dataset.shape[2:]
    )


def write_chunk(places, values):
    """Write the values of a chunk in the stored dtype; what they leave of it along its second axis is filled.

    Args:
        places: (data set, corner of the chunk) where it is written; the data sets have chunks of one kind.
    """
    dataset = places[0][0]
    size = int(np.prod(dataset.chunks)) * dataset.dtype.itemsize
    content = _buffer(size + CHECKSUM_BYTES)
    chunk = content[:size].view(dataset.dtype).reshape(dataset.chunks[1:])
    with np.errstate(over="ignore"):
        np.copyto(chunk[: len(values)], values, casting="same_kind")
    if len(values) < len(chunk):
        chunk[len(values) :] = dataset.fillvalue
    content[size:] = np.frombuffer(_encoded(fletcher32(content[:size])), np.uint8)
    for dataset, corner in places:
        dataset.id.write_direct_chunk(corner, content)


def copy_chunk(source, info, target, corner):
    """Copy a chunk to a data set of the same kind.

    Args:
        source, target: the data sets. info: what HDF5 says of the chunk. corner: where it begins in the target.

    Returns:
        Whether it fits its checksum.
    """
    mask, content = source.id.read_direct_chunk(info.chunk_offset, out=_buffer(info.size))
    target.id.write_direct_chunk(corner, content, mask)
    return intact(content, mask)


def intact(content, mask):
    """Return whether the bytes of a chunk fit its checksum; False also where it has none."""
    values, checksum = np.frombuffer(content, np.uint8), bytes(content[-CHECKSUM_BYTES:])
    return not mask and _encoded(fletcher32(values[:-CHECKSUM_BYTES])) == checksum


def _encoded(checksum):
    return int(checksum).to_bytes(CHECKSUM_BYTES, "little")


def _buffer(size):
    """Return memory of this thread, used again by the next chunk."""
    if getattr(_own, "bytes", None) is None or len(_own.bytes) < size:
        _own.bytes = np.empty(size, np.uint8)
    return _own.bytes[:size]


# --- a new file ---------------------------------------------------------------------------------------------

FORMAT = "v110", "v110"  # of HDF5 1.10: it has checksums on all metadata
CACHED_BYTES = 2**16  # per data set: larger chunks are written at once


class NewFile:
    """An HDF5 file that is being written. Once the disk is full, writing goes nowhere, and `check` raises the error.

    Attributes:
        file: the `h5py.File`.
    """

    def __init__(self, path):
        import h5py

        self._disk = _Disk(path, "x+")
        self.file = h5py.File(self._disk, "w", libver=FORMAT, rdcc_nbytes=CACHED_BYTES)

    def check(self):
        """Raise the error of the first write that failed, if one did."""
        if self._disk.error is not None:
            raise self._disk.error

    def close(self):
        """Close the file. Whether it is complete, `check` tells."""
        self.file.close()
        self._disk.close()


class _Disk(io.FileIO):
    """The file below. HDF5 crashes sooner or later after a failed write, so it never hears of one."""

    error = None

    def write(self, data):
        size, done = len(data), 0
        while self.error is None and done < size:
            done += self._attempt(super().write, data[done:]) or 0
        return size

    def truncate(self, size=None):
        self._attempt(super().truncate, size)
        return size

    def readinto(self, buffer):
        count = super().readinto(buffer)
        if self.error is not None:
            buffer[count:] = bytes(len(buffer) - count)
            return len(buffer)
        return count

    def _attempt(self, function, argument):
        try:
            return function(argument)
        except OSError as error:
            self.error = OSError(error.errno, error.strerror, str(self.name))
