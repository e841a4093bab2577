"""Names for what signatures take and return, for readers and for type checkers.

ArrayLike     what NumPy makes an array of numbers from: an array, nested lists of numbers, a data frame
Array         an array that this package returns
Layers        a list with one array per layer
LayersLike    a sequence with something array-like for each layer
PathLike      the path of a file or folder, as text or as a `pathlib.Path`
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import DTypeLike as DTypeLike
from numpy.typing import NDArray


class SupportsArray(Protocol):
    """Anything that NumPy can make an array from, such as a data frame."""

    def __array__(self) -> np.ndarray[Any, Any]: ...


Array: TypeAlias = NDArray[Any]
# numpy.typing.ArrayLike without text, which no argument of this package takes for numbers
ArrayLike: TypeAlias = Array | SupportsArray | Sequence[float] | Sequence[Sequence[float]] | Sequence[Array]
Layers: TypeAlias = list[Array]
LayersLike: TypeAlias = Sequence[ArrayLike]
PathLike: TypeAlias = str | os.PathLike[str]
