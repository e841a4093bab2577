#!/usr/bin/env python
"""Learn logical functions in complete directed networks: DEEP, and asymmetric equilibrium propagation beside it.

    python scripts/experiments/directed_networks.py [--task xor] [--seeds 5] [--epochs 200] [SETTING ...]

Every unit reaches every other but the inputs; W_ij leads from i to j, a constant input is the bias. States follow

    DEEP          ds_j = sum_i s_i W_ij - s_j sum_k W_jk,  s <- clip(s + dt ds, 0, 1)     leak: the sum of OUTGOING weights
    asymmetric    ds   = s W + b - s

with + beta (y - s) at the outputs in the nudged phase, which starts from the free state. DEEP learns during the nudged phase,
Delta W_ij = eta / T2 sum_t mean_b s_i(t+1) (s_j(t+1) - s_j(t)); asymmetric EP from both ends,
eta / beta mean_b s_i^0 (s_j^beta - s_j^0).
Prints for each setting how many seeds learn the task (all four outputs on their side of 0.5), how many diverge, the mean share of
wrong outputs of the others, and for how many the free network is stable by Gershgorin's discs. (Equilibrium propagation on
complete directed graphs, arXiv:2006.08798.)
"""

import argparse
from dataclasses import dataclass

import numpy as np

INPUTS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], float)
TASKS = {"xor": [0, 1, 1, 0], "and": [0, 0, 0, 1], "or": [0, 1, 1, 1], "nand": [1, 1, 1, 0]}
DT, STEPS, SCALE, START = 0.05, 1000, 0.05, 0.1


@dataclass(frozen=True)
class Setting:
    """A rule with its numbers. clip: whether rates stay in [0, 1]. layered: whether layers see their neighbours alone."""

    rule: str
    one_hot: bool
    hidden: int
    beta: float
    eta: float
    clip: bool = True
    layered: bool = False


# as published, but for the last two of each rule
SETTINGS = {
    "deep-one-hot": Setting("deep", True, 2, 1.0, 200.0),
    "deep-scalar": Setting("deep", False, 5, 10.0, 100.0),
    "deep-scalar-unclipped": Setting("deep", False, 5, 10.0, 100.0, clip=False),
    "deep-one-hot-layered": Setting("deep", True, 2, 1.0, 200.0, layered=True),
    "asymmetric-one-hot": Setting("asymmetric", True, 2, 1.0, 1.0, clip=False),
    "asymmetric-one-hot-slow": Setting("asymmetric", True, 2, 1.0, 0.1, clip=False),
    "asymmetric-one-hot-clipped": Setting("asymmetric", True, 2, 1.0, 1.0),
}
ROW = "{:<28} {:>6} {:>7} {:>8} {:>11} {:>7}"


def main(arguments=None):
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "settings", nargs="*", default=list(SETTINGS), metavar="SETTING", help=", ".join(SETTINGS)
    )
    parser.add_argument("--task", choices=list(TASKS), default="xor")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=200)
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.settings if name not in SETTINGS]:
        parser.error(f"there is no setting {unknown[0]!r}; there are {', '.join(SETTINGS)}")
    print(ROW.format(options.task, "seeds", "learn", "diverge", "mean error", "stable"))
    for name in options.settings:
        wrong, steady, diverged = learn(
            SETTINGS[name], np.array(TASKS[options.task]), options.epochs, options.seeds
        )
        kept = wrong[~diverged]
        mean = f"{100 * kept.mean():.1f} %" if len(kept) else "-"
        print(
            ROW.format(
                name,
                len(wrong),
                int((kept == 0).sum()),
                int(diverged.sum()),
                mean,
                int((steady & ~diverged).sum()),
            ),
            flush=True,
        )


def learn(setting, labels, epochs, seeds):
    """Return (wrong, stable, diverged), (S,) each: share of wrong outputs, Gershgorin's verdict, whether not finite.

    All seeds side by side: states (S, 4, N), weights (S, N, N).
    """
    target = np.eye(2)[labels] if setting.one_hot else labels[:, None].astype(float)
    clamped = np.column_stack([INPUTS, np.ones(4)])
    inputs, outputs = clamped.shape[1], target.shape[1]
    free = np.arange(inputs + setting.hidden + outputs) >= inputs
    reached = edges(setting, inputs, outputs)
    sources = [np.random.default_rng(seed) for seed in range(seeds)]
    weights = reached * np.stack([rng.normal(0, SCALE, reached.shape) for rng in sources])

    def relaxed():
        drawn = np.stack([rng.uniform(0, START, (4, int(free.sum()))) for rng in sources])
        state = np.concatenate([np.broadcast_to(clamped, (seeds, *clamped.shape)), drawn], axis=2)
        for _ in range(STEPS):
            state = step(setting, weights, state, inputs)
        return state

    with np.errstate(all="ignore"):
        for _ in range(epochs):
            weights = weights + reached * update(setting, weights, relaxed(), inputs, target)
        output = relaxed()[:, :, -outputs:]
        guess = output.argmax(axis=2) if setting.one_hot else (output[:, :, 0] > 0.5).astype(int)
        steady = stable(setting.rule, weights, inputs)
    diverged = ~(np.isfinite(output).all(axis=(1, 2)) & np.isfinite(weights).all(axis=(1, 2)))
    return np.mean(guess != labels, axis=1), steady, diverged


def edges(setting, inputs, outputs):
    """Return 1 where a weight leads from i to j: none into inputs, no self-loop; layered: to neighbouring layers only."""
    layer = np.repeat([0, 1, 2], [inputs, setting.hidden, outputs])
    found = (layer[None, :] > 0) & ~np.eye(len(layer), dtype=bool)
    if setting.layered:
        found &= np.abs(layer[:, None] - layer[None, :]) == 1
    return found.astype(float)


def change(rule, weights, state):
    """Return ds of all units."""
    leak = weights.sum(axis=2)[:, None, :] if rule == "deep" else 1.0
    return state @ weights - state * leak


def step(setting, weights, state, inputs, push=0.0):
    """Take one Euler step, inputs clamped."""
    new = state + DT * (change(setting.rule, weights, state) + push)
    if setting.clip:
        new = np.clip(new, 0.0, 1.0)
    new[:, :, :inputs] = state[:, :, :inputs]
    return new


def update(setting, weights, state, inputs, target):
    """Return the change of the weights from the nudged phase."""
    first, total, push = state, np.zeros_like(weights), np.zeros_like(state)
    outputs = slice(-target.shape[1], None)
    for _ in range(STEPS):
        push[:, :, outputs] = setting.beta * (target - state[:, :, outputs])
        new = step(setting, weights, state, inputs, push)
        if setting.rule == "deep":
            total += new.transpose(0, 2, 1) @ (new - state)
        state = new
    if setting.rule == "deep":
        return setting.eta / STEPS * total / 4
    return setting.eta / setting.beta * first.transpose(0, 2, 1) @ (state - first) / 4


def stable(rule, weights, inputs):
    """Return whether all Gershgorin discs of the free units' Jacobian lie left of 0, (S,)."""
    inner = weights[:, inputs:, inputs:]
    centre = -weights[:, inputs:].sum(axis=2) if rule == "deep" else -np.ones(inner.shape[:2])
    return (centre + np.abs(inner).sum(axis=1) < 0).all(axis=1)


if __name__ == "__main__":
    main()
