"""Results of target propagation under the names of the reference files."""

import numpy as np
from relatives_reference import Row, adam

import dfc_numba as dfc
from dfc_numba.learning.descent import Descent
from dfc_numba.model.targets import mean_loss
from dfc_numba.relatives import target_propagation as tp
from dfc_numba.relatives.feedback_mappings import (
    LAYERWISE,
    FeedbackMappings,
    TargetPropagation,
    reconstruction_update,
)

LOSSES = {"ce": "cross_entropy", "mse": "mse"}
ROWS = [
    Row("target_propagation", r"(a|h)\d", "`Network.forward`"),
    Row("target_propagation", "loss", "`targets.mean_loss`"),
    Row("target_propagation", r"h\d_target|aL_target", "`propagated_targets`, `gauss_newton_targets`"),
    Row("target_propagation", r"grad_[Wb]\d", "-1 x `target_update`"),
    Row("target_propagation", r"grad_[Qd]\d|rec_loss_\d", "-1 x `reconstruction_update`, its losses"),
    Row(
        "target_propagation", r"(h_corrupted|h_reconstructed|aL_corrupted|out_corrupted|up_target)_\d",
        "states of `reconstruction_update`",
    ),
    Row("target_propagation", r"gn_update_a\d|gn_param_update_[Wb]\d", "-1 x `gauss_newton_layers`"),
    Row("target_propagation", r"step\d_[WbQd]\d", "parameters after each step of two `Optimizer`s"),
]  # fmt: skip


class Problem:
    """Network, mappings and options of a file; parameters that the file lacks are zero and stay so."""

    def __init__(self, arrays, parameters):
        self.arrays, self.parameters = arrays, parameters
        sizes = parameters["dims"]
        self.depth = len(sizes) - 1
        layers = range(1, self.depth + 1)
        biases = [arrays.get(f"b{i}", np.zeros(sizes[i])) for i in layers] if parameters["bias"] else None
        self.network = dfc.Network(
            weights=[arrays[f"W{i}"] for i in layers],
            biases=biases,
            feedback=[np.zeros((n, sizes[-1])) for n in sizes[1:]],
            hidden_activation=parameters["activation"],
            output_activation=parameters["output_activation"],
        )
        self.loss = LOSSES[parameters["loss"]]
        self.rule = parameters["variant"]
        if self.rule == "gnt":
            return
        linear = self.rule in ("ddtp_linear", "ddtp_control")
        self.options = TargetPropagation(
            rule=self.rule, step=parameters["eta"], sigma=parameters["sigma"], loss=self.loss,
            feedback_activation=None if linear else parameters["feedback_activation"],
        )  # fmt: skip
        hidden = range(1, self.depth)
        self.shift = 1 if self.rule in LAYERWISE else 0  # mapping to layer i is called Q{i + 1} there
        names = [i + self.shift for i in hidden]
        self.mappings = FeedbackMappings(
            self.network,
            self.options,
            weights=[arrays[f"Q{k}"] for k in names],
            biases=[arrays.get(f"d{k}", np.zeros(sizes[i])) for i, k in zip(hidden, names, strict=True)]
            if parameters["bias"]
            else None,
            random_weights=arrays.get("R"),
            random_biases=arrays.get("c"),
        )

    def minibatch(self, k):
        """x, y and draws of minibatch k."""
        pick = (lambda name: self.arrays[name][k]) if self.parameters["train"] else self.arrays.__getitem__
        noise = [pick(f"xi{i}") for i in range(1, self.depth)] if "xi1" in self.arrays else None
        return pick("x"), pick("y"), noise

    def update(self, x, y):
        """The forward update, as an object with weights, biases, targets."""
        if self.rule != "gnt":
            return tp.target_update(self.network, self.mappings, x, y, self.options)
        targets = tp.gauss_newton_targets(
            self.network, x, y, loss=self.loss, damping=self.parameters["damping"]
        )
        return tp.TargetUpdate(*tp.local_updates(self.network, x, targets), targets)


def results(arrays, parameters):
    """Our results by the names of the file."""
    problem = Problem(arrays, parameters)
    found = first_minibatch(problem)
    if parameters["train"]:
        found.update(training(problem))
    return found


def first_minibatch(problem):
    x, y, noise = problem.minibatch(0)
    activity = problem.network.forward(x)
    found = {"loss": mean_loss(activity.r[-1], y, problem.loss)}
    update = problem.update(x, y)
    for i in range(problem.depth):
        found[f"a{i + 1}"], found[f"h{i + 1}"] = activity.v[i], activity.r[i]
        found[f"h{i + 1}_target"] = update.targets.rates[i]
        found[f"grad_W{i + 1}"] = -update.weights[i]
        if update.biases is not None:
            found[f"grad_b{i + 1}"] = -update.biases[i]
    if problem.rule != "gnt":
        found["aL_target"] = update.targets.output_voltage
        found.update(feedback(problem, x, noise))
    else:
        damping = problem.parameters["damping"]
        voltages, weights, biases = tp.gauss_newton_layers(
            problem.network, x, y, loss=problem.loss, damping=damping
        )
        for i in range(problem.depth):
            found[f"gn_update_a{i + 1}"] = -voltages[i]
            found[f"gn_param_update_W{i + 1}"] = -weights[i]
            if biases is not None:
                found[f"gn_param_update_b{i + 1}"] = -biases[i]
    return found


def feedback(problem, x, noise):
    update = reconstruction_update(problem.network, problem.mappings, x, problem.options, noise=noise)
    found = {}
    for i in range(problem.depth - 1):
        found[f"grad_Q{i + 1 + problem.shift}"] = -update.weights[i]
        if update.biases is not None:
            found[f"grad_d{i + 1 + problem.shift}"] = -update.biases[i]
        found[f"rec_loss_{i + 1}"] = update.losses[i]
        found[f"h_corrupted_{i + 1}"] = update.corrupted[i]
        found[f"h_reconstructed_{i + 1}"] = update.reconstructed[i]
        found[f"up_target_{i + 1}"] = update.upper[i]
        if update.output is not None:
            found[f"aL_corrupted_{i + 1}"] = update.output_voltage[i]
            found[f"out_corrupted_{i + 1}"] = update.output[i]
    return found


def training(problem):
    """Parameters after each of three steps: feedback gradients with the old W, then the forward step."""
    arrays, network = problem.arrays, problem.network
    names = {f"W{i + 1}": network.weights[i] for i in range(problem.depth)}
    if network.biases is not None:
        names.update({f"b{i + 1}": network.biases[i] for i in range(problem.depth)})
    inverse = {}
    if problem.rule != "gnt":
        for i in range(problem.depth - 1):
            inverse[f"Q{i + 1 + problem.shift}"] = problem.mappings.weights[i]
            if problem.mappings.biases is not None:
                inverse[f"d{i + 1 + problem.shift}"] = problem.mappings.biases[i]
    groups = [{name: array for name, array in group.items() if name in arrays} for group in (names, inverse)]
    options = problem.parameters["optimizer"]
    optimizers = [
        group and Descent([list(group.values())], adam(*settings(options[name])))
        for group, name in zip(groups, ("forward", "feedback"), strict=True)
    ]
    found = {}
    for k in range(3):
        x, y, noise = problem.minibatch(k)
        update = problem.update(x, y)
        gradients = {f"W{i + 1}": -w for i, w in enumerate(update.weights)}
        gradients.update({f"b{i + 1}": -b for i, b in enumerate(update.biases or [])})
        if problem.rule != "gnt":
            gradients.update(
                {key.removeprefix("grad_"): value for key, value in feedback(problem, x, noise).items()}
            )
        for group, optimizer in zip(groups[::-1], optimizers[::-1], strict=True):
            if group:
                optimizer.step([[gradients[name] for name in group]])
        for group in groups:
            found.update({f"step{k + 1}_{name}": array.copy() for name, array in group.items()})
    return found


def settings(options):
    return [options[name] if options else 0.0 for name in ("lr", "beta1", "beta2", "eps", "weight_decay")]
