"""Own data and image files that are damaged, hostile or merely unusual: refused with a sentence, or read."""

import gzip
import io
import os
import struct
import zipfile

import h5py
import numpy as np
import pytest

from dfc_numba import data
from dfc_numba.data import images


def arrays():
    random = np.random.default_rng(0)
    x = random.normal(size=(60, 4))
    y = x[:, :3].argmax(axis=1)
    return {"x_train": x[:40], "y_train": y[:40], "x_test": x[40:], "y_test": y[40:]}


@pytest.mark.parametrize("compression", ["gzip", "lzf", "Blosc", "Blosc2", "Zstd", "LZ4", "Bitshuffle"])
@pytest.mark.parametrize("repeats", [1, 50])
def test_compressed_data_are_read(tmp_path, compression, repeats):
    """Of arrays that repeat themselves, chunks are smaller than their content; others are stored as they are."""
    plugin = pytest.importorskip("hdf5plugin")
    kind = getattr(plugin, compression, None)
    options = {"compression": compression} if kind is None else dict(kind())
    with h5py.File(tmp_path / "own.h5", "w") as file:
        for name, array in arrays().items():
            array = np.concatenate([array] * repeats)
            file.create_dataset(name, data=array, chunks=array.shape, **options)
            assert repeats == 1 or file[name].id.get_storage_size() < array.nbytes
    np.testing.assert_array_equal(data.load(tmp_path / "own.h5").train.x[:40], arrays()["x_train"])


@pytest.mark.parametrize("columns", [False, True])
def test_transposed_data_are_named_with_the_remedy(tmp_path, columns):
    """MATLAB writes (samples, inputs) as (inputs, samples), and labels as (1, samples)."""
    found = {name: array.T for name, array in arrays().items()}
    if columns:
        found |= {name: array[np.newaxis] for name, array in found.items() if name.startswith("y_")}
    with h5py.File(tmp_path / "own.h5", "w") as file:
        for name, array in found.items():
            file[name] = array
    with pytest.raises(
        ValueError, match=r"own.h5: x_train has 4 samples .* as MATLAB writes it: store it transposed"
    ):
        data.load(tmp_path / "own.h5")
    (tmp_path / "own.h5").rename(tmp_path / "own.mat")
    with pytest.raises(ValueError, match=r"a .mat of MATLAB 7.3 .* name it .h5"):
        data.load("file", path=tmp_path / "own.mat")


def test_big_endian_data_are_read(tmp_path):
    with h5py.File(tmp_path / "own.h5", "w") as file:
        for name, array in arrays().items():
            file[name] = array.astype(array.dtype.newbyteorder(">"))
    np.testing.assert_array_equal(data.load(tmp_path / "own.h5").train.x, arrays()["x_train"])


def test_data_that_are_open_elsewhere_are_named(tmp_path):
    with h5py.File(tmp_path / "own.h5", "w") as file:
        file["x_train"] = np.ones((3, 2))
        with pytest.raises(ValueError, match="own.h5 is open for writing in another program"):
            data.load(tmp_path / "own.h5")


def test_arrays_in_groups_are_named(tmp_path):
    with h5py.File(tmp_path / "own.h5", "w") as file:
        for name, array in arrays().items():
            file[f"{name}/block0_values"] = array
    with pytest.raises(ValueError, match="is a group .with block0_values."):
        data.load(tmp_path / "own.h5")


def test_links_to_other_files_are_refused(tmp_path):
    with h5py.File(tmp_path / "own.h5", "w") as file:
        file["x_train"] = h5py.ExternalLink("other.h5", "/x")
    with pytest.raises(ValueError, match="a link to another file"):
        data.load(tmp_path / "own.h5")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_train": np.array([-1, 1] * 20)}, "holds the label -1 .*; labels are counted from 0"),
        ({"y_test": np.array([5] * 20)}, "y_test holds the label 5 .*n_classes = 6"),
    ],
)
def test_labels_that_do_not_fit_name_the_remedy(tmp_path, change, message):
    np.savez(tmp_path / "own.npz", **{**arrays(), **change})
    with pytest.raises(ValueError, match=message):
        data.load(tmp_path / "own.npz")


def archive(path, header, content=b""):
    """A .npz file whose x_train has a header of one's own."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        text = header.encode()
        file.writestr("x_train.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (3,), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-3,), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': 'x', }",
        "{'descr': 'nonsense', 'fortran_order': False, 'shape': (3,), }",
        "(" * 3000,
        "{",
        "\x00\x00",
        "",
    ],
)
def test_a_damaged_header_is_named(tmp_path, header):
    archive(tmp_path / "own.npz", header, b"123")
    with pytest.raises(ValueError, match="own.npz"):
        data.load(tmp_path / "own.npz")


def test_flipped_bits_of_an_archive_are_named_or_harmless(tmp_path):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays())
    whole, random, path = buffer.getvalue(), np.random.default_rng(1), tmp_path / "own.npz"
    for place in random.integers(0, 8 * len(whole), 200):
        changed = bytearray(whole)
        changed[place // 8] ^= 1 << place % 8
        path.write_bytes(changed)
        try:
            found = data.load(path)
        except ValueError as error:
            assert "own.npz" in str(error)
        else:
            np.testing.assert_array_equal(found.train.x, arrays()["x_train"])


def test_an_image_file_that_inflates_without_end_is_refused(tmp_path):
    head = struct.pack(">IIII", 0x803, 2, 28, 28)
    (tmp_path / "a.gz").write_bytes(gzip.compress(head + bytes(2**27)))
    with pytest.raises(ValueError, match="too long"):
        images.read_images(tmp_path / "a.gz")


def test_an_image_file_that_promises_more_than_there_can_be_is_refused(tmp_path):
    (tmp_path / "a").write_bytes(struct.pack(">IIII", 0x803, 2**31, 28, 28))
    with pytest.raises(ValueError, match="promises .* bytes"):
        images.read_images(tmp_path / "a")


def test_a_pipe_is_no_data_file(tmp_path):
    for name in ("own.npz", "own.h5"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(ValueError, match="is not a file"):
            data.load(tmp_path / name)
    with pytest.raises(ValueError, match="is not a regular file"):
        images.read_images(tmp_path / "own.h5")


def test_missing_data_say_where_they_were_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"there is no such file .looked for in {tmp_path}"):
        data.load("own.npz")
