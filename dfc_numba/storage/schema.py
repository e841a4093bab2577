"""The schema of a trajectory file: its version, its variables with dimensions, units and meaning, its attributes.

A file has a group per phase, whose variables grow along `record`, and two groups of parameters, which grow along
`snapshot`. docs/file-format.md describes the file for those who read it with other programs.
"""

import json
import sys
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone

from dfc_numba.errors import DamagedFileError, UnusableFileError
from dfc_numba.learning.phases import PHASES as TRAINING_PHASES
from dfc_numba.learning.phases import group_name
from dfc_numba.registry import VARIABLES
from dfc_numba.support import foreign, hdf5
from dfc_numba.support.wording import encodable, nearest

SCHEMA, SCHEMA_VERSION, KIND = "dfc-numba/trajectory", "1.2", "trajectory file"
# "closed": a segment of a run that went on
STATUSES = ("open", "closed", "complete", "interrupted", "diverged", "failed")
JSON_TEXTS = (
    "versions",
    "config",
    "controller",
    "inversion",
    "equilibrium",
    "update",
    "network",
)  # attributes that are JSON, or ""
# where the parameters are that a variable of a record gives the number of
PARAMETER_GROUPS = {"weights_snapshot": "weights_snapshots", "feedback_snapshot": "feedback_snapshots"}

PHASES = (*map(group_name, TRAINING_PHASES), "simulation")  # groups, in the order of a run
RECORD, SNAPSHOT = "record", "snapshot"
GROWING = (RECORD, SNAPSHOT, "sample", "minibatch_sample")  # dimensions without a fixed length

FILL = {"f": float("nan"), "i": -1, "u": 0}  # what is missing, by the kind of numbers

DAMAGED = "(damaged)"

NO_NOISE, KEYED_NOISE, GIVEN_NOISE = 0, 1, 2


@dataclass(frozen=True)
class VariableDescription:
    """The description of a variable; "#" in a dimension is the layer, "below", "above" the units of its neighbours."""

    long_name: str
    dims: tuple
    units: str = "1"
    coordinates: str = ""
    meanings: str = ""  # of the integers from 0, separated by spaces


def _trajectory(long_name, *last):
    return VariableDescription(
        long_name, (RECORD, "step", "sample", *last), coordinates="time epoch minibatch number position"
    )


def _per_record(long_name, *dims, meanings=""):
    return VariableDescription(long_name, (RECORD, *dims), meanings=meanings)


DIMENSIONS = {
    RECORD: "logged minibatches",
    SNAPSHOT: "snapshots of the parameters",
    "step": "number of the Euler step; 0 is the state before the first",
    "sample": "samples whose trajectories are stored",
    "minibatch_sample": "samples of the minibatch",
    "draw_step": "time points of given noise; t + 1 drives the step from t to t + 1",
    "input": "units of the input",
    "output": "units of the output, components of the control signal",
    "unit": "units of layer #",
}
PLAIN = {
    "time": VariableDescription("time", ("step",), units="tau_u"),
    "u": _trajectory("control signal u", "output"),
    "u_int": _trajectory("integral part of the control signal", "output"),
    "e": _trajectory("control error e = r* - r_L, or r* - softmax(r_L)", "output"),
    "error": _trajectory("norm of r* - r_L, or cross-entropy of softmax(r_L) with r*"),
    "position": _per_record("position of the sample in its minibatch; -1: no sample", "sample"),
    "converged": _per_record("whether the sample has converged; -1: no sample", "sample", meanings="no yes"),
    "diverged": _per_record("whether the sample has diverged; -1: no sample", "sample", meanings="no yes"),
    "inputs": _per_record("inputs r_0", "minibatch_sample", "input"),
    "target": _per_record("output target r*", "minibatch_sample", "output"),
    "labels": _per_record("target of the sample: soft labels, or outputs", "minibatch_sample", "output"),
    "sample_index": _per_record("index of the sample in the training set; -1: none", "minibatch_sample"),
    "minibatch_size": _per_record("number of samples of the minibatch"),
    "has_update": _per_record("whether the update that was made is stored", meanings="no yes"),
    "epoch": _per_record("epoch, from 1; those of the pre-training are counted separately"),
    "minibatch": _per_record("number of the minibatch in its pass over the data, from 1"),
    "number": _per_record("running number of the minibatch in the run, from 0"),
    "noise_kind": _per_record("where the noise comes from", meanings="none key draws"),
    "noise_seed": _per_record("seed of the noise key"),
    "noise_minibatch": _per_record("minibatch number of the noise key"),
    "noise_sample": _per_record("sample number of the noise key; -1: the position", "minibatch_sample"),
    "B_single": VariableDescription(
        "feedback matrix B of a loop through all layers", (SNAPSHOT, "unit_1", "output")
    ),
    "weights_snapshot": _per_record("number of the forward parameters in /weights_snapshots; -1: not stored"),
    "feedback_snapshot": _per_record("number of the feedback weights in /feedback_snapshots; -1: not stored"),
}
LAYERED = {
    "v": _trajectory("somatic voltage of layer #", "unit_#"),
    "v_ff": _trajectory("basal (feedforward) voltage of layer #", "unit_#"),
    "v_fb": _trajectory("apical (feedback) voltage of layer #", "unit_#"),
    "r": _trajectory("rate of layer #", "unit_#"),
    "r_x": _trajectory("population of layer # that becomes its error in a dynamic inversion", "unit_#"),
    "r_y": _trajectory("population of layer # that receives its error in a dynamic inversion", "unit_#"),
    "s": _trajectory("state of layer # in equilibrium propagation: free, then nudged by beta", "unit_#"),
    "s_minus": _trajectory(
        "state of layer # in equilibrium propagation: free, then nudged by -beta", "unit_#"
    ),
    "noise": _trajectory("standard normal draw that drove layer # in the step before", "unit_#"),
    "draws": _per_record("given standard normal draws of layer #", "draw_step", "minibatch_sample", "unit_#"),
    "dW": _per_record("update of W_# per unit learning rate", "unit_#", "below"),
    "db": _per_record("update of b_# per unit learning rate", "unit_#"),
    "dQ": _per_record("update of Q_# per unit learning rate", "unit_#", "output"),
    "dB": _per_record("update of B_# per unit learning rate", "unit_#", "above"),
    "W": VariableDescription("weights of layer #", (SNAPSHOT, "unit_#", "below")),
    "b": VariableDescription("biases of layer #", (SNAPSHOT, "unit_#")),
    "Q": VariableDescription("feedback weights of layer #", (SNAPSHOT, "unit_#", "output")),
    "B": VariableDescription(
        "feedback matrix B to layer # from the layer above, of dynamic inversion or equilibrium propagation",
        (SNAPSHOT, "unit_#", "above"),
    ),
}
FORMULA = "formula_"  # begins the name of a variable that was recorded by a registered formula
UPDATES = {"weights": "dW", "biases": "db", "feedback": "dQ", "backward": "dB"}
TRAJECTORY = tuple(
    name for name, one in (PLAIN | LAYERED).items() if one.dims[:3] == (RECORD, "step", "sample")
)


def variable(name):
    """Return the `VariableDescription` of a name in the file, such as "u" or "v_ff_2".

    Raises:
        ValueError: for a name that the schema does not have.
    """
    if name in PLAIN:
        return PLAIN[name]
    base, _, layer = name.rpartition("_")
    if not is_variable(name):
        raise ValueError(
            f"{name!r} is not a variable of schema version {SCHEMA_VERSION}; use a newer program"
        )
    general = _general(base)
    below = "input" if layer == "1" else f"unit_{int(layer) - 1}"
    neighbours = {"below": below, "above": f"unit_{int(layer) + 1}"}
    dims = tuple(neighbours.get(dim, dim.replace("#", layer)) for dim in general.dims)
    return VariableDescription(
        general.long_name.replace("#", layer), dims, general.units, general.coordinates
    )


def _general(base):
    """Return the `VariableDescription` of a layered name without its layer."""
    if base in LAYERED:
        return LAYERED[base]
    name = base.removeprefix(FORMULA)
    known = VARIABLES.get(name)
    text = f"{name} of layer #: {known.summary}" if known and known.summary else f"{name} of layer #"
    return replace(_trajectory(text, "unit_#"), units=known.unit if known else "1")


def is_dimension(name):
    """Return whether this is the name of a dimension, rather than of a variable along some."""
    return name in DIMENSIONS or name.startswith("unit_")


def is_variable(name):
    """Return whether this version of the schema has a variable of this name; a later minor version may have more."""
    if name in PLAIN:
        return True
    base, _, layer = name.rpartition("_")
    return (base in LAYERED or base.startswith(FORMULA)) and layer.isdigit()


def is_update(name):
    """Return whether a variable of this name is an update of parameters."""
    return name.rpartition("_")[0] in UPDATES.values()


def is_trajectory(name):
    """Return whether a variable of this name depends on step and sample."""
    return variable(name).dims[:3] == (RECORD, "step", "sample")


def dimension_text(name):
    """Return what a dimension means."""
    base, _, layer = name.partition("_") if name.startswith("unit_") else (name, "", "")
    return DIMENSIONS[base].replace("#", layer)


def by_layer(name, arrays, first=1):
    """Return a list of arrays, one per layer from `first` on, as a dict by names in the file; None counts as empty."""
    return {f"{name}_{layer}": array for layer, array in enumerate(arrays or [], first)}


def stored_layers(name, names):
    """Return the numbers of the layers that a layered variable has among these names, in order."""
    parts = (other.rpartition("_") for other in names if other not in PLAIN)
    return sorted(int(layer) for base, _, layer in parts if base == name and layer.isdigit())


def order(name):
    """Return the key that sorts the names of variables in a file as this module lists them, layer by layer."""
    base, layer = (name, 0) if name in PLAIN else (name.rpartition("_")[0], int(name.rpartition("_")[2]))
    known = [*PLAIN, *LAYERED]
    return layer > 0, layer, known.index(base) if base in known else len(known), base


def file_name(name, layer, names):
    """Return the name in the file of variable `name`, of a layer (from 1) if it has layers.

    Raises:
        ValueError: if there is none in `names`, or if layer does not go with it.
    """
    full = name if layer is None else f"{name}_{layer}"
    if full in names:
        return full
    layers = stored_layers(name, names)
    if layers:
        raise ValueError(f"layer is {layer!r}; {name} is stored for the layers {', '.join(map(str, layers))}")
    if layer is not None and name in names:
        raise ValueError(f"layer is {layer!r}, but {name} has no layers; leave it out")
    raise ValueError(f"variable {full!r} is not stored; stored are {', '.join(names)}{nearest(name, names)}")


def phase_order(name):
    """Return the key that sorts the groups of phases."""
    return PHASES.index(name) if name in PHASES else len(PHASES), name


def phase_groups(file):
    """Return the groups of a file's phases, by name."""
    return {name: file[name] for name in file if name not in PARAMETER_GROUPS.values()}


def root_attributes(*, config=None, command=(), seed=None):
    """Return the attributes that every file has from its creation on, for a `TrajectoryWriter`.

    Args:
        config: the `Config` of the run, None where there is none.
        command: the command line. seed: of the run.
    """
    import h5py
    import numba
    import numpy

    from dfc_numba._version import ARITHMETIC, __version__
    from dfc_numba.extensions import used_extensions
    from dfc_numba.support import threads
    from dfc_numba.support.environment import processor_name

    versions = {
        "dfc_numba": __version__, "python": sys.version.split()[0], "numpy": numpy.__version__,
        "numba": numba.__version__, "h5py": h5py.__version__, "hdf5": h5py.version.hdf5_version,
    }  # fmt: skip
    used = used_extensions({} if config is None else config.model_dump(mode="json"))
    return {
        **({"extensions": json.dumps(used)} if used else {}),
        "versions": json.dumps(versions),
        "arithmetic": ARITHMETIC,
        "cpu": processor_name(),
        "threads": threads.current(),
        "seed": "" if seed is None else str(seed),
        "config": "" if config is None else config.model_dump_json(),
        "command": encodable(" ".join(map(str, command))),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def options_text(options):
    """Return a `Controller`, `Inversion` or `EquilibriumPropagation` as JSON, "" for None."""
    return "" if options is None else json.dumps(asdict(options))


# --- opening, with checks -------------------------------------------------------------------------------------


def open_file(path):
    """Open a trajectory file for reading.

    Raises:
        OSError: if it cannot be read. ValueError: if it is not a trajectory file, a newer one, or holds links.
    """
    file = hdf5.open_checked(path, SCHEMA, SCHEMA_VERSION, KIND)
    try:
        for name in group_names(file):
            group(file, name)
    except BaseException:
        file.close()
        raise
    return file


def group_names(file):
    """Return the names of the groups of a file."""
    import h5py

    with foreign.damage_named(foreign.file_name(file)):
        return [name for name in foreign.names(file) if file.get(name, getclass=True) is h5py.Group]


def group(file, name):
    """Return a group of a file; it must not hold links."""
    found = foreign.subgroup(file, name)
    foreign.names(found)
    return found


def phase_counts(file):
    """Return the number of records of each phase."""
    phases = [name for name in group_names(file) if name not in PARAMETER_GROUPS.values()]
    groups = {name: group(file, name) for name in phases}
    return {
        name: len(data_set(found, RECORD)) for name, found in groups.items() if RECORD in foreign.names(found)
    }


def data_set(group, name):
    """Return a data set of a group, see `foreign.dataset`, with the dimensions that its name has."""
    dims = variable(name).dims if is_variable(name) else None
    found = foreign.dataset(group, name)
    if dims is not None and found.ndim != len(dims):
        raise UnusableFileError(
            f"{foreign.file_name(group)}: {group.name}/{name} has {found.ndim} dimensions; expected {', '.join(dims)}"
        )
    return found


def parsed(item, name):
    """Return the value of an attribute in JSON; None where it is empty or missing.

    Raises:
        DamagedFileError: if its checksum does not fit. UnusableFileError: for something else than JSON.
    """
    stored = foreign.attributes(item)
    where = f"{foreign.file_name(item)}: attribute {name} of {item.name}"
    if name in hdf5.damaged_texts(stored):
        raise DamagedFileError(f"{where} is damaged")
    text = stored.get(name, "")
    try:
        return json.loads(text or "null")
    except (ValueError, TypeError, RecursionError):
        raise UnusableFileError(f"{where} is not JSON: {text!r:.60}") from None


def attributes(item):
    """Return the attributes of a file or group; a text that does not fit its checksum is called damaged."""
    stored = foreign.attributes(item)
    return stored | dict.fromkeys(set(hdf5.damaged_texts(stored)) - set(JSON_TEXTS), DAMAGED)


def texts(item):
    """Return the names of the attributes that are texts, or a list of them."""
    return list(hdf5.texts(foreign.attributes(item)))


def variables(group):
    """Return the names of a group's variables that this version of the schema knows."""
    return [name for name in foreign.names(group) if is_variable(name)]


def checked(texts):
    """Return attributes with the checksums of those that are texts."""
    return {**texts, **hdf5.checksums(texts)}
