"""Standard normal noise from a counter: the same draw for (seed, minibatch, sample, step, layer, unit), whatever runs where.

Philox4x32-10 (Salmon, Moraes, Dror & Shaw, SC 2011) turns a 128-bit counter and a 64-bit key into four random words.
The key stands for (seed, minibatch), the counter holds the block of units, the step, the sample and the layer. A block
gives four normal deviates (Box and Muller), computed in single precision for either dtype.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from dfc_numba.kernels.elementwise import normal_pair
from dfc_numba.kernels.emit import INDEX, at, data_pointer, emit_loop
from dfc_numba.kernels.jit import JIT_DISABLED, jit, jit_part, jit_uncounted
from dfc_numba.kernels.rows import move
from dfc_numba.kernels.simd import Words

WORD_BITS = np.uint64(32)
MASK = np.uint64(0xFFFFFFFF)
MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
WEYL = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
ROUNDS = 10
BLOCK_LANES = Words.lanes  # blocks are made in multiples of this; their deviates fill two registers, too


def philox(c0, c1, c2, c3, k0, k1):
    """Return four random 32-bit words for the counter c0..c3 and the key k0, k1.

    All are 32-bit words held in 64 bits: NumPy uint64 arrays, or `Words` in emitted code.
    """
    for _ in range(ROUNDS):
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (p1 >> WORD_BITS) ^ c1 ^ k0, p1 & MASK, (p0 >> WORD_BITS) ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    return c0, c1, c2, c3


def _numpy_words(work, blocks, key, step, sample, layer):
    """Write random words of the blocks of one layer, as numbers: words 0 and 2, unsigned, then 1 and 3, signed."""
    key, *counter = (np.full(blocks, word, np.uint64) for word in (key, step, sample, layer))
    words = philox(np.arange(blocks, dtype=np.uint64), *counter, key & MASK, key >> WORD_BITS)
    words = [word.astype(np.uint32) for word in words]
    work[: 4 * blocks] = np.concatenate(
        [words[0], words[2], words[1].view(np.int32), words[3].view(np.int32)]
    )


def _compiled_words():
    @intrinsic
    def random_words(typingctx, work, blocks, key, step, sample, layer):
        signature = types.void(work, types.intp, *[types.uint64] * 4)

        def generate(context, builder, sig, values):
            target = data_pointer(context, builder, work, values[0])
            blocks, singles = values[1], ir.VectorType(ir.FloatType(), Words.lanes)
            key, *counter = (Words.splat(builder, value) for value in values[2:])

            def body(block):
                words = philox(Words.counting(builder, block), *counter, key & MASK, key >> WORD_BITS)
                for word, value in enumerate(words):
                    pair, signed = divmod(word, 2)
                    place = builder.add(block, builder.mul(blocks, ir.Constant(INDEX, 2 * signed + pair)))
                    pointer = builder.bitcast(builder.gep(target, [place]), singles.as_pointer())
                    builder.store(value.to_single(bool(signed)), pointer, align=4)

            emit_loop(builder, blocks, Words.lanes, body)
            return context.get_dummy_value()

        return signature, generate

    return random_words


_random_words = _numpy_words if JIT_DISABLED else _compiled_words()


@jit
def scratch(units):
    """Return work space for `normals` of up to `units` units."""
    return np.zeros(8 * _padded_blocks(units), np.float32)


@jit_part
def _padded_blocks(units):
    return (units + 4 * BLOCK_LANES - 1) // (4 * BLOCK_LANES) * BLOCK_LANES


@jit_uncounted
def normals(out, start, units, key, step, sample, layer, work):
    """Write out[start : start + units] = standard normal draws of one layer of one sample at one step.

    Args:
        key: uint64 that stands for seed and minibatch; step, sample, layer: each below 2**32.
        work: from `scratch`.
    """
    blocks, padded = (units + 3) // 4, _padded_blocks(units)
    first, second = 4 * padded, 6 * padded
    _random_words(work, padded, key, np.uint64(step), np.uint64(sample), np.uint64(layer))
    unsigned, signed = at(work, 0), at(work, 2 * padded)
    normal_pair(2 * padded, at(work, first), at(work, second), unsigned, signed)
    for quarter in range(4):
        place, source = quarter * blocks, (first if quarter < 2 else second) + quarter % 2 * padded
        move(min(blocks, units - place), out, start + place, work, source)
