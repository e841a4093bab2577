"""The command line, `dfc`. Everything heavy is imported by the command that needs it."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from dfc_numba.commands.shell import (
    DEFAULT_PRESET,
    Dtype,
    Epochs,
    Extensions,
    Settings,
    Threads,
    app,
    command,
    exit_code,
    exit_codes,
    leave_if_ended,
    overrides,
    resumable,
    say,
)


def main():
    """Runs the command line; the entry point of `dfc`."""
    app(prog_name="dfc")


@command
def train(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[PRESET or FILE.toml]",
            help="What to train; `dfc presets` lists the presets.",
            show_default=DEFAULT_PRESET,
        ),
    ] = None,
    settings: Settings = None,
    epochs: Epochs = None,
    seed: Annotated[int | None, typer.Option(help="Random seed (training.seed).", show_default=False)] = None,
    threads: Threads = None,
    dtype: Dtype = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Run directory; by default the first free runs/NAME-NNN.", show_default=False),
    ] = None,
    log: Annotated[
        bool,
        typer.Option(
            "--log",
            help="Log trajectories, as [log] says: 16 samples of the last minibatch of each pass, unless told otherwise.",
        ),
    ] = False,
    recipe_only: Annotated[
        bool,
        typer.Option(
            "--recipe-only",
            help="Log only what `dfc replay` makes the trajectories from: inputs, parameters, key of the noise.",
        ),
    ] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the run in --out (by default the last runs/NAME-NNN), to the same bits as if it had "
            "never stopped. Where there is none, start what is named.",
        ),
    ] = False,
    checkpoint_minutes: Annotated[
        float, typer.Option(min=0, help="Minutes between checkpoints; the end of each epoch has one too.")
    ] = 10.0,
    extension: Extensions = None,
):
    """Train a network. Without a preset, DFC learns handwritten digits, which takes less than a minute.

    The run directory gets config.toml, run.json, metrics.csv, the weights and checkpoints, and with a log
    trajectories.h5. Ctrl-C, SIGTERM and SIGUSR1 stop after a checkpoint, a second one at once. Exit code: 0 done, 1
    diverged or failed, 2 wrong use, 75 interrupted after a checkpoint (run again with --resume), 128 + signal at once.
    """
    with exit_codes(), resumable():
        from dfc_numba.configuration.config_file import load_config
        from dfc_numba.display import progress
        from dfc_numba.runs import resumption

        name, changes = Path(source or DEFAULT_PRESET).stem, overrides(settings, epochs, seed, dtype)
        changes += ["log.on=true"] * (log or recipe_only) + ["log.recipe_only=true"] * recipe_only
        there = resumption.find(out, name, required=source is None) if resume else None
        if there is None:
            config, left_out = load_config(source or DEFAULT_PRESET, changes)
        else:
            config, left_out = resumption.configuration(there, source, changes)
            leave_if_ended(resumption.ended(there, config))
            say(resumption.changes(there, config))
        from dfc_numba.runs.experiment import Experiment

        experiment = Experiment(
            config, out=there or out, name=name, threads=threads, command=sys.argv,
            resume=there is not None, checkpoint_minutes=checkpoint_minutes,
        )  # fmt: skip
        progress.announce(experiment, left_out)
    with exit_codes(wrong_use=(), advice=progress.resume_text(experiment.directory.path)):
        with progress.choose_display() as display:
            result = experiment.run([display])
        progress.conclude(result)
    raise typer.Exit(exit_code([result.outcome.status]))


@command
def compare(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="PRESET or FILE.toml",
            help="What to compare, each with changes of its own if wanted: digits digits+training.method=bp",
            show_default=False,
        ),
    ],
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each, with successive seeds.")] = 1,
    settings: Settings = None,
    epochs: Epochs = None,
    seed: Annotated[
        int | None,
        typer.Option(help="First random seed; by default that of each preset.", show_default=False),
    ] = None,
    threads: Threads = None,
    dtype: Dtype = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the runs; by default one in runs/, the same for the same command.",
            show_default=False,
        ),
    ] = None,
    extension: Extensions = None,
):
    """Compare methods: train each with several seeds, and show means and standard deviations.

    The folder gets comparison.csv, summary.csv, summary.md, comparison.png (with the extra plot), and a run
    directory per run. Interrupted, the same command goes on where it stopped. Exit code: 0 done, 1 a run
    diverged or failed, 2 wrong use, 75 interrupted after a checkpoint, 128 + signal at once.
    """
    with exit_codes():
        from dfc_numba.display import reports
        from dfc_numba.errors import ConfigurationError
        from dfc_numba.runs import comparison, summary

        plan = comparison.plan(sources, overrides(settings, epochs, seed, dtype), seeds=seeds, out=out)
        reports.announce(plan)
        reports.announce_outlook(comparison.prepare(plan, threads))
    with exit_codes(wrong_use=ConfigurationError):
        display, ended = reports.display, []
        for run in comparison.run(plan, display=display, threads=threads, command=sys.argv):
            reports.tell_comparison(run)
            ended.append(run)
        reports.conclude(plan, ended, no_figure=summary.draw(plan, ended))
    raise typer.Exit(exit_code([run.status for run in ended], unfinished=len(ended) < len(plan.runs)))


@command
def presets(
    name: Annotated[str | None, typer.Argument(help="Print this preset as TOML.", show_default=False)] = None,
    extension: Extensions = None,
):
    """List the presets, or print one as TOML, to edit and train: `dfc presets digits > mine.toml`."""
    with exit_codes():
        from dfc_numba.configuration.config_file import preset_names, preset_text, preset_title

        if name is not None:
            print(preset_text(name), end="")
            return
        width = max(map(len, preset_names()))
        for preset in preset_names():
            print(f"{preset:<{width}}  {preset_title(preset)}")


@command
def info():
    """Show versions, processor, threads, linear algebra and cache folder."""
    from dfc_numba.support.environment import environment, lines

    print("\n".join(lines(environment())))


from dfc_numba.commands import file_commands  # noqa: E402, F401  (commands of the same application, listed after these)
