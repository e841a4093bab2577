"""The output of `dfc evaluate`: loss, accuracy, confusion matrix, and a table by class."""

from math import isnan

import numpy as np

SHOWN = 20  # classes whose confusion matrix is printed whole
WORST = 10  # confusions that are named where there are more classes


def evaluation_lines(evaluation, split):
    """Return lines of text about an `Evaluation`."""
    count = len(evaluation.outputs)
    head = f"{split}: {count:,} samples, loss {evaluation.loss:.4g}"
    if evaluation.confusion is None:
        return [head]
    correct = int(np.trace(evaluation.confusion))
    lines = [f"{head}, accuracy {100 * evaluation.accuracy:.2f} % ({correct:,} correct)", ""]
    names = [_printable(name) for name in evaluation.classes]
    lines += _confusion(evaluation.confusion, names)
    lines += ["", *_per_class(evaluation.per_class(), names)]
    return lines


def _printable(name):
    """Return a name from a file without control sequences, of at most 24 characters."""
    return "".join(letter if letter.isprintable() else "?" for letter in name[:24])


def _confusion(confusion, names):
    if len(names) > SHOWN:
        return _largest_confusions(confusion, names)
    table = [["true \\ predicted", *names]]
    table += [[name, *map(str, row)] for name, row in zip(names, confusion.tolist(), strict=True)]
    return ["confusion matrix: a row per true class, a column per predicted class", *_aligned(table)]


def _largest_confusions(confusion, names):
    wrong = confusion - np.diag(np.diag(confusion))
    order = np.argsort(wrong, axis=None, kind="stable")[::-1][:WORST]
    pairs = [np.unravel_index(position, wrong.shape) for position in order]
    rows = [
        [names[true], names[predicted], str(wrong[true, predicted])]
        for true, predicted in pairs
        if wrong[true, predicted]
    ]
    return [
        f"most frequent confusions ({len(names)} classes):",
        *_aligned([["true", "predicted", "samples"], *rows]),
    ]


def _per_class(rows, names):
    table = [["class", "samples", "correct", "recall", "precision", "F1"]]
    for name, row in zip(names, rows, strict=True):
        shares = [_percent(row[key]) for key in ("recall", "precision", "f1")]
        table.append([name, str(row["samples"]), str(row["correct"]), *shares])
    return _aligned(table)


def _percent(value):
    return "-" if isnan(value) else f"{100 * value:.2f} %"


def _aligned(table):
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for first, *rest in table:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        yield "  ".join(["", first.ljust(widths[0]), *cells])
