"""Times plasticity rules and activations from outside beside built-in ones of the same arithmetic, in one update.

    python scripts/bench_extensions.py [--repeats 7] [--threads 1] [--steps 200]

The network is that of the paper workload (784-256-256-256-10, 128 samples). Subjects take turns; the ratio of two of them
is the median over the turns. An own rule repeats a built-in one in other words; the own activation is tanh by formulas,
with and without one for differences.
"""

import argparse
import statistics
import time

import numpy as np

import dfc_numba as dfc
from dfc_numba import formulas as f

OWN = [
    dfc.PlasticityRule("own_difference", postsynaptic=lambda dr: 1.0 * dr),
    dfc.PlasticityRule("own_matrix", postsynaptic=lambda slope_0, dv: slope_0 * dv),
    dfc.PlasticityRule("own_presynaptic", postsynaptic=lambda dr: dr, presynaptic=lambda r: r * r),
    dfc.Activation(
        "own_tanh",
        phi=f.tanh,
        derivative=lambda v: 1 - f.tanh(v) ** 2,
        difference=lambda a, d: f.tanh(d) * (1 - f.tanh(a) ** 2) / (1 + f.tanh(a) * f.tanh(d)),
    ),
    dfc.Activation("plain_tanh", phi=f.tanh, derivative=lambda v: 1 - f.tanh(v) ** 2),
    dfc.Activation(
        "own_relu",
        phi=lambda v: f.maximum(v, 0.0),
        derivative=lambda v: f.where(v < 0.0, 0.0, 1.0),
        difference=lambda a, d: f.maximum(d, -a) + f.minimum(a, 0.0),
    ),
    dfc.Activation("softsign", phi=lambda v: v / (1 + abs(v)), derivative=lambda v: 1 / (1 + abs(v)) ** 2),
]
# (what, activation, rule) of the subject and of the built-in one that it is compared with
PAIRS = [
    ("rule dr", ("tanh", "own_difference"), ("tanh", "nonlinear_difference")),
    ("rule slope_0 dv", ("tanh", "own_matrix"), ("tanh", "derivative_matrix")),
    ("rule with a presynaptic factor", ("tanh", "own_presynaptic"), ("tanh", "nonlinear_difference")),
    ("relu by formulas", ("own_relu", "nonlinear_difference"), ("relu", "nonlinear_difference")),
    ("tanh by formulas", ("own_tanh", "nonlinear_difference"), ("tanh", "nonlinear_difference")),
    ("tanh without difference", ("plain_tanh", "nonlinear_difference"), ("tanh", "nonlinear_difference")),
    ("softsign", ("softsign", "nonlinear_difference"), ("tanh", "nonlinear_difference")),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    dfc.register(*OWN)
    with dfc.limit_threads(options.threads):
        for dtype in ("float64", "float32"):
            print(
                f"{dtype}, {options.threads} thread(s), {options.steps} steps, medians of {options.repeats} turns"
            )
            measure(dtype, options)


def measure(dtype, options):
    updates = {pair: update(*pair, dtype, options.steps) for _, *both in PAIRS for pair in both}
    times = {pair: [] for pair in updates}
    for turn in range(options.repeats + 1):
        for pair, run in updates.items():
            start = time.process_time()
            run()
            if turn:  # the first one compiles
                times[pair].append(time.process_time() - start)
    for what, own, built_in in PAIRS:
        ratio = statistics.median(a / b for a, b in zip(times[own], times[built_in], strict=True))
        seconds = statistics.median(times[own])
        print(f"  {what:32} {1e3 * seconds:7.0f} ms   {ratio:.3f} of {built_in[0]}, {built_in[1]}")


def update(activation, rule, dtype, steps):
    """Return a function that computes the update once."""
    rng = np.random.default_rng(0)
    net = dfc.Network.create([784, 256, 256, 256, 10], hidden_activation=activation, seed=0, dtype=dtype)
    x, labels = rng.random((128, 784)), rng.integers(0, 10, 128)
    target = dfc.output_target(net, x, labels, loss="cross_entropy", step=0.078)
    controller = dfc.Controller(dt=0.02, steps=steps, alpha=0.0014, k_p=2.0, tau_v=0.2)
    return lambda: dfc.forward_update(net, x, target, controller, rule=rule)


if __name__ == "__main__":
    main()
