"""Loops of populations of one shard of samples: the dynamics that invert a network's weights.

Population p = 0..P-1 is driven by what the one before shows (the first by the last), and one of them by an error; a step
takes them in their order, each with the newest values of the one before (Podlaski & Machens 2020):

    r_p <- (1 - dt lambda_p) r_p + dt M_p f_{p-1}(r_{p-1})        - dt delta  where p is driven

Everything starts at zero. The samples of a shard lie side by side, `[population][unit][sample]`, in rows of `width`
elements, which are whole registers (`columns`); what is padding stays zero. A shard's memory is one flat array of areas
of the same size: states, what they show, scales, states of some steps ago; and the drive behind them.
"""

from typing import NamedTuple

import numpy as np

from dfc_numba.kernels import elementwise as vector
from dfc_numba.kernels.columns import advance
from dfc_numba.kernels.emit import at
from dfc_numba.kernels.jit import jit, jit_part
from dfc_numba.kernels.rows import fill, move

# what a population shows: itself, its tanh, or itself times a number per unit and sample
LINEAR, TANH, SCALED = 0, 1, 2
AREAS = 4
SHOWN, SCALES, BEFORE, DRIVE = 1, 2, 3, 4
WINDOW = 16  # steps over which a state that has settled does not change


class Ring(NamedTuple):
    """P populations; floats are of the states' dtype."""

    sizes: np.ndarray  # (P,)
    rows: np.ndarray  # (P+1,) units before population p
    starts: np.ndarray  # (P,) of the packed matrices
    matrices: np.ndarray  # dt M_p, packed
    keep: np.ndarray  # (P,) 1 - dt lambda_p
    shows: np.ndarray  # (P,)
    driven: int
    steps: int
    tolerance: float  # negative: all steps are taken
    recorded: bool


class Arrays(NamedTuple):
    """What the shards of a minibatch read and write."""

    drive: np.ndarray  # (B, n_driven), -dt delta
    scales: np.ndarray  # flat [population][sample][unit]; empty where nothing is scaled
    final: np.ndarray  # flat [population][sample][unit]
    records: np.ndarray  # flat [population][time][sample][unit]; empty without


def workspace_length(ring, width):
    """Return the elements of the memory of a shard."""
    return int((AREAS * ring.rows[-1] + ring.sizes[ring.driven]) * width)


@jit_part
def _area(ring, width, which, p):
    """Return where population p lies in an area."""
    return (which * ring.rows[ring.sizes.size] + ring.rows[p]) * width


@jit_part
def _begin(ring, arrays, memory, first, count, width):
    """Write states of zero, the drive, and the scales, of which those of padding are zero."""
    total = ring.rows[ring.sizes.size] * width
    fill(AREAS * total + ring.sizes[ring.driven] * width, memory, 0, 0.0)
    for s in range(count):
        for j in range(ring.sizes[ring.driven]):
            memory[DRIVE * total + j * width + s] = arrays.drive[first + s, j]
    if arrays.scales.size == 0:
        return
    samples = arrays.drive.shape[0]
    for p in range(ring.sizes.size):
        n, start = ring.sizes[p], _area(ring, width, SCALES, p)
        for s in range(count):
            for j in range(n):
                memory[start + j * width + s] = arrays.scales[ring.rows[p] * samples + (first + s) * n + j]


@jit_part
def _advance_population(ring, memory, p, width):
    """Step population p, r_p += dt (-lambda_p r_p + M_p f(r_{p-1})) (Podlaski & Machens 2020), and write what it then shows."""
    start, size, before = _area(ring, width, 0, p), ring.sizes[p] * width, (p or ring.sizes.size) - 1
    keep, state = ring.keep[p], at(memory, start)
    if p == ring.driven:
        vector.combine(size, state, state, at(memory, _area(ring, width, DRIVE, 0)), keep, 1.0)
        keep = ring.keep.dtype.type(1.0)
    seen = _area(ring, width, 0 if ring.shows[before] == LINEAR else SHOWN, before)
    advance(
        memory, start, ring.sizes[p], memory, seen, ring.sizes[before], ring.matrices, ring.starts[p], width, keep
    )  # fmt: skip
    shown = at(memory, _area(ring, width, SHOWN, p))
    if ring.shows[p] == TANH:
        vector.tanh_rate(size, shown, state)
    elif ring.shows[p] == SCALED:
        vector.multiply(size, shown, state, at(memory, _area(ring, width, SCALES, p)))


@jit_part
def _keep_states(ring, samples, times, out, time, memory, first, s, width):
    """Write the states of sample s of the shard to their place in `out`."""
    for p in range(ring.sizes.size):
        n, start = ring.sizes[p], _area(ring, width, 0, p) + s
        place = ring.rows[p] * samples * times + (time * samples + first + s) * n
        for j in range(n):
            out[place + j] = memory[start + j * width]


@jit_part
def _has_settled(ring, memory, s, width):
    """Return whether sample s's states differ from those kept before by little, relative to their largest value."""
    rows = ring.rows[ring.sizes.size]
    change, largest = 0.0, 0.0
    for j in range(rows):
        now = np.float64(memory[j * width + s])
        change = max(change, abs(now - np.float64(memory[(BEFORE * rows + j) * width + s])))
        largest = max(largest, abs(now))
    return change <= ring.tolerance * largest


@jit_part
def _settle(ring, arrays, memory, settled, first, count, width):
    """Leave the states of samples that have settled since; returns how many have settled by now."""
    total = ring.rows[ring.sizes.size] * width
    done = 0
    for s in range(count):
        if not settled[first + s] and _has_settled(ring, memory, s, width):
            _keep_states(ring, arrays.drive.shape[0], 1, arrays.final, 0, memory, first, s, width)
            settled[first + s] = True
        done += settled[first + s]
    move(total, memory, BEFORE * total, memory, 0)
    return done


@jit
def run_loop(ring, arrays, settled, first, count, width, memory):
    """Take the samples first .. first + count through all steps, or until each of them has settled.

    Args:
        settled: (B,) booleans, all False to begin with.
        width: `count` rounded up to whole registers.
        memory: at least `workspace_length` elements.
    """
    samples = arrays.drive.shape[0]
    _begin(ring, arrays, memory, first, count, width)
    for step in range(1, ring.steps + 1):
        for p in range(ring.sizes.size):
            _advance_population(ring, memory, p, width)
        if ring.recorded:
            for s in range(count):
                _keep_states(ring, samples, ring.steps + 1, arrays.records, step, memory, first, s, width)
        if ring.tolerance >= 0.0 and step % WINDOW == 0:  # noqa: SIM102 (compiled code reads the same)
            if _settle(ring, arrays, memory, settled, first, count, width) == count:
                return
    for s in range(count):
        if not settled[first + s]:
            _keep_states(ring, samples, 1, arrays.final, 0, memory, first, s, width)
