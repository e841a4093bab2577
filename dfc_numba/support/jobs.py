"""The facts that a cluster's scheduler states about the job that this process runs in."""

import os


def current_job():
    """Return the job of SLURM that this process is part of as a dict of plain values, or None outside one.

    `id` is the job as `squeue` and `scancel` name it, "17_3" for an element of an array; `restarts` says how often SLURM
    has started it again.
    """
    number = os.environ.get("SLURM_JOB_ID")
    if not number:
        return None
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}") for name in ("JOB_ID", "TASK_ID"))
    return {
        "scheduler": "slurm",
        "id": f"{array}_{task}" if array and task else number,
        "restarts": whole("SLURM_RESTART_COUNT", 0),
        "node": os.environ.get("SLURMD_NODENAME", ""),
        "nodes": os.environ.get("SLURM_JOB_NODELIST", ""),
        "partition": os.environ.get("SLURM_JOB_PARTITION", ""),
        "cpus": cpus(),
    }


def cpus():
    """Return the number of processors that the scheduler gave to each task of this job, or None where it does not say."""
    return whole("SLURM_CPUS_PER_TASK", None)


def whole(name, default):
    """Return the environment variable `name` as a whole number above zero, or the default."""
    value = os.environ.get(name, "")
    return int(value) if value.isdigit() and int(value) > 0 else default
