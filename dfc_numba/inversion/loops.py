"""Loops of populations, prepared for the kernels and run: shards of samples over threads.

Population p = 0..P-1 is driven by what population p - 1 shows (the first by the last), and one of them by an error:

    dr_p/dt = -lambda_p r_p + M_p f_{p-1}(r_{p-1})        - delta  where p is driven

One Euler step takes the populations in their order, each with the newest values of the one before (Podlaski & Machens
2020). Everything starts at zero.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from dfc_numba.kernels import inversion as kernel
from dfc_numba.kernels.columns import TILE_VECTORS, pack, padded_samples
from dfc_numba.kernels.emit import lanes
from dfc_numba.kernels.inversion import LINEAR, SCALED, TANH
from dfc_numba.kernels.layout import dense_views
from dfc_numba.support import memory, threads

__all__ = ["LINEAR", "SCALED", "TANH", "Loop", "run"]
SHARD_TILES = 2  # of a shard's samples, at most


@dataclass(frozen=True)
class Loop:
    """P populations; see the equation above.

    Attributes:
        matrices: M_p, list of (n_p, n_{p-1}). leaks: lambda_p, list of floats.
        shows: per population LINEAR, TANH, or SCALED: f(r) is r, tanh(r), or r times its scales.
        scales: per population (B, n_p) where SCALED, else None.
        driven: which population receives -delta.
        delta: (B, n) of that population.
    """

    matrices: list
    leaks: list
    shows: list
    scales: list
    driven: int
    delta: np.ndarray

    @property
    def sizes(self):
        """[n_0, ..., n_{P-1}]."""
        return [len(m) for m in self.matrices]


def run(loop, *, dt, steps, tolerance=None, record=False):
    """Take a loop through its steps.

    Args:
        tolerance: None, or what stops a sample: its states change by no more than this fraction of their largest value
            over `kernel.WINDOW` steps.
        record: whether to keep all states.

    Returns:
        the last states, list of (B, n_p), and with `record` all of them, list of (T, B, n_p) with T = steps + 1.
    """
    count, sizes, dtype = len(loop.delta), loop.sizes, loop.delta.dtype
    ring, arrays = _ring(loop, dt, steps, tolerance, record), _arrays(loop, dt, steps, record)
    settled, pieces = np.zeros(count, np.bool_), shards(count, dtype)
    widest = max(padded_samples(n, dtype) for _, n in pieces)
    workspaces = memory.PerThread(kernel.workspace_length(ring, widest), dtype)

    def run_one(piece):
        first, n = pieces[piece]
        kernel.run_loop(ring, arrays, settled, first, n, padded_samples(n, dtype), workspaces.array())

    threads.run(len(pieces), run_one, work=2.0 * steps * count * ring.matrices.size)
    records = dense_views(arrays.records, count, [0, *sizes], steps + 1) if record else None
    return dense_views(arrays.final, count, [0, *sizes]), records


def _ring(loop, dt, steps, tolerance, record):
    sizes, dtype = np.array(loop.sizes), loop.delta.dtype
    ends = np.cumsum([0] + [m.size for m in loop.matrices])
    matrices = memory.in_large_pages(int(ends[-1]), dtype)
    for matrix, start, end in zip(loop.matrices, ends[:-1], ends[1:], strict=True):
        pack(dtype.type(dt) * matrix, matrices[start:end])
    return kernel.Ring(
        sizes=sizes,
        rows=np.concatenate([[0], np.cumsum(sizes)]),
        starts=ends[:-1],
        matrices=matrices,
        keep=np.array([1.0 - dt * leak for leak in loop.leaks], dtype),
        shows=np.array(loop.shows),
        driven=loop.driven,
        steps=steps,
        tolerance=-1.0 if tolerance is None else float(tolerance),
        recorded=record,
    )


def _arrays(loop, dt, steps, record):
    count, dtype, total = len(loop.delta), loop.delta.dtype, sum(loop.sizes)
    recorded = total * count * (steps + 1) if record else 0
    memory.require(recorded * dtype.itemsize, "the trajectory", "take fewer steps or samples")
    scaled = SCALED in loop.shows
    scales = [
        np.zeros(count * n, dtype) if scale is None else scale.ravel()
        for scale, n in zip(loop.scales, loop.sizes, strict=True)
    ]
    return kernel.Arrays(
        drive=np.ascontiguousarray(dtype.type(-dt) * loop.delta),
        scales=np.concatenate(scales) if scaled else np.zeros(0, dtype),
        final=np.zeros(count * total, dtype),
        records=np.zeros(recorded, dtype),
    )


def shards(count, dtype):
    """Return (first, count) of the shards: whole tiles of samples, as even as possible."""
    samples = TILE_VECTORS * lanes(dtype)
    tiles = -(-count // samples)
    number = -(-tiles // SHARD_TILES)
    ends = [min(count, samples * (tiles * k // number)) for k in range(number + 1)]
    return [(a, b - a) for a, b in pairwise(ends)]
