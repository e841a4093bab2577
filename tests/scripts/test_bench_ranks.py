"""The model of `scripts/bench_ranks.py`: what it says of one rank, of shards that do not divide, and of the interconnect."""

import json

import bench_ranks
import pytest

POINT = {
    "workload": "paper, euler", "ranks": 1, "threads": 1, "weak": False, "seconds": 1.0, "busy": 1.0, "divided": 0.8,
    "communication": 0.0, "bytes": 0, "sums": 1_000_000, "exchanges": 1, "united": 500_000, "messages": 4, "shards": 8,
    "steps": 999,
}  # fmt: skip
FREE = (0.0, 1e30)  # an interconnect that costs nothing


def test_one_rank_is_what_was_measured():
    assert bench_ranks.modelled(POINT, 1, 1, FREE) == pytest.approx(1.0)
    assert bench_ranks.communication(POINT, 1, 1.0, 1.0) == 0.0


@pytest.mark.parametrize(
    ("count", "threads", "share"), [(2, 1, 4), (3, 1, 3), (8, 1, 1), (16, 1, 1), (2, 4, 1), (3, 2, 2)]
)
def test_the_rank_with_most_shards_counts(count, threads, share):
    assert bench_ranks.share(8, count, threads) == share / 8
    assert bench_ranks.modelled(POINT, count, threads, FREE) == pytest.approx(0.2 + 0.1 * share)


def test_threads_that_share_processors_take_turns():
    assert bench_ranks.modelled(POINT, 2, 1, FREE, processors=2) == pytest.approx(0.6)
    assert bench_ranks.modelled(POINT, 4, 1, FREE, processors=2) == pytest.approx(2 * (0.2 + 0.2))
    assert bench_ranks.modelled(POINT, 2, 2, FREE, processors=2) == pytest.approx(0.2 + 2 * 0.2)


def test_a_slower_interconnect_costs_more_and_every_round_counts():
    slow, fast = (bench_ranks.communication(POINT, 4, *speed) for speed in bench_ranks.INTERCONNECTS.values())
    assert slow > fast > 0
    costs = [bench_ranks.communication(POINT, count, 1e-5, 1e9) for count in (1, 2, 4, 8)]
    assert costs == sorted(costs) and costs[2] > costs[1]


def test_what_was_measured_is_projected_again_and_rows_that_share_processors_are_marked(tmp_path, capsys):
    two = {**POINT, "ranks": 2, "seconds": 0.65, "busy": 0.5, "communication": 0.05}
    weak = [{**POINT, "weak": True}, {**two, "weak": True, "seconds": 1.3, "busy": 1.25}]
    file = tmp_path / "measured.json"
    file.write_text(json.dumps({"points": [POINT, two, *weak], "interconnect": [1e-5, 1e9], "processors": 1}))
    bench_ranks.main(["--reuse", str(file), "--json", str(tmp_path / "again.json")])
    text = capsys.readouterr().out
    assert "| paper, euler | 1 x 1 | 1.000 | 1.000 (+0 %) | 1.00 | 100 % |" in text
    assert "| paper, euler | 2 x 1 * | 0.500 | 0.600 (+20 %) | 2.00 | 100 % | 0.0 | 0.650 |" in text
    assert "| paper, euler, 128 samples a rank | 2 x 1 * | 1.250 | 1.200 (-4 %) | 1.60 | 80 % |" in text
    assert "InfiniBand" in text
    assert len(json.loads((tmp_path / "again.json").read_text())["points"]) == 4
