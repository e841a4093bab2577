"""The parts that the commands of `dfc` share: application, common options, messages, exit codes."""

import functools
import inspect
import re
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path
from signal import SIGINT
from typing import Annotated

import typer

from dfc_numba import kernels
from dfc_numba._version import __version__
from dfc_numba.errors import Interrupted, MissingExtra
from dfc_numba.support import ranks
from dfc_numba.support.output import show

DONE, FAILED, WRONG_USE, INTERRUPTED, SIGNALLED = 0, 1, 2, 75, 128
DEFAULT_PRESET = "digits"
OVER_RANKS = ("train", "info")  # commands that several processes do together
UNUSABLE = (ValueError, OSError, MissingExtra)  # wrong usage or input

app = typer.Typer(
    name="dfc",
    help="Deep Feedback Control: train, simulate and analyse networks that learn from a feedback controller.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="SECTION.KEY=VALUE", help="Change one setting; may be repeated.", show_default=False
    ),
]
Epochs = Annotated[
    int | None, typer.Option(help="Epochs of forward learning (training.epochs).", show_default=False)
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Number of threads (default: all available).", show_default=False)
]
Dtype = Annotated[str | None, typer.Option(help="float64 or float32 (training.dtype).", show_default=False)]


def _load_extensions(extensions: list[str] | None):
    """Load what --extension names, before the rest of the command line is parsed."""
    if not extensions:
        return extensions
    from dfc_numba.errors import ConfigurationError
    from dfc_numba.extensions import load_extension

    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: say(message)
        for extension in extensions:
            try:
                load_extension(extension)
            except ConfigurationError as error:
                say(error)
                raise typer.Exit(WRONG_USE) from None
    return extensions


Extensions = Annotated[
    list[str] | None,
    typer.Option(
        "--extension",
        metavar="FILE.py or MODULE",
        help="Load what a file of yours registers; may be repeated.",
        show_default=False,
        callback=_load_extensions,
        is_eager=True,
    ),
]


def _show_version(wanted: bool):
    if wanted:
        show(f"dfc-numba {__version__}")
        raise typer.Exit(DONE)


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
):
    kernels.announces_compilation = False
    if ranks.expected() > 1 and context.invoked_subcommand not in OVER_RANKS:
        say(
            f"dfc {context.invoked_subcommand} is not a command for {ranks.expected()} processes, each of which would do it; "
            f"start it once, without mpirun or srun (over ranks run: {', '.join(OVER_RANKS)})"
        )
        raise typer.Exit(WRONG_USE)


def command(function):
    """Make a function a command of `dfc`; its help is its docstring, with literal brackets and re-wrapped lines."""
    function.__doc__ = "\n\n".join(" ".join(part.split()) for part in inspect.getdoc(function).split("\n\n"))
    function.__doc__ = _plain(function.__doc__)
    for hint in function.__annotations__.values():
        for option in getattr(hint, "__metadata__", ()):
            option.help = option.help and _plain(option.help)

    @functools.wraps(function)
    def call(**arguments):
        return function(**{name: _expanded(value) for name, value in arguments.items()})

    return app.command(name=function.__name__.rstrip("_"))(call)


def _expanded(value):
    """Expand `~`, which a shell leaves alone in `--out=~/x`, in a path; return anything else as it is."""
    try:
        return value.expanduser() if isinstance(value, Path) else value
    except RuntimeError:  # there is no home folder
        return value


def _plain(text):
    """Escape what rich would take for style tags: "[log]" is not a style."""
    return re.sub(r"(?<!\\)\[(?=[a-z#/@])", r"\\[", text)


def overrides(settings, epochs, seed, dtype):
    """Return the texts `section.key=value` that the options of a command stand for."""
    shorthands = {"training.epochs": epochs, "training.seed": seed, "training.dtype": dtype}
    stated = {key: value for key, value in shorthands.items() if value is not None}
    return [*(settings or []), *(f"{key}={value}" for key, value in stated.items())]


def leave_if_ended(ended):
    """Exit where `ended`, from `resumption.ended`, says that there is nothing left to resume."""
    if ended is not None:
        status, sentence = ended
        say(sentence)
        raise typer.Exit(exit_code([status]))


def train_run(
    source,
    changes,
    *,
    name,
    out,
    resume,
    threads,
    max_hours=None,
    checkpoint_minutes=10.0,
    wait=0.0,
    scratch=None,
):
    """Do or resume one run, as `dfc train` does, and return its exit code; an error ends the program with its own."""
    with exit_codes(), resumable():
        from dfc_numba.configuration.config_file import load_config
        from dfc_numba.display import progress
        from dfc_numba.runs import interruption as signals
        from dfc_numba.runs import resumption

        limit = signals.TimeLimit(max_hours)
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
            resume=there is not None, checkpoint_minutes=checkpoint_minutes, wait=wait, scratch=scratch,
        )  # fmt: skip
        progress.announce(experiment, left_out)
    with exit_codes(wrong_use=(), advice=progress.resume_text(experiment.directory.path)):
        with progress.choose_display() as display:
            result = experiment.run([display, limit])
        progress.conclude(result)
    ranks.finish()
    code = exit_code([result.outcome.status])
    return FAILED if code == DONE and result.outcome.all_diverged else code


def exit_code(statuses, unfinished=False):
    if unfinished or "interrupted" in statuses:
        return INTERRUPTED
    return DONE if set(statuses) == {"done"} else FAILED


@contextmanager
def bounded(threads):
    """Limit the threads, if a number is given."""
    if threads is None:
        yield
        return
    from dfc_numba.support.threads import limit_threads

    with limit_threads(threads):
        yield


@contextmanager
def resumable():
    """Print how to resume a run that was interrupted before its training."""
    try:
        yield
    except Interrupted as interrupt:
        from dfc_numba.display.progress import resume_text

        say(interrupt, resume_text(interrupt.directory))
        ranks.finish()
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def exit_codes(wrong_use=UNUSABLE, advice=None):
    """End the program with a message, not a traceback: code 2 for the errors `wrong_use`, else 1; 75 and 128 + signal.

    Warnings are messages too. The `advice` comes after the message.
    """
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: say(message)
            yield
    except (
        typer.Exit,
        typer.Abort,
        BrokenPipeError,
    ):  # the last, from `dfc ... | head`, ends the program quietly
        raise
    except Interrupted as interrupt:
        say(interrupt)
        raise typer.Exit(INTERRUPTED) from None
    except KeyboardInterrupt as interrupt:
        say("interrupted at once", advice)
        raise typer.Exit(SIGNALLED + (interrupt.args[0] if interrupt.args else SIGINT)) from None
    except Exception as error:  # noqa: BLE001 (users see no internals; a run keeps the traceback in run.json)
        say(f"{_kind(error)}{error}", advice)
        raise typer.Exit(WRONG_USE if isinstance(error, wrong_use) else FAILED) from None


def _kind(error):
    """Return the name of an error whose message does not speak for itself."""
    own = type(error).__module__ == "dfc_numba.errors"
    return (
        ""
        if own or isinstance(error, ValueError | ArithmeticError | OSError)
        else f"{type(error).__name__}: "
    )


def say(*messages):
    """Print the given messages on standard error."""
    for message in filter(None, messages):
        show(f"dfc: {message}", file=sys.stderr, flush=True)
