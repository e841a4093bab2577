"""The file of a network: HDF5 without pickle, versioned; a reader of version 1.0 takes any 1.x."""

import json

from dfc_numba.extensions import explained, extensions_of
from dfc_numba.registry import ACTIVATIONS
from dfc_numba.support import hdf5

SCHEMA, SCHEMA_VERSION = "dfc-numba/network", "1.1"
KINDS = ("weights", "feedback", "biases", "backward")


def write(network, path):
    """Write a network to an HDF5 file; an older file of that name is replaced as a whole."""
    with hdf5.replacing(path) as file:
        file.attrs.update(schema=SCHEMA, schema_version=SCHEMA_VERSION)
        store(network, file)


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
    """What a file holds, as keyword arguments of a `Network`.

    Raises:
        OSError: if the file cannot be read. ValueError: if it is no network file of this project, or an incomplete one.
    """
    with hdf5.opened(path, SCHEMA, SCHEMA_VERSION, "network file") as file:
        return contents(file)


def contents(group):
    """What `store` has written into a group, as keyword arguments of a `Network`.

    Raises:
        ValueError: for an activation that is not registered, with the extension that brought it.
    """
    attributes = group.attrs
    needed = json.loads(attributes.get("extensions", "[]"))
    with explained(needed):
        for name in (*attributes["hidden_activations"], attributes["output_activation"]) if needed else ():
            ACTIVATIONS.find(str(name), key="an activation of the network")
    depth = len(attributes["sizes"]) - 1
    counts = dict.fromkeys(KINDS[:3] if attributes["bias"] else KINDS[:2], depth)
    if "backward" in group:
        counts["backward"] = len(group["backward"])
    arrays = {kind: [group[kind][str(i + 1)][...] for i in range(count)] for kind, count in counts.items()}
    return {
        "biases": None,
        **arrays,
        "hidden_activation": list(attributes["hidden_activations"]),
        "output_activation": str(attributes["output_activation"]),
        "dtype": str(attributes["dtype"]),
    }
