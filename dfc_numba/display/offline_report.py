"""What `dfc inspect --analysis` tells of each record: convergence, residual, statistics, the update that the run applied."""

import numpy as np

from dfc_numba.analysis import offline
from dfc_numba.storage.reader import open_trajectories
from dfc_numba.storage.replay import chosen
from dfc_numba.storage.source import as_source

FRACTION = 0.1  # of the initial error, that counts as converged
HEADING = ("", "mean", "std", "least", "greatest", "rms norm", "last norm")


def tell(path, *, phase=None, record=None):
    """Says on standard output what is found in the records that have trajectories; for the arguments see `replay.replay`."""
    with open_trajectories(path) as file:
        for stored in chosen(file, phase, record):
            print("\n".join(lines(stored)), flush=True)


def lines(record):
    """Lines of text about a `StoredRecord`; what cannot be computed says why."""
    where = f"{record.records.phase} {record.place}"
    try:
        source = as_source(record)
    except ValueError as error:
        return [f"{where}: {error}"]
    facts = {
        f"error below {FRACTION:.0%}": lambda: _convergence(source),
        "residual": lambda: _range(offline.steady_state_residual(source)),
        "update": lambda: _update(record),
    }
    width = max(map(len, facts))
    found = [f"  {name:<{width}}  {_said(text)}" for name, text in facts.items()]
    return [f"{where}: {source.count} samples, {len(source.step)} time points", *found, *_table(source)]


def _said(text):
    try:
        return text()
    except ValueError as error:
        return f"unknown: {error}"


def _convergence(source):
    times = offline.convergence_time(source, fraction=FRACTION)
    there = times[~np.isnan(times)]
    after = f" after {_range(there)} tau_u" if len(there) else ""
    return f"{len(there)} of {source.count} samples{after}"


def _update(record):
    deviations = offline.update_deviations(record)
    if deviations is None:
        return "none is stored that trajectories give"
    name = max(deviations, key=deviations.get)
    return f"the applied one differs from that of the trajectories by {deviations[name]:.2g} of its norm at most ({name})"


def _range(values):
    least, middle, greatest = np.min(values), np.median(values), np.max(values)
    return f"{least:.3g} to {greatest:.3g}, median {middle:.3g}"


def _table(source):
    """Statistics over samples, time points and units: the mean of means, the largest of extremes, the rms of norms."""
    names = [(name, None) for name in ("u", "e")]
    names += [("v_fb", layer) for layer in range(1, len(source.network.weights) + 1)]
    there = [(name, layer) for name, layer in names if source.has(name, layer)]
    rows = [HEADING, *(_row(name if layer is None else f"{name}_{layer}", offline.statistics(source, name, layer))
                       for name, layer in there)]  # fmt: skip
    return [
        "  " + "".join(f"{text:<8}" if n == 0 else f"{text:>12}" for n, text in enumerate(row))
        for row in rows
    ]


def _row(name, one):
    spread = np.sqrt(np.mean(one.std**2) + np.var(one.mean))
    numbers = (
        one.mean.mean(),
        spread,
        one.least.min(),
        one.greatest.max(),
        np.sqrt(np.mean(one.rms**2)),
        one.last.mean(),
    )
    return name, *(f"{number:.4g}" for number in numbers)
