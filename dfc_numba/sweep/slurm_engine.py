"""The engine of a cluster: runs are elements of job arrays of SLURM, which starts, stops and requeues them.

No process has to stay alive. A job that receives its signal, before its time limit or on preemption, writes a checkpoint, ends
with code 75 and puts itself back into the queue; SLURM would count it as failed otherwise. SIGTERM is not trapped: a
cancelled job must not come back.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import time

from dfc_numba.errors import ConfigurationError

SECONDS = 60  # that a command of SLURM may take
DEFAULT_ARRAY_SIZE = 1001
SIGNAL_SECONDS = 120
BUSY = {
    "COMPLETED",
    "CANCELLED",
    "FAILED",
    "TIMEOUT",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "BOOT_FAIL",
    "DEADLINE",
    "REVOKED",
}
SCRIPT = """\
#!/bin/bash
{options}
{setup}index=$((SLURM_ARRAY_TASK_ID + {offset}))
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
srun --ntasks=1 --kill-on-bad-exit=1 {command} sweep run {folder} $index --threads $SLURM_CPUS_PER_TASK{scratch}{extensions}
code=$?
# 75: stopped after a checkpoint; 138: SIGUSR1 came before the program could handle it. A job that ends so counts as failed
# unless it is put back. SIGTERM is not trapped: a cancelled job must not come back.
if [ $code -eq 75 ] || [ $code -eq 138 ]; then
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID" ||
        echo "dfc: not requeued; start the sweep again, which takes what is unfinished" >&2
fi
exit $code
"""


def script(folder, options, indices, offset, at_once):
    """Return the text of the batch script for some runs, whose numbers are `offset` plus the element of the array."""
    elements = _ranges([index - offset for index in indices])
    wanted = {
        "job-name": f"dfc-{folder.name}",
        "array": elements + (f"%{at_once}" if at_once else ""),
        "ntasks": 1,
        "cpus-per-task": options.cpus,
        "time": options.time,
        "mem": options.memory,
        "partition": options.partition,
        "signal": f"USR1@{signal_seconds(options)}",
        "chdir": folder.home,
        "output": str(folder.path.absolute() / log_pattern(offset)),
    }
    lines = [f"#SBATCH --{key}={_quoted(value)}" for key, value in wanted.items() if value is not None]
    lines += [
        "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
        *(f"#SBATCH {option}" for option in options.options),
    ]
    return SCRIPT.format(
        options="\n".join(lines), setup="".join(f"{line}\n" for line in options.setup), offset=offset,
        command=options.command or f"{shlex.quote(sys.executable)} -m dfc_numba",
        folder=shlex.quote(str(folder.path.absolute())),
        scratch=f' --scratch "{options.scratch}"' if options.scratch else "",
        extensions="".join(f" {shlex.quote(text)}" for text in folder.extensions),
    )  # fmt: skip


def signal_seconds(options):
    """Return how long before its time limit a job receives its signal."""
    if options.signal_seconds is not None:
        return options.signal_seconds
    return SIGNAL_SECONDS if options.seconds is None else max(10, min(SIGNAL_SECONDS, options.seconds // 4))


def log_pattern(offset):
    """Return the log of a run in its sweep, with SLURM's %a for the element of the array."""
    return "logs/%a.log" if offset == 0 else f"logs/{offset}+%a.log"


def log_of(folder, run):
    """Return the path of the log of a run: that of the job that has it, where one has."""
    for job in reversed(folder.jobs):
        if run.index in job["runs"]:
            return folder.path / log_pattern(job["offset"]).replace("%a", str(run.index - job["offset"]))
    return folder.log(run)


def arrays(folder, options, runs, largest):
    """Return (offset, numbers, script) of each job array: one, unless the site's limit splits it."""
    chunks = {}
    for run in runs:
        chunks.setdefault(run.index // largest * largest, []).append(run.index)
    share = None if options.at_once is None else max(1, options.at_once // len(chunks)) if chunks else None
    return [
        (offset, indices, script(folder, options, indices, offset, share))
        for offset, indices in chunks.items()
    ]


def largest_array():
    """Return the number of elements that the site allows in an array."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _slurm("scontrol", "show", "config"), flags=re.MULTILINE)
    return max(1, int(found[1])) if found else DEFAULT_ARRAY_SIZE


def queued(folder):
    """Return a dict: (state, reason, node) of each run of a sweep that SLURM has in its queue, by number of the run.

    Raises:
        ConfigurationError: SLURM does not answer.
    """
    if not folder.jobs:
        return {}
    offsets = {job["id"]: job["offset"] for job in folder.jobs}
    lines = _slurm("squeue", "-h", "-r", "-u", str(os.getuid()), "-o", "%F|%K|%T|%r|%N").splitlines()
    found = {}
    for line in lines:
        job, element, state, reason, node = line.split("|", 4)
        if job in offsets and element.isdigit() and state not in BUSY:
            found[offsets[job] + int(element)] = state, reason, node
    return found


def submit(folder, parts):
    """Hand job arrays to SLURM after asking it whether it would take them; return the numbers of the jobs.

    The table of the sweep is saved after each, so that none is handed over twice.

    Raises:
        ConfigurationError: SLURM refuses one; says what it says, and what was handed over before.
    """
    for _, _, text in parts:
        _sbatch(text, "--test-only")
    jobs = []
    for offset, indices, text in parts:
        try:
            number = _sbatch(text, "--parsable").strip().partition(";")[0]
        except ConfigurationError as error:
            before = f" (handed over before: {', '.join(jobs)})" if jobs else ""
            raise ConfigurationError(f"{error}{before}") from None
        folder.jobs.append({"id": number, "offset": offset, "runs": indices, "time": time.time()})
        folder.save()
        jobs.append(number)
    return jobs


def _sbatch(text, *options):
    # a sweep may be started from within a job, whose own settings are not for the jobs of the sweep
    keep = ("SLURM_CONF", "SLURM_CLUSTERS")
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("SLURM_", "SBATCH_", "SRUN_")) or key in keep
    }
    return _slurm("sbatch", *options, input=text, env=environment)


def _slurm(program, *arguments, **options):
    """Return the standard output of a command of SLURM, or raise a ConfigurationError with its message."""
    if shutil.which(program) is None:
        raise ConfigurationError(
            f"{program} is not found: --on slurm needs the commands of SLURM, which a login node has; elsewhere use "
            "--on local or --on dask:ADDRESS"
        )
    line = [program, *arguments]
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=SECONDS, check=False, **options)
    except subprocess.TimeoutExpired:
        raise ConfigurationError(
            f"SLURM does not answer: {program} took more than {SECONDS} s; try again later"
        ) from None
    if done.returncode:
        said = done.stderr.strip().removeprefix("sbatch: error: ").replace("\n", "; ")
        if re.search("unable to contact|connection (refused|timed out)", said, flags=re.IGNORECASE):
            raise ConfigurationError(f"SLURM does not answer: {said}; try again later")
        raise ConfigurationError(f"SLURM refuses: {said or f'{program} ended with {done.returncode}'}")
    return done.stdout


def _quoted(value):
    text = str(value)
    return f'"{text}"' if re.search(r"[\s#]", text) else text


def _ranges(numbers):
    """Return numbers as SLURM writes them: 0-3,7."""
    parts = []
    for number in sorted(numbers):
        if parts and number == parts[-1][1] + 1:
            parts[-1] = parts[-1][0], number
        else:
            parts.append((number, number))
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)
