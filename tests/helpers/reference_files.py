"""Files of reference values computed by the published code: how they are found and read, and how one array is compared.

A reference file is an .npz archive with the options in the names of the published code (`params_json`), everything
that a computation started from, and what the published code made of it. Files of one kind are a family, which the
first words of their names say.
"""

import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

FAMILIES = (
    "ctrl", "opt", "conv", "noisyfwd", "fb2p", "sp_train", "sp_pre", "sp_extra", "bp_dfa", "init", "student_teacher",
    "old_forward", "old_clip", "old_feedback", "train", "metrics_new", "old_metrics",
)  # fmt: skip
RESOURCES = Path(__file__).parents[1] / "resources"


class Comparison(NamedTuple):
    """One array: its name in the file, our result, the published one in our sign and scale."""

    name: str
    ours: np.ndarray
    theirs: np.ndarray

    @property
    def deviation(self):
        """Largest absolute difference, relative to the largest published value (absolute where all are 0).

        Infinite where the shapes differ or our result is not finite.
        """
        if np.shape(self.ours) != np.shape(self.theirs) or not np.isfinite(self.ours).all():
            return float("inf")
        scale = np.abs(self.theirs).max() or 1.0
        return float(np.abs(self.ours - self.theirs).max() / scale)


def family(path):
    """The family that a file belongs to, or None for a file of another kind."""
    stem = Path(path).stem
    return next((name for name in FAMILIES if stem == name or stem.startswith(name + "_")), None)


def reference_files(*folders):
    """The reference files of the folders, in alphabetical order."""
    return sorted(path for folder in folders for path in Path(folder).glob("*.npz") if family(path))


def shipped_files():
    """The selection in the resources, of which some lack a part of their arrays."""
    return reference_files(RESOURCES / "reference", RESOURCES / "training")


def more_files():
    """The files of the folder that DFC_REFERENCE_DIR names; none without."""
    return reference_files(os.environ["DFC_REFERENCE_DIR"]) if "DFC_REFERENCE_DIR" in os.environ else []


def label(path):
    """A test's name for a file."""
    return f"{path.parent.name}-{path.stem}"


def read(path):
    """The arrays of a file by name, and its options."""
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    return arrays, json.loads(str(arrays["params_json"]))
