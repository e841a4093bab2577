"""Use what was trained: find the network of a run or a file, evaluate it on data, export it.

A source is a run directory, its checkpoint, a weights file (.h5), or an export (.npz).
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dfc_numba import data
from dfc_numba.configuration.config_file import load_config
from dfc_numba.errors import ConfigurationError
from dfc_numba.extensions import explained
from dfc_numba.learning.evaluation import evaluate
from dfc_numba.model.network import Network
from dfc_numba.registry import METHODS
from dfc_numba.runs import checkpoint
from dfc_numba.runs.data_files import located
from dfc_numba.runs.experiment import load_data
from dfc_numba.runs.run_directory import BEST_NAME, CONFIG_NAME, LAST_NAME, read_record
from dfc_numba.support.archives import read_npz
from dfc_numba.support.files import replacing
from dfc_numba.support.hdf5 import is_sealed
from dfc_numba.support.validation import choice

WEIGHTS = {"last": LAST_NAME, "best": BEST_NAME}
SPLITS = ("test", "validation", "train")
EXPORTS = ("npz",)
KINDS = ("weights", "biases", "feedback", "backward")
ALLOWED = "a run directory, its checkpoint.h5, a weights file (.h5), or a file of `dfc export` (.npz)"


@dataclass(frozen=True)
class Trained:
    """A trained network, and where it comes from.

    Attributes:
        path: the file of the network.
        network: the `Network`.
        config: the `Config` of its run, None where it is not known.
    """

    path: Path
    network: Network
    config: object = None


def load_trained(source, weights="last"):
    """Load a trained network.

    Args:
        source: path of a run directory, a checkpoint, a weights file or an export.
        weights: "last" or "best"; which network of a run or a checkpoint.

    Raises:
        ValueError, OSError: for anything else, or a file that cannot be read; the message names it.
    """
    choice("weights", weights, tuple(WEIGHTS))
    path = Path(source).expanduser()
    if path.is_dir():
        file = path / WEIGHTS[weights]
        if not file.exists():
            raise ConfigurationError(
                f"{path} holds no {file.name}; expected {ALLOWED} of a run that finished an epoch"
            )
        return Trained(file, Network.load(file), run_configuration(path))
    if not path.exists():
        raise ConfigurationError(f"there is no {path}; expected {ALLOWED}")
    if path.suffix == ".npz":
        return Trained(path, import_npz(path))
    if is_sealed(path) and (name := path.name) in checkpoint.FILES:
        state = checkpoint.load(path).state
        network = state.network if weights == "last" else state.best_network
        return Trained(path.with_name(name), network, run_configuration(path.parent))
    in_run = path.name in WEIGHTS.values()
    return Trained(path, Network.load(path), run_configuration(path.parent) if in_run else None)


def run_configuration(directory):
    """Return the `Config` of a run directory; None where it has no config.toml."""
    own = Path(directory) / CONFIG_NAME
    if not own.exists():
        return None
    with explained((read_record(directory) or {}).get("extensions", [])):
        return load_config(str(own))[0]


def evaluate_trained(source, *, weights="last", data_name=None, split="test", loss=None):
    """Evaluate a trained network on a part of a data set.

    Args:
        source, weights: see `load_trained`.
        data_name: name of a data set, or path of a file; None for the data of the run.
        split: "test", "validation" or "train".
        loss: "mse" or "cross_entropy"; None for that of the run, or what suits the task: mse for a regression,
            cross_entropy for classes.

    Returns:
        (`Trained`, `DataSet`, `Evaluation`)

    Raises:
        ValueError, OSError: for a source or data that cannot be read, a part that the data do not have, or data that do not
            fit the network.
    """
    split = {"val": "validation"}.get(split, split)
    choice("split", split, SPLITS)
    trained = load_trained(source, weights)
    dataset = _data(trained, data_name)
    part = getattr(dataset, split)
    if part is None:
        raise ConfigurationError(f"{dataset.name} has no {split} set; choose --split test or train")
    network, config = trained.network, trained.config
    if network.sizes[-1] == 1 and dataset.task == "classification" and dataset.n_outputs == 2:
        dataset = replace(dataset, n_outputs=1)
        part = getattr(dataset, split)
    if (dataset.n_inputs, dataset.n_outputs) != (network.sizes[0], network.sizes[-1]):
        raise ConfigurationError(
            f"{dataset.name} has {dataset.n_inputs} inputs and {dataset.n_outputs} outputs, but the network in "
            f"{trained.path} has {network.sizes[0]} and {network.sizes[-1]}; choose data of the same form with --data"
        )
    if loss is None:
        by_class = "binary_cross_entropy" if dataset.n_outputs == 1 else "cross_entropy"
        by_task = by_class if dataset.task == "classification" else "mse"
        loss = by_task if config is None else config.target.loss
    class_value = 1.0 if config is None or dataset.task == "regression" else config.target.class_value
    options = {"loss": loss, "class_value": class_value, "classes": dataset.classes or None}
    if config is not None:
        method = METHODS.find(config.training.method, "training.method")
        own = _own_arrays(trained) if method.predict is not None and method.has_arrays else None
        options["predict"] = method.predictor(network, config, own)
    return trained, dataset, evaluate(network, part.x, part.y, **options)


def _own_arrays(trained):
    """Return the method's own arrays in a checkpoint beside the weights that belongs to them; None without."""
    for path in (trained.path.with_name(name) for name in checkpoint.FILES):
        with suppress(OSError, ValueError):
            state = checkpoint.load(path).state
            if all(map(np.array_equal, state.network.weights, trained.network.weights)):
                return state.method
    return None


def _data(trained, name):
    """Return the data set of a run, or another one in the precision of the network."""
    config = trained.config
    if name is None:
        if config is None:
            raise ConfigurationError(
                f"{trained.path} belongs to no run that says which data it was trained on; name a data set or a file with "
                "--data"
            )
        folder = trained.path.parent
        return load_data(located(config, read_record(folder), folder))
    options = config.data.options if config is not None and config.data.name == str(name) else {}
    return data.load(name, dtype=trained.network.dtype.name, **options)


# --- files ------------------------------------------------------------------------------------------------------------


def write_predictions(evaluation, path):
    """Write outputs (N, n_L), predictions and labels of an `Evaluation` to a new .npz file."""
    check_new_file(path, ".npz")
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(
            file, outputs=evaluation.outputs, predictions=evaluation.predictions, labels=evaluation.labels,
            classes=np.array(evaluation.classes, dtype=str),
        )  # fmt: skip


def export(source, path, *, to="npz", weights="last"):
    """Write a trained network to a file that opens without this package.

    The .npz holds sizes, hidden_activations, output_activation, and per layer i = 1 .. L weights_i (n_i, n_{i-1}),
    biases_i (n_i,) and feedback_i (n_i, n_L): r_i = phi(weights_i r_{i-1} + biases_i).

    Args:
        source, weights: see `load_trained`.
        path: the file to write, which must not exist.
        to: "npz".

    Returns:
        The `Trained` network.

    Raises:
        ValueError, OSError: for an unknown format, a file that exists, or a source that cannot be read.
    """
    choice("to", to, EXPORTS)
    check_new_file(path, f".{to}")
    trained = load_trained(source, weights)
    network = trained.network
    arrays = {
        f"{kind}_{i}": array
        for kind in KINDS
        for i, array in enumerate(getattr(network, kind) or [], start=1)
    }
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(
            file, sizes=np.array(network.sizes), hidden_activations=np.array(network.hidden_activations, dtype=str),
            output_activation=np.array(network.output_activation), **arrays,
        )  # fmt: skip
    return trained


def import_npz(path):
    """Return the `Network` of a file that `export` wrote.

    Raises:
        ValueError: for another file, or a damaged one.
    """
    try:
        arrays = read_npz(path)
        depth = len(arrays["sizes"]) - 1
        layers = {
            kind: [arrays[f"{kind}_{i}"] for i in range(1, depth + 1)]
            for kind in KINDS[:3]
            if kind != "biases" or "biases_1" in arrays
        }
        backward = [
            arrays[name]
            for name in sorted(arrays, key=lambda name: (len(name), name))
            if name.startswith("backward_")
        ]
        return Network(
            **{"biases": None, **layers},
            **({"backward": backward} if backward else {}),
            hidden_activation=[str(name) for name in arrays["hidden_activations"]],
            output_activation=str(arrays["output_activation"]),
            dtype=arrays["weights_1"].dtype.name,
        )
    except Exception as error:  # noqa: BLE001 (a damaged file makes libraries raise anything)
        raise ValueError(
            f"{path}: is not a network that `dfc export` wrote ({error}); expected {ALLOWED}"
        ) from None


def check_new_file(path, suffix):
    path = Path(path).expanduser()
    if path.suffix != suffix:
        raise ValueError(f"--out {path}: the name must end in {suffix}")
    if path.exists():
        raise FileExistsError(f"{path} exists and is not overwritten; choose another name with --out")
