"""Printing: no control sequences from files, and no error where the output can no longer be read."""

import os
import re
import sys
from contextlib import contextmanager

# controls but line break and tab, and what turns the direction of writing
CONTROLS = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u2028\\u2029\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069]"
)


def printable(text):
    """Escape control characters of a text as \\x1b, since they would reach the terminal as commands."""
    return CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), str(text))


def show(*texts, file=None, flush=False, end="\n"):
    """Print texts, which may come from files of others, as `print` does."""
    print(*map(printable, texts), file=sys.stdout if file is None else file, flush=flush, end=end)


def prepare_streams():
    """Give a process whose standard streams are closed others that lead nowhere; make no character an error."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # else the next file that is opened would get its number, and what is printed
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (open until the end)
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


class _Steady:
    """A stream that ignores write errors: a run survives a closed terminal and a full disk behind `>`."""

    def __init__(self, stream):
        self._stream, self._lost = stream, False

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text):
        self._attempt(self._stream.write, text)
        return len(text)

    def writelines(self, lines):
        self.write("".join(lines))

    def flush(self):
        self._attempt(self._stream.flush)

    def _attempt(self, function, *arguments):
        if self._lost:
            return
        try:
            function(*arguments)
        except (OSError, ValueError):
            self._lost = True
            abandon(self._stream)


def abandon(stream):
    """Discard what is still to be written to a stream, which would be an error at the end of the process."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except (OSError, ValueError, AttributeError):
        pass


@contextmanager
def steady():
    """Ignore write errors of standard output and error within a `with` block."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_Steady, before)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before
