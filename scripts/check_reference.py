#!/usr/bin/env python
"""Compare the package with reference values computed by the published code.

    python scripts/check_reference.py DIR [--oracle]
    python scripts/check_reference.py --table

Prints one row per family of files, of DFC, of dynamic inversion and of the relatives: number of files and arrays, the
largest deviation (relative to the array's maximum; relatives: to that or 1), and where it occurs; values that contain a
bug of the published code are computed with it. Exits with 1 when a deviation is above 1e-9 or an array of DFC or of a
relative has no row in its table, with 2 when DIR holds no reference files.
`--table` prints the table of docs/reference-agreement.md.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))

import inversion_reference
import oracle
import relatives_reference
from reference_cases import comparisons
from reference_files import FAMILIES, family, read, reference_files
from reference_table import find_row, markdown

import dfc_numba

BOUND = 1e-9
ROW = "{:<23} {:>5} {:>7}  {:<15} {}"


def main(arguments=None):
    """Print the table for a folder of reference files and return the exit code."""
    options = parse(arguments)
    if options.table:
        print(markdown(), end="")
        return 0
    groups = families_of(options.folder, oracle if options.oracle else dfc_numba)
    if not groups:
        print(f"no reference files (.npz) in {options.folder}", file=sys.stderr)
        return 2
    print(ROW.format("family", "files", "arrays", "worst deviation", "where"))
    worst = max(print_family(*group) for group in groups)
    print(f"worst of all: {worst:.2e} (bound {BOUND:.0e})")
    relatives = relatives_reference.files(options.folder)
    files = [path for path in reference_files(options.folder) if path not in relatives]
    unknown = [f"{path.name}: {array}" for path in files for array in arrays_without_row(path)]
    unknown += [f"{path.name}: {array}" for path in relatives for array in relatives_reference.missing(path)]
    if (files or relatives) and not unknown:
        print("every array has a row in the table")
    print("".join(f"no row in the table: {name}\n" for name in unknown), end="")
    return int(worst > BOUND or bool(unknown))


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


def families_of(folder, api):
    """Return (name, files, function that compares a file) of each family that has files in the folder."""
    relatives, loops = relatives_reference.files(folder), inversion_reference
    files = [path for path in reference_files(folder) if path not in relatives]
    groups = [
        (name, [path for path in files if family(path) == name], partial(comparisons, api=api))
        for name in FAMILIES
    ]
    for name in loops.KINDS:
        found = [path for path in sorted(folder.glob("*.npz")) if loops.kind(path) == name]
        groups.append((f"inversion {name}", found, loops.comparisons))
    for name in relatives_reference.FAMILIES:
        found = [path for path in relatives if relatives_reference.family(path) == name]
        groups.append((name, found, relatives_reference.comparisons))
    return [group for group in groups if group[1]]


def print_family(name, files, compare):
    """Print one row and return the largest deviation, 0 where nothing is compared."""
    found = [
        (comparison.deviation, f"{path.name}: {comparison.name}")
        for path in files
        for comparison in compare(path)
    ]
    worst, where = max(found, default=(0.0, "nothing to compare"))
    print(ROW.format(name, len(files), len(found), f"{worst:.2e}" if found else "-", where))
    return worst


def arrays_without_row(path):
    """Return the names of the arrays of a file that the table does not know."""
    arrays, options = read(path)
    return [array for array in arrays if find_row(path, array, options) is None]


if __name__ == "__main__":
    sys.exit(main())
