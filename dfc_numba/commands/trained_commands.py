"""The commands of `dfc` that use what was trained: evaluate, export."""

from pathlib import Path
from typing import Annotated

import typer

from dfc_numba.commands.shell import UNUSABLE, Extensions, Threads, bounded, command, exit_codes
from dfc_numba.support.output import show

Source = Annotated[
    Path,
    typer.Argument(
        metavar="RUN_OR_WEIGHTS",
        help="A run directory, checkpoint, weights file or export.",
        show_default=False,
    ),
]
Weights = Annotated[str, typer.Option(help="last or best: which network of a run.")]


@command
def evaluate(
    source: Source,
    weights: Weights = "last",
    data: Annotated[
        str | None,
        typer.Option(
            metavar="NAME_OR_FILE",
            help="Data set or file; by default the data of the run.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="test, validation or train.")] = "test",
    loss: Annotated[
        str | None, typer.Option(help="mse or cross_entropy; by default that of the run.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npz",
            help="Write outputs, predictions and labels to a new file.",
            show_default=False,
        ),
    ] = None,
    threads: Threads = None,
    extension: Extensions = None,
):
    """Evaluate a trained network: loss, accuracy, confusion matrix, and a table by class.

    The file of --out holds outputs (N, n_L), predictions and labels. Exit code: 0 done, 2 usage error, or a file or data set
    that cannot be used.
    """
    with exit_codes(wrong_use=(*UNUSABLE, MemoryError)), bounded(threads):
        from dfc_numba.display.evaluation_text import evaluation_lines
        from dfc_numba.runs import trained

        if out is not None:
            trained.check_new_file(out, ".npz")
        options = {"weights": weights, "data_name": data, "split": split, "loss": loss}
        network, dataset, evaluation = trained.evaluate_trained(source, **options)
        show(f"{network.path}: {'-'.join(map(str, network.network.sizes))}, {network.network.dtype.name}")
        show("\n".join([dataset.summary, *(f"data: {note}" for note in dataset.notes)]))
        show("\n".join(evaluation_lines(evaluation, split)))
        if out is not None:
            trained.write_predictions(evaluation, out)
            show(f"predictions: {out}")


@command
def export(
    source: Source,
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="Output file (must not exist).", show_default=False)
    ],
    to: Annotated[str, typer.Option(help="Format: npz.")] = "npz",
    weights: Weights = "last",
    extension: Extensions = None,
):
    """Export a trained network to a file that opens without this package.

    An .npz holds weights_1 (n_1, n_0), biases_1, feedback_1 and so on for each layer, sizes, and the names of the activations.
    Exit code: 0 done, 2 usage error, or a file that cannot be used.
    """
    with exit_codes():
        from dfc_numba.runs import trained

        network = trained.export(source, out, to=to, weights=weights).network
        show(f"{out}: {'-'.join(map(str, network.sizes))}, {network.dtype.name}; opens with numpy.load")
