#!/usr/bin/env python
"""Time the kernels of target and equilibrium propagation beside the matrix products that they consist of.

    python scripts/bench_relatives.py [--sizes 784,512,512,10] [--batch 128] [--dtype float64] [--repeats 15] [--jax]

One thread, on one processor; both are timed in turns in one process, by CPU time of the thread, and the medians' ratio is
printed: the products are those of the kernel, by the same micro-kernel on weights in panels, shard by shard, and by
NumPy's BLAS on whole minibatches. Exits with 1 if a kernel takes more than 1.5 times the time of
the same micro-kernel's products.
With --jax (extra `bench`), whole updates beside the same ones in JAX, by CPU time of the process.
"""

import argparse
import os
import sys
import time

import numpy as np

import dfc_numba as dfc
from dfc_numba.kernels.layout import layout, pack, padded_rows
from dfc_numba.kernels.multiply import multiply
from dfc_numba.relatives.equilibrium_propagation import (
    EquilibriumPropagation,
    Phases,
    equilibrium_update,
    free_phase,
)
from dfc_numba.relatives.feedback_mappings import (
    FeedbackMappings,
    Noise,
    TargetPropagation,
    _forward_chain,
    reconstruction_update,
    run_chain,
)
from dfc_numba.support import threads

LIMIT = 1.5
SHORTEST = 0.05  # seconds of a measurement


def main(arguments=None):
    """Print a table and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sizes", default="784,512,512,10", type=lambda text: [int(n) for n in text.split(",")]
    )
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--dtype", default="float64", choices=("float64", "float32"))
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument(
        "--jax", action="store_true", help="compare whole updates with JAX, too (extra bench)"
    )
    options = parser.parse_args(arguments)
    if hasattr(os, "sched_setaffinity"):  # JAX takes its threads from it
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(f"{'-'.join(map(str, options.sizes))}, batch {options.batch}, {options.dtype}, 1 thread")
    print(f"{'kernel':<34} {'ms':>8} {'products':>9} {'ratio':>6} {'BLAS':>8} {'ratio':>6}")
    worst = 0.0
    with dfc.limit_threads(1):
        for name, kernel, products in workloads(options):
            ours, theirs, blas = timed(
                [kernel, Products(products, options), Blas(products, options)], options.repeats
            )
            worst = max(worst, ours / theirs)
            print(f"{name:<34} {ours:8.2f} {theirs:9.2f} {ours / theirs:6.2f} {blas:8.2f} {ours / blas:6.2f}")
    print(f"worst: {worst:.2f} times the products (limit {LIMIT})")
    if options.jax:
        compare_with_jax(options)
    return int(worst > LIMIT)


def compare_with_jax(options):
    """Print the times of whole updates, ours and those in JAX."""
    print(f"\n{'update':<34} {'alone':>8} {'ms':>9} {'JAX':>8} {'ratio':>6}")
    with dfc.limit_threads(1):
        for name, ours, theirs in whole_updates(options):
            [alone] = timed(
                [ours], options.repeats, clock=time.process_time
            )  # before JAX runs for the first time
            one, other = timed([ours, theirs], options.repeats, clock=time.process_time)
            print(f"{name:<34} {alone:8.2f} {one:9.2f} {other:8.2f} {other / one:6.2f}")


def whole_updates(options):
    """Yield (name, our function, that in JAX)."""
    import jax
    from benchmarks import jax_relatives as peers

    network = dfc.Network.create(options.sizes, seed=0, dtype=options.dtype)
    rng, dtype = np.random.default_rng(0), network.dtype
    x = rng.standard_normal((options.batch, options.sizes[0])).astype(dtype)
    y = rng.uniform(0, 1, (options.batch, options.sizes[-1])).astype(dtype)
    jax.config.update("jax_enable_x64", options.dtype == "float64")
    given = TargetPropagation(sigma=0.05)
    mappings = FeedbackMappings.create(network, given, bias=False, seed=1)
    parameters = list(network.weights), list(network.biases)
    yield (
        "DDTP-linear, feedback weights",
        lambda: reconstruction_update(network, mappings, x, given, noise=3),
        peers.prepare(peers.reconstruction(0.05), *parameters, mappings.weights, jax.random.key(3), x),
    )
    relaxing = EquilibriumPropagation(nonlinearity="sigmoid", free_steps=30, nudged_steps=10)
    yield (
        "EP, prototypical, 30 + 10 steps",
        lambda: equilibrium_update(network, x, y, relaxing),
        peers.prepare(peers.prototypical(30, 10, 0.1), *parameters, x, y),
    )


def timed(functions, repeats, clock=time.thread_time):
    """Return the median milliseconds of CPU time of each, in turns; short ones are called several times in a row."""
    calls = []
    for function in functions:
        function()
        start = clock()
        function()
        calls.append(max(1, int(SHORTEST / max(clock() - start, 1e-6))))
    times = [[] for _ in functions]
    for _ in range(repeats):
        for function, kept, count in zip(functions, times, calls, strict=True):
            start = clock()
            for _ in range(count):
                function()
            kept.append(1e3 * (clock() - start) / count)
    return [float(np.median(kept)) for kept in times]


def workloads(options):
    """Yield (name, function, the shapes of its products: (inner, outputs, how often))."""
    network = dfc.Network.create(options.sizes, seed=0, dtype=options.dtype)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((options.batch, options.sizes[0]))
    y = rng.uniform(0, 1, (options.batch, options.sizes[-1]))
    yield ("perturbed passes (all layers)", *perturbed(network, x))
    for form in ("prototypical", "hopfield", "gaussian"):
        for phase in ("free", "nudged"):
            if form != "gaussian" or phase == "nudged":
                yield (f"{form}, {phase} phase", *relaxed(network, x, y, form, phase))


def perturbed(network, x):
    chain, depth = _forward_chain(network), len(network.weights)
    rates = network.forward(x).r
    numbers = np.arange(len(x), dtype=np.uint64)

    def run():
        for i in range(depth - 1):
            run_chain(chain, i + 1, depth, rates[i], noise=Noise(0.05, np.uint64(1), numbers, i + 1))

    pairs = list(zip(network.sizes, network.sizes[1:], strict=False))
    return run, [(*pairs[k], 1) for i in range(1, depth) for k in range(i, depth)]


def relaxed(network, x, y, form, phase, steps=20):
    options = EquilibriumPropagation(
        form=form, nonlinearity="sigmoid", free_steps=steps, nudged_steps=steps, beta=0.1
    )
    nudges = {} if phase == "free" else {"free": free_phase(network, x, options), "y": y, "betas": [0.1]}
    phases = Phases(network, x, options, steps=steps, **nudges)
    hidden = list(zip(network.sizes[1:], network.sizes[2:], strict=False))
    products = [(network.sizes[0], network.sizes[1], 1)] if phase == "free" else []
    products += [(*pair, steps) for pair in hidden] + [(*pair[::-1], steps) for pair in hidden]
    if phase == "free":
        products += [(*pair, 1) for pair in hidden] + [(*pair[::-1], 1) for pair in hidden]
    return phases.run, products


class Products:
    """The products by the micro-kernel, shard by shard."""

    def __init__(self, products, options):
        dtype, rng = np.dtype(options.dtype), np.random.default_rng(1)
        self.shards, self.work = threads.shards(options.batch), []
        for inner, outputs, count in products:
            places = layout((inner, outputs), dtype)
            packed = pack([rng.standard_normal((outputs, inner)).astype(dtype)], places.stride[1:], dtype)
            x = padded_rows(rng.standard_normal((options.batch, inner)), places.stride[0], dtype)
            self.work.append((np.zeros(16 * places.stride[1], dtype), places, x, packed, inner, count))

    def __call__(self):
        for first, rows in self.shards:
            for out, places, x, packed, inner, count in self.work:
                for _ in range(count):
                    multiply(
                        out,
                        0,
                        places.stride[1],
                        rows,
                        x,
                        first * places.stride[0],
                        places.stride[0],
                        inner,
                        packed,
                        0,
                    )


class Blas:
    """The products by NumPy, of the whole minibatch."""

    def __init__(self, products, options):
        dtype, rng = np.dtype(options.dtype), np.random.default_rng(1)
        self.work = [
            (
                rng.standard_normal((options.batch, m)).astype(dtype),
                rng.standard_normal((n, m)).astype(dtype).T,
                count,
            )
            for m, n, count in products
        ]
        self.out = [np.zeros((options.batch, w.shape[1]), dtype) for _, w, _ in self.work]

    def __call__(self):
        for (x, w, count), out in zip(self.work, self.out, strict=True):
            for _ in range(count):
                np.dot(x, w, out=out)


if __name__ == "__main__":
    sys.exit(main())
