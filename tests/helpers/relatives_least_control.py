"""Results of least control under the names of the reference files."""

import numpy as np
from relatives_reference import Options, Row

import dfc_numba as dfc
from dfc_numba.learning.descent import Descent, clip_factors
from dfc_numba.relatives import control_learning as cl
from dfc_numba.relatives import least_control as lc
from dfc_numba.relatives.energy_control import EnergyControl, energy_control

LOSSES = {"ce": "cross_entropy", "mse": "mse"}
FAMILY = "least_control"
RECURRENT = {
    "U": "input_weights", "W": "weights", "D": "output_weights", "b_in": "input_biases", "b_rec": "biases",
    "c": "output_biases",
}  # fmt: skip
ROWS = [
    Row(FAMILY, r"(t\d+|end)_(v\d?|e\d?|o|u_int)", "`controlled_phase`, trajectory and end"),
    Row(FAMILY, r"n_steps|u_star|o_star", "`controlled_phase`: steps, u, output; EBD: `energy_control`"),
    Row(
        FAMILY,
        r"(clipped_)?grad_([WbSUDc]\d?|Dt|b_in|b_rec)",
        "-1 x `control_update`, times `optimizers.clip_factors`",
    ),
    Row(FAMILY, r"noisy_(t\d+|end)_(v\d?|eps|o|u_int|G)", "`noisy_feedback_update`, trajectory and end"),
    Row(FAMILY, r"Q_after", "Q + the update of `noisy_feedback_update`"),
    Row(FAMILY, r"step\d_(\w+)", "parameters after each step of an `Optimizer`"),
]


class Problem:
    """Network, options and feedback of a file."""

    def __init__(self, arrays, parameters):
        self.arrays, self.parameters = arrays, parameters
        self.recurrent = parameters["net"] == "rnn"
        self.rule = parameters["algorithm"].removeprefix("lcp-")
        sizes = parameters["dims"]
        if self.recurrent:
            self.network = lc.RecurrentNetwork(
                **{ours: arrays[name] for name, ours in RECURRENT.items()},
                activation=parameters["activation"],
            )
            self.names = dict(RECURRENT)
            hidden = sizes[1:-1]
        else:
            layers = range(1, len(sizes))
            self.network = dfc.Network(
                weights=[arrays[f"W{i}"] for i in layers],
                biases=[arrays[f"b{i}"] for i in layers],
                feedback=[np.zeros((n, sizes[-1])) for n in sizes[1:]],
                hidden_activation=parameters["activation"],
            )
            hidden = sizes[1:-1]
        self.cuts = np.cumsum(hidden)[:-1]
        self.loss = LOSSES[parameters["loss"]]
        self.given = {}
        if self.rule == "kp":
            names = ["S", "Dt"] if self.recurrent else [f"S{i}" for i in range(2, len(sizes))]
            self.pairs = {name: arrays[name].copy() for name in names}
        if self.rule == "lf":
            self.feedback = np.split(arrays["Q"].copy(), self.cuts)
        noise = parameters.get("noise") or {}
        renamed = {"sigma": "sigma", "s": "speed", "tau_eps": "tau_noise", "tau_Q": "tau_q", "wd_Q": "decay"}
        if self.rule != "ebd":
            self.options = lc.LeastControl(
                rule=self.rule, dt=parameters["dt"], steps=parameters["max_steps"], tau_v=parameters["tau_v"],
                tau_u=parameters["tau_u"], tau_e=parameters["tau_e"], k_i=parameters["k_i"], k_p=parameters["k_p"],
                alpha=parameters["alpha"], loss=self.loss, tolerance=parameters["stop_threshold"],
                **{ours: noise[theirs] for theirs, ours in renamed.items() if theirs in noise},
            )  # fmt: skip

    def minibatch(self, k):
        pick = (lambda name: self.arrays[name][k]) if self.parameters["train"] else self.arrays.__getitem__
        noise = None
        if self.rule == "lf":
            noise = np.split(pick("xi0"), self.cuts, axis=1), np.split(pick("xi"), self.cuts, axis=2)
        return pick("x"), pick("y"), noise

    def layered(self, name, parts):
        """Names of the parts of a state: v1, v2, ... of layers, v of a recurrent network."""
        return {f"{name}{'' if self.recurrent else i}": part for i, part in enumerate(parts, 1)}

    def gradients(self, update):
        if self.recurrent:
            found = {name: -update.weights[ours] for name, ours in RECURRENT.items()}
        else:
            found = {f"W{i}": -w for i, w in enumerate(update.weights, 1)}
            found.update({f"b{i}": -b for i, b in enumerate(update.biases, 1)})
        if update.transposed is not None:
            found.update({name: -s for name, s in zip(self.pairs, update.transposed, strict=True)})
        return found

    def parameters_now(self):
        if self.recurrent:
            found = {name: getattr(self.network, ours) for name, ours in RECURRENT.items()}
        else:
            found = {f"W{i}": w for i, w in enumerate(self.network.weights, 1)}
            found.update({f"b{i}": b for i, b in enumerate(self.network.biases, 1)})
        return found


def results(arrays, parameters):
    """Our results by the names of the file."""
    problem = Problem(arrays, parameters)
    found = {}
    train, clip = parameters["train"], parameters["clip"]
    optimizers = None
    for k in range(3 if train else 1):
        x, y, noise = problem.minibatch(k)
        extra = {}
        if problem.rule == "kp":
            problem.network, pairs = cl.decayed(
                problem.network, list(problem.pairs.values()), parameters["kp_wd"]
            )
            problem.pairs = dict(zip(problem.pairs, pairs, strict=True))
            extra["transposed"] = pairs
        if problem.rule == "lf":
            extra["feedback"] = problem.feedback
        if problem.rule == "ebd":
            update = energy_control(problem.network, x, y, energy_options(problem))
            gradients = problem.gradients(update)
            if k == 0:
                found.update(at_last_step(problem, update, gradients))
        else:
            state = lc.controlled_phase(problem.network, x, y, problem.options, record=k == 0, **extra)
            update = cl.control_update(problem.network, x, y, problem.options, state=state, **extra)
            gradients = problem.gradients(update)
            if k == 0:
                found.update(first(problem, state, gradients))
        noisy = None
        if problem.rule == "lf":
            noisy = cl.noisy_feedback_update(
                problem.network,
                x,
                y,
                problem.options,
                state,
                feedback=problem.feedback,
                noise=noise,
                record=k == 0,
            )
            problem.feedback = [q + d for q, d in zip(problem.feedback, noisy.feedback, strict=True)]
            if k == 0:
                found.update(noise_states(noisy))
                found["Q_after"] = np.concatenate(problem.feedback)
        groups = clipped(gradients, clip, getattr(problem, "pairs", {}))
        if clip > 0 and k == 0:
            found.update({f"clipped_grad_{name}": g for group in groups for name, g in group.items()})
        if train:
            now = {**problem.parameters_now(), **getattr(problem, "pairs", {})}
            if optimizers is None:
                optimizers = adam_state(now, parameters["optimizer"])
            step(optimizers, now, {name: g for group in groups for name, g in group.items()})
            found.update({f"step{k + 1}_{name}": array.copy() for name, array in now.items()})
            if problem.rule == "lf":
                found[f"step{k + 1}_Q"] = np.concatenate(problem.feedback)
    return found


def first(problem, state, gradients):
    found = {"n_steps": np.array(state.steps), "u_star": state.u, "o_star": state.output}
    ends = {
        **problem.layered("v", state.v),
        **problem.layered("e", state.e),
        "o": state.o,
        "u_int": state.u_int,
    }
    found.update({f"end_{name}": value for name, value in ends.items()})
    kept = state.trajectory
    names = {
        **problem.layered("v", kept["v"]),
        **problem.layered("e", kept["e"]),
        "o": kept["o"][0],
        "u_int": kept["u_int"][0],
    }
    for name, points in names.items():
        found.update({f"t{k}_{name}": points[k] for k in range(1, state.steps + 1)})
    found.update({f"grad_{name}": g for name, g in gradients.items()})
    return found


def noise_states(noisy):
    found = {}
    for k, point in enumerate(noisy.trajectory, 1):
        parts = {"eps": np.concatenate(point["noise"], axis=1), "o": point["o"], "u_int": point["u_int"]}
        parts["G"] = np.concatenate(point["correlation"], axis=1)
        parts.update({f"v{'' if len(point['v']) == 1 else i}": v for i, v in enumerate(point["v"], 1)})
        found.update({f"noisy_t{k}_{name}": value for name, value in parts.items()})
    found.update({f"noisy_end_{name}": value for name, value in parts.items()})
    return found


def clipped(gradients, clip, pairs):
    """The gradients of the model's and of the feedback's parameters, each clipped by their joint norm."""
    groups = [{n: g for n, g in gradients.items() if (n in pairs) == inside} for inside in (False, True)]
    limit = clip if clip > 0 else None
    factors = [clip_factors([list(group.values())], limit, "all")[0] for group in groups]
    return [
        {name: factor * g for (name, g), factor in zip(group.items(), parts, strict=True)}
        for group, parts in zip(groups, factors, strict=True)
    ]


def adam_state(now, options):
    settings = Options(
        name="adam", learning_rate=options["lr"], beta1=options["beta1"], beta2=options["beta2"], epsilon=options["eps"],
        momentum=0.0, weight_decay=0.0,
    )  # fmt: skip
    copies = {name: array.copy() for name, array in now.items()}
    return copies, Descent([list(copies.values())], settings)


def step(state, now, gradients):
    """One step; the arrays may be others than before (the decay makes new ones), the moments stay."""
    copies, optimizer = state
    for name, array in now.items():
        copies[name][...] = array
    optimizer.step([[gradients[name] for name in copies]])
    for name, array in now.items():
        array[...] = copies[name]


def energy_options(problem):
    ebd = problem.parameters["ebd"]
    return EnergyControl(
        alpha=problem.parameters["alpha"], loss=problem.loss, learning_rate=ebd["lr"], steps=ebd["steps"],
        from_free_state=ebd["ff_init"],
    )  # fmt: skip


def at_last_step(problem, update, gradients):
    found = {f"grad_{name}": g for name, g in gradients.items()}
    found["o_star"], found["u_star"] = update.state.output, update.state.u
    found["n_steps"] = np.array(update.state.steps)
    found.update({f"end_{name}": e for name, e in problem.layered("e", update.state.e).items()})
    found.update({f"end_{name}": v for name, v in problem.layered("v", update.state.v).items()})
    return found
