"""Chunks moved as they are stored: their checksums are HDF5's own, damage is seen, plain h5py reads what was written."""

import itertools

import h5py
import numpy as np
import pytest

from dfc_numba.kernels.checksum import fletcher32
from dfc_numba.storage import hdf5_fast
from dfc_numba.storage.table import filters

ROWS = (5, 7, 6)  # of a variable: 5 time points in chunks of 2


def slow_checksum(content):
    """Fletcher's sums of big-endian words, word by word, as the definition has them; a last byte is followed by a zero."""
    sum_1 = sum_2 = 0
    for first, second in itertools.zip_longest(content[::2].tolist(), content[1::2].tolist(), fillvalue=0):
        sum_1 += 256 * first + second
        sum_2 += sum_1
    folded = [(total - 1) % 65535 + 1 if total else 0 for total in (sum_1, sum_2)]
    return folded[1] * 65536 + folded[0]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 510, 511, 512, 513, 515, 2000, 140_001])
def test_the_checksum_is_that_of_its_definition(count):
    drawn = np.random.default_rng(count).integers(0, 2**8, count, np.uint8)
    for content in (drawn, np.zeros(count, np.uint8), np.full(count, 255, np.uint8)):
        assert fletcher32(content) == slow_checksum(content)


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
        assert hdf5_fast.intact(content, mask)


def test_every_flipped_bit_of_a_chunk_is_seen(tmp_path):
    with h5py.File(tmp_path / "file.h5", "w") as file:
        dataset = create(file)
        dataset[0] = values()
        mask, content = dataset.id.read_direct_chunk((0, 0, 0, 0))
    for bit in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        assert not hdf5_fast.intact(bytes(damaged), mask)


def test_chunks_of_odd_length_have_hdf5_s_checksum(tmp_path):
    with h5py.File(tmp_path / "file.h5", "w") as file:
        dataset = file.create_dataset("a", data=np.arange(7, dtype=np.int8), chunks=(7,), fletcher32=True)
        mask, content = dataset.id.read_direct_chunk((0,))
    assert hdf5_fast.intact(content, mask)
    assert not hdf5_fast.intact(content, 1)  # says that it has none


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("given_as", ["float32", "float64"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_plain_h5py_reads_what_was_written(tmp_path, dtype, given_as, order):
    given = np.asarray(values(given_as), order=order)
    with h5py.File(tmp_path / "file.h5", "w") as file:
        dataset = create(file, dtype)
        assert hdf5_fast.takes_whole_chunks(dataset, ROWS)
        for start in (0, 2, 4):
            hdf5_fast.write_chunk([(dataset, (1, start, 0, 0))], given[start : start + 2])
    with h5py.File(tmp_path / "file.h5") as file:
        assert np.array_equal(file["a"][1], given.astype(dtype)) and not file["a"][0].any()


def test_the_rest_of_a_last_chunk_is_filled(tmp_path):
    with h5py.File(tmp_path / "file.h5", "w") as file:
        dataset = file.create_dataset(
            "a", (1, 5), maxshape=(1, None), chunks=(1, 3), dtype="f4", fillvalue=np.nan, fletcher32=True
        )
        hdf5_fast.write_chunk([(dataset, (0, 0))], np.ones(3))
        hdf5_fast.write_chunk([(dataset, (0, 3))], np.ones(2))
        dataset.resize(6, axis=1)
        np.testing.assert_array_equal(dataset[0], [1, 1, 1, 1, 1, np.nan])


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_a_copied_chunk_is_the_same_and_damage_is_seen(tmp_path, compression):
    with h5py.File(tmp_path / "file.h5", "w") as file, h5py.File(tmp_path / "copy.h5", "w") as other:
        source, target = create(file, compression=compression), create(other, compression=compression)
        source[0] = values()
        info = source.id.get_chunk_info_by_coord((0, 2, 0, 0))
        assert hdf5_fast.copy_chunk(source, info, target, (2, 2, 0, 0))
        assert np.array_equal(target[2, 2:4], source[0, 2:4])
        damaged = bytearray(source.id.read_direct_chunk((0, 2, 0, 0))[1])
        damaged[5] ^= 1
        source.id.write_direct_chunk((0, 2, 0, 0), bytes(damaged))
        info = source.id.get_chunk_info_by_coord((0, 2, 0, 0))
        assert not hdf5_fast.copy_chunk(source, info, target, (1, 2, 0, 0))


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
        assert not hdf5_fast.takes_whole_chunks(create(file, **changes), shape)
