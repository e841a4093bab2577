"""Chunks moved as they are stored: their checksums are HDF5's own, damage is seen, plain h5py reads what was written."""

import h5py
import numpy as np
import pytest

from dfc_numba.kernels.checksum import fletcher32
from dfc_numba.storage import direct
from dfc_numba.storage.layout import filters

ROWS = (5, 7, 6)  # of a variable: 5 time points in chunks of 2


def slow_checksum(words):
    """Fletcher's sums word by word, as the definition has them."""
    sum_1 = sum_2 = 0
    for word in words.byteswap().tolist():
        sum_1 += word
        sum_2 += sum_1
    folded = [(total - 1) % 65535 + 1 if total else 0 for total in (sum_1, sum_2)]
    return folded[1] * 65536 + folded[0]


@pytest.mark.parametrize("count", [0, 1, 2, 255, 256, 257, 1000, 70_001])
def test_the_checksum_is_that_of_its_definition(count):
    drawn = np.random.default_rng(count).integers(0, 2**16, count, np.uint16)
    for words in (drawn, np.zeros(count, np.uint16), np.full(count, 65535, np.uint16)):
        assert fletcher32(words) == slow_checksum(words)


def create(file, dtype="float32", compression="none", shape=ROWS, chunk=(1, 2, *ROWS[1:])):
    growing = {"shape": (3, *shape), "maxshape": (None, None, *shape[1:]), "chunks": chunk, "dtype": dtype}
    return file.create_dataset("a", **growing, **filters(compression))


def values(dtype="float32", seed=0):
    return (100 * np.random.default_rng(seed).standard_normal(ROWS)).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16"])
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_the_checksum_is_hdf5_s(tmp_path, dtype, compression):
    with h5py.File(tmp_path / "file.h5", "w") as file:
        dataset = create(file, dtype, compression)
        dataset[0] = values(dtype)
        mask, content = dataset.id.read_direct_chunk((0, 2, 0, 0))
        assert len(content) % 2 or direct.intact(content, mask)


def test_every_flipped_bit_of_a_chunk_is_seen(tmp_path):
    with h5py.File(tmp_path / "file.h5", "w") as file:
        dataset = create(file)
        dataset[0] = values()
        mask, content = dataset.id.read_direct_chunk((0, 0, 0, 0))
    for bit in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        assert not direct.intact(bytes(damaged), mask)


def test_what_cannot_be_told_is_not_intact(tmp_path):
    with h5py.File(tmp_path / "file.h5", "w") as file:
        dataset = file.create_dataset("a", data=np.arange(7, dtype=np.int8), chunks=(7,), fletcher32=True)
        mask, content = dataset.id.read_direct_chunk((0,))
    assert not direct.intact(content, mask) and not direct.intact(content[1:], 1)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_plain_h5py_reads_what_was_written(tmp_path, dtype, order):
    given = np.asarray(values(dtype), order=order)
    with h5py.File(tmp_path / "file.h5", "w") as file:
        dataset = create(file, dtype)
        assert direct.takes_whole_chunks(dataset, ROWS)
        for start in (0, 2):
            direct.write_chunk(dataset, (1, start, 0, 0), given[start : start + 2])
    with h5py.File(tmp_path / "file.h5") as file:
        assert np.array_equal(file["a"][1, :4], given[:4]) and not file["a"][0].any()


@pytest.mark.parametrize(
    ("changes", "shape"),
    [
        ({"compression": "gzip"}, ROWS),
        ({}, (5, 6, 6)),  # fewer samples than there is room for
        ({"chunk": (1, 2, 7, 3)}, ROWS),
        ({"chunk": (3, 2, 7, 6)}, ROWS),
    ],
)
def test_other_rows_go_through_hdf5(tmp_path, changes, shape):
    with h5py.File(tmp_path / "file.h5", "w") as file:
        assert not direct.takes_whole_chunks(create(file, **changes), shape)
