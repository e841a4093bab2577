"""Tables of records: a row that does not fit leaves no trace."""

import h5py
import numpy as np
import pytest

from dfc_numba.storage import schema
from dfc_numba.storage.table import Table, filters

FIRST = {"v_1": np.ones((5, 2, 3)), "position": np.arange(2), "number": np.int64(0)}
STEPS = {"step": np.arange(5), "time": 0.1 * np.arange(5)}


def table(file, dtype="float32"):
    return Table(
        file,
        "forward",
        schema.RECORD,
        attributes={"phase": "forward"},
        options=filters("none"),
        dtype=np.dtype(dtype),
    )


def contents(file):
    return {name: (data.shape, data[...].tolist()) for name, data in file["forward"].items()}


@pytest.mark.parametrize(
    ("arrays", "coordinates"),
    [
        ({"position": np.arange(9), "v_1": np.zeros((5, 9, 4))}, STEPS),
        ({"number": np.int64(5), "v_1": np.zeros((5, 2, 3), complex)}, STEPS),
        ({"number": np.float64(5), "v_1": np.zeros((5, 2, 3))}, STEPS),
        ({"position": np.arange(9), "r_1": np.zeros((4, 9, 3))}, {}),
        ({"position": np.arange(9)}, {"step": np.arange(1, 6)}),
    ],
)
def test_a_row_that_does_not_fit_changes_nothing(tmp_path, arrays, coordinates):
    with h5py.File(tmp_path / "file.h5", "w") as file:
        rows = table(file)
        rows.append(FIRST, STEPS)
        before = contents(file)
        with pytest.raises(ValueError):
            rows.append(arrays, coordinates)
        assert contents(file) == before and len(rows) == 1
        rows.append(FIRST, STEPS)
        assert file["forward/v_1"].shape == (2, 5, 2, 3)


@pytest.mark.parametrize(
    ("arrays", "coordinates"),
    [
        ({"v_1": np.zeros((5, 2, 3)), "r_1": np.zeros((5, 2, 4))}, STEPS),
        ({"v_1": np.zeros((4, 2, 3))}, STEPS),
        ({"v_1": np.zeros((5, 2, 3), complex)}, STEPS),
    ],
)
def test_a_first_row_that_contradicts_itself_changes_nothing(tmp_path, arrays, coordinates):
    with h5py.File(tmp_path / "file.h5", "w") as file:
        rows = table(file)
        with pytest.raises(ValueError):
            rows.append(arrays, coordinates)
        rows.append(FIRST, STEPS)
        assert file["forward/v_1"].shape == (1, 5, 2, 3)
