"""Sizes of the change of a sample's states in a step, over all layers; states are flat `[layer][sample][unit]` (see `layout`)."""

import numpy as np

from dfc_numba.kernels.jit import jit_part


@jit_part
def largest_change(layout, s, rows, now, before):
    """Return the largest change of a state of one sample; NaN if one is."""
    change = 0.0
    for i in range(1, layout.sizes.size):
        place = rows * layout.rows[i] + s * layout.stride[i]
        for k in range(place, place + layout.sizes[i]):
            difference = abs(now[k] - before[k])
            if not difference <= change:
                change = difference
    return change


@jit_part
def distance(layout, s, rows, now, before):
    """Return the Euclidean length of now - before, of one sample, in float64."""
    total = 0.0
    for i in range(1, layout.sizes.size):
        place = rows * layout.rows[i] + s * layout.stride[i]
        for k in range(place, place + layout.sizes[i]):
            difference = np.float64(now[k]) - np.float64(before[k])
            total += difference * difference
    return np.sqrt(total)
