"""Archives of NumPy (.npz) that someone else may have made, or that are damaged: plain numbers and texts, never pickled."""

import math
import zipfile

import numpy as np

from dfc_numba.errors import UnusableFileError
from dfc_numba.support import foreign, memory


def read_npz(path, wanted=lambda name: True, nothing=lambda names: "it holds no arrays"):
    """Return the arrays of a .npz file by name, after what is declared was compared with what is there.

    Args:
        wanted: function of a name that says whether the array is read.
        nothing: function of all names that returns the message for a file without any that is wanted.

    Raises:
        OSError: if it cannot be read. UnusableFileError: for what is not allowed. MemoryError: if it does not fit into memory.
        Others come from the libraries that read a damaged archive.
    """
    with foreign.open_regular(path) as file:
        if not zipfile.is_zipfile(file):
            raise UnusableFileError(f"{path}: truncated or not a .npz file (write it with numpy.savez)")
        with zipfile.ZipFile(file) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            chosen = {name: info for name, info in members.items() if wanted(name)}
            if not chosen:
                raise UnusableFileError(nothing(members))
            size = sum(info.file_size for info in chosen.values())
            memory.require(size, f"the data in {path}", "use a smaller part of them")
            return {name: _array(path, archive, name, info) for name, info in chosen.items()}


def _array(path, archive, name, info):
    """Return an array whose header says what the archive holds."""
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        reader = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        try:
            shape, transposed, dtype = reader(file)
        except Exception as error:  # noqa: BLE001 (the header is Python source, which may be anything)
            raise UnusableFileError(f"{path}: the header of {name} is damaged ({error})") from None
        if dtype.hasobject or dtype.kind not in "biufcSU":
            raise UnusableFileError(
                f"{path}: {name} cannot be read ({dtype}, not allowed); store plain numbers"
            )
        size = math.prod(shape) * dtype.itemsize
        if size != info.file_size - file.tell():
            raise UnusableFileError(
                f"{path}: {name} declares {size} bytes of shape {shape}, but holds {info.file_size - file.tell()}; it is damaged"
            )
        content = bytearray(file.read(size + 1))
    if len(content) != size:
        raise UnusableFileError(f"{path}: {name} is truncated ({len(content)} of {size} bytes)")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if transposed else "C")
