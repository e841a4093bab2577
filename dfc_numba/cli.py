"""The command line, `dfc`. Everything heavy is imported by the command that needs it."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from dfc_numba.commands.shell import (
    DEFAULT_PRESET,
    DONE,
    WRONG_USE,
    Dtype,
    Epochs,
    Extensions,
    Settings,
    Threads,
    app,
    command,
    exit_code,
    exit_codes,
    overrides,
    say,
    train_run,
)
from dfc_numba.errors import MissingExtra
from dfc_numba.support import output, ranks

LONG = ("train", "compare", "sweep")  # commands that keep working when their output can no longer be read


def main():
    """Run the command line; the entry point of `dfc`. Where a launcher has started several processes, they work together."""
    output.prepare_streams()
    if sys.argv[1:2] and sys.argv[1] in LONG:
        with output.steady():
            _run()
        return
    try:
        _run()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:  # otherwise Python reports it at exit and changes the exit code
                output.abandon(stream)


def _run():
    if ranks.expected() == 1:
        app(prog_name="dfc")
        return
    try:
        with ranks.session():
            app(prog_name="dfc")
    except (MissingExtra, RuntimeError) as error:
        say(error)
        sys.exit(WRONG_USE)


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
            help="Log trajectories as stated in [log]: 16 samples of the last minibatch of each pass by default.",
        ),
    ] = False,
    recipe_only: Annotated[
        bool,
        typer.Option(
            "--recipe-only",
            help="Log only what `dfc replay` computes the trajectories from: inputs, parameters, key of the noise.",
        ),
    ] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Resume the run in --out (by default the last runs/NAME-NNN) bit for bit; start it if there is none.",
        ),
    ] = False,
    checkpoint_minutes: Annotated[
        float, typer.Option(min=0, help="Minutes between checkpoints; the end of each epoch has one too.")
    ] = 10.0,
    max_hours: Annotated[
        float | None,
        typer.Option(
            metavar="H",
            help="Stop in time, after a checkpoint, to end within this many hours.",
            show_default=False,
        ),
    ] = None,
    scratch: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Work on a disk of this node, such as '$TMPDIR', and copy back what each checkpoint leaves.",
            show_default=False,
        ),
    ] = None,
    extension: Extensions = None,
):
    """Train a network. Without a preset, DFC learns handwritten digits, which takes less than a minute.

    The run directory gets config.toml, run.json, metrics.csv, the weights and checkpoints, and with a log
    trajectories.h5. Ctrl-C, SIGTERM and SIGUSR1 stop after a checkpoint, a second one immediately. Exit code: 0 done, 1
    diverged or failed, 2 usage error, 75 interrupted after a checkpoint (run again with --resume), 128 + signal at once.
    """
    changes = overrides(settings, epochs, seed, dtype)
    changes += ["log.on=true"] * (log or recipe_only) + ["log.recipe_only=true"] * recipe_only
    code = train_run(
        source, changes, name=Path(source or DEFAULT_PRESET).stem, out=out, resume=resume, threads=threads,
        checkpoint_minutes=checkpoint_minutes, max_hours=max_hours, scratch=scratch,
    )  # fmt: skip
    raise typer.Exit(code)


@command
def compare(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="PRESET or FILE.toml, or RUN_DIR",
            help="Sources to compare, each optionally with changes: digits digits+training.method=bp; or runs that "
            "exist: sweeps/a/*",
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
    diverged or failed, 2 usage error, 75 interrupted after a checkpoint, 128 + signal at once.

    Run directories are merged, nothing is trained: runs.csv has all of them with their results and all settings.
    """
    with exit_codes():
        from dfc_numba.display import reports
        from dfc_numba.errors import ConfigurationError
        from dfc_numba.runs import comparison, summary

        if any(Path(source).is_dir() for source in sources):
            if seeds != 1 or seed is not None or settings or epochs is not None or dtype or threads:
                raise ValueError(
                    "run directories are merged as they are; leave out --seeds, --seed, --set and the like"
                )
            reports.conclude_merged(*comparison.merge(sources, out))
            raise typer.Exit(DONE)
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
def list_(
    kind: Annotated[
        str | None,
        typer.Argument(help="List this kind only: activations, methods, optimizers, ...", show_default=False),
    ] = None,
    name: Annotated[
        str | None, typer.Argument(help="Describe this item, with its options.", show_default=False)
    ] = None,
    extension: Extensions = None,
):
    """List what is chosen by name: activations, rules, methods, optimisers, losses, data sets, measures, and their options."""
    with exit_codes():
        from dfc_numba.commands import listing

        print("\n".join(listing.lines(kind, name)))


@command
def info():
    """Show versions, processor, threads, ranks, linear algebra and cache folder."""
    from dfc_numba.support.environment import environment, lines

    print("\n".join(lines(environment())))


from dfc_numba.commands import file_commands, sweep_command, trained_commands  # noqa: E402, F401  (commands of the same application, listed after these)
