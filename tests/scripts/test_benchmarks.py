"""The benchmark scripts: peers compute what the package computes, helpers measure what they say, files are written."""

import json
import os
from functools import partial
from importlib.util import find_spec

import bench_scaling
import bench_startup
import bench_update
import numpy as np
import problems
import pytest
from benchmark_runs import quick
from benchmarks import numpy_peer, reporting, subjects, workers
from benchmarks.measuring import (
    Goal,
    Session,
    Subject,
    Summary,
    relative_difference,
    significant,
)
from benchmarks.workload import Workload, feedback_controllers

import dfc_numba as dfc
from dfc_numba.support import threads

SMALL = Workload(inputs=5, outputs=3, hidden=(7, 6), batch=4, steps=19)
needs_jax = pytest.mark.skipif(not reporting.has("jax"), reason="jax is not installed")


# --- workload and peers --------------------------------------------------------------------------------------------------


def test_the_products_of_the_published_workload_are_counted_right():
    workload = Workload()
    assert workload.sizes == (784, 256, 256, 256, 10)
    per_step = 2 * 128 * (2 * (256 * 256 + 256 * 256 + 10 * 256) + 10 * (3 * 256 + 10))
    assert workload.flop == 999 * per_step and round(workload.flop / 1e9, 1) == 70.3
    assert workload.feedback_flop == 47 * 2 * 128 * (2 * 256 * 256 + 10 * 256 + 2 * 10 * 778)


def test_both_dtypes_solve_the_same_problem():
    (single, x, target), (double, x_double, target_double) = map(SMALL.problem, ("float32", "float64"))
    np.testing.assert_array_equal(x, x_double)
    np.testing.assert_array_equal(target, target_double)
    for a, b in zip(single.weights, double.weights, strict=True):
        assert (a.dtype, b.dtype) == (np.float32, np.float64)
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu"])
@pytest.mark.parametrize("error", ["difference", "softmax"])
def test_the_numpy_loop_computes_our_update(activation, error):
    sizes = [5, 7, 6, 3]
    net = dfc.Network(**problems.stable_parameters(sizes, activation=activation))
    controller = dfc.Controller(dt=0.05, steps=19, alpha=0.01, k_p=0.5, error=error)
    x, target = problems.inputs(4, 5), problems.probabilities(4, 3)
    update = dfc.forward_update(net, x, target, controller)
    theirs = numpy_peer.forward_update(net, x, target, controller)
    assert relative_difference(theirs, update.weights + update.biases) < 1e-12


@needs_jax
def test_the_jax_scan_computes_our_update():
    ours = subjects.our_update(SMALL, "float64")()
    with workers.Worker(1) as worker:
        worker.prepare("jax", subjects.jax_update, SMALL, "float64")
        _, theirs = worker.first("jax")
    assert relative_difference(theirs, ours) < 1e-11


def test_the_feedback_phases_differ_by_their_noise_only():
    white, low_passed = feedback_controllers().values()
    assert white.tau_noise is None and low_passed.tau_noise > 0
    assert (white.time_points, low_passed.time_points) == (48, 48)


# --- workers -------------------------------------------------------------------------------------------------------------


def bounds():
    """What a worker may use: threads of the kernels, most threads of a linear algebra library, processors."""
    from threadpoolctl import threadpool_info

    blas = max(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")
    affinity = getattr(os, "sched_getaffinity", None)
    return [threads.available(), blas, len(affinity(0)) if affinity else 1]


def make_bounds():
    return bounds


def allocate(size):
    return [np.ones(size).sum()]


def make_allocation(size):
    return partial(allocate, size)


def fail():
    raise ArithmeticError("no result")


def make_failure():
    return fail


def test_a_worker_with_one_thread_uses_one():
    before = bounds(), dict(os.environ)
    with workers.Worker(1) as worker:
        worker.prepare("bounds", make_bounds)
        seconds, result = worker.first("bounds")
    assert [int(value) for value in result] == [1, 1, 1]
    assert seconds > 0
    assert (bounds(), dict(os.environ)) == before


def test_memory_growth_is_that_of_the_run():
    with workers.Worker(1) as worker:
        worker.prepare("allocation", make_allocation, 5_000_000)
        assert 39e6 < worker.memory_growth("allocation") < 45e6


def test_a_failure_in_a_worker_is_told():
    with workers.Worker(1) as worker, pytest.raises(ArithmeticError, match="no result"):
        worker.prepare("failure", make_failure)
        worker.first("failure")


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no processor affinity on this system")
def test_more_threads_than_processors_are_refused():
    available = len(os.sched_getaffinity(0))
    assert len(workers.choose_processors(available)) == available
    with pytest.raises(ValueError, match=f"{available + 1} threads need .* may use {available}"):
        workers.choose_processors(available + 1)


def test_processors_of_different_cores_come_first(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(workers, "_siblings", lambda processor: str(processor // 2))
    assert [workers.choose_processors(n) for n in (1, 2, 3)] == [[0], [0, 2], [0, 2, 1]]


# --- numbers -------------------------------------------------------------------------------------------------------------


def test_summaries_are_medians_with_ranges():
    summary = Summary.of([3.0, 1.0, 2.0])
    assert (summary.median, summary.low, summary.high) == (2, 1, 3)
    assert summary.text() == "2.00 (1.00-3.00)"
    assert Summary.of([12.34]).text() == "12.3"
    assert [significant(value) for value in (0, 0.012345, 1.5, 999.6, 12345.0)] == [
        "0",
        "0.0123",
        "1.50",
        "1000",
        "12300",
    ]


def test_ratios_are_taken_turn_by_turn():
    session, one, two = Session(), Subject("a", "float64", 1), Subject("b", "float64", 1)
    session.times = {one: [2.0, 40.0, 6.0], two: [1.0, 10.0, 2.0]}
    assert session.ratio(one, two) == Summary(3.0, 2.0, 4.0)
    assert session.ratio(one, two, factor=0.5).median == 1.5


def test_a_goal_that_is_missed_says_so():
    measured = Summary(1.4, 1.3, 1.5)
    assert not Goal("time", measured, 1.35, 1.2).met
    assert Goal("speed", measured, 1.35, 1.2, at_least=True).met
    assert Goal("time", measured, 1.35, 1.2).row()[-1] == "NO"


def test_exponents_are_slopes_of_logarithms():
    x = np.array([1, 2, 5, 11])
    assert bench_scaling.exponent(x, 0.3 * x**1.7) == pytest.approx(1.7)


# --- what can go wrong -----------------------------------------------------------------------------------------------------


def test_peers_that_compute_another_update_are_refused(tmp_path, capsys):
    report = reporting.Report("bench_update", bench_update.parse(["--json", str(tmp_path / "file.json")]))
    session, right, wrong = Session(), [np.array([1.0, 2.0])], [np.array([1.0, 2.0 + 1e-9])]
    session.results = {Subject(bench_update.OURS, "float64", 1): right, Subject("peer", "float64", 1): right}
    assert bench_update.same_for_all_threads(session, "float64")
    session.results[Subject("peer", "float64", 1)] = wrong
    session.results[Subject(bench_update.OURS, "float32", 1)] = right
    session.results[Subject(bench_update.OURS, "float32", 2)] = wrong
    assert not bench_update.print_deviations(report, session)
    captured = capsys.readouterr()
    assert "cannot be compared" in captured.err
    assert "float64 yes, float32 NO" in captured.out


@pytest.mark.parametrize("arguments", [["--repeats", "0"], ["--threads", "0"], ["--threads", "100000"]])
def test_numbers_that_cannot_be_honoured_are_refused(arguments):
    with pytest.raises(SystemExit, match="2"):
        bench_update.parse(arguments)


def test_a_plot_without_matplotlib_names_the_extra(monkeypatch):
    monkeypatch.setattr(bench_scaling, "has", lambda package: False)
    with pytest.raises(SystemExit, match=r"dfc-numba\[plot\]"):
        bench_scaling.parse(["--plot", "figure.png"])


def test_a_process_that_fails_to_start_is_told(tmp_path):
    start = bench_startup.Start("broken", ("-c", "raise SystemExit('no such thing')"))
    with pytest.raises(SystemExit, match=r"broken failed with exit code 1:\nno such thing"):
        bench_startup.run(start, tmp_path)


# --- the scripts -----------------------------------------------------------------------------------------------------------


def test_bench_float32_runs_and_writes_its_file(tmp_path):
    text, content = quick("bench_float32", tmp_path)
    assert "Relative error" in text
    errors = content["errors"]
    assert [error["nudge"] for error in errors] == 2 * [6e-4, 1e-2, 0.08, 0.5, "strong"]
    assert all(error["ours"] < 2e-5 for error in errors)
    assert errors[0]["naive"] > 100 * errors[0]["ours"]


@pytest.mark.slow
def test_bench_update_runs_and_writes_its_file(tmp_path):
    text, content = quick("bench_update", tmp_path)
    names = {time["name"] for time in content["times"]}
    peers = {"dfc-numba", "dfc-numba, waveform", "matrix product", "NumPy loop"}
    assert names == (peers | {"JAX scan"} if find_spec("jax") else peers)
    assert {time["dtype"] for time in content["times"]} == {"float64", "float32"}
    assert {time["threads"] for time in content["times"]} == {1, threads.available()}
    assert all(content["same_bits"].values())
    assert "peak memory growth" in text


@pytest.mark.slow
def test_bench_update_without_jax(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench_update, "has", lambda package: package != "jax")
    file = tmp_path / "file.json"
    assert bench_update.main(["--quick", "--threads", "1", "--json", str(file)]) == 0
    assert "jax is not installed" in capsys.readouterr().out
    assert json.loads(file.read_text())["skipped"] == {"JAX scan": "jax is not installed"}


@pytest.mark.slow
def test_bench_multiply_runs_and_writes_its_file(tmp_path):
    text, content = quick("bench_multiply", tmp_path)
    assert [part["name"] for part in content["parts"]] == 2 * ["W r", "update", "Q u", "activations"]
    assert all(part["speed"] > 0 and part["speed_numpy"] > 0 for part in content["parts"])
    assert "large product" in text


@pytest.mark.slow
def test_bench_feedback_runs_and_writes_its_file(tmp_path):
    text, content = quick("bench_feedback", tmp_path, "--threads", "1")
    assert {time["name"] for time in content["times"]} == {
        "matrix product",
        "white noise",
        "low-passed noise",
    }
    assert len(content["goals"]) == 4 and "over roofline" in text


@pytest.mark.slow
def test_bench_scaling_runs_and_writes_its_file(tmp_path):
    arguments = ["--plot", tmp_path / "figure.png"] if reporting.has("matplotlib") else []
    text, content = quick("bench_scaling", tmp_path, *arguments)
    variables = [one["variable"] for one in content["series"]]
    assert set(variables) == {"width", "hidden layers", "samples", "steps", "threads"}
    assert all(one["exponent"] for one in content["series"] if one["variable"] != "threads")
    assert "Fitted exponents" in text and "time over the products alone" in text
    names = [goal["name"] for goal in content["goals"]]
    assert any(name.startswith("time over products, width 64") for name in names)
    assert (tmp_path / "figure.png").exists() == bool(arguments)


@pytest.mark.slow
def test_bench_newton_runs_and_writes_its_file(tmp_path):
    text, content = quick("bench_newton", tmp_path, "--threads", "1")
    assert [one["network"] for one in content["outcomes"]] == 3 * ["MNIST"] + ["autoencoder"]
    assert all(one["residual"] <= 1e-12 and one["gflop"] > 0 for one in content["outcomes"])
    assert len(content["goals"]) == 4 and "average over it" in text


@pytest.mark.timing
@pytest.mark.slow
def test_bench_startup_runs_and_writes_its_file(tmp_path):
    text, content = quick("bench_startup", tmp_path)
    seconds = {name: times[0] for name, times in content["seconds"].items()}
    assert seconds[bench_startup.CACHED] < seconds[bench_startup.COLD]
    assert bench_startup.HELP in text
