"""Chunks as they are stored, past HDF5's filters, whose checksum takes longer than all the rest of writing a record.

A chunk without compression is its values and their checksum; one with compression ends in the checksum, too.
"""

import numpy as np

from dfc_numba.kernels.checksum import fletcher32

CHECKSUM_BYTES = 4
FLETCHER32 = "fletcher32"


def intact(content, mask):
    """Whether the bytes of a chunk fit its checksum; False also where that cannot be told here."""
    if mask or len(content) % 2:
        return False
    words = np.frombuffer(content, np.uint16, len(content) // 2 - CHECKSUM_BYTES // 2)
    return _encoded(fletcher32(words)) == content[-CHECKSUM_BYTES:]


def takes_whole_chunks(dataset, shape):
    """Whether rows of this shape are whole chunks of the data set, one after the other, with a checksum and no more."""
    chunk = dataset.chunks
    even = np.prod(chunk) * dataset.dtype.itemsize % 2 == 0
    return {*dataset._filters} == {FLETCHER32} and chunk[0] == 1 and even and chunk[2:] == shape[1:] == dataset.shape[2:]


def write_chunk(dataset, corner, values):
    """Write the values of a whole chunk, in the data set's dtype."""
    values = np.ascontiguousarray(values)
    checksum = _encoded(fletcher32(values.reshape(-1).view(np.uint16)))
    dataset.id.write_direct_chunk(corner, b"".join((values.data, checksum)))


def _encoded(checksum):
    return int(checksum).to_bytes(CHECKSUM_BYTES, "little")
