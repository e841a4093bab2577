"""Training runs of the published code, repeated by the `Trainer`.

A file `train_*.npz` holds a network (W{i}, b{i}, Q{i}), three minibatches (mb{m}_x, mb{m}_y) that every pass
takes in the same order, the options in the names of the published code (`params_json`), and for every
optimiser step k, in the order of `events` (fbinit, fb, fw), the draws e{k}_xi{i} of the simulation before it,
the gradients before (e{k}_graw*) and after clipping (e{k}_g*), and the parameters e{k}_W{i}, e{k}_b{i}, e{k}_Q{i}
after it. A compact file lacks the gradients, and what a step leaves alone.
"""

from dataclasses import replace
from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import oracle
from reference_files import Comparison, read

import dfc_numba as dfc
from dfc_numba.configuration.config import Config
from dfc_numba.learning.descent import clip_factors
from dfc_numba.learning.method import Gradients, PlannedUpdate
from dfc_numba.learning.methods import find
from dfc_numba.learning.schedule import plan_passes
from dfc_numba.learning.training import Trainer

FEEDBACK_EVENTS = {"pretraining": "fbinit", "feedback": "fb", "forward": "fb", "extra feedback": "fb"}
EVENTS = ("fbinit", "fb", "fw")
METRICS = {
    "train_loss": "train_loss",
    "test_loss": "test_loss",
    "train_acc": "train_accuracy",
    "test_acc": "test_accuracy",
}
LOSSES = {"mse": "mse", "ce": "cross_entropy"}
RMSPROP = {"beta2": 0.95, "epsilon": 0.03}


class Run:
    """One file, read: `.network`, `.dataset`, `.config`, `.minibatches`, `.noise`, the published results."""

    def __init__(self, path):
        self.arrays, self.options = read(path)
        self.events = [str(event) for event in self.arrays["events"]]
        self.config = Config.model_validate(configuration(self.options), context={"refuse_unused": False})
        self.minibatches, self.dataset = self._data()
        self.noise = self._noise()
        self.network = self._network()

    def train(self, *, slips=True):
        """Runs the trainer, with the slips of the published code unless told otherwise; returns it and a `Recorder`."""
        recorder = Recorder(self, slips)
        injected = {"minibatches": self.minibatches, "noise": self.noise}
        trainer = Trainer(self.network, self.dataset, self.config, observers=[recorder], **injected)
        outcome = trainer.run()
        assert outcome.status == "done", outcome.message
        return trainer, recorder

    def comparisons(self):
        """Yield a `Comparison` for every array: the order of steps, what each does, the metrics of every epoch."""
        trainer, recorder = self.train()
        ours, theirs = (
            np.array([EVENTS.index(e) for e in events]) for events in (recorder.events, self.events)
        )
        yield Comparison("events", ours, theirs)
        yield from recorder.comparisons
        for theirs, ours in METRICS.items():
            name = f"{theirs}_per_epoch"
            if name in self.arrays:
                yield Comparison(name, np.array([row[ours] for row in trainer.rows]), self.arrays[name])

    def _network(self):
        layers = range(len(self.options["sizes"]) - 1)
        weights, biases, feedback = ([self.arrays.get(f"{letter}{i}") for i in layers] for letter in "WbQ")
        return dfc.Network(
            weights=weights,
            biases=None if biases[0] is None else biases,
            feedback=feedback,
            hidden_activation=self.options["hidden_activation"],
            output_activation="linear",
        )

    def _data(self):
        x, y = ([self.arrays[f"mb{m}_{name}"] for m in range(3)] for name in "xy")
        split = SimpleNamespace(x=np.concatenate(x), y=np.concatenate(y))
        ends = np.cumsum([0] + [len(rows) for rows in x])
        dataset = SimpleNamespace(
            name="reference",
            task="classification" if self.options["loss"] == "ce" else "regression",
            train=split,
            validation=None,
            test=split,
            n_inputs=split.x.shape[1],
            n_outputs=split.y.shape[1],
        )
        return [np.arange(first, last) for first, last in pairwise(ends)], dataset

    def _noise(self):
        """The draws by running number of the minibatch; minibatches without an optimiser step have none."""
        steps_of_forward = (
            2 if is_single_phase(self.options) else 0 if self.options["freeze_fw_weights"] else 1
        )
        config, step, noise = self.config, 0, []
        for current in plan_passes(find(config.training.method).phases, config.training, config.feedback):
            steps = steps_of_forward if current.phase == "forward" else 1
            for _ in self.minibatches:
                noise.append(self._draws(step) if steps else None)
                step += steps
        return noise

    def _draws(self, step):
        names = [f"e{step:02d}_xi{i}" for i in range(len(self.options["sizes"]) - 1)]
        return [self.arrays[name] for name in names] if names[0] in self.arrays else None


class Recorder:
    """Compares gradients and parameters of every optimiser step with those of the file."""

    def __init__(self, run, slips):
        self.run, self.slips, self.events, self.comparisons = run, slips, [], []
        self.visited = []  # (network before the step, minibatch) of every gradient
        self.gradients = None

    def on_start(self, trainer):
        self.trainer, method = trainer, trainer.method
        if self.slips:
            method = with_slips(method, self.run)
        trainer.method = replace(
            method,
            forward=self._recorded(method.forward),
            feedback=method.feedback and self._recorded(method.feedback),
        )

    def _recorded(self, function):
        def gradients(network, minibatch, config):
            self.visited.append((network.copy(), minibatch))
            self.gradients = computed(function(network, minibatch, config), network, minibatch)
            return self.gradients

        return gradients

    def on_minibatch(self, progress):
        gradients, self.gradients = self.gradients, None
        if gradients is None:
            return
        net, config = self.trainer.network, self.run.config
        after = {"W": net.weights, "b": net.biases or [], "Q": net.feedback}
        if gradients.weights is not None:
            # of one simulation's two steps, this is the first
            between = {**after, "Q": self.visited[-1][0].feedback} if gradients.feedback else after
            found = {"W": gradients.weights, "b": gradients.biases or []}
            self._compare("fw", between, found, config.optimizer)
        if gradients.feedback is not None:
            event = FEEDBACK_EVENTS[progress.phase]
            self._compare(event, after, {"Q": gradients.feedback}, config.feedback_optimizer)

    def _compare(self, event, parameters, gradients, options):
        """One step of one optimiser: parameters after it, gradients before and after clipping."""
        step = f"e{len(self.events):02d}_"
        self.events.append(event)
        layers = [list(layer) for layer in zip(*filter(None, gradients.values()), strict=True)]
        factors = clip_factors(layers, options.clip_norm, options.clip_scope)
        for letter, arrays in parameters.items():
            self._add(step + letter, arrays)
        for position, (letter, arrays) in enumerate(gradients.items()):
            self._add(step + "graw" + letter, arrays)
            self._add(step + "g" + letter, [factors[i][position] * array for i, array in enumerate(arrays)])

    def _add(self, prefix, arrays):
        for i, ours in enumerate(arrays):
            theirs = self.run.arrays.get(f"{prefix}{i}")
            if theirs is not None:
                self.comparisons.append(Comparison(f"{prefix}{i}", ours.copy(), theirs))

    def worst(self):
        """The largest deviation, and the array's name."""
        return max((comparison.deviation, comparison.name) for comparison in self.comparisons)


def computed(found, network, minibatch):
    """The gradients that a function of a method returns, or plans."""
    return found.gradients(found.compute(network, minibatch)) if isinstance(found, PlannedUpdate) else found


def with_slips(method, run):
    """The method with the slips that the published code has in its gradients."""
    kind = run.config.training.method
    if kind == "dfa":
        return replace(method, forward=without_derivative)
    if kind == "dfc-single-phase":
        return replace(
            method, feedback=partial(with_mixed_phases, function=method.feedback, options=run.options)
        )
    return method


def without_derivative(network, minibatch, config):
    """Slip 2: direct feedback alignment without the derivative of the activation."""
    loss = config.target.loss
    found = oracle.direct_feedback_gradient(network, minibatch.x, minibatch.y, loss=loss, derivative=False)
    return Gradients(weights=found.weights, biases=found.biases)


def with_mixed_phases(network, minibatch, config, *, function, options):
    """Slip 8: pre-training filters and scales, and extra feedback epochs divide, by numbers of the other phase."""
    if minibatch.phase == "pretraining":
        ratios = scaling_ratios(options)
        high_pass = options["tau_f"] * options["dt_di_fb"] / options["dt_di"]
        feedback = config.feedback.model_copy(update={"high_pass": high_pass})
        config = config.model_copy(update={"feedback": feedback})
    else:
        ratios = division_ratios(options, config.feedback.sigma_floor)
    gradients = computed(function(network, minibatch, config), network, minibatch).feedback
    return Gradients(feedback=[ratio * q for ratio, q in zip(ratios, gradients, strict=True)])


def scaling_ratios(options):
    """Per layer the published scaling in pre-training over that of the simulated phase."""
    theirs, ours = (1 + options[f"time_constant_ratio{s}"] / options["tau_noise"] for s in ("", "_fb"))
    base, depth = theirs / ours if options["scaling_fb_updates"] else 1.0, len(options["sizes"]) - 1
    return [base ** (depth - 1 - i) for i in range(depth)]


def division_ratios(options, floor):
    """Per layer the square of the simulated sigma over that which extra feedback epochs divide by."""
    names = ["sigma"] * (len(options["sizes"]) - 2) + ["sigma_output"]
    return [(max(options[name], floor) / max(options[f"{name}_fb"], floor)) ** 2 for name in names]


def configuration(options):
    """The table of a `Config` from the options of the published code."""
    table = {
        "network": {"hidden": options["size_hidden"], "hidden_activation": options["hidden_activation"]},
        "target": {"loss": LOSSES[options["loss"]], "class_value": float(options["target_class_value"])},
        "training": {"epochs": options["epochs"], "freeze_forward": options["freeze_fw_weights"]},
        "optimizer": optimizer(options, ""),
    }
    kind = options["network_type"].lower()
    own = {"training": {"method": kind}} if kind in ("bp", "dfa") else dfc_configuration(options)
    return {section: {**table.get(section, {}), **own.get(section, {})} for section in {**table, **own}}


def dfc_configuration(options):
    """What the DFC methods add to the table."""
    strong, step = options["strong_feedback"], options["target_stepsize"]
    softmax = strong and options["error_as_loss_grad"] and options["loss"] == "ce"
    error = "softmax" if softmax else "difference"
    undo = step if options["normalize_lr"] else 1.0  # the file states the divided learning rate
    single_phase = is_single_phase(options)
    return {
        "target": {"feedback": "strong" if strong else "weak", "step": step},
        "training": {
            "method": dfc_method(options),
            "rule": options["learning_rule"],
            "samples": "converged" if options["include_only_converged_samples"] else "all",
        },
        "controller": controller(options, "", error),
        "feedback": {
            "train": not (options["freeze_fb_weights"] or options["use_jacobian_as_fb"]),
            "pretraining_epochs": options["init_fb_epochs"],
            "extra_epochs": options["extra_fb_epochs"],
            "scaling": options["scaling_fb_updates"],
            "freeze_output": options["freeze_fb_weights_output"],
            "high_pass": options["tau_f"] if single_phase else None,
            "pretraining_pursue": "output"
            if single_phase and options["pretrain_without_controller"]
            else None,
        },
        "feedback_controller": controller(options, "_fb", error),
        "optimizer": {
            **optimizer(options, ""),
            "learning_rate": one_or_list([undo * rate for rate in options["lr"]]),
            "divide_by_step": options["normalize_lr"],
        },
        "feedback_optimizer": {
            **optimizer(options, "_fb"),
            "pretraining_learning_rate": one_or_list(options["lr_fb_init"]),
        },
    }


def is_single_phase(options):
    return options["network_type"] == "DFC_single_phase"


def dfc_method(options):
    """The name of the method; single-phase learning ignores the readout."""
    if is_single_phase(options):
        return "dfc-single-phase"
    return "dfc-ss" if options["ss"] else "dfc-ssa" if options["ssa"] else "dfc"


def controller(options, suffix, error):
    """The table of a controller; noise acts in the feedback phase only, unless `noisy_dynamics`."""
    single_phase = is_single_phase(options)
    noisy = suffix == "_fb" or options["noisy_dynamics"]
    coloured = single_phase or options["low_pass_filter_noise"]
    di = "_di" + suffix
    return {
        "dt": options["dt" + di],
        "steps": options["tmax" + di] - 1,
        "alpha": options["alpha" + di],
        "k_p": float(options["k_p" + suffix]),
        "tau_v": options["time_constant_ratio" + suffix],
        "tau_apical": None if single_phase else options["apical_time_constant" + suffix],
        "instant_transmission": options["inst_transmission" + suffix],
        "instant_dynamics": options["inst_system_dynamics"],
        "proactive": options["proactive_controller"],
        "sigma": float(options["sigma" + suffix]) if noisy else 0.0,
        "sigma_output": float(options["sigma_output" + suffix]) if noisy else None,
        "tau_noise": options["tau_noise"] if noisy and coloured else None,
        "tau_control": options["tau_f"] if options["low_pass_filter_u"] else None,
        "jacobian_feedback": options["use_jacobian_as_fb"],
        "convergence_epsilon": options["epsilon_di"],
        "error": error,
    }


def optimizer(options, suffix):
    """The table of an optimiser."""
    name = options["optimizer" + suffix].lower()
    table = {"name": name, "learning_rate": one_or_list(options["lr" + suffix])}
    table["momentum"] = float(options["momentum" + suffix])
    table["weight_decay"] = float(options["weight_decay" + suffix])
    if options["clip_grad_norm"] > 0:
        table["clip_norm"] = options["clip_grad_norm"]
    if name == "adam":
        table.update({key: options[f"adam_{key}{suffix}"] for key in ("beta1", "beta2")})
        table["epsilon"] = one_or_list(options["adam_epsilon" + suffix])
    return {**table, **RMSPROP} if name == "rmsprop" else table


def one_or_list(values):
    """A list of one value as that value."""
    return values[0] if len(values) == 1 else values
