"""The data file of a run: what it was when the run began, and where it is now."""

import os
from pathlib import Path

from dfc_numba import data
from dfc_numba.data.images import VARIABLE
from dfc_numba.support.foreign import sha256_of


def data_facts(config):
    """Return the absolute path and the SHA-256 of a configuration's data file, for run.json; {} where there is none."""
    path = _stated(config)
    if path is None or not path.is_file():
        return {}
    return {"path": str(path.absolute()), "sha256": sha256_of(path)}


def located(config, record, folder):
    """Return the configuration of a run with the path at which its data file is now.

    A file that is not where the configuration says, be it moved or stated relative to another folder, is looked for by name and
    SHA-256: where it was, in this folder, in that of the run and beside it, and in that of DFC_DATA_DIR.

    Args:
        record: the content of run.json, or None. folder: the run directory.

    Returns:
        the configuration itself where the file is in its place, or nowhere. (That its content is what the run began with is
        checked with the checkpoint.)
    """
    path, known = _stated(config), ((record or {}).get("data") or {})
    if path is None or not isinstance(known, dict) or not isinstance(known.get("sha256"), str):
        return config
    if path.exists():
        return config
    for place in _places(path, known, Path(folder)):
        if place.is_file() and sha256_of(place) == known["sha256"]:
            return _with_path(config, place)
    return config


def _places(path, known, folder):
    """Yield the places where a missing file may be."""
    if isinstance(known.get("path"), str):
        yield Path(known["path"])
    folders = [Path(), folder, folder.parent, Path(os.environ.get(VARIABLE) or ".").expanduser()]
    yield from (place / path.name for place in folders)


def _stated(config):
    """Return the path of the data file that a configuration states, or None."""
    stated = config.data.name if config.data.name not in data.names() else config.data.options.get("path")
    return Path(stated).expanduser() if isinstance(stated, str) else None


def _with_path(config, path):
    section = config.data
    if section.name not in data.names():
        section = section.model_copy(update={"name": str(path)})
    else:
        section = section.model_copy(update={"options": {**section.options, "path": str(path)}})
    return config.model_copy(update={"data": section})
