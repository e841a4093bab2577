"""The draws that keyed noise consists of, one layer at a time, for those who want to see the noise of a simulation."""

import numpy as np

from dfc_numba.kernels.jit import jit
from dfc_numba.kernels.noise import normals, scratch


@jit
def keyed_draws(out, key, steps, samples, layer):
    """Write out (T, B, n_i) = standard normal draws of a layer that drove the step to `steps` (T,); 0 for step 0.

    Args:
        key: uint64 that stands for seed and minibatch. samples: (B,) uint64 numbers of the samples.
    """
    times, count, units = out.shape
    flat, work = out.reshape(-1), scratch(units)
    for t in range(times):
        for s in range(count):
            if steps[t] > 0:
                start = (t * count + s) * units
                normals(flat, start, units, np.uint64(key), steps[t], samples[s], layer, work)
