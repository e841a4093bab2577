"""The file of a network: HDF5 without pickle, versioned; a reader of version 1.0 takes any 1.x."""

import json

from dfc_numba.errors import DamagedFileError, UnusableFileError
from dfc_numba.extensions import explained, extensions_of
from dfc_numba.registry import ACTIVATIONS
from dfc_numba.support import foreign, hdf5, memory

SCHEMA, SCHEMA_VERSION = "dfc-numba/network", "1.1"
ATTRIBUTES = ("sizes", "hidden_activations", "output_activation", "bias", "dtype")
KINDS = ("weights", "feedback", "biases", "backward")


def write(network, path, *, follow=True):
    """Write a network to an HDF5 file; an older file of that name is replaced as a whole; for `follow` see `files.replacing`."""
    with hdf5.replacing(path, follow=follow) as file:
        file.attrs.update(schema=SCHEMA, schema_version=SCHEMA_VERSION)
        store(network, file)
        file.attrs.update(hdf5.checksums(dict(file.attrs)))


def store(network, group):
    """Write a network into an empty group of an HDF5 file."""
    group.attrs.update(
        sizes=network.sizes, dtype=network.dtype.name, hidden_activations=list(network.hidden_activations),
        output_activation=network.output_activation, bias=network.biases is not None,
    )  # fmt: skip
    needed = extensions_of(*filter(None, map(ACTIVATIONS.get, network.activations)))
    if needed:
        group.attrs["extensions"] = json.dumps(needed)
    for kind in KINDS:
        for i, array in enumerate(getattr(network, kind) or []):
            group.create_dataset(f"{kind}/{i + 1}", data=array, fletcher32=True)


def read(path):
    """Return the content of a file as keyword arguments of a `Network`.

    Raises:
        OSError: if the file cannot be read. ValueError: if it is not a network file of this project, or an incomplete one.
    """
    with hdf5.opened(path, SCHEMA, SCHEMA_VERSION, "network file") as file:
        return contents(file)


def contents(group):
    """Return what `store` has written into a group, as keyword arguments of a `Network`.

    Raises:
        ValueError: for an activation that is not registered, with the extension that brought it; for arrays that do not fit
            the sizes of the network. OSError: for what is damaged or missing.
    """
    where = f"{foreign.file_name(group)}: {group.name}"
    attributes = foreign.attributes(group)
    missing = [name for name in ATTRIBUTES if name not in attributes]
    if missing:
        raise UnusableFileError(
            f"{foreign.file_name(group)} is not a complete network file: it lacks {missing[0]!r}"
        )
    with foreign.damage_named(where):
        sizes = [int(size) for size in attributes["sizes"]]
        names = [str(name) for name in (*attributes["hidden_activations"], attributes["output_activation"])]
        bias, dtype = bool(attributes["bias"]), str(attributes["dtype"])
        needed = json.loads(attributes.get("extensions", "[]"))
    if (
        len(sizes) < 2
        or min(sizes) < 1
        or len(names) != len(sizes) - 1
        or dtype not in ("float32", "float64")
    ):
        raise DamagedFileError(
            f"{where} describes no network: sizes {sizes}, activations {names}, dtype {dtype!r}"
        )
    with explained(needed):
        for name in names if needed else ():
            ACTIVATIONS.find(name, key="an activation of the network")
    damaged = hdf5.damaged_texts(attributes)
    if damaged and all(ACTIVATIONS.get(name) for name in names):  # another name is refused as such
        raise DamagedFileError(f"{where} is damaged: its attribute {damaged[0]} does not fit its checksum")
    shapes = _shapes(sizes, bias, group)
    for kind, number in (name.split("/") for named in shapes.values() for name, _ in named):
        if foreign.member(group, f"{kind}/{number}") is None:
            raise UnusableFileError(
                f"{foreign.file_name(group)} is not a complete network file: it lacks {number!r} of {kind!r}"
            )
    total = sum(
        foreign.dataset(group, name, shape=shape).nbytes for named in shapes.values() for name, shape in named
    )
    memory.require(total, f"the network of {where}", "use a machine with more memory")
    arrays = {
        kind: [foreign.read(group, name, shape=shape) for name, shape in named]
        for kind, named in shapes.items()
    }
    return {
        "biases": None, **arrays, "hidden_activation": names[:-1], "output_activation": names[-1], "dtype": dtype,
    }  # fmt: skip


def _shapes(sizes, bias, group):
    """Return (name, shape) of the data sets of each kind; feedback matrices of dynamic inversion go to the layer below."""
    layers = range(1, len(sizes))
    shapes = {
        "weights": [(f"weights/{n}", (sizes[n], sizes[n - 1])) for n in layers],
        "feedback": [(f"feedback/{n}", (sizes[n], sizes[-1])) for n in layers],
    }
    if bias:
        shapes["biases"] = [(f"biases/{n}", (sizes[n],)) for n in layers]
    if foreign.member(group, "backward") is not None:
        count = len(foreign.names(foreign.subgroup(group, "backward")))
        # a single loop through all layers has one matrix, whose shape `Network` checks
        shapes["backward"] = [
            (f"backward/{n}", (sizes[n], None)) for n in range(1, min(count, len(sizes) - 1) + 1)
        ]
    return shapes
