"""Reference values of the relatives, computed by the published codes, beside results of the package.

A file's `params_json` names its family (`method`), its parameters and which arrays are results. A family's function
takes (arrays, parameters) and returns our results by the names of the file, in its sign and scale. `ROWS` says with which
call of ours each array is compared; arrays that hold a slip of the published code are computed with the slip, and a row
says so. `DFC_RELATIVES_DIR` names a folder with more files, in a folder per family.
"""

import json
import os
import re
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np
from reference_files import RESOURCES

FAMILIES = ("target_propagation", "equilibrium_propagation", "least_control", "grapes")
BOUND = 1e-9


class Comparison(NamedTuple):
    """One array: its name in the file, our result, the published one."""

    name: str
    ours: np.ndarray
    theirs: np.ndarray

    @property
    def deviation(self):
        """max|ours - theirs| / max(1, max|theirs|); infinite where shapes differ or ours is not finite."""
        if np.shape(self.ours) != np.shape(self.theirs) or not np.isfinite(self.ours).all():
            return float("inf")
        scale = max(1.0, np.abs(self.theirs).max(initial=0.0))
        return float(np.abs(self.ours - self.theirs).max(initial=0.0) / scale)


class Row(NamedTuple):
    """What some results of a family are compared with; patterns are regular expressions of names."""

    family: str
    arrays: str
    remark: str
    slip: bool = False


def read(path):
    """(arrays, parameters) of a file."""
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    return arrays, json.loads(str(arrays.pop("params_json")))


@cache
def family(path):
    """The family of a file, or None for a file of another kind."""
    with np.load(path) as archive:
        if "params_json" not in archive.files:
            return None
        name = json.loads(str(archive["params_json"])).get("method")
    return name if name in FAMILIES else None


def files(*folders):
    """The files of the families in these folders."""
    return [path for folder in folders for path in sorted(Path(folder).glob("*.npz")) if family(path)]


def shipped(name):
    """The files of a family that the project ships, and those of the folder that DFC_RELATIVES_DIR names."""
    folders = [RESOURCES / "relatives" / name]
    if "DFC_RELATIVES_DIR" in os.environ:
        folders.append(Path(os.environ["DFC_RELATIVES_DIR"]) / name)
    return files(*folders)


def module(name):
    """The module with `results` and `ROWS` of a family."""
    return import_module(f"relatives_{name}")


def comparisons(path):
    """A `Comparison` for every array that is computed."""
    arrays, parameters = read(path)
    ours = module(family(path)).results(arrays, parameters)
    return [
        Comparison(name, np.asarray(value), arrays[name]) for name, value in ours.items() if name in arrays
    ]


def missing(path):
    """Names of the results of a file that are not compared, or that no row explains."""
    arrays, parameters = read(path)
    results = set(arrays) - set(parameters["input_arrays"])
    compared = {comparison.name for comparison in comparisons(path)}
    rows = module(family(path)).ROWS
    explained = {name for name in results if any(re.fullmatch(row.arrays, name) for row in rows)}
    return sorted(results - (compared & explained))


def adam(lr, beta1, beta2, eps, weight_decay=0.0):
    """Options of an `Optimizer`."""
    return Options(
        name="adam",
        learning_rate=lr,
        beta1=beta1,
        beta2=beta2,
        epsilon=eps,
        momentum=0.0,
        weight_decay=weight_decay,
    )


class Options:
    """The attributes of the configuration's section [optimizer] that an `Optimizer` reads."""

    def __init__(self, **values):
        self.clip_norm, self.clip_scope = None, "layer"
        self.__dict__.update(values)
