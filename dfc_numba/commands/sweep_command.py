"""The command `dfc sweep`."""

from pathlib import Path
from typing import Annotated

import typer

from dfc_numba.commands.shell import DONE, Extensions, command, exit_codes, train_run


@command
def sweep(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="SWEEP.toml | status DIR | run DIR INDEX",
            help="A sweep file; or the folder of a sweep, for the status of its runs, or to do one of them.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the sweep; by default sweeps/NAME of the sweep file.", show_default=False
        ),
    ] = None,
    engine: Annotated[
        str,
        typer.Option("--on", metavar="local, slurm, dask:ADDRESS, dask:local", help="What does the runs."),
    ] = "local",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, show runs and script, start nothing.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Start failed runs again, too.")
    ] = False,
    at_once: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Runs at a time; as many as processors and memory allow by default.",
            show_default=False,
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of each run; 1 by default.", show_default=False)
    ] = None,
    scratch: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="For `run`: work on a disk of the node, see dfc train; a job has slurm.scratch.",
            show_default=False,
        ),
    ] = None,
    parent: Annotated[int | None, typer.Option(hidden=True)] = None,
    extension: Extensions = None,
):
    """Do many runs: presets x seeds x grids of settings, on this machine, SLURM or Dask.

    Everything is checked before anything starts. The same command again takes what is unfinished; a changed sweep says
    what changed. Exit code: 0 done, or handed to SLURM; 1 a run diverged or failed, 2 usage error, 75 interrupted.
    """
    with exit_codes():
        from dfc_numba.sweep import sweeping

        if words[0] == "run":
            folder, run = sweeping.chosen(words, parent)
        elif words[0] == "status":
            sweeping.show(words)
            raise typer.Exit(DONE)
        else:
            options = {
                "dry_run": dry_run,
                "retry_failed": retry_failed,
                "at_once": at_once,
                "threads": threads,
            }
            ended = sweeping.sweep(words, out, engine, **options)
            raise typer.Exit(ended)
    with sweeping.noted(folder, run):
        code = train_run(
            str(folder.source(run)), run.settings, name=run.name, out=folder.directory(run), resume=True, threads=threads,
            wait=sweeping.WAIT, scratch=scratch,
        )  # fmt: skip
        raise typer.Exit(code)
