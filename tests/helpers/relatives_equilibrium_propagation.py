"""Results of equilibrium propagation under the names of the reference files."""

import re

import numpy as np
from relatives_reference import Row, adam

import dfc_numba as dfc
from dfc_numba.learning.descent import Descent
from dfc_numba.relatives import equilibrium_energy as energy
from dfc_numba.relatives import equilibrium_propagation as ep
from dfc_numba.relatives.continual import continual_updates

LOSSES = {"ce": "cross_entropy", "mse": "mse"}
NAMES = {"mysig": "steepsigmoid", "hard_sigmoid": "hardsigmoid"}
FAMILY = "equilibrium_propagation"
ROWS = [
    Row(FAMILY, r"free(_t\d+)?_[us]\d", "`free_phase`, trajectory and end"),
    Row(FAMILY, r"nudged(_minus)?(_t\d+)?_[us]\d", "`nudged_phase`, free state + deviation"),
    Row(
        FAMILY,
        r"free_rest_u\d|nudged_rest_u\d",
        "`free_phase`, `nudged_phase` with 4000 steps of dt / tau = 0.2",
    ),
    Row(FAMILY, r"energy_\w+", "`free_energy`, nudged: + beta `cost`"),
    Row(FAMILY, r"(free|nudged)_dE_[Wb]\d", "`energy_gradient`"),
    Row(FAMILY, r"grad(_rest)?_[WbB]\d", "-1 x `equilibrium_update`"),
    Row(FAMILY, r"centred_grad_[WbB]\d", "-1 x `equilibrium_update`: the rule as meant"),
    Row(FAMILY, r"grad_t\d+_[Wb]\d|params_t\d+_[Wb]\d", "`continual_updates`"),
    Row(FAMILY, r"step\d_[WbB]\d", "parameters after each step of an `Optimizer`, or of continual learning"),
]


class Problem:
    """Network and options of a file."""

    def __init__(self, arrays, parameters):
        self.arrays, self.parameters = arrays, parameters
        sizes = parameters["dims"]
        self.depth = len(sizes) - 1
        layers = range(1, self.depth + 1)
        self.separate = "B1" in arrays
        self.network = dfc.Network(
            weights=[arrays[f"W{i}"] for i in layers],
            biases=[arrays[f"b{i}"] for i in layers],
            feedback=[np.zeros((n, sizes[-1])) for n in sizes[1:]],
            backward=[arrays[f"B{i}"] for i in layers[:-1]] if self.separate else None,
        )
        self.energy = parameters["source"] == "energy form"
        name = parameters["activation"]
        common = {
            "nonlinearity": NAMES.get(name, name), "beta": parameters["beta"], "loss": LOSSES[parameters["loss"]],
        }  # fmt: skip
        if self.energy:
            self.options = ep.EquilibriumPropagation(
                form=parameters["energy"], dt=parameters["dt"], tau=parameters["tau"],
                free_steps=max(1, parameters["n_free"]), nudged_steps=parameters["n_nudged"], **common,
            )  # fmt: skip
        else:
            self.options = ep.EquilibriumPropagation(
                sides=parameters["sides"], free_steps=parameters["T1"], nudged_steps=parameters["T2"],
                backward="separate" if self.separate else "transposed",
                same_update="same update" in parameters["model"], **common,
            )  # fmt: skip

    def minibatch(self, k):
        """x, y and initial states of minibatch k."""
        pick = (lambda name: self.arrays[name][k]) if self.parameters["train"] else self.arrays.__getitem__
        initial = [pick(f"u_init{i}") for i in range(1, self.depth + 1)] if "u_init1" in self.arrays else None
        return pick("x"), pick("y"), initial


def results(arrays, parameters):
    """Our results by the names of the file."""
    problem = Problem(arrays, parameters)
    if parameters.get("continual"):
        return continual(problem)
    found = first_minibatch(problem)
    if parameters["train"]:
        found.update(training(problem))
    return found


def first_minibatch(problem):
    x, y, initial = problem.minibatch(0)
    network, options = problem.network, problem.options
    letter = "u" if problem.energy else "s"
    free = ep.free_phase(network, x, options, initial=initial, record=options.form != "gaussian")
    found = states("free", letter, free.states, free.trajectory)
    for beta in [options.beta, -options.beta][: options.sides]:
        nudged = ep.nudged_phase(network, x, y, free, options, beta=beta, record=True)
        ends = [s + d for s, d in zip(free.states, nudged.deviations, strict=True)]
        found.update(
            states("nudged" if beta == options.beta else "nudged_minus", letter, ends, nudged.trajectory)
        )
        if problem.energy:
            found.update(energies(problem, x, y, initial, free, ends))
    update = ep.equilibrium_update(network, x, y, options, initial=initial)
    slip = "centred_grad_W1" in problem.arrays
    found.update(gradients(update, "centred_grad" if slip else "grad"))
    if slip:
        found.update(uncentred(update, x))
    if "free_rest_u1" in problem.arrays:
        found.update(at_rest(problem, x, y, initial))
    return found


def states(prefix, letter, ends, trajectory):
    found = {f"{prefix}_{letter}{i}": u for i, u in enumerate(ends, 1)}
    for i, points in enumerate(trajectory or [], 1):
        found.update({f"{prefix}_t{k}_{letter}{i}": points[k] for k in range(1, len(points))})
    return found


def energies(problem, x, y, initial, free, ends):
    network, options = problem.network, problem.options

    def total(u, beta=0.0):
        return energy.free_energy(network, x, u, options) + beta * energy.cost(u[-1], y, options.loss)

    found = {
        "energy_free": total(free.states), "energy_nudged_start": total(free.states, options.beta),
        "energy_nudged": total(ends, options.beta),
    }  # fmt: skip
    if initial is not None:
        found["energy_init"] = total(initial)
    for prefix, u in (("free", free.states), ("nudged", ends)):
        for kind, arrays in zip("Wb", energy.energy_gradient(network, x, u, options), strict=True):
            found.update({f"{prefix}_dE_{kind}{i}": array for i, array in enumerate(arrays, 1)})
    return found


def gradients(update, prefix):
    found = {}
    for kind, arrays in zip("WbB", (update.weights, update.biases, update.backward), strict=True):
        found.update({f"{prefix}_{kind}{i}": -array for i, array in enumerate(arrays or [], 1)})
    return found


def uncentred(update, x):
    """The slip: presynaptic rates of the +beta phase in place of the free ones."""
    first, second = update.nudged
    plus = [s + d for s, d in zip(update.free.states, second.deviations, strict=True)]
    change = [b - a for a, b in zip(first.deviations, second.deviations, strict=True)]
    scale = -1.0 / (2 * second.beta * len(x))
    found = {}
    for i, d in enumerate(change):
        found[f"grad_W{i + 1}"] = scale * d.T @ (x if i == 0 else plus[i - 1])
        found[f"grad_b{i + 1}"] = scale * d.sum(axis=0)
        if i + 1 < len(change):
            found[f"grad_B{i + 1}"] = scale * d.T @ plus[i + 1]
    return found


def at_rest(problem, x, y, initial):
    values = {name: getattr(problem.options, name) for name in ("form", "nonlinearity", "beta", "loss")}
    options = ep.EquilibriumPropagation(dt=0.2, tau=1.0, free_steps=4000, nudged_steps=4000, **values)
    update = ep.equilibrium_update(problem.network, x, y, options, initial=initial)
    found = gradients(update, "grad_rest")
    for i, (u, d) in enumerate(zip(update.free.states, update.nudged[0].deviations, strict=True), 1):
        found[f"free_rest_u{i}"], found[f"nudged_rest_u{i}"] = u, u + d
    return found


def training(problem):
    network = problem.network
    names = {f"W{i}": w for i, w in enumerate(network.weights, 1)}
    names.update({f"b{i}": b for i, b in enumerate(network.biases, 1)})
    names.update({f"B{i}": b for i, b in enumerate(network.backward or [], 1)})
    options = problem.parameters["optimizer"]
    settings = [
        options.get(name, default) for name, default in (("beta1", 0.9), ("beta2", 0.999), ("eps", 1e-8))
    ]
    optimizer = Descent(
        [list(names.values())], adam(options["lr"], *settings, options.get("weight_decay", 0.0))
    )
    found = {}
    for k in range(3):
        x, y, initial = problem.minibatch(k)
        update = ep.equilibrium_update(network, x, y, problem.options, initial=initial)
        found_gradients = gradients(update, "grad")
        optimizer.step([[found_gradients[f"grad_{name}"] for name in names]])
        found.update({f"step{k + 1}_{name}": array.copy() for name, array in names.items()})
    return found


def continual(problem):
    found = {}
    rate = problem.parameters["optimizer"]["lr"]
    for k in range(3):
        x, y, _ = problem.minibatch(k)
        free = ep.free_phase(problem.network, x, problem.options, record=True)
        steps = continual_updates(problem.network, x, y, problem.options, learning_rate=rate, free=free)
        if k == 0:
            found.update(states("free", "s", free.states, free.trajectory))
            for t, step in enumerate(steps, 1):
                found.update({f"nudged_t{t}_s{i}": s for i, s in enumerate(step.states, 1)})
                for kind, grads, params in (
                    ("W", step.weights, step.new_weights),
                    ("b", step.biases, step.new_biases),
                ):
                    found.update({f"grad_t{t}_{kind}{i}": -g for i, g in enumerate(grads, 1)})
                    found.update({f"params_t{t}_{kind}{i}": p for i, p in enumerate(params, 1)})
        problem.network.weights.fill(steps[-1].new_weights)
        problem.network.biases.fill(steps[-1].new_biases)
        found.update({f"step{k + 1}_W{i}": w.copy() for i, w in enumerate(problem.network.weights, 1)})
        found.update({f"step{k + 1}_b{i}": b.copy() for i, b in enumerate(problem.network.biases, 1)})
    return {
        name: value
        for name, value in found.items()
        if name in problem.arrays or not re.match("nudged_t", name)
    }
