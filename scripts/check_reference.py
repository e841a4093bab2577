#!/usr/bin/env python
"""Compare the package with reference values computed by the published code.

    python scripts/check_reference.py DIR [--oracle]

Prints one row per family of files: number of files and arrays, the largest deviation (relative to the array's
maximum), and where it occurs. Exits with 1 when it is above 1e-9, with 2 when DIR holds no reference files.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import oracle
from reference_cases import FAMILIES, comparisons, family, reference_files

import dfc_numba

BOUND = 1e-9
ROW = "{:<12} {:>6} {:>7}  {:<15} {}"


def main(arguments=None):
    """Print the table for a folder of reference files and return the exit code."""
    options = parse(arguments)
    files = reference_files(options.folder)
    if not files:
        print(f"no reference files (.npz of {', '.join(FAMILIES)}) in {options.folder}", file=sys.stderr)
        return 2
    api = oracle if options.oracle else dfc_numba
    print(ROW.format("family", "files", "arrays", "worst deviation", "where"))
    worst = [print_family(name, [path for path in files if family(path) == name], api) for name in FAMILIES]
    print(f"worst of all: {max(worst):.2e} (bound {BOUND:.0e})")
    return int(max(worst) > BOUND)


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder with reference .npz files")
    parser.add_argument("--oracle", action="store_true", help="check the NumPy oracle, not the package")
    return parser.parse_args(arguments)


def print_family(name, files, api):
    """Print one row and return the largest deviation, 0 without files."""
    found = [
        (comparison.deviation, f"{path.name}: {comparison.name}")
        for path in files
        for comparison in comparisons(path, api)
    ]
    worst, where = max(found, default=(0.0, "no such files here"))
    print(ROW.format(name, len(files), len(found), f"{worst:.2e}" if found else "-", where))
    return worst


if __name__ == "__main__":
    sys.exit(main())
