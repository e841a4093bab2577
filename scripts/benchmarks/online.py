"""Online plasticity as a computation to be timed, and what it cannot be faster than."""

from typing import NamedTuple

import numpy as np

from benchmarks.workload import Workload

TAU = 1e4  # of the weights: they learn, and stay near those that the limits are measured for
NOISE = {"sigma": 0.01, "tau_noise": 0.07}


class Stream(NamedTuple):
    """A stream to simulate: B samples whose input is held or changes at every step; one or both kinds of weights learn."""

    samples: int
    moving: bool
    feedback: bool
    steps: int

    @property
    def name(self):
        learning = "W and Q learn, noise" if self.feedback else "W learns"
        return f"B = {self.samples}, input {'moving' if self.moving else 'held'}, {learning}"

    @property
    def swept_weights(self):
        """Weights that every step reads and writes: W_1 only if its input changes, Q only if it learns."""
        sizes = Workload().sizes
        pairs = list(zip(sizes[1:], sizes[:-1], strict=True))
        feedback = sizes[-1] * sum(sizes[1:]) if self.feedback else 0
        return sum(n * m for n, m in pairs[0 if self.moving else 1 :]) + feedback

    @property
    def flop_per_step(self):
        """Floating-point operations of the matrix products: update and product of the swept weights, Q u."""
        sizes = Workload().sizes
        control = 0 if self.feedback else sizes[-1] * sum(sizes[1:])
        return 2 * self.samples * (2 * self.swept_weights + control)


def streams(quick):
    """Return the streams to be timed."""
    steps = {1: 10_000, 16: 2_000}
    return [
        Stream(samples, moving, feedback, 20 if quick else steps[samples])
        for samples in steps
        for moving in (False, True)
        for feedback in (False, True)
    ]


def our_stream(stream, dtype):
    """Prepare `simulate_online` for the published MNIST network, with all that it does."""
    from dataclasses import replace

    from dfc_numba.online.learning import simulate_online

    workload = Workload(batch=stream.samples, steps=stream.steps)
    network, x, target = workload.problem(dtype)
    controller, learning = workload.controller, {"tau_w": TAU}
    if stream.feedback:
        controller, learning = replace(controller, **NOISE), {**learning, "tau_q": TAU, "noise": 0}
    if stream.moving:
        x = np.repeat(x[None], stream.steps, axis=0)

    def run():
        return simulate_online(network, [(x, target)], controller, **learning).network.weights

    return run


def read_and_write(length, dtype, count):
    """Prepare a pass of NumPy over an array of `length` elements in place, `count` times: the least time to touch the weights."""
    array, factor = np.ones(length, dtype), np.dtype(dtype).type(1)

    def run():
        for _ in range(count):
            np.multiply(array, factor, out=array)

    return run
