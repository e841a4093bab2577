#!/usr/bin/env python
"""Time the expected update of the feedback weights, without sampling, against the noise-driven one of the same minibatch.

    python scripts/bench_expected_feedback.py [--repeats N] [--calls N] [--quick]

The published minibatch of MNIST (784-256-256-256-10, 128 samples, 48 time points of white noise drawn in the kernel), random
feedback weights. Processor time of this thread, in turns of several calls in one process, one thread; ratios are taken within
a turn. Bars: the mean field at least 4 times, one probe at least 8 times faster than the simulation. Exits with 1 where one is
missed.
"""

import argparse
import sys
from time import thread_time

import numpy as np
from benchmarks.workload import Workload, feedback_controllers

import dfc_numba as dfc

BARS = {"mean field": 4.0, "one probe": 8.0}


def main(arguments=None):
    """Measure and print a line for each precision and rule."""
    options = parse(arguments)
    missed = 0
    with dfc.limit_threads(1):
        for dtype in ("float64", "float32"):
            times = measure(calls_of(dtype), options)
            for name, found in times.items():
                ratio = float(np.median(times["simulation"] / found))
                bar = BARS.get(name)
                missed += bar is not None and ratio < bar
                verdict = "" if bar is None else f"  bar {bar:g}: {'met' if ratio >= bar else 'missed'}"
                print(
                    f"{dtype}  {name:12} {1e3 * np.median(found):7.2f} ms (least {1e3 * found.min():.2f})  "
                    f"{ratio:5.2f} x faster{verdict}"
                )
    return int(missed > 0)


def parse(arguments):
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--repeats", type=int, default=9, metavar="N", help="turns; default: %(default)s")
    options.add_argument("--calls", type=int, default=10, metavar="N", help="in a turn; default: %(default)s")
    options.add_argument("--quick", action="store_true", help="one call in one turn")
    options = options.parse_args(arguments)
    if options.quick:
        options.repeats = options.calls = 1
    return options


def calls_of(dtype):
    """Return what is timed, by name."""
    network, x, _ = Workload().problem(dtype)
    controller, rest = feedback_controllers()["white noise"], network.predict(x, dtype="float64")
    arguments = network, x, rest, controller
    return {
        "simulation": lambda: dfc.feedback_update(*arguments, noise=1),
        "forward pass": lambda: network.forward(x),
        "mean field": lambda: dfc.expected_feedback_update(*arguments),
        "one probe": lambda: dfc.expected_feedback_update(*arguments, form="one_probe", noise=1),
        "exact": lambda: dfc.expected_feedback_update(*arguments, form="exact"),
    }


def measure(calls, options):
    """Return the seconds of a call, an array with one number for each turn, by name."""
    times = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(options.repeats):
        for name, call in calls.items():
            start = thread_time()
            for _ in range(options.calls):
                call()
            times[name].append((thread_time() - start) / options.calls)
    return {name: np.array(found) for name, found in times.items()}


if __name__ == "__main__":
    sys.exit(main())
