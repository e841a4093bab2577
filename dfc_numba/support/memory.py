"""Available memory, so that what cannot fit is refused before it starts; memory in large pages, and used again."""

import os
import threading
from collections import defaultdict, deque
from functools import partial

import numpy as np

LARGE_PAGE = 2**21  # bytes
LEAST_FOR_LARGE_PAGES = 2**18
KEPT_BYTES = 64e6  # of arrays in large pages that are gone


def available_bytes():
    """Return the bytes available without swapping, or None where the system does not tell."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            fields = dict(line.split(":", 1) for line in lines)
        return 1024 * int(fields["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None


def require(count, purpose, remedy):
    """Raise a MemoryError that names the size, if `count` bytes for `purpose` do not fit."""
    there = available_bytes()
    if there is not None and count > there:
        raise MemoryError(
            f"{purpose} needs {readable(count)}, but only {readable(there)} is available; {remedy}"
        )


def readable(count):
    """Return a number of bytes with its unit."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def in_large_pages(length, dtype):
    """Return an array of `length` elements, not initialised, that begins with a large page.

    Arrays that a kernel runs through again and again should lie close together in physical memory too: scattered small
    pages crowd into some sets of the cache. NumPy asks the system for large pages from 4 MB on. Memory of arrays that are
    gone is used again, up to a limit: the system would have to clear fresh pages for every minibatch.
    """
    size = length * np.dtype(dtype).itemsize
    if size < LEAST_FOR_LARGE_PAGES:
        return np.empty(length, dtype)
    block = _large_blocks.array(LARGE_PAGE * (max(2, -(-size // LARGE_PAGE)) + 1), np.uint8)
    start = -block.ctypes.data % LARGE_PAGE
    return block[start : start + size].view(dtype)


def zeros(length, dtype):
    """Return the same, filled with zeros."""
    array = in_large_pages(length, dtype)
    array.fill(0)
    return array


class PerThread:
    """Arrays of `length` elements, one for each thread that asks, which keeps its own."""

    def __init__(self, length, dtype):
        self._length, self._dtype, self._own = length, dtype, threading.local()

    def array(self):
        """Return the array of the calling thread."""
        if not hasattr(self._own, "array"):
            self._own.array = in_large_pages(self._length, self._dtype)
        return self._own.array


class Recycled:
    """Memory of large arrays that are gone, for those to come: fresh memory costs time, since the system clears it first.

    Within its `with` block, and in the thread of this block, it is where `uninitialised` takes memory from.

    Args:
        limit: bytes that are kept at most.
    """

    def __init__(self, limit):
        self._limit, self._free = limit, defaultdict(deque)  # blocks by their size

    def __enter__(self):
        _own.recycled = self

    def __exit__(self, *_):
        _own.recycled = None

    def array(self, length, dtype):
        """Return an array whose memory comes back when neither it nor a view of it is in use."""
        size = length * np.dtype(dtype).itemsize
        try:
            block = self._free[size].pop()
        except IndexError:
            block = np.empty(size, np.uint8)
        return np.asarray(_Loan(block, partial(self._take_back, block))).view(dtype)

    def _take_back(self, block):
        """Take a block back in whichever thread drops the array: no step here depends on the one before."""
        if block.nbytes > self._limit:
            return
        kept = sum(size * len(blocks) for size, blocks in list(self._free.items()))
        if kept + block.nbytes > self._limit:
            self._free.clear()
        self._free[block.nbytes].append(block)


class _Loan:
    """A loan of a block of memory, which an array and all its views hold as long as they use it."""

    def __init__(self, block, give_back):
        self.__array_interface__, self._give_back = block.__array_interface__, give_back

    def __del__(self):
        self._give_back()


_own = threading.local()
_large_blocks = Recycled(KEPT_BYTES)


def uninitialised(length, dtype):
    """Return an array of `length` elements, in memory that is used again where a `Recycled` says so."""
    recycled = getattr(_own, "recycled", None)
    if recycled is None or length == 0:
        return np.empty(length, dtype)
    return recycled.array(length, dtype)
