"""Where things lie: strides and offsets of the packed arrays, so that one compilation serves every network.

Layers are numbered as in the papers: 0 is the input, 1..L are the layers. A shard's state is one flat array per
variable, layer after layer, `[layer][sample][unit]`; the rows of layer i have `stride[i]` units, the padding included,
and rows[i] is the sum of the strides of the layers 1..i-1. Dense arrays, as the user sees them, are
`[layer][sample][unit]` without padding, with dense[i] units per sample before layer i.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from dfc_numba.kernels.multiply import panel_width

CACHE_LINE = 64


class Layout(NamedTuple):
    """Sizes and offsets of a network's packed arrays, in elements; index 0 of each is the input."""

    sizes: np.ndarray  # (L+1,)
    stride: np.ndarray  # (L+1,) units per padded row
    rows: np.ndarray  # (L+2,) padded units per sample before layer i, from layer 1 on
    dense: np.ndarray  # (L+2,) units per sample before layer i, from layer 1 on
    weights: np.ndarray  # (L+2,) start of the packed weights of layer i
    feedback: np.ndarray  # (L+2,) start of the packed feedback weights of layer i
    transposed: np.ndarray  # (L+2,) start of the packed W_{i+1}^T that leads back to layer i
    # starts of sums of outer products in panels, (L+2,) each: of the (n_i, n_{i-1}) weight updates, of the same in a shard,
    # which keeps only a sum over time for the first layer, and of the transposed, (n_L, n_i), feedback updates
    outer: np.ndarray
    outer_shard: np.ndarray
    outer_feedback: np.ndarray
    widest: int  # largest stride of a layer


def row_stride(size, dtype):
    """Return `size` rounded up to whole panels, such that rows spread over the sets of the cache.

    Rows of an even number of cache lines get another one, or half of one where a line has room for another panel, which
    the products would compute.
    """
    width = panel_width(dtype)
    padded = -(-size // width) * width
    line = max(1, CACHE_LINE // np.dtype(dtype).itemsize)
    if padded % (2 * line) == 0:
        padded += line if line < width else line // 2
    return padded


def _starts(lengths):
    """Return the offsets of layers 1..L (index 0 unused), and the total at the end."""
    return np.concatenate([[0], [0], np.cumsum(lengths)]).astype(np.int64)


def layout(sizes, dtype):
    """Return the layout of a network with `sizes` (n_0, ..., n_L); its arrays are cached and shared: treat them as read-only."""
    return _layout(tuple(int(n) for n in sizes), np.dtype(dtype))


@lru_cache(maxsize=256)
def _layout(sizes, dtype):
    sizes = np.asarray(sizes, np.int64)
    stride = np.array([row_stride(n, dtype) for n in sizes], np.int64)
    outputs = sizes[-1]
    above = np.append(sizes[2:], 0)
    outer = sizes[1:] * stride[:-1]
    return Layout(
        sizes=sizes,
        stride=stride,
        rows=_starts(stride[1:]),
        dense=_starts(sizes[1:]),
        weights=_starts(stride[1:] * sizes[:-1]),
        feedback=_starts(stride[1:] * outputs),
        transposed=_starts(stride[1:] * above),
        outer=_starts(outer),
        outer_shard=_starts(np.append(0, outer[1:])),
        outer_feedback=_starts(outputs * stride[1:]),
        widest=int(stride[1:].max()),
    )


def pack(matrices, strides, dtype, *, out=None):
    """Pack matrices (outputs, inputs) into panels, one after the other; `strides` are the padded numbers of outputs.

    Args:
        out: where to; None for a new array.
    """
    lengths = [stride * matrix.shape[1] for matrix, stride in zip(matrices, strides, strict=True)]
    out = np.empty(sum(lengths), dtype) if out is None else out
    start = 0
    for matrix, length in zip(matrices, lengths, strict=True):
        _pack_panels(matrix, out[start : start + length])
        start += length
    return out


def _pack_panels(matrix, packed):
    """Fill `packed` with the panels of one matrix; the padding of the last panel and behind it is zero."""
    width = panel_width(packed.dtype)
    outputs, inputs = matrix.shape
    whole, rest = divmod(outputs, width)
    end = whole * width * inputs
    packed[:end].reshape(whole, inputs, width)[:] = (
        matrix[: whole * width].reshape(whole, width, inputs).transpose(0, 2, 1)
    )
    packed[end:] = 0
    if rest:
        packed[end : end + width * inputs].reshape(inputs, width)[:, :rest] = matrix[whole * width :].T


def unpack(flat, outputs, inputs):
    """Return a matrix (outputs, inputs) from panels of columns, `[panel][output][input within the panel]`."""
    width = panel_width(flat.dtype)
    whole = -(-inputs // width)
    panels = flat[: whole * outputs * width].reshape(whole, outputs, width)
    return panels.transpose(1, 0, 2).reshape(outputs, whole * width)[:, :inputs]


def padded_rows(array, stride, dtype):
    """Return (B, n) as flat rows of `stride` elements, the rest zero."""
    padded = np.zeros((len(array), stride), dtype)
    padded[:, : array.shape[1]] = array
    return padded.ravel()


def dense_views(flat, samples, sizes, times=None):
    """Return a dense flat array `[layer][(time)][sample][unit]` as a list of C-ordered arrays, one per layer."""
    lead = (samples,) if times is None else (times, samples)
    rows, start, views = (samples if times is None else times * samples), 0, []
    for n in map(int, sizes[1:]):
        views.append(flat[start : start + rows * n].reshape(*lead, n))
        start += rows * n
    return views
