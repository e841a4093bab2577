"""The file of a network: HDF5 without pickle, versioned; a reader of version 1.0 takes any 1.x."""

from dfc_numba import hdf5
from dfc_numba.files import replacing

SCHEMA, SCHEMA_VERSION = "dfc-numba/network", "1.0"
KINDS = ("weights", "feedback", "biases")


def write(network, path):
    """Write a network to an HDF5 file; an older file of that name is replaced as a whole."""
    import h5py

    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update(
            schema=SCHEMA, schema_version=SCHEMA_VERSION, sizes=network.sizes, dtype=network.dtype.name,
            hidden_activations=list(network.hidden_activations), output_activation=network.output_activation,
            bias=network.biases is not None,
        )  # fmt: skip
        for kind in KINDS:
            for i, array in enumerate(getattr(network, kind) or []):
                file.create_dataset(f"{kind}/{i + 1}", data=array, fletcher32=True)


def read(path):
    """What a file holds, as keyword arguments of a `Network`.

    Raises:
        OSError: if the file cannot be read. ValueError: if it is no network file of this project, or an incomplete one.
    """
    with hdf5.opened(path, SCHEMA, SCHEMA_VERSION, "network file") as file:
        return _contents(file)


def _contents(file):
    attributes = file.attrs
    depth = len(attributes["sizes"]) - 1
    kinds = KINDS if attributes["bias"] else KINDS[:-1]
    arrays = {kind: [file[kind][str(i + 1)][...] for i in range(depth)] for kind in kinds}
    return {
        "biases": None,
        **arrays,
        "hidden_activation": list(attributes["hidden_activations"]),
        "output_activation": str(attributes["output_activation"]),
        "dtype": str(attributes["dtype"]),
    }
