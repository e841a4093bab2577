"""The three things that `dfc sweep` does: start what is unfinished on an engine, do one run, show how the runs stand."""

from contextlib import contextmanager, suppress
from pathlib import Path

import typer

from dfc_numba.errors import ConfigurationError
from dfc_numba.runs.run_directory import LOCK_NAME
from dfc_numba.support import output
from dfc_numba.support.locks import holder_of
from dfc_numba.sweep import local_engine, slurm_engine, sweep_folder, sweep_report
from dfc_numba.sweep.sweep_folder import DIVERGED, DONE, FAILED, SweepFolder

DEFAULT_PARENT = "sweeps"
WAIT = 60.0  # seconds that a run waits for its earlier process, which writes a last checkpoint
ENGINES = "local, slurm, dask:ADDRESS or dask:local"
OK, ERROR, WRONG, INTERRUPTED = 0, 1, 2, 75


def sweep(words, out, engine, *, dry_run, retry_failed, at_once, threads):
    """Start the runs of a sweep file that are unfinished; return the exit code."""
    from dfc_numba.sweep import outlook as outlooks
    from dfc_numba.sweep.sweep_file import read_sweep

    if len(words) != 1:
        raise ConfigurationError(f"dfc sweep takes one sweep file, but got: {' '.join(words)}")
    kind, _, address = engine.partition(":")
    if kind not in ("local", "slurm", "dask") or (kind == "dask") != bool(address):
        raise ConfigurationError(f"--on {engine}: must be {ENGINES}")
    if kind == "slurm" and (threads or at_once):
        raise ConfigurationError(
            "--threads and --at-once are for other engines; state slurm.cpus and slurm.at_once"
        )
    planned = read_sweep(words[0])
    path = out or Path(DEFAULT_PARENT) / planned.name
    folder, changes = sweep_folder.update(planned, path)
    largest = slurm_engine.largest_array() if kind == "slurm" else None
    queue = slurm_engine.queued(folder)
    outlook = outlooks.try_out(planned, threads or 1)
    states = folder.states(queue)
    runs = sweep_folder.left(states, retry_failed)
    sweep_report.announce(folder, planned, changes, outlook, states, runs)
    outlooks.check_disk(path, outlook, runs)
    parts = slurm_engine.arrays(folder, planned.slurm, runs, largest) if kind == "slurm" else []
    if kind == "slurm":
        sweep_report.warn_of_limits(planned.slurm, outlook, runs)
    if dry_run:
        sweep_report.show_table(folder, planned, outlook, states)
        for _, _, script in parts:
            output.show(f"\n{script}", end="")
        return OK
    with folder.claimed():
        if runs:
            outlooks.check_quota(path, outlook, runs)
        folder.jobs = SweepFolder.open(path).jobs if (Path(path) / sweep_folder.TABLE_NAME).exists() else []
        sweep_folder.write_sources(folder, planned)
        folder.save()
        if not runs:
            return _ended(folder, {}, None, queue)
        for run in runs:
            folder.forget_failure(run)
        if kind == "slurm":
            sweep_report.tell_jobs(folder, slurm_engine.submit(folder, parts), runs)
            return OK
        wanted = at_once or len(local_engine.places(threads or 1))
        if kind == "local" or address == "local":
            wanted = outlooks.fitting(outlook, runs, wanted)
            output.show(
                f"runs at a time: {min(wanted, len(runs))}, with {threads or 1} threads each", flush=True
            )
        options = {"threads": threads or 1, "at_once": wanted}
        if kind == "dask":
            from dfc_numba.sweep import dask_engine

            run_all, options["address"] = dask_engine.run_all, address
        else:
            run_all = local_engine.run_all
        done = sum(state.state in (DONE, DIVERGED) for state in states)
        with sweep_report.choose_display(folder, len(states), done) as display:
            codes, signal = run_all(folder, runs, display=display, **options)
        return _ended(folder, codes, signal, queue)


def _ended(folder, codes, signal, queue):
    """Merge what there is, say how the sweep stands, and return the exit code."""
    from dfc_numba.runs import comparison

    states = folder.states(queue)
    merged = None
    with suppress(ValueError, OSError):  # no run has begun, or one of them has no room to tell
        merged = comparison.merge(
            [folder.directory(state.run) for state in states if state.record], folder.path
        )[2]
    sweep_report.conclude(folder, states, merged)
    if signal is not None or INTERRUPTED in codes.values():
        return INTERRUPTED
    bad = any(state.state in (FAILED, DIVERGED) for state in states) or any(
        code != OK for code in codes.values()
    )
    return ERROR if bad else OK


def show(words):
    """Show how the runs of a sweep stand."""
    if len(words) != 2:
        raise ConfigurationError(f"write it as dfc sweep status DIR; got: dfc sweep {' '.join(words)}")
    folder, unreachable, queue = SweepFolder.open(words[1]), None, {}
    try:
        queue = slurm_engine.queued(folder)
    except ConfigurationError as error:
        unreachable = error
    sweep_report.show_status(folder, folder.states(queue), queue, unreachable)


def chosen(words, parent=None):
    """Return (`SweepFolder`, `SweepRun`) that `dfc sweep run DIR INDEX` names; with a parent, end when it ends."""
    if len(words) != 3 or not words[2].isdigit():
        raise ConfigurationError(f"write it as dfc sweep run DIR INDEX; got: dfc sweep {' '.join(words)}")
    if parent is not None:
        local_engine.end_with(parent)
    folder = SweepFolder.open(words[1])
    run, end = folder.run(int(words[2])), local_engine.now() + WAIT
    while holder_of(folder.directory(run) / LOCK_NAME) is not None and local_engine.now() < end:
        local_engine.sleep()
    return folder, run


@contextmanager
def noted(folder, run):
    """Remember a run that fails, so that it is not started again unless that is asked for."""
    folder.forget_failure(run)
    try:
        yield
    except typer.Exit as end:
        if end.exit_code in (ERROR, WRONG):
            with suppress(OSError):
                folder.note_failure(run, end.exit_code)
        raise
