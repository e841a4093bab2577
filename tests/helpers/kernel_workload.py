"""A little of everything that the kernels do, for tests that compare processes in other environments.

    python kernel_workload.py OUT.npz SIZE DTYPE ...

writes the results, and prints as JSON how often kernels were compiled and how often read from the cache.
"""

import importlib
import json
import os
import pkgutil
import subprocess
import sys
from itertools import product

import numpy as np
import problems

import dfc_numba as dfc
import dfc_numba.kernels

# size -> layers, samples, steps; "wide" is worth eight threads
SIZES = {"small": ([3, 6, 5, 2], 18, 7), "wide": ([20, 40, 40, 10], 128, 120)}
RULES = ("nonlinear_difference", "voltage_difference", "derivative_matrix")


class Workload:
    """One network and minibatch of a size and dtype."""

    def __init__(self, size, dtype):
        sizes, count, self.steps = SIZES[size]
        self.net = dfc.Network(**problems.stable_parameters(sizes, dtype=dtype, activation=["tanh", "relu"]))
        self.x = problems.inputs(count, sizes[0])
        self.target = problems.probabilities(count, sizes[-1])
        draws = (self.steps + 1, count)
        self.draws = [problems.inputs(draws[0] * draws[1], n).reshape(*draws, n) for n in sizes[1:]]

    def call(self, function, *, noise=None, readout=None, rule=None, **options):
        """A function of the package with a controller of some options."""
        controller = dfc.Controller(steps=self.steps, **options)
        chosen = {
            name: value
            for name, value in (("noise", noise), ("readout", readout), ("rule", rule))
            if value is not None
        }
        return function(self.net, self.x, self.target, controller, **chosen)

    def results(self, keyed):
        """Named arrays of every readout, rule and option; noise from a key if `keyed`, else given."""
        noise = dfc.NoiseKey(5, 6) if keyed else self.draws
        yield "forward", self.net.forward(self.x).r
        for readout, rule in product(("average", "final"), RULES):
            update = self.call(dfc.forward_update, readout=readout, rule=rule)
            yield f"{readout} {rule}", [*update.weights, *update.biases]
        noisy = {"noise": noise, "sigma": 0.1, "tau_apical": 0.1, "tau_control": 0.05, "error": "softmax"}
        for tau_noise in (None, 0.1):
            yield (
                f"feedback {tau_noise}",
                self.call(dfc.feedback_update, tau_noise=tau_noise, **noisy).feedback,
            )
        jacobian = {
            "jacobian_feedback": True,
            "proactive": False,
            "instant_transmission": False,
            "leak": "integral",
        }
        trajectory = self.call(dfc.simulate, noise=noise, sigma=0.1, **jacobian)
        yield (
            "trajectory",
            [
                trajectory.u,
                trajectory.u_int,
                trajectory.error,
                *trajectory.v,
                *trajectory.v_fb,
                *trajectory.r,
            ],
        )


def results(size, dtypes, *, keyed=False):
    """All results as one dictionary of arrays."""
    named = ((dtype, *item) for dtype in dtypes for item in Workload(size, dtype).results(keyed))
    return {f"{dtype} {name} {i}": array for dtype, name, arrays in named for i, array in enumerate(arrays)}


def kernels():
    """The compiled functions of the package, by name."""
    names = [module.name for module in pkgutil.iter_modules(dfc_numba.kernels.__path__)]
    modules = [importlib.import_module(f"dfc_numba.kernels.{name}") for name in names]
    return {
        name: value
        for module in modules
        for name, value in vars(module).items()
        if hasattr(value, "stats") and value.__module__ == module.__name__
    }


def in_another_process(folder, size, *dtypes, keyed=False, **environment):
    """(results, report) of the workload in a process of its own, with additional environment variables."""
    out = folder / "results.npz"
    arguments = [sys.executable, __file__, str(out), size, *dtypes, *(["keyed"] if keyed else [])]
    path = os.pathsep.join(p for p in sys.path if p)
    variables = {**os.environ, "PYTHONPATH": path, **environment}
    finished = subprocess.run(arguments, check=False, env=variables, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    with np.load(out) as file:
        return dict(file), json.loads(finished.stdout)


def main(out, size, *dtypes):
    keyed = "keyed" in dtypes
    np.savez(out, **results(size, [d for d in dtypes if d != "keyed"], keyed=keyed))
    report = {}
    for what in ("cache_hits", "cache_misses"):
        counts = {name: sum(getattr(kernel.stats, what).values()) for name, kernel in kernels().items()}
        report[what] = {name: count for name, count in counts.items() if count}
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
