"""Training runs of the published code, repeated by the `Trainer`.

A file `train_*.npz` holds a network (W{i}, b{i}, Q{i}), three minibatches (mb{m}_x, mb{m}_y) that every pass
takes in the same order, the options in the names of the published code (`params_json`), and for every
optimiser step k, in the order of `events` (fbinit, fb, fw), the draws e{k}_xi{i} of the simulation before it
and the parameters e{k}_W{i}, e{k}_b{i}, e{k}_Q{i} after it. A compact file holds only those
that the step changes.
"""

import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np

import dfc_numba as dfc
from dfc_numba.config import Config
from dfc_numba.methods import find
from dfc_numba.schedule import plan_passes
from dfc_numba.training import Trainer

EVENTS = {"pretraining": "fbinit", "feedback": "fb", "forward": "fw", "extra feedback": "fb"}
LOSSES = {"mse": "mse", "ce": "cross_entropy"}
RMSPROP = {"beta2": 0.95, "epsilon": 0.03}


class Run:
    """One file, read: `.network`, `.dataset`, `.config`, `.minibatches`, `.noise`, the published results."""

    def __init__(self, path):
        with np.load(path) as archive:
            self.arrays = {name: archive[name] for name in archive.files}
        self.options = json.loads(str(self.arrays["params_json"]))
        self.events = [str(event) for event in self.arrays["events"]]
        self.config = Config.model_validate(configuration(self.options), context={"refuse_unused": False})
        self.minibatches, self.dataset = self._data()
        self.noise = self._noise()
        self.network = self._network()

    def train(self):
        """Runs the trainer; returns it and a `Recorder` of its steps."""
        recorder = Recorder(self)
        injected = {"minibatches": self.minibatches, "noise": self.noise}
        trainer = Trainer(self.network, self.dataset, self.config, observers=[recorder], **injected)
        outcome = trainer.run()
        assert outcome.status == "done", outcome.message
        return trainer, recorder

    def metrics(self, name):
        """A published column of metrics, one value per epoch, or None."""
        return self.arrays.get(f"{name}_per_epoch")

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
        config, steps, noise = self.config, iter(range(len(self.events))), []
        for current in plan_passes(find(config.training.method).phases, config.training, config.feedback):
            for _ in self.minibatches:
                idle = current.phase == "forward" and config.training.freeze_forward
                noise.append(None if idle else self._draws(next(steps)))
        return noise

    def _draws(self, step):
        names = [f"e{step:02d}_xi{i}" for i in range(len(self.options["sizes"]) - 1)]
        return [self.arrays[name] for name in names] if names[0] in self.arrays else None


class Recorder:
    """Compares the parameters after every optimiser step with those of the file."""

    def __init__(self, run):
        self.run, self.events, self.comparisons = run, [], []

    def on_start(self, trainer):
        self.trainer = trainer

    def on_minibatch(self, progress):
        if progress.phase == "forward" and self.run.config.training.freeze_forward:
            return
        step, net = len(self.events), self.trainer.network
        self.events.append(EVENTS[progress.phase])
        for letter, arrays in (("W", net.weights), ("b", net.biases or []), ("Q", net.feedback)):
            for i, ours in enumerate(arrays):
                name = f"e{step:02d}_{letter}{i}"
                if name in self.run.arrays:
                    self.comparisons.append((name, ours.copy(), self.run.arrays[name]))

    def worst(self):
        """The largest deviation relative to the array's largest value, and the array's name."""
        deviations = [
            (np.abs(ours - theirs).max() / np.abs(theirs).max(), name)
            for name, ours, theirs in self.comparisons
        ]
        return max(deviations)


def configuration(options):
    """The table of a `Config` from the options of the published code."""
    table = {
        "network": {"hidden": options["size_hidden"], "hidden_activation": options["hidden_activation"]},
        "target": {"loss": LOSSES[options["loss"]], "class_value": float(options["target_class_value"])},
        "training": {"epochs": options["epochs"], "freeze_forward": options["freeze_fw_weights"]},
        "optimizer": optimizer(options, ""),
    }
    baseline = options["network_type"].lower()
    own = {"training": {"method": baseline}} if baseline in ("bp", "dfa") else dfc_configuration(options)
    return {section: {**table.get(section, {}), **own.get(section, {})} for section in {**table, **own}}


def dfc_configuration(options):
    """What the DFC methods add to the table."""
    strong, step = options["strong_feedback"], options["target_stepsize"]
    softmax = strong and options["error_as_loss_grad"] and options["loss"] == "ce"
    error = "softmax" if softmax else "difference"
    undo = step if options["normalize_lr"] else 1.0  # the file states the divided learning rate
    return {
        "target": {"feedback": "strong" if strong else "weak", "step": step},
        "training": {
            "method": "dfc-ss" if options["ss"] else "dfc-ssa" if options["ssa"] else "dfc",
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


def controller(options, suffix, error):
    """The table of a controller; noise acts in the feedback phase only, unless `noisy_dynamics`."""
    noisy = suffix == "_fb" or options["noisy_dynamics"]
    di = "_di" + suffix
    return {
        "dt": options["dt" + di],
        "steps": options["tmax" + di] - 1,
        "alpha": options["alpha" + di],
        "k_p": float(options["k_p" + suffix]),
        "tau_v": options["time_constant_ratio" + suffix],
        "tau_apical": options["apical_time_constant" + suffix],
        "instant_transmission": options["inst_transmission" + suffix],
        "instant_dynamics": options["inst_system_dynamics"],
        "proactive": options["proactive_controller"],
        "sigma": float(options["sigma" + suffix]) if noisy else 0.0,
        "sigma_output": float(options["sigma_output" + suffix]) if noisy else None,
        "tau_noise": options["tau_noise"] if noisy and options["low_pass_filter_noise"] else None,
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


def files(folder):
    """The training runs in `folder` that the trainer can repeat, in alphabetical order."""
    return sorted(path for path in Path(folder).glob("train_*.npz") if not path.name.startswith("train_sp_"))
