"""The checksum of HDF5's chunks, Fletcher's with 32 bits, at the speed of memory.

With the big-endian 16-bit words w_1 .. w_n of a chunk:

    sum_1 = w_1 + ... + w_n,   sum_2 = n w_1 + ... + 1 w_n   (mod 65535; a multiple of it that is not 0 is 65535)
    checksum = 65536 sum_2 + sum_1

Source: J. G. Fletcher 1982, and the HDF5 file format specification. Words are read as little-endian, and the sums put
right at the end: to swap the bytes of a word is to multiply it by 256, modulo 65535. A last byte without a partner is
followed by a zero.
"""

import numpy as np

from dfc_numba.kernels.jit import jit, jit_part

MODULUS = np.uint64(65535)
SWAPPED = np.uint64(256)
BLOCK = 256  # words whose weighted sum, at most 256 * 257 / 2 * 65535, fits into 32 bits


@jit_part
def _remainder(total):
    """Return the remainder in 1 .. 65535 of a sum that is not 0."""
    return (total - np.uint64(1)) % MODULUS + np.uint64(1) if total > 0 else total


@jit
def fletcher32(content):
    """Return the checksum of bytes, a uint8 array, as an integer."""
    words = content[: content.size // 2 * 2].view(np.uint16)
    sum_1, sum_2 = np.uint64(0), np.uint64(0)
    for first in range(0, words.size, BLOCK):
        block = words[first : min(first + BLOCK, words.size)]
        plain, weighted = np.uint32(0), np.uint32(0)
        for j in range(block.size):
            word = np.uint32(block[j])
            plain += word
            weighted += np.uint32(block.size - j) * word
        sum_2 = _remainder(sum_2 + np.uint64(block.size) * sum_1 + np.uint64(weighted))
        sum_1 = _remainder(sum_1 + np.uint64(plain))
    for last in content[2 * words.size :]:
        sum_1 = _remainder(sum_1 + np.uint64(last))
        sum_2 = _remainder(sum_2 + sum_1)
    return _remainder(SWAPPED * sum_2) << np.uint64(16) | _remainder(SWAPPED * sum_1)
