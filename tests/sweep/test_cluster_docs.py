"""docs/cluster.md on a real SLURM: its sweep file and its shell blocks, in their order, in one folder."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import slurm_cluster
import sweeps

ROOT = Path(__file__).parents[2]
REASON = slurm_cluster.missing()
# each starts processes and waits for them
pytestmark = [pytest.mark.slow, pytest.mark.skipif(REASON is not None, reason=REASON or "")]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_session_of_the_documentation_ends_with_the_same_table_on_slurm_and_here(tmp_path):
    blocks = BLOCK.findall((ROOT / "docs" / "cluster.md").read_text(encoding="utf-8"))
    (file,) = (text for language, text in blocks if language == "toml")
    (tmp_path / "gains.toml").write_text(file)
    lines = [line for language, text in blocks if language == "sh" for line in text.splitlines()]
    said = {}
    with slurm_cluster.Cluster(cpus=3) as cluster:
        for line in lines:
            words = [name for word in shlex.split(line)[1:] for name in expanded(tmp_path, word)]
            if words[:2] == ["sweep", "status"]:
                cluster.until(lambda: not cluster.run("squeue", "-h").strip(), 120)
            said[line] = sweeps.dfc(*words, cwd=tmp_path, env=cluster.environment)
    assert "#SBATCH --array=0-4%16" in said["dfc sweep gains.toml --out sweeps/gains --on slurm --dry-run"]
    assert "runs: 5 done" in said["dfc sweep status sweeps/gains"]
    assert "runs: 5; with all settings" in said["dfc compare sweeps/gains/*"]
    tables = [(tmp_path / "sweeps" / name / "runs.csv").read_bytes() for name in ("gains", "here")]
    assert tables[0] == tables[1] and tables[0].count(b"\n") == 6


def expanded(folder, word):
    """What a shell makes of a word with a star."""
    return [str(path.relative_to(folder)) for path in sorted(folder.glob(word))] if "*" in word else [word]


def test_the_script_for_single_jobs_keeps_the_exit_code_of_the_run(tmp_path):
    blocks = BLOCK.findall((ROOT / "docs" / "cluster.md").read_text(encoding="utf-8"))
    (script,) = (text for _, text in blocks if text.startswith("#!/bin/bash"))
    assert "exit $code" in script and "trap" not in script
    call = f"{sys.executable} -m dfc_numba train digits --set=training.method=none"
    script = script.replace("dfc train mnist-dfc", call).replace("--cpus-per-task=8", "--cpus-per-task=1")
    (tmp_path / "job.sh").write_text(script)
    with slurm_cluster.Cluster(nodes=1) as cluster:
        job = cluster.run("sbatch", "--parsable", tmp_path / "job.sh", cwd=tmp_path).strip()
        cluster.until(lambda: cluster.jobs()[job] not in ("PENDING", "RUNNING", "COMPLETING"))
        assert cluster.jobs()[job] == "FAILED"
