"""The commands of `dfc` that take files: simulate, replay, inspect, plot, report, analyze."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from dfc_numba.commands.shell import (
    DEFAULT_PRESET,
    DONE,
    FAILED,
    UNUSABLE,
    WRONG_USE,
    Dtype,
    Extensions,
    Settings,
    Threads,
    bounded,
    command,
    exit_codes,
    overrides,
)
from dfc_numba.support.output import show


@command
def simulate(
    out: Annotated[Path, typer.Option(help="File to write, which must not exist.", show_default=False)],
    source: Annotated[
        str,
        typer.Argument(
            metavar="[PRESET or FILE.toml]",
            help="Preset or TOML file whose forward phase is simulated.",
            show_default=True,
        ),
    ] = DEFAULT_PRESET,
    settings: Settings = None,
    seed: Annotated[int | None, typer.Option(help="Random seed (training.seed).", show_default=False)] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            min=1, help="Samples of the minibatch; 8 by default, or all if it has fewer.", show_default=False
        ),
    ] = None,
    threads: Threads = None,
    dtype: Dtype = None,
    extension: Extensions = None,
):
    """Simulate the feedback phase or dynamic inversion of one minibatch at the initial weights; store the full trajectory.

    `dfc inspect` shows what the file holds. Exit code: 0 done, 1 diverged (the file is written) or failed, 2 usage error.
    """
    with exit_codes(wrong_use=(*UNUSABLE, MemoryError)):
        from dfc_numba.configuration.config_file import load_config

        config, _ = load_config(source, overrides(settings, None, seed, dtype))
        from dfc_numba.commands import trajectory_files as simulate_command

        with bounded(threads):
            finite = simulate_command.simulate(config, out=out, samples=samples, command=sys.argv)
    raise typer.Exit(DONE if finite else FAILED)


@command
def inspect(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.h5 or RUN_DIR",
            help="Trajectory file or run directory to inspect.",
            show_default=False,
        ),
    ],
    quick: Annotated[
        bool, typer.Option("--quick", help="Do not read everything to look for damage.")
    ] = False,
    analysis: Annotated[
        bool,
        typer.Option(
            "--analysis", help="Show convergence, statistics and updates of the records, and nothing else."
        ),
    ] = False,
    phase: Annotated[
        str | None, typer.Option(help="With --analysis: only this phase.", show_default=False)
    ] = None,
    record: Annotated[
        int | None, typer.Option(help="With --analysis: only this record of each phase.", show_default=False)
    ] = None,
    extension: Extensions = None,
):
    """Show what stored trajectories hold: schema, configuration, records, shapes, status; and look for damage.

    Exit code: 0 all is well, 2 damaged or unusable.
    """
    with exit_codes():
        if analysis:
            from dfc_numba.display import reports

            reports.tell_records(path, phase=phase, record=record)
            raise typer.Exit(DONE)
        if phase is not None or record is not None:
            raise ValueError(
                "--phase and --record choose what --analysis shows; leave them out, or state --analysis"
            )
        from dfc_numba.commands import trajectory_files as inspect_command

        well = inspect_command.inspect(path, quick=quick)
    raise typer.Exit(DONE if well else WRONG_USE)


@command
def analyze(
    source: Annotated[
        Path,
        typer.Argument(metavar="RUN or FILE", help="A run directory, checkpoint or trajectory file.", show_default=False),
    ],
    what: Annotated[
        str | None,
        typer.Option(
            metavar="alignment,...",
            help="alignment, loss_decrease, null_space, conditions, control, stability; all by default.",
            show_default=False,
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(min=1, help="Size of a run's probe batch (analysis.samples).", show_default=False),
    ] = None,
    damping: Annotated[
        float | None,
        typer.Option(min=0, help="Damping gamma of the damped references (analysis.damping).", show_default=False),
    ] = None,
    phase: Annotated[
        str | None,
        typer.Option(help="Analyse what was logged in this phase; by default the forward one.", show_default=False),
    ] = None,
    record: Annotated[
        int | None,
        typer.Option(help="Only this logged minibatch of the phase, from 0; -1 is the last.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv|.h5", help="Write all numbers to a file, which must not exist.", show_default=False),
    ] = None,
    threads: Threads = None,
    extension: Extensions = None,
):  # fmt: skip
    """Measure the quantities of the theory without retraining, on a run's last and best weights or on logged minibatches.

    alignment: angles of the update with backpropagation, Gauss-Newton and others. loss_decrease: along each of them.
    null_space: the part of the update without effect. conditions: of the theorems. control: how strong it is. stability: of
    the controlled network, sample by sample; whether it or only the Euler step is to blame, and the largest stable step.

    Exit code: 0 done, 2 something is missing, damaged or unusable, or usage error.
    """
    with exit_codes(wrong_use=(*UNUSABLE, MemoryError)), bounded(threads):
        from dfc_numba.commands import analyze as analyze_command

        options = {"samples": samples, "damping": damping, "phase": phase, "record": record}
        well = analyze_command.analyze(source, what=what, out=out, **options)
    raise typer.Exit(DONE if well else WRONG_USE)


@command
def replay(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="A trajectory file or a run directory.")],
    record: Annotated[
        int | None,
        typer.Option(help="Number of a record in its phase, from 0; -1 is the last.", show_default=False),
    ] = None,
    every_record: Annotated[bool, typer.Option("--all", help="All records, which is the default.")] = False,
    phase: Annotated[str | None, typer.Option(help="Only this phase of training.", show_default=False)] = None,
    expand: Annotated[
        Path | None, typer.Option(metavar="OUT.h5", help="Write the trajectories to a new file.", show_default=False)
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="controller.KEY=VALUE",
            help="Another controller, or inversion.KEY=VALUE, with --out; may be repeated.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="NEW.h5", help="New file for the trajectories under --set.", show_default=False)
    ] = None,
    variables: Annotated[
        str | None, typer.Option(metavar="u,v,...", help="Variables to write.", show_default=False)
    ] = None,
    samples: Annotated[
        str | None,
        typer.Option(metavar="N or 0,5,...", help="The first N samples, or these positions.", show_default=False),
    ] = None,
    every: Annotated[int | None, typer.Option(min=1, help="Write every n-th time point.", show_default=False)] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float64 or float32, to store trajectories in.", show_default=False)
    ] = None,
    compression: Annotated[
        str | None, typer.Option(help="none, gzip, zstd or blosc.", show_default=False)
    ] = None,
    threads: Threads = None,
    extension: Extensions = None,
):  # fmt: skip
    """Recompute what a file logged from its recipes, and compare bit for bit; or write new trajectories.

    By default, what the run would have logged is written. Exit code: 0 identical, or
    written; 1 different, with a table of the largest deviations; 2 a damaged or unusable file, or usage error.
    """
    with exit_codes(), bounded(threads):
        from dfc_numba.commands import trajectory_files as replay_command

        if every_record and record is not None:
            raise ValueError("--record chooses one record, --all takes all; state one of them")
        options = {
            "phase": phase, "record": record, "variables": variables, "samples": samples, "every": every, "dtype": dtype,
            "compression": compression,
        }  # fmt: skip
        if expand or settings or out:
            complete = replay_command.write(source, expand_to=expand, settings=settings, out=out, **options)
            raise typer.Exit(DONE if complete else WRONG_USE)
        statuses = set(replay_command.compare(source, **options))
    unusable = "unusable" in statuses or statuses == {"nothing to compare"}
    raise typer.Exit(WRONG_USE if unusable else FAILED if "different" in statuses else DONE)


@command
def plot(
    source: Annotated[
        Path, typer.Argument(metavar="FILE.h5 or RUN_DIR", help="A trajectory file or a run directory.")
    ],
    record: Annotated[
        int | None,
        typer.Option(help="Number of a record in its phase, from 0; the last by default.", show_default=False),
    ] = None,
    phase: Annotated[
        str | None, typer.Option(help="Phase of training; by default the forward one.", show_default=False)
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(help="Position of a sample in its minibatch; the first stored by default.", show_default=False),
    ] = None,
    unit: Annotated[
        list[str] | None,
        typer.Option(metavar="LAYER:UNIT", help="Show the compartments of this unit; may be repeated.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The figure, png, pdf or svg; by default next to the file, or in the run.", show_default=False),
    ] = None,
    extension: Extensions = None,
):  # fmt: skip
    """Draw the learning curves of a run, and outputs, control, errors and voltages of a logged minibatch."""
    with exit_codes():
        from dfc_numba.display import plots

        units = [plots.unit(text) for text in unit or []]
        show(plots.plot(source, out, phase=phase, record=record, sample=sample, units=units))


@command
def report(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RUN_OR_FOLDER",
            help="A run directory, or the folder of a comparison or sweep.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html", help="The page; by default report.html in the folder.", show_default=False
        ),
    ] = None,
    extension: Extensions = None,
):
    """Write one self-contained HTML page of a run, a comparison or a sweep, to look at, to print and to send.

    It holds configuration, learning curves, tables over the seeds, logged minibatches with sliders for sample and layer,
    measures of the theory, stability, environment, and the command that repeats it. It makes no connection to the network.
    What is missing or damaged is left out, and said. Needs the extra report. Exit code: 0 done, 2 usage error, or a folder
    without a run.
    """
    with exit_codes():
        from dfc_numba.report.page import write_report

        show(write_report(source, out))
