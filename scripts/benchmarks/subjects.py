"""The timed subjects: functions that prepare a computation in a worker process and return it, ready to be called.

A computation takes no arguments and returns a list of arrays, or None. Imports that only one of them needs are inside.
"""

import numpy as np

from benchmarks.workload import feedback_controllers


def matrix_product(size, dtype, count=1):
    """Prepare `count` products of square matrices by the linear algebra library: the rate that this machine can reach."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((size, size)).astype(dtype) for _ in range(2))
    out = np.empty_like(a)

    def run():
        for _ in range(count):
            np.dot(a, b, out=out)

    return run


def our_update(workload, dtype):
    """Prepare `forward_update`, with all that it does."""
    from dfc_numba import forward_update

    network, x, target = workload.problem(dtype)

    def run():
        update = forward_update(network, x, target, workload.controller)
        return update.weights + update.biases

    return run


def solved_update(workload, dtype):
    """Prepare the same by the waveform integrator, with its default relative error."""
    from dataclasses import replace

    from dfc_numba import forward_update

    network, x, target = workload.problem(dtype)
    controller = replace(workload.controller, integrator="waveform")

    def run():
        update = forward_update(network, x, target, controller)
        return update.weights + update.biases

    return run


def numpy_update(workload, dtype):
    """Prepare the NumPy loop."""
    from benchmarks import numpy_peer

    network, x, target = workload.problem(dtype)
    return lambda: numpy_peer.forward_update(network, x, target, workload.controller)


def jax_update(workload, dtype):
    """Prepare the JAX scan."""
    from benchmarks import jax_peer

    return jax_peer.prepare(*workload.problem(dtype), workload.controller)


def our_feedback_update(workload, dtype, noise, count=1):
    """Prepare `feedback_update` with noise of a kind from the kernel's own generator, `count` times."""
    from dfc_numba import NoiseKey, feedback_update

    network, x, _ = workload.problem(dtype)
    target = network.predict(x, dtype="float64")
    controller = feedback_controllers()[noise]

    def run():
        for minibatch in range(count):
            update = feedback_update(network, x, target, controller, noise=NoiseKey(0, minibatch))
        return update.feedback

    return run
