"""What the presets of dynamic inversion have to state: the constants of the published scripts, and what we chose.

The published update of a sample is eta delta r^T with delta = target - output, summed over a minibatch; ours is the
learning rate times the gradient of the mean loss. The published decay of a step is not multiplied by eta.
"""

METHODS = ("bp", "fa", "pbp", "ndi", "di")
SINGLE_LOOP = ("sldi",)
REGRESSIONS = {"linear": METHODS, "nonlinear": METHODS + SINGLE_LOOP, "strong": METHODS + SINGLE_LOOP}
PRESETS = [f"regression-{kind}-{method}" for kind, methods in REGRESSIONS.items() for method in methods]
PRESETS += [f"inversion-{task}-{method}" for task in ("mnist", "autoencoder") for method in METHODS]

# per task: eta, samples of a minibatch, s of the gradient s / B sum delta r^T, decay of a step
ETA = {"linear": (0.01, 1, 2 / 10, 0.0), "nonlinear": (0.01, 1, 2 / 10, 0.0), "strong": (0.01, 1, 2 / 10, 0.0),
       "mnist": (0.001, 20, 1.0, 20 * 1e-6), "autoencoder": (1e-6, 100, 2 / 784, 1e-10)}  # fmt: skip
# range of the teacher's parameters, samples, clipping of the errors, descent towards stability
TEACHERS = {"linear": (1.0, 2000, 10.0, 0.05, 200), "nonlinear": (0.01, 10000, 1.0, 0.5, 2000),
            "strong": (0.7, 10000, 1.0, 0.5, 2000)}  # fmt: skip


def expected(preset):
    """The table that a preset has to hold."""
    family, task, method = preset.split("-")
    table = _regression(task) if family == "regression" else _mnist() if task == "mnist" else _autoencoder()
    eta, batch, share, decay = ETA[task]
    rate = _rounded(eta * batch / share)
    table["training"] |= {"method": method, "batch_size": batch, "seed": 42, "freeze_forward": False,
                          "normalise_updates": False}  # fmt: skip
    table["optimizer"] = {"name": "sgd", "learning_rate": rate, "momentum": 0.0, "weight_decay": _rounded(decay / rate),
                          "clip_norm": "none", "divide_by_step": False}  # fmt: skip
    if method in ("bp", "pbp"):
        del table["inversion"]
    else:
        table["inversion"] = _keys(method, table["inversion"])
    return table


def _rounded(value):
    """As a preset states it: with eight digits."""
    return float(f"{value:.8g}")


def _keys(method, inversion):
    """Of all the settings those that a method looks at."""
    kept = {"feedback": "transpose", "feedback_scale": -1.0}
    if method == "fa":
        return {"feedback": "random", "feedback_range": inversion["feedback_range"]}
    kept["alpha"] = inversion["alpha"]
    if method == "ndi":
        return kept
    loops = {key: inversion[key] for key in inversion if key.startswith(("restabilise", "stabilising"))}
    form = "tanh" if method == "sldi" else "linear"
    return kept | loops | {"dt": 0.5, "steps": inversion["steps"], "nonlinearity": form}


def _regression(kind):
    bound, samples, clip, rate, iterations = TEACHERS[kind]
    linear = kind == "linear"
    return {
        "data": {"name": "uniform_teacher", "options": {
            "n_inputs": 30, "n_outputs": 10, "train_size": samples, "validation_size": 0, "test_size": 1000,
            "teacher_hidden": [] if linear else [20, 10], "teacher_bias": not linear, "teacher_range": bound,
            "teacher_seed": 0, "input_seed": 42,
        }},
        "network": {
            "hidden": [20] if linear else [20, 10], "hidden_activation": "linear" if linear else "tanh",
            "output_activation": "linear", "bias": not linear, "init": "uniform",
            "init_range": 0.1 if kind == "strong" else 0.01, "start_from": "",
        },
        "target": {"loss": "mse", "class_value": 1.0},
        "training": {"epochs": 1, "dtype": "float64", "clip_error": clip},
        "inversion": {
            "alpha": 0.01, "steps": 999, "feedback_range": 0.5, "restabilise": "continuous", "stabilising_rate": rate,
            "stabilising_iterations": iterations,
        },
    }  # fmt: skip


def _mnist():
    return {
        "data": {"name": "mnist", "options": {"validation_size": 0}},
        "network": {"hidden": [1000], "hidden_activation": "tanh", "output_activation": "linear", "bias": True,
                    "init": "uniform", "init_range": 0.01, "start_from": ""},
        "target": {"loss": "cross_entropy", "class_value": 1.0},
        "training": {"epochs": 15, "dtype": "float32", "clip_error": "none"},
        "inversion": {"alpha": 0.0, "steps": 999, "feedback_range": 0.5, "restabilise": "euler", "stabilising_rate": 0.05,
                      "stabilising_iterations": 200},
    }  # fmt: skip


def _autoencoder():
    return {
        "data": {"name": "mnist_autoencoder", "options": {"validation_size": 0, "standardise": False}},
        "network": {"hidden": [500, 250, 30, 250, 500], "hidden_activation": ["tanh", "tanh", "linear", "tanh", "tanh"],
                    "output_activation": "linear", "bias": True, "init": "orthonormal", "start_from": ""},
        "target": {"loss": "mse", "class_value": 1.0},
        "training": {"epochs": 20, "dtype": "float32", "clip_error": "none"},
        "inversion": {"alpha": 0.0, "steps": 60, "feedback_range": 0.01, "restabilise": "never"},
    }  # fmt: skip
