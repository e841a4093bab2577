#!/usr/bin/env python
"""Time and count the update of an autoencoder: the waveform integrator against Euler steps, with the true error.

    python scripts/bench_wide.py [--presets NAME ...] [--states NAME ...] [--rtol R ...] [--dtype NAME] [--samples N]
        [--repeats N] [--threads N]

One row per preset, state of the network (see check_waveform.py) and rtol: nodes and sweeps of the shards (largest), operations of
the products per sample (an upper bound) and how many times fewer they are than those of Euler steps, processor time of both in
turns (medians) and their ratio, the largest relative error over the layers' weight updates, the estimate, and the share of
samples that were stepped. Exits with 1 when an error is above its rtol. Data: DFC_DATA_DIR.
"""

import argparse
import sys
import time
from dataclasses import replace

import check_waveform
import numpy as np

import dfc_numba as dfc
from dfc_numba.configuration.config_file import load_config
from dfc_numba.dynamics import phase as euler
from dfc_numba.dynamics import wide_outputs
from dfc_numba.dynamics.waveform import solve_course
from dfc_numba.learning.methods import nudge
from dfc_numba.runs.experiment import create_network, load_data
from dfc_numba.support.threads import limit_threads

PRESETS = ("mnist-autoencoder-dfc", "mnist-autoencoder-dfc-fixed")
FEWER, FASTER = 5, 3  # bars at rtol 1e-3
MODES = 5  # outer products per layer, at most
ROW = "{:<28} {:<8} {:>7} {:>5} {:>6} {:>9} {:>6} {:>8} {:>8} {:>6} {:>8} {:>8} {:>7}"


def main(arguments=None):
    """Print the table; returns the exit code."""
    options = parse(arguments)
    print(ROW.format("preset", "state", "rtol", "nodes", "sweeps", "MFLOP", "fewer", "Euler s", "waveform", "faster",
                     "error", "estimate", "stepped"))  # fmt: skip
    failures = 0
    with limit_threads(options.threads):
        for preset in options.presets:
            for state in options.states:
                failures += rows(preset, state, options)
    print(
        f"bars at rtol 1e-3: {FEWER} times fewer operations, {FASTER} times faster; {failures} errors above rtol"
    )
    return 1 if failures else 0


def parse(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--presets", nargs="+", default=PRESETS)
    parser.add_argument("--states", nargs="+", default=("initial", "bp"), choices=check_waveform.STATES)
    parser.add_argument("--rtol", nargs="+", type=float, default=(1e-2, 1e-3, 1e-4))
    parser.add_argument("--dtype", default="float64", choices=("float64", "float32"))
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args(arguments)


def rows(preset, state, options):
    """Print the rows of one network; returns the number of errors above their rtol."""
    config, network, x, target = problem(preset, state, options)
    updates = {None: lambda: dfc.forward_update(network, x, target, config.controller)}
    for rtol in options.rtol:
        controller = replace(config.controller, integrator="waveform", rtol=rtol)
        updates[rtol] = lambda controller=controller: dfc.forward_update(network, x, target, controller)
    times, results = {name: [] for name in updates}, {}
    for turn in range(options.repeats + 1):
        for name, update in updates.items():
            if name is None and turn == 0 and options.repeats > 0:
                dfc.forward_update(network, x, target, replace(config.controller, steps=2))  # compiles
                continue
            start = time.process_time()
            results[name] = update()
            if turn > 0 or options.repeats == 0:
                times[name].append(time.process_time() - start)
    reference, failures = results.pop(None), 0
    stepped = euler_operations(network, config.controller)
    for rtol, update in results.items():
        controller = replace(config.controller, integrator="waveform", rtol=rtol)
        _, outcome, _ = solve_course(euler.prepare(network, x, target, controller, None))
        solved = operations(network, controller, outcome, len(x))
        error = max(
            np.linalg.norm(a - b) / np.linalg.norm(b)
            for a, b in zip(update.weights, reference.weights, strict=True)
        )
        failures += error > rtol
        slow, fast = (float(np.median(times[name])) for name in (None, rtol))
        print(
            ROW.format(
                preset, state, f"{rtol:g}", outcome.nodes.max(), outcome.sweeps.max(), f"{solved / 1e6:.1f}",
                f"{stepped / solved:.0f}x", f"{slow:.2f}", f"{fast:.3f}", f"{slow / fast:.1f}x", f"{error:.1e}",
                f"{update.estimated_error.max():.1e}", f"{update.fallback.mean():.0%}",
            ),
            flush=True,
        )  # fmt: skip
    return failures


def problem(preset, state, options):
    """Return (configuration, network, x, target) of one minibatch."""
    config, _ = load_config(preset, [f"training.dtype={options.dtype}"])
    dataset = load_data(config)
    chosen = np.random.default_rng(0).permutation(len(dataset.train.x))
    network = create_network(config, dataset)
    if state != "initial":
        check_waveform.backpropagate(network, dataset, config, chosen)
    if state == "aligned":
        network.set_feedback("jacobian_transpose", dataset.train.x[chosen[:512]])
    x, y = check_waveform.minibatch(dataset, network, config, chosen[-options.samples :])
    step = nudge(config.target, len(x))
    return config, network, x, dfc.output_target(network, x, y, loss=config.target.loss, step=step)


def euler_operations(network, controller):
    """Return the operations of all steps' products, per sample: weights, feedback weights, outer products."""
    weights = sum(w.size for w in network.weights[1:])
    feedback = sum(q.size for q in network.feedback)
    return 2.0 * controller.steps * (2 * weights + feedback)


def operations(network, controller, outcome, count):
    """Return those of a solution's products, per sample: sweeps, preconditioner, its set-up, the last evaluation, the update."""
    n, m, depth = network.sizes, outcome.nodes.mean(), len(network.weights)
    p, hidden, weights = n[-2], sum(n[1:-1]), sum(w.size for w in network.weights[1:-1])
    feedback, modes = (
        sum(q.size for q in network.feedback),
        [m for m in wide_outputs.RUNGS if m <= wide_outputs.MOST_MODES],
    )
    # a sweep: K_i s, W_i r, the step through K_{L-1}, four products per pair of modes, operators in time, Anderson's products
    node = 2.0 * (p * hidden + weights + p * p + 2 * p * p) + 2.0 * m * (3 * p + hidden) + 40.0 * p
    sweeps = outcome.sweeps.mean() * m * node  # an upper bound: earlier sweeps have fewer nodes
    last = m * 2.0 * (sum(w.size for w in network.weights[1:]) + feedback + n[-1] * p) + 4.0 * m * m * (
        sum(n[1:]) + n[-1]
    )
    products = MODES * 2.0 * sum(w.size for w in network.weights[1:]) + 6.0 * m * m * sum(n[1:])
    # set-up, once per minibatch: K_i, the terms of the loop, and 32/3 n^3 for each complex inverse
    setup = 2.0 * hidden * n[-1] * p + 2.0 * weights * p * depth + sum(modes) / 2 * 32 / 3 * p**3
    return sweeps + last + products + setup / count


if __name__ == "__main__":
    sys.exit(main())
