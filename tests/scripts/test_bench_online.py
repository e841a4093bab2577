"""The benchmark of online plasticity: it counts right, runs, and writes its file."""

import pytest
from benchmark_runs import quick
from benchmarks.online import Stream


def test_weights_and_operations_of_a_step_are_counted_right():
    held, moving = (Stream(16, moving, False, 1) for moving in (False, True))
    assert held.swept_weights == 2 * 256 * 256 + 10 * 256
    assert moving.swept_weights == held.swept_weights + 784 * 256
    assert Stream(16, False, True, 1).swept_weights == held.swept_weights + 10 * 778
    assert held.flop_per_step == 16 * (4 * held.swept_weights + 2 * 10 * 778)
    assert Stream(1, False, True, 1).flop_per_step == 4 * (held.swept_weights + 10 * 778)


@pytest.mark.slow
def test_bench_online_runs_and_writes_its_file(tmp_path):
    text, content = quick("bench_online", tmp_path)
    assert len(content["steps"]) == 16 and all(step["microseconds"] > 0 for step in content["steps"])
    assert "B = 16, input moving, W and Q learn, noise" in text
