"""The command line, `dfc`. Everything heavy is imported by the command that needs it."""

import sys
import warnings
from contextlib import contextmanager
from pathlib import Path
from signal import SIGINT
from typing import Annotated

import typer

from dfc_numba._version import __version__
from dfc_numba.errors import Interrupted, MissingExtra

DONE, FAILED, WRONG_USE, INTERRUPTED, SIGNALLED = 0, 1, 2, 75, 128
DEFAULT_PRESET = "digits"
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
    int | None, typer.Option(min=1, help="Threads to use; all that there are by default.", show_default=False)
]
Dtype = Annotated[str | None, typer.Option(help="float64 or float32 (training.dtype).", show_default=False)]


def _load_extensions(extensions: list[str] | None):
    """Load what --extension names, before anything else of the command line is looked at."""
    if not extensions:
        return extensions
    from dfc_numba.errors import ConfigurationError
    from dfc_numba.extensions import load_extension

    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: _say(message)
        for extension in extensions:
            try:
                load_extension(extension)
            except ConfigurationError as error:
                _say(error)
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
    with _exit_codes(), _resumable():
        from dfc_numba.configuration.config_file import load_config
        from dfc_numba.display import progress
        from dfc_numba.runs import resumption

        name, overrides = Path(source or DEFAULT_PRESET).stem, _overrides(settings, epochs, seed, dtype)
        overrides += ["log.on=true"] * (log or recipe_only) + ["log.recipe_only=true"] * recipe_only
        there = resumption.find(out, name, required=source is None) if resume else None
        if there is None:
            config, left_out = load_config(source or DEFAULT_PRESET, overrides)
        else:
            config, left_out = resumption.configuration(there, source, overrides)
            _leave_if_ended(resumption.ended(there, config))
            _say(resumption.changes(there, config))
        from dfc_numba.runs.experiment import Experiment

        experiment = Experiment(
            config, out=there or out, name=name, threads=threads, command=sys.argv,
            resume=there is not None, checkpoint_minutes=checkpoint_minutes,
        )  # fmt: skip
        progress.announce(experiment, left_out)
    with _exit_codes(wrong_use=(), advice=progress.resume_text(experiment.directory.path)):
        with progress.choose_display() as display:
            result = experiment.run([display])
        progress.conclude(result)
    raise typer.Exit(_exit_code([result.outcome.status]))


@app.command()
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
    with _exit_codes():
        from dfc_numba.display import reports
        from dfc_numba.errors import ConfigurationError
        from dfc_numba.runs import comparison, summary

        plan = comparison.plan(sources, _overrides(settings, epochs, seed, dtype), seeds=seeds, out=out)
        reports.announce(plan)
        reports.announce_outlook(comparison.prepare(plan, threads))
    with _exit_codes(wrong_use=ConfigurationError):
        display, ended = reports.display, []
        for run in comparison.run(plan, display=display, threads=threads, command=sys.argv):
            reports.tell_comparison(run)
            ended.append(run)
        reports.conclude(plan, ended, no_figure=summary.draw(plan, ended))
    raise typer.Exit(_exit_code([run.status for run in ended], unfinished=len(ended) < len(plan.runs)))


def _overrides(settings, epochs, seed, dtype):
    """The texts `section.key=value` that the options of a command stand for."""
    shorthands = {"training.epochs": epochs, "training.seed": seed, "training.dtype": dtype}
    stated = {key: value for key, value in shorthands.items() if value is not None}
    return [*(settings or []), *(f"{key}={value}" for key, value in stated.items())]


def _leave_if_ended(ended):
    """Ends the program where `ended`, from `resumption.ended`, says that there is nothing to go on with."""
    if ended is not None:
        status, sentence = ended
        _say(sentence)
        raise typer.Exit(_exit_code([status]))


def _exit_code(statuses, unfinished=False):
    if unfinished or "interrupted" in statuses:
        return INTERRUPTED
    return DONE if set(statuses) == {"done"} else FAILED


@app.command()
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
        Path | None, typer.Option(metavar="NEW.h5", help="New file for what --set makes.", show_default=False)
    ] = None,
    variables: Annotated[
        str | None, typer.Option(metavar="u,v,...", help="What to write of the trajectories.", show_default=False)
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
    """Compute what a file logged anew, from its recipes, and compare bit for bit; or write new trajectories.

    What is written is, unless told otherwise, what the run would have logged. Exit code: 0 identical, or
    written; 1 different, with a table of the largest deviations; 2 a damaged or unusable file, wrong use.
    """
    with _exit_codes(), _bounded(threads):
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


@app.command()
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
        typer.Option(help="The figure, png, pdf or svg; by default beside the file, or in the run.", show_default=False),
    ] = None,
    extension: Extensions = None,
):  # fmt: skip
    """Draw the learning curves of a run, and outputs, control, errors and voltages of a logged minibatch."""
    with _exit_codes():
        from dfc_numba.display import plots

        units = [plots.unit(text) for text in unit or []]
        print(plots.plot(source, out, phase=phase, record=record, sample=sample, units=units))


@contextmanager
def _bounded(threads):
    """Bounds the threads, if a number is given."""
    if threads is None:
        yield
        return
    from dfc_numba.support.threads import limit_threads

    with limit_threads(threads):
        yield


@app.command()
def simulate(
    out: Annotated[Path, typer.Option(help="File to write, which must not exist.", show_default=False)],
    source: Annotated[
        str,
        typer.Argument(
            metavar="[PRESET or FILE.toml]", help="Whose forward phase to simulate.", show_default=True
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
    """Simulate the feedback phase or dynamic inversion of one minibatch at the initial weights; store all that evolves.

    `dfc inspect` tells what the file holds. Exit code: 0 done, 1 diverged (the file is written) or failed, 2 wrong use.
    """
    with _exit_codes(wrong_use=(*UNUSABLE, MemoryError)):
        from dfc_numba.configuration.config_file import load_config

        config, _ = load_config(source, _overrides(settings, None, seed, dtype))
        from dfc_numba.commands import trajectory_files as simulate_command

        with _bounded(threads):
            finite = simulate_command.simulate(config, out=out, samples=samples, command=sys.argv)
    raise typer.Exit(DONE if finite else FAILED)


@app.command()
def inspect(
    path: Annotated[
        Path, typer.Argument(metavar="FILE.h5 or RUN_DIR", help="What to look into.", show_default=False)
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
    with _exit_codes():
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


@app.command()
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
    """Measure what the theory is about, without training again: of a run's last and best weights, or of logged minibatches.

    alignment: angles of the update with backpropagation, Gauss-Newton and others. loss_decrease: along each of them.
    null_space: the part of the update without effect. conditions: of the theorems. control: how strong it is. stability: of
    the controlled network, sample by sample; whether it or only the Euler step is to blame, and the largest stable step.

    Exit code: 0 done, 2 something is missing, damaged or unusable, or wrong use.
    """
    with _exit_codes(wrong_use=(*UNUSABLE, MemoryError)), _bounded(threads):
        from dfc_numba.commands import analyze as analyze_command

        options = {"samples": samples, "damping": damping, "phase": phase, "record": record}
        well = analyze_command.analyze(source, what=what, out=out, **options)
    raise typer.Exit(DONE if well else WRONG_USE)


@app.command()
def presets(
    name: Annotated[str | None, typer.Argument(help="Print this preset as TOML.", show_default=False)] = None,
    extension: Extensions = None,
):
    """List the presets, or print one as TOML, to edit and train: `dfc presets digits > mine.toml`."""
    with _exit_codes():
        from dfc_numba.configuration.config_file import preset_names, preset_text, preset_title

        if name is not None:
            print(preset_text(name), end="")
            return
        width = max(map(len, preset_names()))
        for preset in preset_names():
            print(f"{preset:<{width}}  {preset_title(preset)}")


@app.command()
def info():
    """Show versions, processor, threads, linear algebra and cache folder."""
    from dfc_numba.support.environment import environment, lines

    print("\n".join(lines(environment())))


@contextmanager
def _resumable():
    """Says how to go on with a run that was interrupted before its training."""
    try:
        yield
    except Interrupted as interrupt:
        from dfc_numba.display.progress import resume_text

        _say(interrupt, resume_text(interrupt.directory))
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def _exit_codes(wrong_use=UNUSABLE, advice=None):
    """Ends the program with a message, not a traceback: code 2 for the errors `wrong_use`, else 1; 75 and 128 + signal.

    Warnings are messages too. The `advice` comes after the message.
    """
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: _say(message)
            yield
    except (
        typer.Exit,
        typer.Abort,
        BrokenPipeError,
    ):  # the last, from `dfc ... | head`, ends the program quietly
        raise
    except Interrupted as interrupt:
        _say(interrupt)
        raise typer.Exit(INTERRUPTED) from None
    except KeyboardInterrupt as interrupt:
        _say("interrupted at once", advice)
        raise typer.Exit(SIGNALLED + (interrupt.args[0] if interrupt.args else SIGINT)) from None
    except Exception as error:  # noqa: BLE001 (users see no internals; a run keeps the traceback in run.json)
        _say(f"{_kind(error)}{error}", advice)
        raise typer.Exit(WRONG_USE if isinstance(error, wrong_use) else FAILED) from None


def _kind(error):
    """The name of an error whose message does not speak for itself."""
    own = type(error).__module__ == "dfc_numba.errors"
    return (
        ""
        if own or isinstance(error, ValueError | ArithmeticError | OSError)
        else f"{type(error).__name__}: "
    )


def _say(*messages):
    """Prints messages on standard error, those that there are."""
    for message in filter(None, messages):
        print(f"dfc: {message}", file=sys.stderr, flush=True)
