#!/usr/bin/env python
"""Measure the rates that the papers' theorems claim: error ~ size^exponent, one row per claim and case.

    python scripts/check_theorems.py [--worst]

The rates are those of tests/theory/test_theorems_*.py, whose docstrings derive the exponents; it needs the test dependencies.
`--worst` prints one row per claim: the case that is farthest off. Exits with 1 when an exponent is off by more than 0.1.
"""

import argparse
import importlib
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path[:0] = [str(TESTS / "helpers"), str(TESTS / "theory")]

from theorems import RATES, TOLERANCE, describe  # noqa: E402

ROW = "{:<84}  {:<32}  {:>8}  {:>8}"


def main(arguments=None):
    """Print the table and return the exit code."""
    options = parse(arguments)
    for path in sorted((TESTS / "theory").glob("test_theorems_*.py")):
        importlib.import_module(path.stem)
    print(ROW.format("claim", "case", "expected", "measured"))
    worst = 0.0
    for rate in RATES:
        rows = sorted(rate.rows(), key=lambda row: abs(row[1] - rate.exponent), reverse=True)
        worst = max(worst, abs(rows[0][1] - rate.exponent))
        for case, measured in rows[:1] if options.worst else rows:
            print(ROW.format(rate.claim, describe(case), f"{rate.exponent:g}", f"{measured:.3f}"))
    print(f"largest difference of an exponent from the expected one: {worst:.3f} (bound {TOLERANCE:g})")
    return int(worst > TOLERANCE)


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worst", action="store_true", help="print one row per claim")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
