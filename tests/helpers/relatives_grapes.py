"""Results of GRAPES under the names of the reference files."""

from dataclasses import replace

import numpy as np
from relatives_reference import Row

import dfc_numba as dfc
from dfc_numba.relatives.grapes import Grapes, grapes_update

FAMILY = "grapes"
ROWS = [
    Row(FAMILY, r"[ah]\d|delta\d|f\d", "`grapes_update`: voltages, rates, deltas, factors"),
    Row(FAMILY, r"update_W\d", "learning rate x `grapes_update`"),
    Row(FAMILY, r"plain_delta\d|plain_update_W\d", '`grapes_update` with form = "none"'),
    Row(FAMILY, r"local_update_W\d", '`grapes_update` with form = "local"'),
    Row(
        FAMILY, r"step\d_W\d",
        "parameters after each step; NAG with the true look-ahead (bug in the reference: see relatives.md)",
    ),
]  # fmt: skip


def results(arrays, parameters):
    """Our results by the names of the file."""
    sizes, rule = parameters["dims"], parameters["rule"].removesuffix("grapes").lower()
    depth, eta = len(sizes) - 1, parameters["eta"]
    clip = parameters["clip_factor"]
    options = Grapes(
        rule=rule, clip=tuple(map(float, clip)) if clip else None, keep=parameters["dropout_keep"],
        output=parameters["output_activation"],
    )  # fmt: skip
    network = dfc.Network(
        weights=[arrays[f"W{i}"] for i in range(1, depth + 1)], biases=None,
        feedback=[np.zeros((n, sizes[-1])) for n in sizes[1:]], hidden_activation=parameters["activation"],
    )  # fmt: skip
    feedback = None if rule == "bp" else [arrays[f"B{i}"] for i in range(1, depth)]
    found, state = {}, [[np.zeros_like(w), np.zeros_like(w)] for w in network.weights]
    for k in range(3 if parameters["train"] else 1):
        pick = (lambda name, k=k: arrays[name][k]) if parameters["train"] else arrays.__getitem__
        masks = [pick(f"mask{i}") for i in range(1, depth)] if "mask1" in arrays else None
        looking = network.copy()
        if parameters["optimizer"] == "NAG":
            for w, (v, _) in zip(looking.weights, state, strict=True):
                w -= parameters["momentum"] * v
        call = {"feedback": feedback, "masks": masks}
        update = grapes_update(looking, pick("x"), pick("y"), options, **call)
        if k == 0:
            found.update(named(update, eta, "", depth, 2 if rule == "dfa" else 1))
            plain = grapes_update(network, pick("x"), pick("y"), replace(options, form="none"), **call)
            found.update(named(plain, eta, "plain_", depth, 1))
            local = grapes_update(network, pick("x"), pick("y"), replace(options, form="local"), **call)
            found.update({f"local_update_W{i}": eta * w for i, w in enumerate(local.weights, 1)})
        for w, change, kept in zip(network.weights, update.weights, state, strict=True):
            step(w, -change, kept, parameters, k + 1)
        found.update({f"step{k + 1}_W{i}": w.copy() for i, w in enumerate(network.weights, 1)})
    return found


def named(update, eta, prefix, depth, first):
    found = {}
    for i in range(depth):
        found[f"{prefix}delta{i + 1}"] = update.deltas[i]
        found[f"{prefix}update_W{i + 1}"] = eta * update.weights[i]
        if not prefix:
            found[f"a{i + 1}"], found[f"h{i + 1}"] = update.voltages[i], update.rates[i]
    if not prefix:
        found.update({f"f{i}": f for i, f in enumerate(update.factors, first)})
    return found


def step(w, g, state, parameters, count):
    """One step of the published optimisers, in plain NumPy."""
    eta, kind = parameters["eta"], parameters["optimizer"]
    first, second = state
    if kind == "SGD":
        w -= eta * g
    elif kind in ("mom", "NAG"):
        first[...] = parameters["momentum"] * first + eta * g
        w -= first
    elif kind == "rmsprop":
        second[...] = 0.9 * second + 0.1 * g**2
        w -= eta * g / np.sqrt(second + 1e-8)
    else:
        first[...] = 0.9 * first + 0.1 * g
        second[...] = 0.999 * second + 0.001 * g**2
        w -= eta * first / (1 - 0.9**count) / (np.sqrt(second / (1 - 0.999**count)) + 1e-8)
