"""The parts that experiments share: options, the header with machine and versions, tables, figures and data files."""

import argparse
import csv
import sys
from importlib import metadata
from pathlib import Path
from time import perf_counter, process_time

from dfc_numba.support import environment, figures, threads
from dfc_numba.support.ranges import Count, CountOrZero, in_words
from dfc_numba.support.validation import whole_number

SEED = 42  # of the published settings
OUT = Path("runs/experiments")
DIGITS = 6
COLOURS = 128  # of a figure
PACKAGES = ("numba", "numpy", "scipy", "matplotlib")


def parser(documentation, seed=SEED):
    """Create the parser of the options that all experiments have; `seed` is the default one."""
    options = argparse.ArgumentParser(
        description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--out", type=Path, default=OUT, metavar="DIR", help="default: %(default)s")
    options.add_argument("--seed", type=count_or_zero, default=seed, metavar="N", help="default: %(default)s")
    options.add_argument("--quick", action="store_true", help="a tiny run, to see that it works")
    return options


def count(text):
    """Return a whole number from 1, for argparse."""
    return _whole(text, Count)


def count_or_zero(text):
    """Return a whole number from 0, for argparse."""
    return _whole(text, CountOrZero)


def say(text):
    """Print a line on what is being done, for people who wait."""
    print(text, file=sys.stderr, flush=True)


def _whole(text, kind):
    try:
        return whole_number("value", int(text), kind)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not allowed; {in_words(kind)} is") from None


class Results:
    """The results of an experiment: tables to the screen, NAME.png and NAME.csv to a folder.

    Making one prints the header, and fails where matplotlib or the folder is missing: before minutes of computing.

    Raises:
        MissingExtra: matplotlib is not installed.
    """

    def __init__(self, name, options, dtype="float64"):
        figures.new_figure(1, 1)
        options.out.mkdir(parents=True, exist_ok=True)
        self.path, self._start = options.out / name, perf_counter()
        self.header = header(name, options, dtype)
        print(*self.header, sep="\n")

    def table(self, columns, rows):
        """Print rows of texts and numbers below their columns, text to the left and numbers to the right."""
        texts = [list(columns), *([shown(value) for value in row] for row in rows)]
        widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
        print()
        for line in texts:
            cells = zip(line, widths, strict=True)
            first, width = next(cells)
            print("  ".join([first.ljust(width), *(text.rjust(width) for text, width in cells)]).rstrip())

    def save(self, figure, rows):
        """Write the figure, and the rows (dicts with the same keys) below the header as comments."""
        image, data = self.path.with_suffix(".png"), self.path.with_suffix(".csv")
        figures.save(figure, image)
        shrink(image)
        with open(data, "w", encoding="utf-8", newline="") as file:
            file.writelines(f"# {line}\n" for line in self.header)
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows({key: _stored(value) for key, value in row.items()} for row in rows)
        seconds = f"{perf_counter() - self._start:.0f} s, {process_time():.0f} s of processor time"
        print(f"\nwritten: {image}, {data} ({seconds})")


def shrink(image):
    """Rewrite a PNG with a palette, which makes line drawings several times smaller."""
    from PIL import Image  # comes with matplotlib

    with Image.open(image) as picture:
        small = picture.convert("RGB").quantize(COLOURS)
    small.save(image, optimize=True)


def header(name, options, dtype):
    """Return lines that say what ran where: experiment and options, machine, versions."""
    given = {key: value for key, value in vars(options).items() if key != "out"}
    versions = [
        f"dfc-numba {metadata.version('dfc-numba')}",
        f"Python {environment.platform.python_version()}",
    ]
    versions += [f"{package} {metadata.version(package)}" for package in PACKAGES]
    number = threads.available()
    return [
        f"{name}: " + ", ".join(f"{key} {value}" for key, value in given.items()),
        f"{environment.processor_name()}, {number} thread{'s' if number > 1 else ''}, {dtype}",
        ", ".join(versions),
    ]


def shown(value):
    """Return a text as it is, a number with three significant digits."""
    return value if isinstance(value, str) else f"{value:.3g}" if isinstance(value, float) else str(value)


def _stored(value):
    return f"{value:.{DIGITS}g}" if isinstance(value, float) else value


def panel(axes, letter, *, xlabel, ylabel, title=""):
    """Label a panel, with its letter at the top left; open at the top and the right."""
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.set_title(title, fontsize="medium")
    axes.set_title(letter, loc="left", fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
