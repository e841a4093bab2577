#!/usr/bin/env python
"""Compare the package with reference values computed by the published code.

    python scripts/check_reference.py DIR [--oracle]
    python scripts/check_reference.py --table

Prints one row per family of files: number of files and arrays, the largest deviation (relative to the array's
maximum), and where it occurs; values that contain a slip of the published code are computed with the slip. Exits with 1
when a deviation is above 1e-9 or an array has no row in tests/reference_table.py, with 2 when DIR holds no reference
files. `--table` prints the table of docs/reference-agreement.md.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import oracle
from reference_cases import comparisons
from reference_files import FAMILIES, family, read, reference_files
from reference_table import find_row, markdown

import dfc_numba

BOUND = 1e-9
ROW = "{:<16} {:>5} {:>7}  {:<15} {}"


def main(arguments=None):
    """Print the table for a folder of reference files and return the exit code."""
    options = parse(arguments)
    if options.table:
        print(markdown(), end="")
        return 0
    files = reference_files(options.folder)
    if not files:
        print(f"no reference files (.npz of {', '.join(FAMILIES)}) in {options.folder}", file=sys.stderr)
        return 2
    api = oracle if options.oracle else dfc_numba
    print(ROW.format("family", "files", "arrays", "worst deviation", "where"))
    worst = [print_family(name, [path for path in files if family(path) == name], api) for name in FAMILIES]
    print(f"worst of all: {max(worst):.2e} (bound {BOUND:.0e})")
    unknown = [f"{path.name}: {array}" for path in files for array in arrays_without_row(path)]
    print(
        "\n".join(f"no row in the table: {name}" for name in unknown) or "every array has a row in the table"
    )
    return int(max(worst) > BOUND or bool(unknown))


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "folder", metavar="DIR", type=Path, nargs="?", help="folder with reference .npz files"
    )
    parser.add_argument("--oracle", action="store_true", help="check the NumPy oracle, not the package")
    parser.add_argument("--table", action="store_true", help="print what every array is, in Markdown")
    options = parser.parse_args(arguments)
    if options.folder is None and not options.table:
        parser.error("DIR is missing: the folder with the reference files (or --table)")
    return options


def print_family(name, files, api):
    """Print one row and return the largest deviation, 0 without files."""
    found = [
        (comparison.deviation, f"{path.name}: {comparison.name}")
        for path in files
        for comparison in comparisons(path, api)
    ]
    worst, where = max(found, default=(0.0, "nothing to compare"))
    print(ROW.format(name, len(files), len(found), f"{worst:.2e}" if found else "-", where))
    return worst


def arrays_without_row(path):
    """Names of the arrays of a file that the table does not know."""
    arrays, options = read(path)
    return [array for array in arrays if find_row(path, array, options) is None]


if __name__ == "__main__":
    sys.exit(main())
