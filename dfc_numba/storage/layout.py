"""How data sets are laid out: chunks, compression and checksums."""

import numpy as np

from dfc_numba.errors import MissingExtra

CHUNK_BYTES = 2**19
SMALL_ROW_BYTES, SMALL_CHUNK_BYTES = 2**10, 2**11  # rows below this size share a chunk
BLOCK_BYTES = 2**23  # moved at a time
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
