"""One compilation serves all networks and options; the disk cache; the kernels without the compiler."""

import os
import subprocess
import sys
from pathlib import Path

import kernel_workload
import numpy as np
import problems
import pytest

import dfc_numba as dfc
from dfc_numba.kernels import feedforward as feedforward_module
from dfc_numba.kernels import multiply as multiply_module
from dfc_numba.kernels.feedback_phase import run_shard
from dfc_numba.kernels.jit import JIT_DISABLED

# what Python calls, and the argument whose dtype is the network's
ENTRIES = [run_shard, feedforward_module.feedforward, multiply_module.add_outer]
DTYPES = ["float32", "float64"]

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="the compiler is switched off")


def signatures():
    return [len(entry.signatures) for entry in ENTRIES]


def case(sizes, count, dtype, **options):
    """(network, x, target) of some sizes."""
    net = dfc.Network(**problems.stable_parameters(sizes, dtype=dtype, **options))
    return net, problems.inputs(count, sizes[0]), problems.probabilities(count, sizes[-1])


def update(
    problem, function=dfc.forward_update, *, noise=None, readout=None, rule=None, high_pass=None, **options
):
    """A plasticity update with a controller of some options."""
    chosen = {"noise": noise, "readout": readout, "rule": rule, "high_pass": high_pass}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    return function(*problem, dfc.Controller(**{"steps": 6, **options}), **chosen)


SHAPES = [
    ([3, 5, 2], 1),
    ([3, 5, 2], 16),
    ([3, 5, 2], 33),
    ([4, 3], 2),
    ([7, 20, 5, 33, 1], 5),
    ([2, 3, 4, 5, 6, 7, 8], 3),
]
OPTIONS = [
    {"steps": 1},
    {"steps": 200},
    {"rule": "voltage_difference"},
    {"rule": "derivative_matrix"},
    {"readout": "final"},
    {"readout": "analytic"},
    {"k_p": 0, "instant_dynamics": True},
    {"tau_apical": 0.1, "tau_control": 0.1, "proactive": False, "instant_transmission": False},
    {"error": "softmax", "leak": "integral", "alpha": 0},
    {"jacobian_feedback": True},
    {"sigma": 0.1, "noise": 3},
    {"sigma": 0.1, "tau_noise": 0.1, "noise": dfc.NoiseKey(1, 2, np.arange(4))},
    {"sigma": 0.1, "noise": [np.zeros((7, 4, n)) for n in (5, 4, 2)]},
    {"function": dfc.feedback_update, "sigma": 0.1, "high_pass": 1},
    {"function": dfc.forward_and_feedback_update, "sigma": 0, "sigma_output": 1},
]


@pytest.mark.parametrize("dtype", DTYPES)
def test_another_network_or_option_compiles_nothing(dtype):
    problem = case([3, 5, 4, 2], 4, dtype)
    update(problem)
    compiled = signatures()
    for sizes, count in SHAPES:
        update(case(sizes, count, dtype))
    for name in ("linear", "relu", "leakyrelu", "sigmoid", ["tanh", "relu"]):
        update(case([3, 5, 4, 2], 4, dtype, activation=name, bias=False))
    for options in OPTIONS:
        update(problem, **options)
    assert signatures() == compiled


def network_dtype(signature):
    """The dtype of the parameters in a signature of run_shard."""
    return str(signature[1].types[-1].dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_signature_per_dtype(dtype):
    net, x, target = case([3, 5, 4, 2], 4, dtype)
    controller = dfc.Controller(steps=6)
    frozen_x, frozen_target = x.copy(), target.copy()
    frozen_x.flags.writeable = frozen_target.flags.writeable = False
    dfc.forward_update(net, frozen_x, frozen_target, controller)
    dfc.forward_update(net, x.astype(np.float32), np.asfortranarray(target), controller)
    dfc.forward_update(net, x, np.broadcast_to(target[0], target.shape), controller)
    dfc.simulate(net, x, target, controller)
    dfc.simulate(net, x, target, controller, record=dfc.Record(variables=("u",), samples=(1, 3), every=2))
    assert sum(network_dtype(signature) == dtype for signature in run_shard.signatures) == 1


@pytest.mark.slow
def test_a_second_process_compiles_nothing(tmp_path):
    cache = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    first, cold = kernel_workload.in_another_process(tmp_path, "small", "float64", **cache)
    second, warm = kernel_workload.in_another_process(tmp_path, "small", "float64", **cache)
    assert cold["cache_misses"]["run_shard"] == 1 and "run_shard" not in cold["cache_hits"]
    assert warm["cache_misses"] == {}
    assert warm["cache_hits"] == {"run_shard": 1, "feedforward": 1, "add_outer": 1, "sum_outer": 1}
    assert_same(second, first, 0)


def test_a_further_process_reads_the_cache(tmp_path):
    """The caches of this process serve the next; only what a run needs is read."""
    kernel_workload.results("small", ["float64"])
    _, report = kernel_workload.in_another_process(tmp_path, "small", "float64")
    assert report == {
        "cache_hits": {"run_shard": 1, "feedforward": 1, "add_outer": 1, "sum_outer": 1},
        "cache_misses": {},
    }


def assert_same(ours, theirs, bound):
    """Dictionaries of arrays agree relative to the largest value of each array."""
    assert ours.keys() == theirs.keys()
    worst = {name: problems.relative_deviation(ours[name], theirs[name]) for name in theirs}
    name = max(worst, key=worst.get)
    assert worst[name] <= bound, name


@pytest.mark.parametrize(
    "dtype, keyed, bound", [("float64", False, 1e-12), ("float64", True, 1e-5), ("float32", False, 1e-5)]
)
def test_kernels_without_the_compiler_give_the_same_results(tmp_path, dtype, keyed, bound):
    """The NumPy versions of the emitted loops give the same results (draws are made in single precision)."""
    plain, report = kernel_workload.in_another_process(
        tmp_path, "small", dtype, keyed=keyed, NUMBA_DISABLE_JIT="1"
    )
    assert report == {"cache_hits": {}, "cache_misses": {}}
    assert_same(plain, kernel_workload.results("small", [dtype], keyed=keyed), bound)


@pytest.mark.slow
def test_the_numpy_versions_meet_the_same_bounds():
    files = [Path(__file__).parent / f"test_{name}.py" for name in ("elementwise", "multiply", "noise_draws")]
    arguments = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, files)]
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    finished = subprocess.run(arguments, check=False, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout


BEYOND_THE_END = """
import numba, numpy
from dfc_numba.kernels.jit import FLAGS
read = numba.jit(**{**FLAGS, "cache": False})(lambda array, k: array[k])
try:
    read(numpy.zeros(3), 3)
except IndexError:
    print("refused")
"""


@pytest.mark.slow
def test_kernels_stay_within_their_arrays(tmp_path):
    checks = {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    checked, _ = kernel_workload.in_another_process(tmp_path, "small", "float64", keyed=True, **checks)
    assert_same(checked, kernel_workload.results("small", ["float64"], keyed=True), 1e-12)


def test_bounds_are_checked_where_that_is_asked_for():
    environment = {**os.environ, "NUMBA_BOUNDSCHECK": "1"}
    arguments = [sys.executable, "-c", BEYOND_THE_END]
    finished = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "refused"
