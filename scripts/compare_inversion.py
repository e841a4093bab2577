"""Final errors of the regressions of dynamic inversion (Podlaski & Machens 2020), for each model over several seeds.

    python scripts/compare_inversion.py [linear] [nonlinear] [strong] [--seeds 0 1 2 3 4]

The error is the sum of squares over all training samples, measured while they are presented, and given as a fraction of
the largest one of any model and time with this seed: median [least, largest]. A seed draws the teacher, the inputs, their
order, the weights and the feedback.
"""

import argparse
import sys
import time
from statistics import median

import numpy as np

from dfc_numba.configuration.config_file import load_config
from dfc_numba.learning.training import Trainer
from dfc_numba.runs.experiment import create_network, load_data
from dfc_numba.support.threads import limit_threads
from dfc_numba.support.validation import choice

MINUS_TRANSPOSE = ["inversion.feedback=transpose"]
LEAK = ["inversion.alpha=0.001"]
STABLE = ["inversion.feedback=stable", "inversion.feedback_range=0.01"]
# names as in the paper's figures; presets end in the method, which changes follow
MODELS = {
    "BP": ("bp", []),
    "FA": ("fa", []),
    "FA-2": ("fa", MINUS_TRANSPOSE),
    "PBP": ("pbp", []),
    **{f"{name}{number}": (name.lower(), changes)
       for name in ("NDI", "DI", "SLDI") for number, changes in (("", []), ("-2", LEAK), ("-3", STABLE))},
}  # fmt: skip
OF_LINEAR = {"FA-2": ["inversion.feedback_scale=-50.0"]}
STABILISING = ["inversion.stabilising_rate={}", "inversion.stabilising_iterations={}"]
OPTIMISING = {"linear": (0.05, 200), "nonlinear": (0.5, 2000), "strong": (0.5, 2000)}
EVERY = {"linear": 10, "nonlinear": 100, "strong": 100}


class Errors:
    """An observer that notes the sum of squared errors over the training set every n-th minibatch."""

    def __init__(self, every):
        self.every, self.values = every, []

    def on_start(self, trainer):
        self._trainer = trainer
        self._note()

    def on_minibatch(self, progress):
        if progress.minibatch % self.every == 0:
            self._note()

    def _note(self):
        split = self._trainer.dataset.train
        self.values.append(float(np.sum((split.y - self._trainer.network.predict(split.x)) ** 2)))


def models(kind):
    """Yield (name, preset, overrides) of the models of a regression; the single loop needs two hidden layers."""
    for name, (method, changes) in MODELS.items():
        if kind == "linear" and method == "sldi":
            continue
        changes = [*changes, *(OF_LINEAR.get(name, []) if kind == "linear" else [])]
        if changes and "stable" in changes[0]:
            changes += [text.format(value) for text, value in zip(STABILISING, OPTIMISING[kind], strict=True)]
        yield name, f"regression-{kind}-{method}", changes


def errors_of(preset, changes, seed, every):
    """Return the errors in the course of one training, and how it ended."""
    config, _ = load_config(preset, [*changes, f"training.seed={seed}"])
    options = {**config.data.options, "teacher_seed": seed, "input_seed": seed + 1000}
    config = config.model_copy(update={"data": config.data.model_copy(update={"options": options})})
    dataset, observer = load_data(config), Errors(every)
    outcome = Trainer(create_network(config, dataset), dataset, config, observers=[observer]).run()
    return observer.values, outcome


def table(kind, seeds):
    """Print the rows of one regression."""
    finals = {name: [] for name, _, _ in models(kind)}
    for seed in seeds:
        runs = {name: errors_of(preset, changes, seed, EVERY[kind]) for name, preset, changes in models(kind)}
        largest = max(max(values) for values, _ in runs.values())
        for name, (values, outcome) in runs.items():
            finals[name].append(values[-1] / largest if outcome.status == "done" else np.nan)
            if outcome.status != "done":
                print(f"{kind}, {name}, seed {seed}: {outcome.message}", flush=True)
        row = ", ".join(f"{name} {values[-1]:.2g}" for name, values in finals.items())
        print(f"{kind}, seed {seed}: {row}", file=sys.stderr, flush=True)
    print(
        f"\n{kind} regression, {len(seeds)} seeds: error at the end / largest error\n\n| model | error |\n|---|---|"
    )
    for name, values in finals.items():
        print(f"| {name} | {median(values):.2g} [{min(values):.2g}, {max(values):.2g}] |")


def main():
    """Print the tables asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kinds", nargs="*", help=f"which regressions, of {', '.join(EVERY)}; all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[*range(5)], help="the seeds; 0 to 4")
    arguments = parser.parse_args()
    for kind in arguments.kinds or EVERY:
        start = time.perf_counter()
        with limit_threads(1):  # the networks are too small for more
            table(choice("kind", kind, tuple(EVERY)), arguments.seeds)
        print(f"\n{time.perf_counter() - start:.0f} s on one thread", flush=True)


if __name__ == "__main__":
    main()
