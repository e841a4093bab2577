"""`dfc analyze`: measure a run or a trajectory file, print the results, and write them to a file."""

import sys
from pathlib import Path

from dfc_numba.analysis.measurements import available, possible, require
from dfc_numba.analysis.results import DIMENSIONS, columns, noted, rows, stacked, variables
from dfc_numba.display import reports
from dfc_numba.errors import ConfigurationError
from dfc_numba.registry import MEASURES
from dfc_numba.runs.analysis_subjects import opened
from dfc_numba.storage import analysis_file
from dfc_numba.support.output import show
from dfc_numba.support.wording import nearest

FORMATS = (".csv", ".h5")


def analyze(path, *, what=None, out=None, **options):
    """Measure, and print what was found to standard output, what could not be read to standard error.

    Args:
        path: a run directory, a checkpoint or a trajectory file.
        what: text with kinds of measurements, of registered measures, between commas; None for all that can be measured there.
        out: .csv or .h5 file to write, which does not exist; None for none.
        options: of `subjects.opened`.

    Returns:
        whether everything could be read.

    Raises:
        ConfigurationError: for a kind or a file that is not allowed.
        OSError, ValueError: where nothing can be read, or something is missing that was asked for.
    """
    groups = None if what is None else _groups(what)
    _check_out(out)
    with opened(path, **options) as subjects:
        show(subjects.description, flush=True)
        found, problems = _measured(subjects.all, groups)
        if found:
            groups, names, notes = found
            show("\n".join(reports.analysis_lines(notes, names, groups)))
            _write(out, list(notes.values()), subjects)
    problems = [*subjects.damaged, *problems]
    for problem in problems:
        show(f"dfc: {problem}", file=sys.stderr)
    return not problems


def _groups(what):
    """Return the kinds that a text lists."""
    names = [name.strip() for name in what.split(",")]
    for name in names:
        if name not in MEASURES:
            hint = nearest(name, MEASURES)
            raise ConfigurationError(
                f"--what {what}: {name!r} is not a measurement{hint}; choose from {', '.join(MEASURES)} (one of an extension: "
                "--extension FILE)"
            )
    return list(dict.fromkeys(names))


def _check_out(out):
    """Refuse a file that cannot be written before anything is computed for it."""
    if out is None:
        return
    if Path(out).suffix not in FORMATS:
        raise ConfigurationError(f"--out {out}: choose a file that ends in {' or '.join(FORMATS)}")
    if Path(out).exists():
        raise ConfigurationError(f"{out} exists, and is not overwritten; choose another file with --out")
    if not Path(out).parent.is_dir():
        raise ConfigurationError(f"--out {out}: there is no folder {Path(out).parent}")


def _measured(subjects, groups):
    """Return (measures, names, notes by title), or None for nothing, and what could not be read.

    The first subject that can be read decides what is measured of all.
    """
    names, notes, problems = None, {}, []
    for subject in reports.watched(subjects):
        try:
            where, probe = subject.make()
        except (OSError, ValueError) as error:
            problems.append(f"{subject.title}: {error}")
            continue
        if names is None:
            groups = groups or possible(probe)
            require(probe, groups)
            names = available(groups, probe.traits)
        notes[subject.title] = noted(probe, names, **where)
    return (groups, names, notes) if notes else None, problems


def _write(out, notes, subjects):
    """Write the requested file, and say so."""
    if out is None:
        return
    if Path(out).suffix == ".csv":
        analysis_file.write_csv(out, columns(notes), rows(notes))
    else:
        about = variables(stacked(notes), subjects.leading)
        analysis_file.write(out, about, dimensions=DIMENSIONS, config=subjects.config)
    show(f"written: {out}")
