"""The command line, `dfc`. Everything heavy is imported by the command that needs it."""

import sys
from contextlib import contextmanager
from pathlib import Path
from signal import SIGINT
from typing import Annotated

import typer

from dfc_numba._version import __version__

DONE, FAILED, WRONG_USE, SIGNALLED = 0, 1, 2, 128
DEFAULT_PRESET = "digits"

app = typer.Typer(
    name="dfc",
    help="Deep Feedback Control: train, simulate and analyse networks that learn from a feedback controller.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main():
    """Runs the command line; the entry point of `dfc`."""
    app(prog_name="dfc")


def _show_version(wanted: bool):
    if wanted:
        print(f"dfc-numba {__version__}")
        raise typer.Exit(DONE)


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
):
    pass


@app.command()
def train(
    source: Annotated[
        str,
        typer.Argument(
            metavar="[PRESET or FILE.toml]",
            help="What to train; `dfc presets` lists the presets.",
            show_default=True,
        ),
    ] = DEFAULT_PRESET,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="SECTION.KEY=VALUE",
            help="Change one setting; may be repeated.",
            show_default=False,
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Epochs of forward learning (training.epochs).", show_default=False)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed (training.seed).", show_default=False)] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads to use; all that there are by default.", show_default=False),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float64 or float32 (training.dtype).", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Run directory; by default the first free runs/NAME-NNN.", show_default=False),
    ] = None,
):
    """Train a network. Without a preset, DFC learns handwritten digits, which takes less than a minute.

    The run directory gets config.toml, run.json, metrics.csv and the weights. Exit code: 0 done, 1 diverged
    or failed, 2 wrong use, 130 interrupted with Ctrl-C.
    """
    shorthands = {"training.epochs": epochs, "training.seed": seed, "training.dtype": dtype}
    overrides = [
        *(settings or []),
        *(f"{key}={value}" for key, value in shorthands.items() if value is not None),
    ]
    with _exit_codes():
        from dfc_numba.config_file import load_config

        config, left_out = load_config(source, overrides)
        from dfc_numba import reporting
        from dfc_numba.experiment import Experiment

        experiment = Experiment(config, out=out, name=Path(source).stem, threads=threads, command=sys.argv)
        reporting.announce(experiment, left_out)
    with _exit_codes(wrong_use=()):
        with reporting.choose_display() as display:
            result = experiment.run([display])
        reporting.conclude(result)
    raise typer.Exit(_exit_code(result))


def _exit_code(result):
    if result.signal is not None:
        return SIGNALLED + result.signal
    return DONE if result.outcome.status == "done" else FAILED


@app.command()
def presets(
    name: Annotated[str | None, typer.Argument(help="Print this preset as TOML.", show_default=False)] = None,
):
    """List the presets, or print one as TOML, to edit and train: `dfc presets digits > mine.toml`."""
    with _exit_codes():
        from dfc_numba.config_file import preset_names, preset_text, preset_title

        if name is not None:
            print(preset_text(name), end="")
            return
        width = max(map(len, preset_names()))
        for preset in preset_names():
            print(f"{preset:<{width}}  {preset_title(preset)}")


@app.command()
def info():
    """Show versions, processor, threads, linear algebra and cache folder."""
    from dfc_numba.environment import environment, lines

    print("\n".join(lines(environment())))


@contextmanager
def _exit_codes(wrong_use=(ValueError, OSError)):
    """Ends the program with a message, not a traceback: code 2 for the errors `wrong_use`, else 1."""
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except KeyboardInterrupt:
        print("dfc: interrupted", file=sys.stderr)
        raise typer.Exit(SIGNALLED + SIGINT) from None
    except Exception as error:  # noqa: BLE001 (users see no internals; a run keeps the traceback in run.json)
        kind = "" if isinstance(error, ValueError | ArithmeticError) else f"{type(error).__name__}: "
        print(f"dfc: {kind}{error}", file=sys.stderr)
        raise typer.Exit(WRONG_USE if isinstance(error, wrong_use) else FAILED) from None
