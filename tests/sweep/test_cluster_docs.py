"""docs/cluster.md on a real SLURM: its sweep file and its shell blocks, in their order, in one folder."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from importlib.metadata import metadata
from importlib.util import find_spec
from pathlib import Path

import mpi_runs
import pytest
import slurm_cluster
import sweeps

ROOT = Path(__file__).parents[2]
REASON = slurm_cluster.missing()
needs_slurm = pytest.mark.skipif(REASON is not None, reason=REASON or "")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)


def blocks(language):
    """The blocks of a language in their order."""
    text = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    return [block for found, block in BLOCK.findall(text) if found == language]


@pytest.mark.slow
@needs_slurm
def test_the_session_of_the_documentation_ends_with_the_same_table_on_slurm_and_here(tmp_path):
    (file,) = blocks("toml")
    (tmp_path / "gains.toml").write_text(file)
    lines = [line for text in blocks("sh") for line in text.splitlines()]
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


@pytest.mark.slow
@needs_slurm
def test_the_script_for_single_jobs_keeps_the_exit_code_of_the_run(tmp_path):
    (script,) = (text for text in blocks("bash") if text.startswith("#!/bin/bash"))
    assert "exit $code" in script and "trap" not in script
    call = f"{sys.executable} -m dfc_numba train digits --set=training.method=none"
    script = script.replace("dfc train mnist-dfc", call).replace("--cpus-per-task=8", "--cpus-per-task=1")
    (tmp_path / "job.sh").write_text(script)
    with slurm_cluster.Cluster(nodes=1) as cluster:
        job = cluster.run("sbatch", "--parsable", tmp_path / "job.sh", cwd=tmp_path).strip()
        cluster.until(lambda: cluster.jobs()[job] not in ("PENDING", "RUNNING", "COMPLETING"))
        assert cluster.jobs()[job] == "FAILED"


def test_what_is_to_be_installed_exists():
    lines = "".join(blocks("bash"))
    extras = set(re.findall(r"dfc-numba\[(\w+)\]", lines))
    assert extras == {"dask", "mpi"} and extras <= set(metadata("dfc-numba").get_all("Provides-Extra"))


@pytest.mark.slow
@pytest.mark.skipif(find_spec("distributed") is None, reason="no Dask here: pip install 'dfc-numba[dask]'")
def test_the_block_for_dask_does_the_sweep(tmp_path):
    (tmp_path / "gains.toml").write_text(blocks("toml")[0])
    (block,) = (text for text in blocks("bash") if "dask scheduler" in text)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    dask = f"{sys.executable} -m distributed.cli.dask_"
    for text, ours in (
        ("dask scheduler &", f"{dask}scheduler --host 127.0.0.1 --port {port} --no-dashboard &"),
        ("dask worker tcp", f"{dask}worker --no-dashboard tcp"),
        ("--nthreads 1 #", "--nthreads 1 & #"),
        ("tcp://10.0.0.1:8786", f"tcp://127.0.0.1:{port}"),
        ("dfc sweep", f"{sys.executable} -m dfc_numba sweep"),
    ):
        assert text in block
        block = block.replace(text, ours)
    with open(tmp_path / "said", "w", encoding="utf-8") as said:
        shell = subprocess.Popen(
            ["bash", "-c", block], cwd=tmp_path, stdout=said, stderr=said, start_new_session=True
        )
        try:
            assert shell.wait(300) == 0
        finally:
            os.killpg(shell.pid, signal.SIGKILL)  # scheduler and worker
    assert "runs: 5 done" in (tmp_path / "said").read_text()


@pytest.mark.slow
@needs_slurm
@pytest.mark.skipif(mpi_runs.missing() is not None, reason=mpi_runs.missing() or "")
def test_the_lines_for_several_nodes_train_one_network_each(tmp_path):
    (block,) = (text for text in blocks("bash") if "mpirun" in text)
    lines = [line.partition("#")[0] for line in block.splitlines() if " dfc train " in line]
    settings = shlex.join([*mpi_runs.SETTINGS, "--epochs", "1", "--threads", "1"])
    program = f"{sys.executable} -m dfc_numba train digits {settings}"
    with slurm_cluster.Cluster(cpus=3) as cluster:
        environment = {**mpi_runs.environment(), **cluster.environment, "OMP_NUM_THREADS": "1"}
        for number, line in enumerate(lines):
            line = re.sub(
                r"dfc train mnist-dfc( --threads 8)?", f"{program} --out {tmp_path / str(number)}", line
            )
            words = shlex.split(line.replace("mpirun", mpi_runs.launcher()))
            cluster.run(*words, env=environment, timeout=300)
    found = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("0", "1")]
    assert [record["ranks"] for record in found] == [4, 4] and len(lines) == 2
    first, second = ((tmp_path / name / "weights_last.h5").read_bytes() for name in ("0", "1"))
    assert first == second
