"""Products of a whole minibatch, with the same bits for any number of threads: rows times a matrix, sums over the samples.

Rows do not depend on the rows beside them. Sums over the samples are those of `support.summation`, shard by shard.
"""

import numpy as np

from dfc_numba.kernels.layout import pack, padded_rows, row_stride
from dfc_numba.kernels.multiply import multiply, sum_outer, sum_outer_work
from dfc_numba.support import threads
from dfc_numba.support.summation import sum_rows

OUTPUT_BLOCK = 32  # outputs whose part of a sum one thread makes at a time


def shards_of(network, count):
    """Return (first, count) of the shards of `count` samples, over which everything about this network is summed up."""
    return threads.shards(count, sum(w.nbytes for w in network.weights[1:]))


def row_products(rows, matrix):
    """Return rows (B, m) times matrix^T, (n, m): (B, n), in the dtype of the matrix."""
    dtype, (outputs, inputs), count = matrix.dtype, matrix.shape, len(rows)
    below, above = (row_stride(n, dtype) for n in (inputs, outputs))
    x, packed, out = (
        padded_rows(rows, below, dtype),
        pack([matrix], [above], dtype),
        np.empty(count * above, dtype),
    )
    pieces = threads.shards(count)

    def run(piece):
        first, number = pieces[piece]
        multiply(out, first * above, above, number, x, first * below, below, inputs, packed, 0)

    threads.run(len(pieces), run, work=2.0 * count * matrix.size)
    return np.ascontiguousarray(out.reshape(count, above)[:, :outputs])


def outer_sums(post, pre, shards, dtype):
    """Return the sums over the samples of post_i pre_i^T, shard by shard: list of (n_i, m_i).

    Args:
        post, pre: lists of (B, n_i) and (B, m_i). shards: see `shards_of`.
    """
    left, right = (
        [padded_rows(rows, row_stride(rows.shape[1], dtype), dtype) for rows in group]
        for group in (post, pre)
    )
    sums = [np.empty(p.shape[1] * q.shape[1], dtype) for p, q in zip(post, pre, strict=True)]
    ends = np.cumsum([0] + [count for _, count in shards])
    pieces = [(i, first) for i, p in enumerate(post) for first in range(0, p.shape[1], OUTPUT_BLOCK)]

    def run(piece):
        i, first = pieces[piece]
        outputs, inputs = post[i].shape[1], pre[i].shape[1]
        count = min(OUTPUT_BLOCK, outputs - first)
        work = np.empty(sum_outer_work(count, len(shards), dtype), dtype)
        sum_outer(
            sums[i], inputs, left[i], row_stride(outputs, dtype), right[i], row_stride(inputs, dtype), ends, first, count,
            work,
        )  # fmt: skip

    threads.run(
        len(pieces),
        run,
        work=2.0 * sum(len(p) * p.shape[1] * q.shape[1] for p, q in zip(post, pre, strict=True)),
    )
    return [flat.reshape(p.shape[1], q.shape[1]) for flat, p, q in zip(sums, post, pre, strict=True)]


def outer_means(network, post, pre, count):
    """Return weights and biases (sums over the samples of post_i pre_i^T and of post_i) / count in the network's dtype.

    Args:
        post, pre: lists of (B, n_i) and (B, n_{i-1}).
    """
    shards = shards_of(network, len(pre[0]))
    weights = outer_sums(post, pre, shards, network.dtype)
    for matrix in weights:
        matrix /= network.dtype.type(count)
    return weights, bias_means(network, post, count)


def bias_means(network, post, count):
    """Return the biases alone; None for a network without."""
    if network.biases is None:
        return None
    shards = shards_of(network, len(post[0]))
    return [(sum_rows(rows, shards) / count).astype(network.dtype) for rows in post]
