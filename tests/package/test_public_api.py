"""The public names: complete, documented with shapes, light to import, and typed."""

import ast
import inspect
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

import dfc_numba as dfc

CONTRACT = {
    "Network": {"create", "forward", "predict", "copy", "set_feedback", "save", "load"},
    "Controller": {
        "dt", "steps", "alpha", "k_p", "tau_v", "tau_apical", "instant_transmission", "instant_dynamics", "proactive",
        "error", "sigma", "sigma_output", "tau_noise", "tau_control", "jacobian_feedback", "leak",
    },
    "NoiseKey": {"seed", "minibatch", "samples"},
    "Record": {"variables", "samples", "every"},
    "Trajectory": {"time", "u", "u_int", "v", "v_ff", "v_fb", "r", "error", "converged", "diverged"},
    "SteadyState": {"u", "v", "r", "delta_v", "converged", "iterations", "residual"},
    "ForwardUpdate": {"weights", "biases", "converged", "diverged"},
    "FeedbackUpdate": {"feedback"},
}  # fmt: skip
ARGUMENTS = {
    "Network.create": [
        "sizes", "hidden_activation", "output_activation", "bias", "init", "feedback_init", "seed", "dtype",
    ],
    "Network.set_feedback": ["kind", "x", "damping"],
    "output_target": ["network", "x", "y", "loss", "step"],
    "simulate": ["network", "x", "target", "controller", "noise", "record"],
    "forward_update": ["network", "x", "target", "controller", "readout", "rule", "samples", "noise"],
    "feedback_update": ["network", "x", "target", "controller", "noise", "scaling", "high_pass", "normalise"],
    "forward_and_feedback_update": [
        "network", "x", "target", "controller", "rule", "noise", "scaling", "high_pass", "normalise",
    ],
    "steady_state": ["network", "x", "target", "controller", "method"],
    "output_jacobian": ["network", "x"],
    "simulate_online": ["network", "stream", "controller", "tau_w", "tau_q"],
    "backward_errors": [
        "weights", "feedback", "derivatives", "delta_out", "rule", "alpha", "dt", "steps", "nonlinearity", "phi_prime",
        "trajectory", "tolerance",
    ],
    "limit_threads": ["count"],
}  # fmt: skip
NAMES = [name for name in dfc.__all__ if name != "__version__"]
METHODS = ["create", "forward", "predict", "copy", "set_feedback", "save", "load"]
SHAPE = re.compile(r"\((B|N|T|L|n_\w+|sum n_i)(, ?[\w {}-]+|,)*\)")
FILES = {
    "open_trajectories",
    "replay",
    "expand",
    "what_if",
    "plot",
    "plot_trajectory",
    "plot_run",
    "plot_comparison",
    "DivergenceWarning",
    "compare",
    "run_sweep",
    "Comparison",
}
DOORS = ("register", "Option", "load_extension", "PlannedUpdate")
DOORS += ("Method", "Optimizer", "Loss", "DataSource", "Measure", "Measurement")
RUNS = ("load_config", "Trainer")
DOORS += ("Activation", "PlasticityRule", "ControllerTerm", "Variable")
DOORS += ("Observer", "EarlyStopping", "TensorBoard", "ProgressBar")
WITHOUT_ARRAYS = {
    "Controller",
    "Inversion",
    "Record",
    "DivergenceError",
    "limit_threads",
    *FILES,
    *DOORS,
    *RUNS,
}


def find(path):
    """The object that a name with dots stands for."""
    found = dfc
    for name in path.split("."):
        found = getattr(found, name)
    return found


def run_python(code):
    """What a new Python process prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("name", CONTRACT)
def test_the_contract_s_attributes_are_there(name):
    kind = find(name)
    fields = set(getattr(kind, "__dataclass_fields__", ())) | set(dir(kind))
    assert fields >= CONTRACT[name]


@pytest.mark.parametrize("name", ARGUMENTS)
def test_the_contract_s_arguments_are_there_in_order(name):
    found = [
        argument for argument in inspect.signature(find(name)).parameters if argument not in ("self", "cls")
    ]
    assert [argument for argument in found if argument in ARGUMENTS[name]] == ARGUMENTS[name]


@pytest.mark.parametrize("name", [*NAMES, *(f"Network.{method}" for method in METHODS)])
def test_every_public_name_is_documented(name):
    text = inspect.getdoc(find(name))
    assert text and text.splitlines()[0].endswith((".", ":"))
    if name.split(".")[-1] not in {*WITHOUT_ARRAYS, "copy", "save", "load", "create", "NoiseKey"}:
        assert SHAPE.search(text), f"the docstring of {name} has no shapes"


@pytest.mark.parametrize("name", [name for name in ARGUMENTS if name != "limit_threads"])
def test_every_function_says_what_it_raises(name):
    assert "Raises:" in inspect.getdoc(find(name)) or "errors" in inspect.getdoc(find(name))


@pytest.mark.parametrize(
    "name", ["simulate", "forward_update", "feedback_update", "steady_state", "output_jacobian"]
)
def test_the_source_of_an_equation_is_named(name):
    assert re.search(r"Meulemans et al\. 202[12]", inspect.getdoc(find(name)))


def test_all_names_what_is_there_and_nothing_else():
    assert len(set(dfc.__all__)) == len(dfc.__all__) and all(hasattr(dfc, name) for name in dfc.__all__)
    assert set(dfc.__all__) <= set(dir(dfc))
    assert all(find(name).__module__.startswith("dfc_numba.") for name in NAMES)
    with pytest.raises(AttributeError, match="module 'dfc_numba' has no attribute 'simulat'"):
        dfc.simulat


def test_a_star_import_gives_all_names():
    assert (
        run_python("from dfc_numba import *; print(Network.__name__, simulate.__name__)")
        == "Network simulate"
    )


def test_type_checkers_see_what_is_loaded_later():
    tree = ast.parse(Path(dfc.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and isinstance(node.test, ast.Name))
    seen = {alias.asname: node.module for node in block.body for alias in node.names}
    assert seen == {name: find(name).__module__ for name in NAMES}


def test_the_package_is_marked_as_typed():
    assert resources.files("dfc_numba").joinpath("py.typed").is_file()


def test_importing_the_package_loads_nothing_heavy():
    heavy = "numpy", "scipy", "numba", "h5py", "pydantic", "rich", "typer", "matplotlib"
    code = f"import sys, dfc_numba; dir(dfc_numba); print([name for name in {heavy} if name in sys.modules])"
    assert run_python(code) == "[]"


@pytest.mark.timing
def test_importing_the_package_takes_little_time():
    code = "import time; start = time.perf_counter(); import dfc_numba; print(time.perf_counter() - start)"
    assert min(float(run_python(code)) for _ in range(3)) < 0.5


def test_the_version_is_that_of_the_distribution():
    from importlib.metadata import version

    assert dfc.__version__ == version("dfc-numba")


def test_a_session_with_the_whole_interface():
    x, y = np.random.default_rng(0).normal(size=(8, 4)), np.arange(8) % 3
    net = dfc.Network.create([4, 6, 3], hidden_activation=["relu"], seed=1)
    net.set_feedback("jacobian_damped_pinv", x, damping=0.1)
    controller = dfc.Controller(dt=0.05, steps=20, k_p=0.5, sigma=0.1, tau_noise=0.1)
    target = dfc.output_target(net, x, y, loss="cross_entropy", step=0.1)
    arguments = net, x, target, controller
    assert dfc.simulate(*arguments, noise=dfc.NoiseKey(0, 1), record=dfc.Record(every=5)).u.shape == (5, 8, 3)
    forward, feedback = dfc.forward_and_feedback_update(*arguments, noise=0, scaling=True, high_pass=0.2)
    net.weights[0] += 0.1 * forward.weights[0]
    net.feedback[0] += 0.1 * feedback.feedback[0]
    assert dfc.steady_state(*arguments).converged.all() and dfc.output_jacobian(net, x).shape == (8, 3, 9)


VERBS = set(
    """Add Bound Clip Close Compute Create Do Draw End Evaluate Handle Import Keep Linearise Load Make Measure Move Open
    Print Raise Read Recompute Register Replace Restore Return Run Say Show Simulate Solve Stop Take Tell Train Warn
    Write""".split()
)


@pytest.mark.parametrize("name", [name for name in NAMES if not inspect.isclass(getattr(dfc, name))])
def test_a_public_function_s_documentation_begins_with_a_verb(name):
    assert inspect.getdoc(find(name)).split()[0] in VERBS


@pytest.mark.parametrize("name", [name for name in NAMES if inspect.isclass(getattr(dfc, name))])
def test_a_public_method_s_documentation_begins_with_a_verb(name):
    methods = {
        key: getattr(value, "__func__", value) for key, value in vars(find(name)).items() if key[0] != "_"
    }
    texts = {
        key: value.__doc__ for key, value in methods.items() if inspect.isfunction(value) and value.__doc__
    }
    assert {key: text for key, text in texts.items() if text.split()[0] not in VERBS} == {}
