"""What the presets have to state: the published hyperparameters, translated key by key, on their own.

`published_hyperparameters.json` holds the configurations published with the DFC paper under the option names of
its code, one per line; `STRONG` the settings published with the Strong-DFC paper. `expected(preset)` turns
either into the table that the preset's TOML file has to hold, nothing missing and nothing more.
"""

import json
from pathlib import Path

import published_inversion

PUBLISHED = json.loads(
    (Path(__file__).parents[1] / "resources" / "published_hyperparameters.json").read_text()
)
DATA_SETS = {
    "mnist": "mnist",
    "fashion-mnist": "fmnist",
    "mnist-autoencoder": "mnist_auto",
    "mnist-train": "mnist_train",
}
METHODS = {
    "bp": "bp", "dfa": "dfa", "dfc": "dfc", "dfc-ss": "dfc_ss", "dfc-ssa": "dfc_ssa",
    "dfc-fixed": "fixed_dfc", "dfc-ss-fixed": "fixed_dfc_ss", "dfc-ssa-fixed": "fixed_dfc_ssa",
}  # fmt: skip
PRETRAINED, FIXED = "TrainFB_RandomInit_Pretrain", "FreezeFB_WeightProduct"
TOYS = {
    "student-teacher": f"toy_dfc__{PRETRAINED}",
    "student-teacher-dfc-ss": f"toy_dfc_ss__{PRETRAINED}",
    "student-teacher-dfc-ssa": f"toy_dfc_ssa__{PRETRAINED}",
    "student-teacher-dfc-fixed": f"toy_dfc__{FIXED}",
    "student-teacher-dfc-ss-fixed": f"toy_dfc_ss__{FIXED}",
    "student-teacher-dfc-ssa-fixed": f"toy_dfc_ssa__{FIXED}",
    "student-teacher-dfa": "toy_dfa__DFA",
}
ENTRIES = TOYS | {
    f"{data_set}-{method}": f"{entry}_{suffix}"
    for data_set, entry in DATA_SETS.items()
    for method, suffix in METHODS.items()
}
# drawn here: the published teacher is not published
TEACHER = {
    "teacher_hidden": [1000] * 4, "teacher_activation": "relu", "teacher_gain": 3.0, "teacher_seed": 0, "input_seed": 42,
}  # fmt: skip
# what neither paper varies, and what only this library can
FIXED_OPTIONS = {"instant_transmission": True, "instant_dynamics": False, "tau_control": "none",
                 "jacobian_feedback": False, "leak": "total", "convergence_epsilon": 0.5}  # fmt: skip
ANALYTIC = ("alpha", "jacobian_feedback", "leak")

_NAMES = (
    "batch lr beta1 beta2 eps lr_fb lr_fb_init wd_fb beta1_fb beta2_fb eps_fb init_epochs extra_epochs mode stepsize "
    "class_value dt T tau_v alpha dt_fb T_fb tau_v_fb alpha_fb k_p_fb tau_A_fb sigma sigma_out sigma_fb sigma_out_fb "
    "tau_f tau_noise scaling"
).split()
_COLUMNS = {
    "strong-mnist-dfc": """32 1.0924e-3 .9 .99 5.83e-7 4.348e-5 1.524e-4 .1 .99 .99 3.36e-5 20 0 cont .013813
        1 .02 500 .2 1.772e-3 .001142 44 .00587 .3986 .07135 .14047 - - .035484 .035484 - - no""",
    "strong-mnist-single-phase": """128 3.0959e-4 .9 .99 1.629e-5 2.009e-8 4.516e-7 .5 .99 .999 1.10e-11 1 0 cont -
        .99 .001 500 .009268 7.609e-6 .001217 500 .01444 .01626 .0028 - .004279 .029714 2.761e-5 1.515e-5 .5 .07 yes""",
    "strong-mnist-two-phase": """128 6.5602e-4 .9 .99 2.3226e-4 9.777e-6 2.730e-4 1e-5 .999 .9 1.97e-3 1 0 ss -
        .9 .001 500 .035531 8.082e-3 .003194 500 .007238 .9945 .06916 .12961 - - .15 .15 - - no""",
    "strong-fashion-mnist-dfc": """128 1.0673e-3 .99 .999 3.21e-7 4.378e-5 3.416e-4 1e-3 .99 .99 1.04e-8 20 0 cont .019957
        .999 .02 500 .2 4.511e-4 .004295 54 .009267 .6115 .01041 .43189 - - .001281 .001281 - - no""",
    "strong-fashion-mnist-single-phase": """128 9.5320e-4 .99 .999 9.71e-8 2.287e-8 3.432e-7 0 .99 .999 1.84e-11 20 0 cont -
        .99 .001 500 .012868 7.637e-5 .000692 500 .000692 .6266 .02489 - .003363 .040921 3.886e-6 1.934e-5 .5 .05 yes""",
    "strong-fashion-mnist-two-phase": """128 1.1970e-3 .9 .9 2.96e-7 1.588e-5 4.276e-4 .1 .99 .999 8.47e-8 1 2 ss -
        .999 .001 500 .007427 1.312e-3 .001984 500 .009034 .4192 .09907 .22603 - - .15 .15 - - no""",
}


def _number(text):
    try:
        return float(text)
    except ValueError:
        return text


STRONG = {
    name: dict(zip(_NAMES, map(_number, column.split()), strict=True)) for name, column in _COLUMNS.items()
}
# learning rate and epsilon
STRONG_BP = {"strong-mnist-bp": (2e-3, 2e-3), "strong-fashion-mnist-bp": (4e-4, 2e-4)}


class Entry(dict):
    """A published configuration that knows which of its options were asked for."""

    def __init__(self, options):
        super().__init__(options)
        self.read = set()

    def __getitem__(self, key):
        self.read.add(key)
        return super().__getitem__(key)

    def get(self, key, default):
        return self[key] if key in self else default  # noqa: SIM401 (which would call itself)

    def demand(self, **options):
        """Options that have to have these values, because nothing else can be translated."""
        for key, value in options.items():
            assert self[key] == value, key


def expected(preset):
    """The table that a preset has to hold."""
    if preset in published_inversion.PRESETS:
        return published_inversion.expected(preset)
    if preset in STRONG_BP:
        return _strong_backpropagation(preset)
    if preset in STRONG:
        return _strong(preset, STRONG[preset])
    entry = Entry(PUBLISHED[ENTRIES[preset]])
    table = _dfc_paper(entry)
    assert set(entry) == entry.read, "an option of the published configuration is not translated"
    return table


def _dfc_paper(entry):
    entry.demand(initialization="xavier_normal", no_bias=False, normalize_lr=True, forward_wd=0)
    method = _method(entry)
    table = {"data": _data(entry), "network": _network(entry, method), "target": _target(entry, method)}
    table["training"] = _training(method, entry["epochs"], entry["batch_size"], _samples(entry, method))
    table["optimizer"] = _optimizer(entry, method)
    if method in ("bp", "dfa"):
        return table
    entry.demand(learning_rule="nonlinear_difference", noisy_dynamics=False, inst_system_dynamics=False)
    table["controller"] = _controller(entry, method)
    if entry["freeze_fb_weights"]:
        return table | {"feedback": {"train": False}}
    entry.demand(fb_learning_rule="normal_controller", use_homeostatic_wd_fb=False, inst_transmission_fb=True)
    return table | {
        "feedback": _feedback(
            pretraining=entry["epochs_fb"],
            extra=entry["extra_fb_epochs"],
            freeze_output=entry.get("freeze_fb_weights_output", False),
        ),
        "feedback_controller": _feedback_controller(entry),
        "feedback_optimizer": _feedback_optimizer(entry),
    }


def _method(entry):
    if entry["network_type"] != "DFC":
        return entry["network_type"].lower()
    average, analytic = entry["grad_deltav_cont"], entry["ndi"]
    return {(True, False): "dfc", (False, False): "dfc-ss", (False, True): "dfc-ssa"}[average, analytic]


def _data(entry):
    options = {}
    if entry["dataset"] == "student_teacher":
        options = {"n_inputs": entry["size_input"], "n_outputs": entry["size_output"], **TEACHER}
        options |= {
            "train_size": entry["num_train"],
            "validation_size": entry["num_val"],
            "test_size": entry["num_test"],
        }
    return {"name": entry["dataset"], "options": options}


def _network(entry, method):
    width = entry["size_hidden"]
    table = {
        "hidden": width if isinstance(width, list) else [width] * entry["num_hidden"],
        "hidden_activation": entry["hidden_activation"],
        **_network_constants(),
    }
    if method != "bp":
        table["feedback_init"] = entry["initialization_K"]
    if table.get("feedback_init") == "weight_product":
        table["feedback_noise"] = 0.0
    return table


def _network_constants():
    return {"output_activation": "linear", "bias": True, "init": "xavier_normal", "start_from": ""}


def _target(entry, method):
    table = {
        "loss": "cross_entropy" if entry["output_activation"] == "softmax" else "mse",
        "class_value": 1.0,
    }
    if not (method == "dfa" and entry["optimizer"] == "SGD"):
        table["step"] = entry["target_stepsize"]
    if method not in ("bp", "dfa"):
        table |= {"feedback": "weak", "step_per": "minibatch"}
    return table


def _training(method, epochs, batch_size, samples=None, dtype="float64"):
    table = {
        "method": method,
        "epochs": epochs,
        "batch_size": batch_size,
        "seed": 42,
        "dtype": dtype,
        "freeze_forward": False,
    }
    if method not in ("bp", "dfa"):
        table["rule"] = "nonlinear_difference"
    return table if samples is None else table | {"samples": samples}


def _samples(entry, method):
    """Published: samples that did not converge are left out, unless told otherwise."""
    if method in ("bp", "dfa", "dfc-ssa"):
        return None
    return "all" if entry.get("include_non_converged_samples", False) else "converged"


def _controller(entry, method):
    if method == "dfc-ssa":
        options = FIXED_OPTIONS | {"alpha": entry["alpha_di"]}
        return {key: options[key] for key in ANALYTIC}
    entry.demand(inst_transmission=True)
    assert entry.get("apical_time_constant", -1) == -1
    return _simulation(
        dt=entry["dt_di"],
        steps=entry["tmax_di"] - 1,
        alpha=entry["alpha_di"],
        k_p=entry["k_p"],
        tau_v=entry["time_constant_ratio"],
        proactive=entry.get("proactive_controller", False),
    )


def _feedback_controller(entry):
    """Published: the noise of the forward phase unless stated; never proactive."""
    return _simulation(
        dt=entry["dt_di_fb"],
        steps=entry["tmax_di_fb"] - 1,
        alpha=entry["alpha_fb"],
        k_p=entry["k_p_fb"],
        tau_v=entry["time_constant_ratio_fb"],
        tau_apical=entry["apical_time_constant_fb"],
        proactive=False,
        sigma=entry.get("sigma_fb", entry["sigma"]),
        sigma_output=entry.get("sigma_output_fb", "none"),
    )


def _simulation(**options):
    common = {
        "tau_apical": "none",
        "error": "difference",
        "sigma": 0.0,
        "sigma_output": "none",
        "tau_noise": "none",
    }
    return FIXED_OPTIONS | common | options


def _feedback(*, pretraining, extra, pursue="output", freeze_output=False, scaling=False, high_pass="none"):
    return {
        "train": True, "rule": "noise_driven", "pursue": pursue, "pretraining_epochs": pretraining, "epochs": 1,
        "extra_epochs": extra, "scaling": scaling, "high_pass": high_pass, "sigma_floor": 0.01,
        "freeze_output": freeze_output,
    }  # fmt: skip


def _optimizer(entry, method):
    """The published values verbatim, except for direct feedback alignment.

    Its published gradient is 2 step / B times that of the mean loss: what is compared with the gradient's size
    (epsilon, clipping) is divided by this factor, and a learning rate that multiplies the gradient is multiplied.
    """
    factor = 2 * entry["target_stepsize"] / entry["batch_size"] if method == "dfa" else 1.0
    table = {
        "name": entry["optimizer"].lower(),
        "weight_decay": 0.0,
        "clip_scope": "tensor",
        "divide_by_step": True,
    }
    table |= {"learning_rate": entry["lr"], "clip_norm": entry["clip_grad_norm"] / factor}
    if table["name"] == "adam":
        return table | {
            "beta1": entry["beta1"],
            "beta2": entry["beta2"],
            "epsilon": entry["epsilon"] / factor,
        }
    table["momentum"] = entry["momentum"]
    if method == "dfa":
        table |= {"divide_by_step": False, "learning_rate": entry["lr"] / entry["target_stepsize"] * factor}
    return table


def _feedback_optimizer(entry):
    table = {
        "name": entry["optimizer_fb"].lower(),
        "learning_rate": entry["lr_fb"],
        "pretraining_learning_rate": entry["lr_fb_init"],
        "weight_decay": entry["feedback_wd"],
        "decay": "l2",
        "clip_norm": entry["clip_grad_norm"],
        "clip_scope": "all",
    }
    if table["name"] == "sgd":
        return table | {"momentum": 0.0}
    return table | {"beta1": entry["beta1_fb"], "beta2": entry["beta2_fb"], "epsilon": entry["epsilon_fb"]}


def _strong_adam(learning_rate, beta1, beta2, epsilon, **others):
    return {
        "name": "adam", "learning_rate": learning_rate, "beta1": beta1, "beta2": beta2, "epsilon": epsilon,
        "weight_decay": 0.0, "clip_norm": 1.0, "clip_scope": "layer", **others,
    }  # fmt: skip


def _strong_data_and_network(preset):
    network = {"hidden": [256, 256, 256], "hidden_activation": "tanh", **_network_constants()}
    return {
        "data": {"name": "fashion_mnist" if "fashion" in preset else "mnist", "options": {}},
        "network": network,
    }


def _strong_backpropagation(preset):
    learning_rate, epsilon = STRONG_BP[preset]
    return _strong_data_and_network(preset) | {
        "target": {"loss": "cross_entropy", "class_value": 1.0},
        "training": _training("bp", 40, 128, dtype="float32"),
        "optimizer": _strong_adam(learning_rate, 0.9, 0.999, epsilon, divide_by_step=False),
    }


def _strong(preset, column):
    strong, single = column["stepsize"] == "-", column["tau_f"] != "-"
    method = "dfc-single-phase" if single else {"cont": "dfc", "ss": "dfc-ss"}[column["mode"]]
    table = _strong_data_and_network(preset)
    table["network"]["feedback_init"] = "xavier_normal"
    table["target"] = {"loss": "cross_entropy", "feedback": "strong", "class_value": column["class_value"]}
    if not strong:
        table["target"] |= {"feedback": "weak", "step": column["stepsize"], "step_per": "sample"}
    table["training"] = _training(method, 40, column["batch"], "all")
    error = {"error": "softmax" if strong else "difference"}
    table["controller"] = _strong_controller(column, "", k_p=2.0, **error)
    apical = {"tau_apical": "none" if column["tau_A_fb"] == "-" else column["tau_A_fb"]}
    table["feedback_controller"] = _strong_controller(column, "_fb", k_p=column["k_p_fb"], **error, **apical)
    table["feedback"] = _feedback(
        pretraining=column["init_epochs"],
        extra=column["extra_epochs"],
        pursue="target" if strong else "output",
        scaling=column["scaling"] == "yes",
        high_pass=column["tau_f"] if single else "none",
    )
    if single:  # one simulation for both; the pre-training controls the difference whatever is stated
        del table["feedback"]["epochs"], table["feedback_controller"]["error"]
    return table | _strong_optimizers(column)


def _strong_controller(column, suffix, **others):
    """Options of the forward phase (no suffix) or of the feedback phase; both are proactive."""
    sigma, sigma_output = column[f"sigma{suffix}"], column[f"sigma_out{suffix}"]
    noise = {"sigma": 0.0 if sigma == "-" else sigma}
    if sigma_output != sigma:
        noise["sigma_output"] = sigma_output
    if column["tau_noise"] != "-":
        noise["tau_noise"] = column["tau_noise"]
    return _simulation(
        dt=column[f"dt{suffix}"],
        steps=column[f"T{suffix}"] - 1,
        alpha=column[f"alpha{suffix}"],
        tau_v=column[f"tau_v{suffix}"],
        proactive=True,
        **noise,
        **others,
    )


def _strong_optimizers(column):
    forward = [column[key] for key in ("lr", "beta1", "beta2", "eps")]
    feedback = [column[key] for key in ("lr_fb", "beta1_fb", "beta2_fb", "eps_fb")]
    others = {
        "pretraining_learning_rate": column["lr_fb_init"],
        "weight_decay": column["wd_fb"],
        "decay": "l2",
    }
    return {
        "optimizer": _strong_adam(*forward, divide_by_step=False),
        "feedback_optimizer": {**_strong_adam(*feedback), **others},
    }
