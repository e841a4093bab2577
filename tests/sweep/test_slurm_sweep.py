"""Sweeps on a real SLURM: arrays, requeueing, preemption, cancelling, failures, killed daemons and nodes."""

import json
import re
import signal
import subprocess
import sys

import mpi_runs
import pytest
import slurm_cluster
import sweeps

REASON = slurm_cluster.missing()
# each starts processes and waits for them
pytestmark = [pytest.mark.slow, pytest.mark.skipif(REASON is not None, reason=REASON or "")]
OPTIONS = '\n[slurm]\ntime = "00:30:00"\nat_once = 4\n'


@pytest.fixture(scope="module")
def whole_cluster():
    with slurm_cluster.Cluster(cpus=3, largest_array=4) as cluster:
        yield cluster


@pytest.fixture
def cluster(whole_cluster):
    """The cluster with all its nodes at work, whatever happened to them before."""
    whole_cluster.mend()
    return whole_cluster


@pytest.fixture
def submit(cluster, tmp_path):
    """Function that hands a sweep of small runs to SLURM; returns its folder."""

    def handed(*options, more=OPTIONS, code=0, **keys):
        file = sweeps.write(tmp_path, **keys, more=more)
        line = ["sweep", file, "--out", tmp_path / "a", "--on", "slurm", *options]
        handed.said = sweeps.dfc(*line, cwd=tmp_path, env=cluster.environment, code=code)
        return tmp_path / "a"

    yield handed
    cluster.run("scancel", "-u", "root", check=False)
    cluster.until(lambda: not cluster.run("squeue", "-h", "-t", "R,CG", "-o", "%i").strip())


def status(cluster, folder):
    """How many runs are in which state."""
    text = sweeps.dfc("sweep", "status", folder, env=cluster.environment)
    return re.search(r"^runs: (.*)$", text, flags=re.MULTILINE)[1]


def elements(folder):
    """Names of the jobs of a sweep, element by element."""
    jobs = json.loads((folder / "sweep.json").read_text())["jobs"]
    return [f"{job['id']}_{run - job['offset']}" for job in jobs for run in job["runs"]]


def log(folder, name):
    """Return what a job has written; nothing before it has begun."""
    file = folder / "logs" / f"{name}.log"
    return file.read_text() if file.exists() else ""


def records(folder):
    return {path.parent.name[-5:]: json.loads(path.read_text()) for path in folder.glob("digits*/run.json")}


@pytest.mark.slow
def test_an_array_larger_than_the_site_allows_is_split_and_a_second_submission_takes_what_is_left(
    cluster, submit
):
    folder = submit(seeds=range(6), epochs=2)
    assert [job["offset"] for job in json.loads((folder / "sweep.json").read_text())["jobs"]] == [0, 4]
    submit(seeds=range(6), epochs=2)
    assert len(elements(folder)) == 6, "runs that are queued, running or done are not handed over again"
    cluster.until(lambda: status(cluster, folder) == "6 done", 120)
    submit(seeds=range(7), epochs=2)
    assert len(elements(folder)) == 7 and "new runs: 1" in submit.said
    cluster.until(lambda: status(cluster, folder) == "7 done", 60)
    assert "epoch 2/2" in log(folder, "0") and "epoch 2/2" in log(folder, "4+0")
    record = records(folder)["seed6"]["environment"]["job"]
    assert record["id"] == elements(folder)[-1] and record["node"] in cluster.nodes


def test_interrupted_elements_go_on_by_themselves_to_the_same_bits(cluster, submit, tmp_path):
    folder = submit(epochs=100, samples=600, paced=True)
    cluster.until(lambda: all(sweeps.epochs_of(folder, f"*seed{k}") > 1 for k in (0, 1)))
    _, last = elements(folder)
    cluster.run("scancel", "--signal=USR1", last)  # as before the time limit
    cluster.until(lambda: "75" in log(folder, "1") or "interrupted by SIGUSR1" in log(folder, "1"))
    urgent = cluster.run("sbatch", "--parsable", "-p", "urgent", "-N", "2", "--exclusive", "-o", "/dev/null",
                         "--wrap", "sleep 1").strip()  # fmt: skip
    cluster.until(lambda: cluster.jobs().get(urgent) == "COMPLETED", 90)
    sweeps.hurry(tmp_path)
    cluster.until(lambda: status(cluster, folder) == "2 done", 90)
    found = records(folder)
    assert found["seed0"]["resumed"] >= 1 and found["seed1"]["resumed"] >= 1
    sweeps.dfc("sweep", tmp_path / "tiny.toml", "--out", tmp_path / "b", cwd=tmp_path)
    assert sweeps.merged(folder) == sweeps.merged(tmp_path / "b")


def test_a_cancelled_sweep_does_not_come_back_and_is_taken_up_by_the_next_submission(cluster, submit):
    folder = submit(epochs=5000, seeds=[0], samples=600)
    cluster.until(lambda: sweeps.epochs_of(folder) > 2)
    job = elements(folder)[0].partition("_")[0]
    cluster.run("scancel", job)
    cluster.until(lambda: cluster.jobs()[f"{job}_0"] == "CANCELLED", 30)
    cluster.until(lambda: records(folder)["seed0"]["status"] == "interrupted", 20)
    assert cluster.jobs()[f"{job}_0"] == "CANCELLED" and status(cluster, folder) == "1 stopped"
    submit(epochs=5000, seeds=[0], samples=600)
    cluster.until(lambda: records(folder)["seed0"]["resumed"] == 1, 40)


def test_a_failed_run_stays_failed_and_its_job_too(cluster, submit, tmp_path):
    sweeps.dfc("train", "digits", "--epochs", 1, "--set=training.method=bp", "--set=network.hidden=[6]", "--out", "net",
               cwd=tmp_path)  # fmt: skip
    (tmp_path / "net" / "weights_last.h5").rename(tmp_path / "net.h5")
    slow = '\n[slurm]\nsetup = ["sleep 3"]\n'
    keys = {"seeds": [0], "more": 'set."network.start_from" = "net.h5"\n' + slow}
    folder = submit(**keys)
    (tmp_path / "net.h5").rename(tmp_path / "gone.h5")
    (element,) = elements(folder)
    cluster.until(lambda: cluster.jobs()[element] == "FAILED")
    assert status(cluster, folder) == "1 failed" and "start_from" in log(folder, "0")
    (tmp_path / "gone.h5").rename(tmp_path / "net.h5")
    submit(code=1, **keys)
    assert elements(folder) == [element]
    submit("--retry-failed", **keys)
    cluster.until(lambda: status(cluster, folder) == "1 done")


@pytest.mark.slow
def test_a_killed_controller_and_a_killed_node_lose_nothing(cluster, submit, tmp_path):
    folder = submit(epochs=100, samples=600, paced=True)
    cluster.until(lambda: all(sweeps.epochs_of(folder, f"*seed{k}") > 2 for k in (0, 1)))
    cluster.until(cluster.at_rest)
    cluster.end("slurmctld.pid", signal.SIGKILL)
    cluster.start_controller()
    cluster.until(
        lambda: len(cluster.run("squeue", "-h", "-r", "-t", "R", "-o", "%N", check=False).split()) == 2
    )
    node = cluster.run("squeue", "-h", "-r", "-t", "R", "-o", "%N").split()[0]
    cluster.kill_node(node)
    cluster.until(lambda: node not in cluster.idle())  # SLURM has noticed
    cluster.start_node(node)
    sweeps.hurry(tmp_path)
    cluster.until(lambda: status(cluster, folder) == "2 done", 120)
    assert any(record["resumed"] for record in records(folder).values())
    sweeps.dfc("sweep", tmp_path / "tiny.toml", "--out", tmp_path / "b", cwd=tmp_path)
    assert sweeps.merged(folder) == sweeps.merged(tmp_path / "b")


@pytest.mark.timing
@pytest.mark.slow
def test_a_time_limit_is_survived(cluster, submit, tmp_path):
    more = '\n[slurm]\ntime = "00:01:00"\nsignal_seconds = 15\n'
    folder = submit(epochs=40, seeds=[0], samples=600, more=more, paced=True)
    cluster.until(lambda: "interrupted by SIGUSR1" in log(folder, "0"), 150)
    sweeps.hurry(tmp_path)
    cluster.until(lambda: status(cluster, folder) == "1 done", 300)
    assert records(folder)["seed0"]["resumed"] >= 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ('\n[slurm]\npartition = "none"\n', "SLURM refuses: .*invalid partition"),
        ("\n[slurm]\ncpus = 99\n", "SLURM refuses: .*(not available|CPU count)"),
        ('\n[slurm]\noptions = ["--no-such-option"]\n', "SLURM refuses"),
    ],
)
def test_what_slurm_would_refuse_is_told_before_anything_is_queued(cluster, submit, more, message):
    folder = submit(code=2, more=more)
    assert re.search(message, submit.said) and not json.loads((folder / "sweep.json").read_text())["jobs"]


def test_a_dry_run_shows_the_script_and_submits_nothing(cluster, submit, tmp_path):
    submit(
        "--dry-run",
        more='\n[slurm]\ntime = "04:00:00"\nmemory = "2G"\nsetup = ["module load x"]\noptions = ["--account=y"]\n',
    )
    for line in (
        "#SBATCH --time=04:00:00",
        "#SBATCH --mem=2G",
        "#SBATCH --account=y",
        "module load x",
        "#SBATCH --array=0-1",
    ):
        assert line in submit.said
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.toml"]


@pytest.mark.slow
def test_a_scheduler_that_does_not_answer_is_told(cluster, tmp_path):
    environment = {**cluster.environment, "SLURM_CONF": str(tmp_path / "none.conf")}
    file = sweeps.write(tmp_path)
    text = sweeps.dfc("sweep", file, "--on", "slurm", cwd=tmp_path, env=environment, code=2)
    assert "SLURM refuses" in text or "does not answer" in text


@pytest.mark.slow
@pytest.mark.skipif(mpi_runs.missing() is not None, reason=mpi_runs.missing() or "")
def test_ranks_under_srun_train_one_network_and_the_wrong_pmi_is_refused(cluster, tmp_path):
    environment = {**cluster.environment, "OMP_NUM_THREADS": "1"}
    line = [
        sys.executable,
        "-m",
        "dfc_numba",
        "train",
        "digits",
        *mpi_runs.SETTINGS,
        "--epochs",
        "1",
        "--threads",
        "1",
    ]
    step = ["srun", "-n", "3", "-N", "2", "--kill-on-bad-exit=1"]
    cluster.run(*step, "--mpi=pmi2", *line, "--out", tmp_path / "run", env=environment, timeout=120)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["ranks"] == 3
    sweeps.dfc(
        "train", "digits", *mpi_runs.SETTINGS, "--epochs", 1, "--threads", 1, "--out", tmp_path / "alone"
    )
    ours, theirs = (tmp_path / name / "weights_last.h5" for name in ("run", "alone"))
    assert ours.read_bytes() == theirs.read_bytes()
    done = subprocess.run([*step, "--mpi=none", *line, "--out", str(tmp_path / "none")], env=environment, text=True,
                          capture_output=True, check=False, timeout=120)  # fmt: skip
    assert done.returncode != 0 and "each would train by itself" in done.stderr
    assert not (tmp_path / "none").exists()
