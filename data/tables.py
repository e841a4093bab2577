"""Files as people have them: a CSV table with a named target column, and folders of IDX files under any of their usual names."""

import csv
import re
from pathlib import Path

import numpy as np

from dfc_numba.data import arrays, images
from dfc_numba.data.dataset import DataUnavailableError, unknown_name, whole_number

SUFFIXES = (".csv", ".tsv")
DELIMITERS = {".csv": ",", ".tsv": "\t"}
NAMED = 12  # columns that are listed


def table(
    *, dtype, path, target, test_size=None, validation_size=0, split_seed=0, scale="auto", delimiter=None
):
    """Load a CSV table with a heading: one column holds the classes or the target, all others are inputs.

    Texts and whole numbers in the target column are classes, other numbers the target of a regression.

    Args:
        path: the file, .csv or .tsv.
        target: name of the target column.
        test_size: number of test samples, taken at random; not set means a fifth.
        validation_size: number of validation samples, 0 for none.
        split_seed: which samples those are.
        scale: "auto" (as they are), "unit" or "standardise".
        delimiter: what separates columns; not set means a comma, a semicolon where the heading has no comma, or a tab in .tsv.
    """
    path = _file(path)
    heading, rows = _read(path, delimiter)
    if target not in heading:
        raise unknown_name(
            f"column of {path}:", target, heading, "; the option target names the column to learn"
        )
    if len(heading) < 2:
        raise ValueError(f"{path}: has the column {target} alone; inputs are needed besides it")
    place = heading.index(target)
    y = _column(path, target, [row[place] for row in rows], texts=True)
    x = np.stack(
        [_column(path, name, [row[i] for row in rows]) for i, name in enumerate(heading) if i != place],
        axis=1,
    )
    size = max(1, len(rows) // 5) if test_size is None else whole_number("test_size", test_size, least=1)
    return arrays.build(
        str(path), {"x_train": x, "y_train": y}, task=None, scale=scale, classes=None, dtype=dtype, source=f"file {path}",
        held_out={"test": size, "val": validation_size}, split_seed=split_seed,
    )  # fmt: skip


def _file(path):
    if not isinstance(path, str | Path):
        raise TypeError(f"data option path = {path!r}: must be the path of a .csv or .tsv file")
    path = Path(path).expanduser()
    if not path.is_file():
        where = "" if path.is_absolute() else f" (looked for in {Path.cwd()})"
        raise DataUnavailableError(f"{path}: there is no such file{where}")
    return path


def _read(path, delimiter):
    """Return the heading and the rows, all of the same length."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not a text file in UTF-8 ({error.reason})") from None
    first = text.partition("\n")[0]
    if delimiter is None:
        delimiter = DELIMITERS.get(path.suffix.lower(), ",")
        if delimiter not in first and ";" in first:
            delimiter = ";"
    try:
        lines = [row for row in csv.reader(text.splitlines(), delimiter=delimiter) if row]
    except (csv.Error, TypeError) as error:
        raise ValueError(f"{path}: cannot be read as a table ({error})") from None
    if len(lines) < 2:
        raise ValueError(f"{path}: holds no row beneath its heading")
    heading, *rows = lines
    heading = [name.strip() for name in heading]
    if len(set(heading)) < len(heading):
        twice = next(name for name in heading if heading.count(name) > 1)
        raise ValueError(f"{path}: the heading has the column {twice!r} twice")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(heading):
            raise ValueError(f"{path}: row {number} has {len(row)} columns, the heading {len(heading)}")
    return heading, rows


def _column(path, name, texts_of_rows, texts=False):
    """Return the numbers of a column, or its texts where these are allowed."""
    texts_of_rows = [text.strip() for text in texts_of_rows]
    missing = [i for i, text in enumerate(texts_of_rows) if text == "" or text.lower() in ("na", "nan")]
    if missing:
        raise ValueError(
            f"{path}: column {name!r} has no value in row {missing[0] + 1} ({len(missing)} in all); fill or leave out"
        )
    try:
        return np.array([float(text) for text in texts_of_rows])
    except ValueError:
        if texts:
            return np.array(texts_of_rows)
    wrong = next(text for text in texts_of_rows if not _is_number(text))
    raise ValueError(
        f"{path}: column {name!r} holds {wrong!r}, which is not a number; leave the column out, or encode it"
    )


def _is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True


# --- IDX ------------------------------------------------------------------------------------------------------------------

KINDS = {"images": ("images", "idx3"), "labels": ("labels", "idx1")}
PARTS = {"train": ("train",), "test": ("t10k", "test")}


def idx(
    *,
    dtype,
    folder,
    prefix="",
    train_size=None,
    validation_size=0,
    test_size=None,
    split_seed=0,
    scale="auto",
):
    """Load a folder of IDX files under any usual name: EMNIST, KMNIST, QMNIST and the like; any classes, from any base.

    The names hold train, and t10k or test; images and labels (or idx3 and idx1), with dots or dashes, gzipped or not. Pixels are
    divided by 255.

    Args:
        folder: where the four files are.
        prefix: what the names begin with where the folder holds several sets, such as emnist-letters.
        train_size, test_size: numbers of samples; not set means all.
        validation_size: number of training images held out at random, 0 for none.
        split_seed: which images go where.
        scale: "auto" (divided by 255), "none", "unit" or "standardise".
    """
    folder = Path(folder).expanduser()
    found = {
        f"{'x' if kind == 'images' else 'y'}_{part}": _values(_one(folder, prefix, part, kind), kind)
        for part in PARTS
        for kind in KINDS
    }
    return _limited_build(folder, found, dtype, train_size, validation_size, test_size, split_seed, scale)


def _limited_build(folder, found, dtype, train_size, validation_size, test_size, split_seed, scale):
    from dfc_numba.data import dataset

    for part, size, extra in (("train", train_size, validation_size), ("test", test_size, 0)):
        dataset.check_same_length(found[f"x_{part}"], found[f"y_{part}"], str(folder), part)
        if size is not None:
            order = dataset.random_order(len(found[f"x_{part}"]), split_seed)
            chosen = dataset.limited(
                order, f"{part}_size", whole_number(f"{part}_size", size, least=1) + extra
            )
            found |= {f"{kind}_{part}": found[f"{kind}_{part}"][chosen] for kind in "xy"}
    return arrays.build(
        str(folder), found, task="classification", scale=scale, classes=None, dtype=dtype, source=f"folder {folder}",
        held_out={"val": validation_size}, split_seed=split_seed,
    )  # fmt: skip


def _one(folder, prefix, part, kind):
    """Return the file of a part and a kind."""
    if not folder.is_dir():
        raise DataUnavailableError(f"data option folder = {str(folder)!r}: there is no such folder")
    words = rf"(^|[-_.])({'|'.join(PARTS[part])})[-_.].*({'|'.join(KINDS[kind])})"
    files = [
        file
        for file in sorted(folder.iterdir())
        if file.is_file() and file.name.startswith(prefix) and re.search(words, file.name.lower())
    ]
    plain = {
        re.sub(r"\.gz$", "", file.name.lower()): file for file in files
    }  # packed and unpacked: one of them
    if len(plain) == 1:
        return next(iter(plain.values()))
    if not plain:
        names = ", ".join(sorted(file.name for file in folder.iterdir())[:NAMED]) or "nothing"
        raise DataUnavailableError(
            f"{folder}: holds no {kind} of the {part} set, such as {PARTS[part][-1]}-{kind}-{KINDS[kind][1]}-ubyte.gz; "
            f"it holds {names}"
        )
    raise ValueError(
        f"{folder}: several files may be the {kind} of the {part} set ({', '.join(sorted(plain))}); choose with the option prefix"
    )


def _values(path, kind):
    if kind == "labels":
        return images.read_values(path, dimensions=1, content="labels")
    return images.read_values(path, dimensions=3, content="images")
