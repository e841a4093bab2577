"""The schema: what the documentation says of it, and how data sets are laid out."""

import re
from pathlib import Path

import numpy as np
import pytest

from dfc_numba.storage import schema
from dfc_numba.storage.table import CHUNK_BYTES, SMALL_CHUNK_BYTES, chunk_shape, pieces

DOCUMENT = (Path(__file__).parents[2] / "docs" / "file-format.md").read_text(encoding="utf-8")
CONTENTS = re.search(r"^## What is in a file$.*?(?=^## )", DOCUMENT, re.MULTILINE | re.DOTALL)[0]
ROWS = [
    tuple(cell.strip() for cell in row.split("|")[1:-1])
    for row in re.findall(r"^\| `.*$", CONTENTS, re.MULTILINE)
]


def test_every_variable_is_documented_as_it_is():
    documented = {row[0].strip("`"): row[1:] for row in ROWS if len(row) == 3}
    expected = {}
    for name, about in (schema.PLAIN | schema.LAYERED).items():
        dims = (
            ", ".join(about.dims)
            .replace("#", "i")
            .replace("below", "unit_{i-1}")
            .replace("above", "unit_{i+1}")
        )
        expected[name + "_i" * (name in schema.LAYERED)] = (dims, about.long_name.replace("#", "i"))
    assert documented == expected


def test_every_dimension_is_documented_as_it_is():
    documented = {row[0].strip("`"): row[1] for row in ROWS if len(row) == 2}
    expected = {
        name.replace("unit", "unit_i"): text.replace("#", "i") for name, text in schema.DIMENSIONS.items()
    }
    assert documented == expected


def test_every_status_is_documented():
    assert all(f"`{status}`" in DOCUMENT for status in schema.STATUSES)


def test_layers_have_the_units_of_their_own_and_the_layer_below():
    assert schema.variable("dW_1").dims == ("record", "unit_1", "input")
    assert schema.variable("W_12").dims == ("snapshot", "unit_12", "unit_11")
    assert schema.variable("B_2").dims == ("snapshot", "unit_2", "unit_3")
    assert schema.variable("v_ff_2").long_name == "basal (feedforward) voltage of layer 2"


@pytest.mark.parametrize("name", ["v", "v_", "v_x", "u_1", "record", "vv_1", ""])
def test_other_names_are_no_variables(name):
    assert not schema.is_variable(name)
    with pytest.raises(ValueError, match="is not a variable of schema version 1.2"):
        schema.variable(name)


@pytest.mark.parametrize("itemsize", [1, 4, 8])
@pytest.mark.parametrize(
    "shape",
    [
        (), (1,), (7,), (1000, 16, 256), (1000, 128, 256), (2, 5000, 5000), (100_000,), (31, 5, 6), (10**6, 1, 1),
        (1, 1, 10**6),
    ],
    ids=str,
)  # fmt: skip
def test_chunks_are_neither_large_nor_wasteful(shape, itemsize):
    chunk = chunk_shape(shape, itemsize)
    stored, size = int(np.prod(chunk)) * itemsize, int(np.prod(shape, dtype=np.int64)) * itemsize
    assert len(chunk) == len(shape) + 1 and all(0 < a <= b for a, b in zip(chunk[1:], shape, strict=True))
    assert stored <= CHUNK_BYTES
    if chunk[0] > 1:
        assert stored <= SMALL_CHUNK_BYTES
    else:
        assert stored >= min(size, CHUNK_BYTES / 4)
        padded = (
            np.prod([-(-length // part) * part for length, part in zip(shape, chunk[1:], strict=True)])
            * itemsize
        )
        assert padded <= 1.1 * size


def test_pieces_are_whole_chunks_and_cover_everything():
    found = pieces((1000, 64, 256), 13, 8)
    assert [piece.start for piece in found[1:]] == [piece.stop for piece in found[:-1]]
    assert (found[0].start, found[-1].stop) == (0, 1000)
    assert all((piece.stop - piece.start) % 13 == 0 for piece in found[:-1]) and len(found) > 5
