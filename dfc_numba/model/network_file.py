"""The file of a network: HDF5 without pickle, versioned; a reader of version 1.0 takes any 1.x."""

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
    """What `store` has written into a group, as keyword arguments of a `Network`."""
    attributes = group.attrs
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
