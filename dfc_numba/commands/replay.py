"""What `dfc replay` does and tells: comparing records, or writing new files from their recipes."""

import sys

from dfc_numba.configuration.config_file import override_values, parsed_value
from dfc_numba.dynamics.simulation import Record
from dfc_numba.errors import ConfigurationError
from dfc_numba.storage.kinds import KINDS
from dfc_numba.storage.reader import open_trajectories
from dfc_numba.storage.replay import chosen, recorded_elsewhere, replay_record
from dfc_numba.storage.resimulation import expand, what_if

HEADING = ("variable", "different", "largest absolute deviation", "largest relative deviation")


def compare(path, *, phase=None, record=None, **unused):
    """Replays records, says on standard output what came out, and returns the statuses, see `Replayed.status`.

    Raises:
        ConfigurationError: if some of `unused`, options for writing a file, are not None.
    """
    stated = [f"--{name}" for name, value in unused.items() if value is not None]
    if stated:
        raise ConfigurationError(
            f"{', '.join(stated)}: not used without --expand or --set, which write a file; leave out"
        )
    with open_trajectories(path) as file:
        _announce(file)
        statuses = [_compare(stored) for stored in chosen(file, phase, record)]
        statuses += ["unusable" for _ in file.damaged]
    counts = [f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses)]
    print(f"records: {len(statuses)}, of which {', '.join(counts)}")
    if set(statuses) == {"nothing to compare"}:
        _complain("there are recipes alone; `dfc replay FILE --expand OUT.h5` computes their trajectories")
    return statuses


def write(
    path, *, expand_to=None, settings=None, out=None, variables=None, samples=None, every=None, **options
):
    """Writes a new file from the recipes of a file, and says so on standard output.

    Args:
        expand_to: file for the trajectories as they were, or `out`: file for those under another controller, with
            `settings`: texts "controller.key=value" or "inversion.key=value".
        variables, samples, every: texts that say what is kept of the trajectories; see `dfc replay --help`.
        options: of `resimulation.expand`.

    Returns:
        whether all records are in it: none was in a damaged file of a run.
    """
    if (expand_to is None) == (out is None) or (out is None) != (not settings):
        raise ConfigurationError(
            "write a new file either with --expand FILE, or with --set controller.KEY=VALUE (or inversion.KEY) --out FILE"
        )
    options = {"keep": _keep(variables, samples, every), "command": sys.argv, **options}
    if expand_to is not None:
        written = expand(path, expand_to, **options)
    else:
        section, changes = _changes(settings)
        written = what_if(path, out, changes, section=section, **options)
    print(f"{expand_to or out}: {written.records} records")
    if written.damaged:
        _complain(f"damaged files, whose records are missing in it: {len(written.damaged)}")
    return not written.damaged


def _changes(settings):
    """The section that is changed, and its options by their names."""
    table = override_values(settings)
    others = [f"{section}.{key}" for section, keys in table.items() if section not in KINDS for key in keys]
    if others or len(table) > 1:
        named = others or [f"{section}.{key}" for section, keys in table.items() for key in keys]
        raise ConfigurationError(
            f"--set {', '.join(named)}: a replay takes network, inputs, target and noise from the file; what it can change "
            "is controller.KEY=VALUE, or of a dynamic inversion inversion.KEY=VALUE"
        )
    return next(iter(table.items()))


def _keep(variables, samples, every):
    """The `Record` that the texts stand for; None if nothing is stated."""
    if variables is None and samples is None and every is None:
        return None
    names = None if variables is None else tuple(name.strip() for name in variables.split(","))
    return Record(variables=names, samples=_positions(samples), every=every or 1)


def _positions(text):
    """Positions of samples: of the first N for "N", or those listed in "0,5,7"; None for None."""
    value = None if text is None else parsed_value(text)
    if isinstance(value, int) and not isinstance(value, bool):
        return tuple(range(value))
    if isinstance(value, str):
        raise ConfigurationError(f"--samples {text}: write how many, as 16, or which, as 0,5,7")
    return value and tuple(value)


def _announce(file):
    counts = [f"{len(file[name])} of {file[name].phase}" for name in file.phases]
    print(f"{file.path}: records: {', '.join(counts)}; status: {file.status}")
    for note in file.notes:
        _complain(note)
    elsewhere = sorted(recorded_elsewhere(file))
    if elsewhere:
        print(f"recorded with {', '.join(elsewhere)}: bits may differ")


def _compare(stored):
    """Replays a record, prints what came out, and returns the status."""
    replayed = replay_record(stored)
    where = f"{replayed.phase} {replayed.record}"
    if replayed.status == "unusable":
        _complain(f"{where}: {replayed.problem}")
    elif replayed.status == "nothing to compare":
        print(f"{where}: a recipe, nothing to compare")
    elif replayed.status == "identical":
        print(f"{where}: identical bits, {len(replayed.compared)} variables")
    else:
        print(f"{where}: {len(replayed.deviations)} of {len(replayed.compared)} variables differ")
        print("\n".join(table(replayed.deviations)))
    if replayed.left_out:
        print(
            f"{where}: not compared, since the file does not say how they were made: {', '.join(replayed.left_out)}"
        )
    sys.stdout.flush()
    return replayed.status


def table(deviations):
    """The lines of a table of `Deviation`s."""
    rows = [HEADING, *map(_row, deviations)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _row(deviation):
    largest = [f"{one.value:.3g} at {_place(one.place)}" for one in (deviation.absolute, deviation.relative)]
    return deviation.variable, f"{deviation.count} of {deviation.size}", *largest


def _place(place):
    return ", ".join(f"{dim} {index}" for dim, index in place.items())


def _complain(text):
    print(f"dfc: {text}", file=sys.stderr, flush=True)
