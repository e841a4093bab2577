#!/usr/bin/env python
"""Learn XOR in complete directed networks: DEEP, and asymmetric equilibrium propagation beside it.

    python scripts/experiments/directed_networks.py [--seeds 5] [--epochs 200]

Every unit reaches every other but the inputs; W_ij leads from i to j, a constant input is the bias. States follow

    DEEP          ds_j = sum_i s_i W_ij - s_j sum_k W_jk,  s <- clip(s + dt ds, 0, 1)     leak: the sum of OUTGOING weights
    asymmetric    ds   = s W + b - s

with + beta (y - s) at the outputs in the nudged phase, which starts from the free state. DEEP learns during the nudged phase,
Delta W_ij = eta / T2 sum_t mean_b s_i(t+1) (s_j(t+1) - s_j(t)); asymmetric EP from both ends,
eta / beta mean_b s_i^0 (s_j^beta - s_j^0).
Prints for each setting how many seeds learn XOR (all four outputs on their side of 0.5), how many diverge, and whether
the free network is stable by Gershgorin's discs. (Equilibrium propagation on complete directed graphs, arXiv:2006.08798.)
"""

import argparse

import numpy as np

INPUTS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], float)
LABELS = np.array([0, 1, 1, 0])
DT, STEPS, SCALE, START = 0.05, 1000, 0.05, 0.1
# setting: (rule, one-hot outputs, hidden units, beta, eta), as published
SETTINGS = {
    "DEEP, one-hot": ("deep", True, 2, 1.0, 200.0),
    "DEEP, scalar": ("deep", False, 5, 10.0, 100.0),
    "asymmetric EP, one-hot": ("asymmetric", True, 2, 1.0, 1.0),
    "asymmetric EP, one-hot, eta / 10": ("asymmetric", True, 2, 1.0, 0.1),
}
ROW = "{:<34} {:>6} {:>9} {:>9} {:>10} {:>8}"


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=200)
    options = parser.parse_args()
    print(ROW.format("setting", "seeds", "learn XOR", "diverge", "mean error", "stable"))
    for name, setting in SETTINGS.items():
        runs = [learn(*setting, options.epochs, np.random.default_rng(seed)) for seed in range(options.seeds)]
        kept = [error for error, _, diverged in runs if not diverged]
        print(
            ROW.format(
                name, len(runs), sum(error == 0 for error in kept), sum(run[2] for run in runs),
                f"{100 * np.mean(kept):.1f} %" if kept else "-", sum(run[1] for run in runs),
            )
        )  # fmt: skip


def learn(rule, one_hot, hidden, beta, eta, epochs, rng):
    """(share of the four samples on the wrong side at the end, whether Gershgorin's discs show stability, whether it diverged)"""
    target = np.eye(2)[LABELS] if one_hot else LABELS[:, None].astype(float)
    clamped = np.column_stack([INPUTS, np.ones(4)])
    inputs, outputs = clamped.shape[1], target.shape[1]
    total = inputs + hidden + outputs
    free = np.ones((total, total)) - np.eye(total)
    free[:, :inputs] = 0  # nothing leads into inputs
    weights = free * rng.normal(0, SCALE, (total, total))
    with np.errstate(all="ignore"):
        for _ in range(epochs):
            start = np.column_stack([clamped, rng.uniform(0, START, (4, total - inputs))])
            state = relax(rule, weights, start, inputs, outputs)
            if not np.isfinite(state).all():
                return 1.0, False, True
            weights += free * update(rule, weights, state, inputs, outputs, target, beta, eta)
        start = np.column_stack([clamped, rng.uniform(0, START, (4, total - inputs))])
        output = relax(rule, weights, start, inputs, outputs)[:, -outputs:]
    if not np.isfinite(output).all():
        return 1.0, False, True
    guess = output.argmax(axis=1) if one_hot else (output[:, 0] > 0.5).astype(int)
    return float(np.mean(guess != LABELS)), stable(rule, weights, inputs), False


def change(rule, weights, state):
    """ds of all units."""
    leak = weights.sum(axis=1) if rule == "deep" else 1.0
    return state @ weights - state * leak


def step(rule, weights, state, inputs, push=0.0):
    """One Euler step, inputs clamped; DEEP's rates stay in [0, 1]."""
    new = state + DT * (change(rule, weights, state) + push)
    if rule == "deep":
        new = np.clip(new, 0.0, 1.0)
    new[:, :inputs] = state[:, :inputs]
    return new


def relax(rule, weights, state, inputs, outputs):
    """The free phase."""
    for _ in range(STEPS):
        state = step(rule, weights, state, inputs)
    return state


def update(rule, weights, state, inputs, outputs, target, beta, eta):
    """The change of the weights from the nudged phase."""
    first, total = state, np.zeros_like(weights)
    push = np.zeros_like(state)
    for _ in range(STEPS):
        push[:, -outputs:] = beta * (target - state[:, -outputs:])
        new = step(rule, weights, state, inputs, push)
        if rule == "deep":
            total += new.T @ (new - state)
        state = new
    if rule == "deep":
        return eta / STEPS * total / len(state)
    return eta / beta * first.T @ (state - first) / len(state)


def stable(rule, weights, inputs):
    """Whether all of Gershgorin's discs of the free units' Jacobian lie left of 0."""
    inner = weights[inputs:, inputs:]
    centre = -weights[inputs:].sum(axis=1) if rule == "deep" else -np.ones(len(inner))
    radius = np.abs(inner).sum(axis=0)
    return bool((centre + radius < 0).all())


if __name__ == "__main__":
    main()
