"""Threads: how many there are, how work is cut for them, and that results do not depend on them."""

import itertools
import os
import threading
import time

import kernel_workload
import numpy as np
import problems
import pytest
from compiled_calls import compiled
from threadpoolctl import threadpool_info

import dfc_numba as dfc
from dfc_numba.kernels.jit import JIT_DISABLED
from dfc_numba.support import threads

LARGE = 1e12  # floating-point operations, worth any number of threads
needs_compiler = pytest.mark.skipif(JIT_DISABLED, reason="the compiler is switched off")


# --- how many ----------------------------------------------------------------------------------------------


def test_the_bound_holds_within_its_block_and_is_restored():
    before = threads.current()
    with dfc.limit_threads(3):
        assert threads.current() == 3
        with dfc.limit_threads(1):
            assert threads.current() == 1
        assert threads.current() == 3
    assert threads.current() == before


def test_the_bound_is_restored_after_an_error():
    before = threads.current()
    with pytest.raises(KeyError), dfc.limit_threads(before + 1):
        raise KeyError
    assert threads.current() == before


def test_a_numpy_integer_is_a_bound():
    with dfc.limit_threads(np.int64(2)):
        assert threads.current() == 2


@pytest.mark.parametrize("count", [0, -1, 1.5, 2.0, "2", None, True])
def test_a_wrong_number_of_threads_is_refused(count):
    before = threads.current()
    refused = pytest.raises((ValueError, TypeError), match="threads is .*a whole number from 1")
    with refused, dfc.limit_threads(count):
        raise AssertionError("not reached")
    assert threads.current() == before


def blas_threads():
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_threads_of_linear_algebra_are_bounded_too():
    np.linalg.svd(np.eye(3))
    before = blas_threads()
    if not before:
        pytest.skip("NumPy's linear algebra is no library whose threads can be bounded")
    with dfc.limit_threads(1):
        assert blas_threads() == {1}
    assert blas_threads() == before


def test_a_bound_belongs_to_the_thread_that_set_it():
    seen = []
    with dfc.limit_threads(5):
        other = threading.Thread(target=lambda: seen.append(threads.current()))
        other.start()
        other.join()
    assert seen == [threads.available()]


@pytest.mark.parametrize(
    "value, expected", [("", 5), ("3", 3), ("1", 1), ("9", 5), ("0", 1), ("all", 5), ("-2", 5)]
)
def test_available_follows_affinity_and_environment(monkeypatch, value, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(5)), raising=False)
    monkeypatch.setenv("NUMBA_NUM_THREADS", value)
    assert threads.available() == expected


def test_available_counts_processors_where_there_is_no_affinity(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert threads.available() == 7
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert threads.available() == 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this platform has no processor affinity")
def test_available_follows_a_real_change_of_affinity(monkeypatch):
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert threads.available() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert threads.available() == len(before)


# --- how work is cut and spread ----------------------------------------------------------------------------


def test_shards_are_small_even_and_complete():
    """At most 16 samples each, as even as can be, an even number that is not larger than needed, together all of them."""
    for samples in range(1, 300):
        pieces = threads.shards(samples)
        counts = [count for _, count in pieces]
        assert [first for first, _ in pieces] == [sum(counts[:k]) for k in range(len(counts))]
        assert sum(counts) == samples
        assert 1 <= min(counts) and max(counts) <= min(16, min(counts) + 1)
        assert len(pieces) == 1 if samples <= 16 else len(pieces) == 2 * -(-samples // 32)


def test_shards_of_weights_that_exceed_the_caches_are_larger():
    """So that memory delivers the weights less often; two threads and four still have as much to do."""
    large = threads.CACHED_WEIGHTS + 1
    assert [count for _, count in threads.shards(128, large)] == [32] * 4
    assert [count for _, count in threads.shards(128, threads.CACHED_WEIGHTS)] == [16] * 8
    assert threads.shards(16, large) == [(0, 16)]


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
@pytest.mark.parametrize("pieces", [1, 5, 40])
def test_every_piece_runs_once(pieces, workers):
    done = []
    with dfc.limit_threads(workers):
        threads.run(pieces, done.append, work=LARGE)
    assert sorted(done) == list(range(pieces))


@pytest.mark.parametrize("workers", [2, 3, 8])
def test_pieces_run_at_the_same_time(workers):
    """Each waits until all threads have one."""
    barrier = threading.Barrier(workers, timeout=20)
    seen = set()

    def meet(piece):
        barrier.wait()
        seen.add(threading.get_ident())

    with dfc.limit_threads(workers):
        threads.run(workers, meet, work=LARGE)
    assert len(seen) == workers and threading.get_ident() in seen


@pytest.mark.parametrize(
    "work, most", [(0, 1), (threads.SMALLEST_WORK_PER_THREAD, 1), (2.5 * threads.SMALLEST_WORK_PER_THREAD, 2)]
)
def test_little_work_takes_few_threads(work, most):
    seen = set()
    with dfc.limit_threads(8):
        threads.run(30, lambda piece: (time.sleep(1e-3), seen.add(threading.get_ident())), work=work)
    assert len(seen) <= most
    assert most > 1 or seen == {threading.get_ident()}


@pytest.mark.parametrize("wrong", range(4))
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_an_exception_in_any_piece_reaches_the_caller(workers, wrong):
    def fail(piece):
        time.sleep(1e-3)
        if piece == wrong:
            raise ArithmeticError(f"piece {piece}")

    with dfc.limit_threads(workers), pytest.raises(ArithmeticError, match=f"piece {wrong}"):
        threads.run(4, fail, work=LARGE)


@pytest.mark.timing
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_after_an_exception_nobody_begins_another_piece(workers):
    """So that an interruption takes no longer than the pieces under way."""
    begun, first = [], threading.Event()

    def piece(number):
        begun.append(number)
        if number == 0:
            first.set()
            raise KeyboardInterrupt
        first.wait(10)
        time.sleep(0.05)

    with dfc.limit_threads(workers), pytest.raises(KeyboardInterrupt):
        threads.run(100, piece, work=LARGE)
    assert len(begun) <= workers + 1


def test_no_thread_is_left_behind():
    before = threading.active_count()
    with dfc.limit_threads(8):
        threads.run(20, lambda piece: None, work=LARGE)
    assert threading.active_count() == before


# --- the same bits -----------------------------------------------------------------------------------------

WIDE = ("wide", ["float32", "float64"])


@pytest.fixture(scope="module")
def on_one_thread():
    with dfc.limit_threads(1):
        return kernel_workload.results(*WIDE, keyed=True)


def assert_same_bits(ours, theirs):
    assert ours.keys() == theirs.keys()
    different = [name for name in theirs if ours[name].tobytes() != theirs[name].tobytes()]
    assert not different


def test_the_workload_is_worth_eight_threads():
    sizes, count, steps = kernel_workload.SIZES["wide"]
    weights = sum(n * m for n, m in itertools.pairwise(sizes[1:])) + sum(sizes[1:]) * sizes[-1]
    assert 2.0 * steps * weights * count > 8 * threads.SMALLEST_WORK_PER_THREAD
    assert len(threads.shards(count)) == 8


@pytest.mark.parametrize("count", [2, 3, 8])
def test_kernels_have_the_same_bits_for_any_number_of_threads(on_one_thread, count):
    with dfc.limit_threads(count):
        assert_same_bits(kernel_workload.results(*WIDE, keyed=True), on_one_thread)


@needs_compiler
@pytest.mark.parametrize("count", [1, 2, 8])
def test_kernels_have_the_same_bits_for_any_number_of_numba_threads(on_one_thread, tmp_path, count):
    found, _ = kernel_workload.in_another_process(
        tmp_path, *WIDE[:1], *WIDE[1], keyed=True, NUMBA_NUM_THREADS=str(count)
    )
    assert_same_bits(found, on_one_thread)


def test_the_comparison_sees_a_single_bit(on_one_thread):
    name = max(on_one_thread)
    changed = {**on_one_thread, name: np.nextafter(on_one_thread[name], 2)}
    with pytest.raises(AssertionError):
        assert_same_bits(changed, on_one_thread)


@pytest.mark.parametrize("count", [1, 3])
def test_updates_of_the_converged_samples_have_the_same_bits_for_any_number_of_threads(count):
    """Shards with samples that have not converged are run again, by whatever thread."""
    net = dfc.Network(**problems.stable_parameters([4, 7, 5, 3]))
    x, rng = problems.inputs(70, 4), np.random.default_rng(0)
    target = net.predict(x) + 0.1 * rng.normal(size=(70, 3))
    target[::3] += 2.5
    controller = dfc.Controller(dt=0.1, steps=150, alpha=0.1, k_p=0.0, convergence_epsilon=0.22)
    with dfc.limit_threads(count):
        update = dfc.forward_update(net, x, target, controller, samples="converged")
    with dfc.limit_threads(2):
        again = dfc.forward_update(net, x, target, controller, samples="converged")
    assert 0 < update.converged.sum() < 70
    for ours, theirs in zip([*update.weights, *update.biases], [*again.weights, *again.biases], strict=True):
        np.testing.assert_array_equal(ours, theirs)


# --- the interpreter lock ----------------------------------------------------------------------------------


def longest_pause(work):
    """The longest that this thread stands still while another does `work`, as a fraction of the work's time."""
    span = []

    def timed():
        span.append(time.perf_counter())
        work()
        span.append(time.perf_counter())

    worker, ticks = threading.Thread(target=timed), []
    worker.start()
    while worker.is_alive():
        ticks.append(time.perf_counter())
        time.sleep(1e-3)
    start, end = span
    assert end - start > 0.1, "the work was too short to tell"
    inside = [start, *(tick for tick in ticks if start < tick < end), end]
    return np.diff(inside).max() / (end - start)


def long_update():
    """One shard for many steps on one thread."""
    net = dfc.Network(**problems.stable_parameters([4, 64, 64, 3]))
    x = problems.inputs(16, 4)
    with dfc.limit_threads(1):
        dfc.forward_update(net, x, net.predict(x) + 0.1, dfc.Controller(steps=30000))


def _spin(count):
    total = 0.0
    for k in range(count):
        total += np.sin(total + k)
    return total


@pytest.mark.timing
@needs_compiler
def test_kernels_release_the_interpreter_lock():
    kernel_workload.results("small", ["float64"])  # compiled before time is taken
    assert longest_pause(long_update) < 0.5


@pytest.mark.timing
@needs_compiler
def test_a_kernel_that_keeps_the_interpreter_lock_is_seen():
    spin = compiled(_spin, nogil=False)
    spin(1)
    assert longest_pause(lambda: spin(30_000_000)) > 0.7
