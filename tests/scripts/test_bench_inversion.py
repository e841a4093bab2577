"""The benchmark of dynamic inversion: it counts right, its NumPy loops compute our errors, it runs and writes its file."""

import problems
import pytest
from benchmark_runs import quick
from benchmarks import inversion

SMALL = [
    inversion.Case(name=case.name, rule=case.rule, nonlinearity=case.nonlinearity, **inversion.QUICK)
    for case in inversion.CASES
]


def test_the_products_of_the_published_network_are_counted_right():
    sequential, _, single = inversion.CASES
    assert sequential.flop == single.flop == 999 * 100 * 2 * (10 * 1000 + 1000 * 10)
    deep = inversion.Case(name="deep", sizes=(5, 4, 3, 2), batch=1, steps=1)
    assert deep.flop == 2 * 2 * (4 * 3 + 3 * 2)
    assert inversion.Case(name="deep", rule="sldi", sizes=(5, 4, 3, 2), batch=1, steps=1).flop == 2 * (
        12 + 6 + 8
    )


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
@pytest.mark.parametrize("dtype, bound", [("float64", 1e-13), ("float32", 1e-5)])
def test_the_numpy_loops_compute_our_errors(case, dtype, bound):
    (ours,), (theirs,) = inversion.our_errors(case, dtype)(), inversion.numpy_errors(case, dtype)()
    assert ours.dtype == theirs.dtype == dtype
    assert problems.relative_deviation(ours, theirs) < bound


@pytest.mark.slow
def test_bench_inversion_runs_and_writes_its_file(tmp_path):
    text, content = quick("bench_inversion", tmp_path)
    assert len(content["goals"]) in (2, 4) and all(
        goal["measured"]["median"] > 0 for goal in content["goals"]
    )
    assert "NumPy over it" in text
