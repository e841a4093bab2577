"""The benchmark of logging: every log and compression has its row, and its file says the same."""

import pytest
from benchmark_runs import quick

LOGS = 5  # per interval: four compressions, and recipes


@pytest.mark.slow
def test_bench_io_has_a_row_for_every_log(tmp_path):
    text, content = quick("bench_io", tmp_path, "--threads", "1", "--folder", str(tmp_path))
    assert [row["log"] for row in content["training"]][:2] == ["no log", "every 10th minibatch, none"]
    assert len(content["training"]) == 1 + 2 * LOGS and len(content["writing"]) == 4
    assert "slow-down by a log of every 10th minibatch, none, 1 thread" in text
    sizes = {row["log"]: row["bytes"] for row in content["training"]}
    assert sizes["no log"] == 0 and 2 * sizes["every minibatch, recipes"] < sizes["every minibatch, none"]


@pytest.mark.slow
def test_the_goal_alone_needs_two_runs(tmp_path):
    _, content = quick("bench_io", tmp_path, "--threads", "1", "--folder", str(tmp_path), "--goal")
    assert [row["log"] for row in content["training"]] == ["no log", "every 10th minibatch, none"]
    assert "writing" not in content and content["training"][1]["bytes"] > 0
    assert list(tmp_path.glob("tmp*")) == []
