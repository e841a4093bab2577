"""Measurements of several probes together: as arrays with named dimensions for a file, and as a long table."""

import numpy as np

from dfc_numba.analysis.measurements import all_measurements, measure, measurement, parts_name
from dfc_numba.learning.phases import PHASES as LEARNING_PHASES
from dfc_numba.storage.schema import FILL, VariableDescription

PHASES = ("start", *LEARNING_PHASES, "simulation")  # the codes of `phase`, in order
WEIGHTS = ("last", "best")  # the codes of `weights`, in order
INDICES = {
    "minibatches": "minibatches done in the run",
    "record": "number of the record in its phase, from 0",
    "weights": "which weights of the run",
    "epoch": "epoch, from 1; 0 is before the first one",
    "phase": "phase of the last minibatch",
    "minibatch": "number of the minibatch in its pass over the data, from 1",
    "number": "running number of the minibatch in the run, from 0",
}  # what tells one probe from another
CODES = {"phase": PHASES, "weights": WEIGHTS}
SAMPLE_INDEX = "sample_index"
DIMENSIONS = {"layer": "layer, from 1", "sample": "samples of the batch"}
COLUMNS = ("measurement", "layer", "sample", "value", "units")


def noted(probe, names, **where):
    """Measure a probe; add `where`, which tells it from others by the names of `INDICES`."""
    indices = np.full(len(probe.x), -1) if probe.indices is None else np.asarray(probe.indices, np.int64)
    return {**where, SAMPLE_INDEX: indices, **measure(probe, names)}


def stacked(notes):
    """Stack dicts with the same keys into arrays with the probe as first dimension; pad what is shorter."""
    return {key: _stacked([np.asarray(note[key]) for note in notes]) for key in (notes[0] if notes else ())}


def _stacked(arrays):
    shape = np.max([array.shape for array in arrays], axis=0).astype(int)
    found = np.full((len(arrays), *shape), FILL[arrays[0].dtype.kind], arrays[0].dtype)
    for row, array in enumerate(arrays):
        found[(row, *map(slice, array.shape))] = array
    return found


def variables(arrays, leading):
    """Return (`VariableDescription`, array) by the names in a file.

    Args:
        arrays: from `stacked`. leading: name of the first dimension, one of `INDICES`.
    """
    coordinates = " ".join(name for name in INDICES if name in arrays and name != leading)
    return {name: (_about(name, leading, coordinates), array) for name, array in arrays.items()}


def _about(name, leading, coordinates):
    if name in INDICES:
        return VariableDescription(INDICES[name], (leading,), meanings=_meanings(CODES.get(name, ())))
    if name == SAMPLE_INDEX:
        return VariableDescription("index of the sample in the training set; -1: none", (leading, "sample"))
    known = all_measurements()
    if name in known:
        one = known[name]
        return VariableDescription(one.long_name, (leading,), one.units, coordinates)
    one = known[_whole(name)]
    text = f"{one.parts or one.long_name}: of each {one.along}"
    return VariableDescription(
        text, (leading, one.along), "1" if one.codes else one.units, coordinates, _meanings(one.codes)
    )


def _whole(name):
    """Return the measurement whose parts have this name."""
    return name.rpartition("_")[0]


def _meanings(texts):
    return " ".join(text.replace(" ", "_") for text in texts)


def columns(notes):
    """Return the columns of the long table of these notes."""
    return [name for name in INDICES if name in notes[0]] + list(COLUMNS)


def rows(notes):
    """Yield the rows of the long table: a dict for each number, with what tells its probe from the others."""
    for note in notes:
        where = {name: _text(CODES.get(name), note[name]) for name in INDICES if name in note}
        for name in filter(all_measurements().__contains__, note):
            units = measurement(name).units
            yield {**where, "measurement": name, "value": note[name], "units": units}
            if measurement(name).along:
                yield from ({**where, **part} for part in _parts(name, note))


def sample_numbers(note):
    """Return (B,) names of a note's samples: their indices in the training set if known, else their positions."""
    index = note[SAMPLE_INDEX]
    return index if (index >= 0).all() else np.arange(len(index))


def _parts(name, note):
    """Yield the rows of the parts of a measurement; layers count from 1."""
    one, values = measurement(name), note[parts_name(name)]
    places = range(1, len(values) + 1) if one.along == "layer" else sample_numbers(note)
    for place, value in zip(places, values, strict=True):
        yield {
            "measurement": name, one.along: int(place), "value": _text(one.codes, value),
            "units": "" if one.codes else one.units,
        }  # fmt: skip


def _text(codes, value):
    """Return a code in words."""
    return codes[value] if codes else value
