"""What every public function does with numbers that are wrong, or too large: refuses them, or flags the result."""

import inspect
import re
import typing
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Annotated, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import ranges_of_relatives as relatives

import dfc_numba as dfc
from dfc_numba.configuration.config import Config
from dfc_numba.registry import METHODS
from dfc_numba.support import ranges, validation
from dfc_numba.support.ranges import LARGEST

X = np.random.default_rng(0).normal(size=(3, 4))
Y = np.eye(3)
WRONG = [float("nan"), float("inf"), -1.0, True, "1", 1j, [[1.0]], 10 * LARGEST]
LARGE = [1e20, 1e40, LARGEST]
NOISY = {"sigma": 0.1, "tau_noise": 0.3}
# public names that take no numbers of their own: their options are those of `Controller`, of the configuration, or of a function
# that is here; or they are read from files, or are results
OTHERS = {
    "Activation",
    "PlasticityRule",
    "Variable",
    "ControllerTerm",
    "Activity",
    "Evaluation",
    "load_config",
    "train",
    "TrainingResult",
    "Trainer",
    "Trajectory",
    "ForwardUpdate",
    "FeedbackUpdate",
    "OnlineRun",
    "OnlineState",
    "WeightTrajectory",
    "SteadyState",
    "InversionTrajectory",
    "InversionUpdate",
    "InversionStability",
    "Alignment",
    "Conditions",
    "Stability",
    "DivergenceError",
    "DivergenceWarning",
    "Observer",
    "EarlyStopping",
    "TensorBoard",
    "ProgressBar",
    "Comparison",
    "compare",
    "run_sweep",
    "plot_trajectory",
    "plot_run",
    "plot_comparison",
    "register",
    "Method",
    "Loss",
    "Optimizer",
    "DataSource",
    "Measure",
    "Measurement",
    "Gradients",
    "PlannedUpdate",
    "load_extension",
    "open_trajectories",
    "replay",
    "expand",
    "what_if",
    "plot",
    "Option",
}
# where a result may hold NaN that its documentation explains
UNDEFINED = {"conditions", "loss_decrease", "evaluate"}


def network(dtype):
    net = dfc.Network.create([4, 5, 4, 3], seed=0, dtype=dtype)
    net.backward = dfc.initial_feedback(net.weights, "transpose")
    return net


def limited(count):
    with dfc.limit_threads(count):
        pass


def cases(dtype):
    """A sound call of every public function, by its name: (function, its arguments, those of them that are numbers)."""
    net = network(dtype)
    phase = {
        "network": net,
        "x": X,
        "target": dfc.output_target(net, X, Y),
        "controller": dfc.Controller(dt=0.1, steps=4, k_p=1.0),
    }
    own = {**of_feedback_phases(net, phase), **of_inversion(net), **of_the_theory(net, phase)}
    return {**own, **relatives.cases(dtype)}


def of_feedback_phases(net, phase):
    """Cases of networks, targets, feedback phases and online plasticity."""
    noisy = replace(phase["controller"], **NOISY)
    feedback = {**phase, "controller": noisy, "noise": 0, "high_pass": 0.5, "sigma_floor": 0.01}
    made = {"weights": list(net.weights), "biases": list(net.biases), "feedback": list(net.feedback)}
    drawn = {"feedback_init": "weight_product", "feedback_noise": 0.1, "init": "uniform", "init_range": 0.1}
    steady = {**phase, "method": "newton", "tolerance": 1e-12, "max_iterations": 50}
    expected = {key: value for key, value in feedback.items() if key not in ("noise", "target")}
    online = {
        "stream": [(np.stack([X] * 3), phase["target"])],
        "tau_w": 9.0,
        "tau_q": 9.0,
        "feedback_decay": 0.1,
        "steps": 3,
    }
    online |= {"network": net, "controller": noisy, "high_pass": 0.5, "noise": 0, "record_weights": 1}
    return {
        "Network": (dfc.Network, made, ()),
        "Network.create": (
            dfc.Network.create,
            {"sizes": [4, 5, 3], "seed": 0, **drawn},
            ("seed", "feedback_noise", "init_range"),
        ),
        "Network.set_feedback": (
            net.copy().set_feedback,
            {"kind": "jacobian_damped_pinv", "x": X, "damping": 0.1},
            ("damping",),
        ),
        "Network.forward": (net.forward, {"x": X}, ()),
        "Network.predict": (net.predict, {"x": X}, ()),
        "Controller": (dfc.Controller, {**vars_of(noisy)}, numbers_of(noisy)),
        "Record": (dfc.Record, {"every": 1}, ("every",)),
        "NoiseKey": (
            dfc.NoiseKey,
            {"seed": 0, "minibatch": 0, "samples": [0, 1]},
            ("seed", "minibatch", "samples"),
        ),
        "limit_threads": (limited, {"count": 1}, ("count",)),
        "output_target": (dfc.output_target, {"network": net, "x": X, "y": Y, "step": 0.1}, ("step",)),
        "mean_loss": (dfc.mean_loss, {"output": Y, "y": Y, "loss": "mse"}, ()),
        "output_gradient": (dfc.output_gradient, {"output": Y, "y": Y, "loss": "cross_entropy"}, ()),
        "accuracy": (dfc.accuracy, {"output": Y, "y": Y}, ()),
        "evaluate": (dfc.evaluate, {"network": net, "x": X, "y": Y, "class_value": 0.9}, ("class_value",)),
        "simulate": (dfc.simulate, phase, ()),
        "forward_update": (dfc.forward_update, phase, ()),
        "forward_update analytic": (dfc.forward_update, {**phase, "readout": "analytic"}, ()),
        "forward_update newton": (dfc.forward_update, {**phase, "readout": "newton"}, ()),
        "feedback_update": (
            dfc.feedback_update,
            {**feedback, "normalise": (0.1, 0.1)},
            ("noise", "high_pass", "sigma_floor", "normalise"),
        ),
        "expected_feedback_update": (
            dfc.expected_feedback_update,
            {**expected, "target": None},
            ("high_pass", "sigma_floor"),
        ),
        "forward_and_feedback_update": (
            dfc.forward_and_feedback_update,
            feedback,
            ("noise", "high_pass", "sigma_floor"),
        ),
        "one_shot_feedback_update": (
            dfc.one_shot_feedback_update,
            {"network": net, "x": X, "sigma": 0.1, "sigma_floor": 0.01, "noise": 0},
            ("sigma", "sigma_floor", "noise"),
        ),
        "simulate_online": (
            dfc.simulate_online,
            online,
            ("tau_w", "tau_q", "feedback_decay", "high_pass", "noise", "steps", "record_weights"),
        ),
        "steady_state": (dfc.steady_state, steady, ("tolerance", "max_iterations")),
        "steady_state linear": (dfc.steady_state, phase, ()),
        "output_jacobian": (dfc.output_jacobian, {"network": net, "x": X}, ()),
    }


def of_inversion(net):
    """Cases of dynamic inversion."""
    matrices = {"weights": net.weights, "feedback": net.backward, "alpha": 0.1, "dt": 0.5}
    slopes = [np.ones((3, 5)), np.ones((3, 4))]
    inversion = dfc.Inversion(steps=10)
    return {
        "Inversion": (dfc.Inversion, {**vars_of(inversion)}, numbers_of(inversion)),
        "backward_errors": (
            dfc.backward_errors,
            {**matrices, "derivatives": slopes, "delta_out": Y, "rule": "di", "steps": 20, "tolerance": 1e-3},
            ("alpha", "dt", "steps", "tolerance"),
        ),
        "simulate_inversion": (
            dfc.simulate_inversion,
            {"network": net, "x": X, "y": Y, "inversion": inversion},
            (),
        ),
        "inversion_update": (
            dfc.inversion_update,
            {"network": net, "x": X, "y": Y, "inversion": inversion, "clip_error": 1.0},
            ("clip_error",),
        ),
        "inversion_stability": (dfc.inversion_stability, matrices, ("alpha", "dt")),
        "stabilised_feedback": (
            dfc.stabilised_feedback,
            {**matrices, "rate": 0.05, "iterations": 3},
            ("alpha", "dt", "rate", "iterations"),
        ),
        "initial_feedback": (
            dfc.initial_feedback,
            {"weights": net.weights, "kind": "random", "seed": 0, "bound": 0.5},
            ("seed", "bound"),
        ),
        "initial_feedback transpose": (
            dfc.initial_feedback,
            {"weights": net.weights, "kind": "transpose", "scale": -1.0},
            ("scale",),
        ),
    }


def of_the_theory(net, phase):
    """Cases of the measures of the theory."""
    update = dfc.forward_update(**phase)
    return {
        "reference_update": (
            dfc.reference_update,
            {"network": net, "x": X, "y": Y, "kind": "gn", "step": 1.0, "damping": 0.1},
            ("step", "damping"),
        ),
        "alignment": (dfc.alignment, {"update": update, "reference": update}, ()),
        "loss_decrease": (
            dfc.loss_decrease,
            {"network": net, "x": X, "y": Y, "update": update, "step": 0.1},
            ("step",),
        ),
        "conditions": (dfc.conditions, {"network": net, "x": X, "damping": 0.1}, ("damping",)),
        "null_space_fraction": (dfc.null_space_fraction, {"network": net, "x": X, "update": update}, ()),
        "stability": (dfc.stability, phase, ()),
    }


def vars_of(options):
    return {field.name: getattr(options, field.name) for field in fields(options)}


def numbers_of(options):
    """Names of the options that are numbers."""
    hints = typing.get_type_hints(type(options), include_extras=False)
    return [name for name, hint in hints.items() if {float, int} & {hint, *typing.get_args(hint)}]


CASES = cases("float64")
NUMBERS = [(name, argument) for name, (_, _, numbers) in CASES.items() for argument in numbers]


def numbers_in(found):
    """All arrays and floats of a result."""
    if isinstance(found, float | np.floating):
        yield np.asarray(found)
    elif isinstance(found, np.ndarray):
        yield from [found] if found.dtype.kind in "fc" else []
    elif isinstance(found, dfc.Network):
        yield from numbers_in([found.weights, found.biases, found.feedback])
    elif is_dataclass(found) and not isinstance(found, dfc.Controller | dfc.Inversion):
        yield from numbers_in(
            [getattr(found, field.name) for field in fields(found) if field.name != "recipe"]
        )
    elif isinstance(found, list | tuple):
        for item in found:
            yield from numbers_in(item)


def is_flagged(found):
    """Whether a result says that something of it is not finite."""
    if isinstance(found, dfc.Activity):
        return not found.finite.all()
    if isinstance(found, list | tuple):
        return any(map(is_flagged, found))
    flags = {name: getattr(found, name, None) for name in ("converged", "stable", "euler_stable", "usable")}
    words = [*np.atleast_1d(getattr(found, "status", ())), *np.atleast_1d(getattr(found, "verdict", ()))]
    return (
        any(flag is not None and not np.all(flag) for flag in flags.values())
        or bool(np.any(getattr(found, "diverged", None)))
        or bool({"not finite", "no steady state"} & {*words})
    )


def check(name, call):
    """Call it: an error of ours, a finite result, or one that is flagged; nothing else, and no warning of NumPy."""
    try:
        found = call()
    except (ValueError, TypeError, dfc.DivergenceError) as error:
        return str(error)
    if name.split()[0] not in UNDEFINED:
        assert all(np.isfinite(array).all() for array in numbers_in(found)) or is_flagged(found), found
    return None


def test_no_public_name_is_forgotten():
    covered = {name.split()[0].split(".")[0] for name in CASES} | OTHERS | {"__version__"}
    assert covered == {*dfc.__all__} | relatives.public_names() and len(relatives.public_names()) > 30


@pytest.mark.parametrize("name", CASES)
def test_no_number_among_the_arguments_is_forgotten(name):
    """Arguments whose default, or value here, is a number are tried."""
    function, arguments, numbers = CASES[name]
    defaults = {key: parameter.default for key, parameter in inspect.signature(function).parameters.items()}
    values = {**defaults, **arguments}
    tried = {key for other, (f, _, keys) in CASES.items() if f == function or other == name for key in keys}
    wanted = {key for key, value in values.items() if type(value) in (int, float)} - {
        "_form",
        "sides",
    }  # 1 or 2
    assert wanted <= tried


@pytest.mark.filterwarnings("ignore:noise of standard deviation")
@pytest.mark.parametrize(("name", "argument"), NUMBERS)
def test_a_wrong_number_is_refused_by_its_name(name, argument):
    function, arguments, _ = CASES[name]
    assert check(name, lambda: function(**arguments)) is None
    for value in WRONG:
        if (argument in ("scale", "beta") and value == -1) or (argument == "seed" and value == [[1.0]]):
            continue
        if argument in ("samples", "damping") and isinstance(value, list):  # several numbers are allowed
            continue
        message = check(name, lambda value=value: function(**arguments | {argument: value}))
        assert message is not None, value
        assert {"count": "threads"}.get(argument, argument) in message, (value, message)


@pytest.mark.filterwarnings("ignore:noise of standard deviation")
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", CASES)
def test_large_numbers_give_finite_results_or_flagged_ones(name, dtype):
    function, arguments, numbers = cases(dtype)[name]
    for key, value in arguments.items():
        if key in numbers and isinstance(value, float):
            for large in LARGE:
                check(name, lambda key=key, large=large: function(**arguments | {key: large}))
        if isinstance(value, np.ndarray):
            for large in (*LARGE, 1e300):
                check(
                    name,
                    lambda key=key, large=large: function(**arguments | {key: np.full(value.shape, large)}),
                )
        if isinstance(value, dfc.Controller) and "high_pass" not in arguments:
            for option in ("alpha", "k_p", "tau_v"):
                for large in LARGE:
                    controller = replace(value, **{option: large})
                    check(name, lambda key=key, c=controller: function(**arguments | {key: c}))
        if isinstance(value, dfc.Network):
            for large in (1e18, 1e30):
                scaled = value.copy()
                for array in (*scaled.weights, *scaled.feedback):
                    array *= large
                check(name, lambda key=key, net=scaled: function(**arguments | {key: net}))


# --- one definition of each range ---


ROOT = Path(dfc.__file__).parent


def numbers_of_the_configuration():
    """(section.key, type without None) of every key that is a number, one number or more."""
    for section, field in Config.model_fields.items():
        kind = field.annotation
        keys = (
            get_type_hints(kind, include_extras=True)
            if isinstance(kind, type) and section != "method"
            else {}
        )
        for key, hint in keys.items():
            for part in get_args(hint) if get_origin(hint) in (Union, UnionType) else [hint]:
                if {int, float} & {part, *get_args(part)} and key != "model_config":
                    yield f"{section}.{key}", part


def test_every_number_of_the_configuration_has_a_range_of_the_one_module():
    """Each key that is one number; lists of numbers, one per layer or sample, have a validator that takes a range."""
    defined = {id(kind) for kind in vars(ranges).values() if get_origin(kind) is Annotated}
    kinds = dict(numbers_of_the_configuration())
    assert len(kinds) > 40 and {path for path, kind in kinds.items() if id(kind) not in defined} == set()


def test_bounds_are_written_in_one_module():
    """No other module of the package states bounds to pydantic, or compares with the largest number."""
    found = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        if re.search(r"Field\([^)]*\b(gt|ge|lt|le)=|1e150|2\*\*31, strict", path.read_text())
    }
    assert found == {"support/ranges.py"}


@pytest.mark.parametrize("method", METHODS)
def test_every_number_among_the_options_of_a_method_has_a_range(method):
    for option in METHODS[method].options:
        if option.type in (int, float) and option.name not in ("sides", "passes"):
            assert option.within in vars(ranges).values(), option.name


# arguments of functions and the keys of the configuration that hand them on
SHARED = {
    ("output_target", "step"): "target.step",
    ("evaluate", "class_value"): "target.class_value",
    ("Network.create", "feedback_noise"): "network.feedback_noise",
    ("Network.create", "init_range"): "network.init_range",
    ("Network.create", "seed"): "training.seed",
    ("Network.set_feedback", "damping"): "network.feedback_damping",
    ("feedback_update", "sigma_floor"): "feedback.sigma_floor",
    ("feedback_update", "high_pass"): "feedback.high_pass",
    ("inversion_update", "clip_error"): "training.clip_error",
    ("backward_errors", "alpha"): "inversion.alpha",
    ("backward_errors", "dt"): "inversion.dt",
    ("backward_errors", "steps"): "inversion.steps",
    ("stabilised_feedback", "rate"): "inversion.stabilising_rate",
    ("stabilised_feedback", "iterations"): "inversion.stabilising_iterations",
    ("initial_feedback", "bound"): "inversion.feedback_range",
    ("initial_feedback transpose", "scale"): "inversion.feedback_scale",
    ("conditions", "damping"): "analysis.damping",
    ("one_shot_feedback_update", "sigma_floor"): "feedback.sigma_floor",
    ("expected_feedback_update", "sigma_floor"): "feedback.sigma_floor",
}


@pytest.mark.filterwarnings("ignore:noise of standard deviation")
@pytest.mark.parametrize(("name", "argument"), SHARED)
def test_a_function_asks_for_the_range_of_the_key_that_hands_its_argument_on(monkeypatch, name, argument):
    """What a function checks its argument by is the very object that is the type of the key."""
    function, arguments, _ = CASES[name]
    asked, value = [], 0.515625 if isinstance(arguments[argument], float) else 17

    def contains(kind, given):
        asked.append((kind, given))
        return ranges.contains(kind, given)

    monkeypatch.setattr(validation, "contains", contains)
    check(name, lambda: function(**arguments | {argument: value}))
    kinds = [kind for kind, given in asked if given == value]
    assert kinds and all(
        kind is dict(numbers_of_the_configuration())[SHARED[name, argument]] for kind in kinds
    )
