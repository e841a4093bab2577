"""Times of several computations, taken in turns so that a change of the machine's speed meets all of them alike."""

import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np

from benchmarks.workers import Worker


class Subject(NamedTuple):
    """The subject of a time."""

    name: str
    dtype: str
    threads: int


@dataclass(frozen=True)
class Summary:
    """Median and range of repeated measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values):
        return cls(float(np.median(values)), float(min(values)), float(max(values)))

    def text(self):
        """Return a text such as "1.23 (1.20-1.31)", without the range of a single measurement."""
        median, low, high = map(significant, (self.median, self.low, self.high))
        return median if self.low == self.high else f"{median} ({low}-{high})"


def significant(value, digits=3):
    """Return a number with that many significant digits, without an exponent."""
    rounded = float(f"{value:.{digits}g}")
    decimals = max(0, digits - 1 - int(np.floor(np.log10(abs(rounded))))) if rounded else 0
    return f"{rounded:.{decimals}f}"


class Session:
    """The computations of one comparison, spread over worker processes; a context manager that ends those.

    Attributes:
        first: seconds of the first run of each subject, compilation or the load of compiled code included.
        results: what each subject returned.
        times: seconds of each subject, one per turn.
    """

    def __init__(self):
        self._stack, self._workers, self._places = ExitStack(), {}, {}
        self.first, self.results, self.times = {}, {}, {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stack.close()

    def add(self, subject, make, *arguments, group=""):
        """Prepare a subject in the worker of its threads and `group`, and run it once."""
        say(f"preparing {subject.name}, {subject.dtype}, {threads_text(subject.threads)}")
        worker = self._places[subject] = self._worker(subject.threads, group)
        worker.prepare(subject, make, *arguments)
        self.first[subject], self.results[subject] = worker.first(subject)
        self.times[subject] = []

    def _worker(self, threads, group):
        key = (threads, group)
        if key not in self._workers:
            self._workers[key] = self._stack.enter_context(Worker(threads))
        return self._workers[key]

    def measure(self, turns):
        """Time every subject once per turn; each turn begins with another subject."""
        subjects = list(self._places)
        for turn in range(turns):
            say(f"turn {turn + 1} of {turns}")
            start = turn * len(subjects) // turns
            for subject in subjects[start:] + subjects[:start]:
                self.times[subject].append(self._places[subject].seconds(subject))

    def time(self, subject, factor=1.0):
        """Return the `Summary` of factor times a subject's seconds."""
        return Summary.of([factor * seconds for seconds in self.times[subject]])

    def ratio(self, numerator, denominator, factor=1.0):
        """Return the `Summary` of factor times the ratio of two subjects' seconds, turn by turn."""
        pairs = zip(self.times[numerator], self.times[denominator], strict=True)
        return Summary.of([factor * a / b for a, b in pairs])

    def records(self, flop):
        """Return a dict of plain values per subject; flop: floating-point operations by subject."""
        return [
            {
                **subject._asdict(),
                **{f"{name}_seconds": value for name, value in asdict(self.time(subject)).items()},
                "seconds": seconds,
                "first_seconds": self.first[subject],
                "gflop_per_second": flop[subject] / self.time(subject).median / 1e9,
            }
            for subject, seconds in self.times.items()
        ]


@dataclass(frozen=True)
class Goal:
    """A measured number beside what it should be.

    Attributes:
        bar, aim: what it has to keep, what it should reach. at_least: whether more is better.
    """

    name: str
    measured: Summary
    bar: float
    aim: float
    at_least: bool = False

    @property
    def met(self):
        value = self.measured.median
        return value >= self.bar if self.at_least else value <= self.bar

    def row(self):
        """Return the cells of a table."""
        sign = ">=" if self.at_least else "<="
        return (
            self.name,
            self.measured.text(),
            f"{sign} {self.bar:g}",
            f"{self.aim:g}",
            "yes" if self.met else "NO",
        )

    def record(self):
        """Return a dict of plain values."""
        return {**asdict(self), "met": self.met}


def relative_difference(arrays, reference):
    """Return the norm of the difference of two lists of arrays, over the norm of the second."""
    ours, theirs = (
        np.concatenate([np.ravel(a) for a in group]).astype(float) for group in (arrays, reference)
    )
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def thread_counts(threads):
    """Return 1 and the wanted number of threads."""
    return sorted({1, threads})


def threads_text(count):
    return "1 thread" if count == 1 else f"{count} threads"


def say(text):
    """Tell on standard error what is under way."""
    print(text, file=sys.stderr, flush=True)
