"""The door for files of others: nothing outside is read, nothing hangs, nothing exhausts the memory."""

import os
import resource
import shutil
import sys

import h5py
import numpy as np
import pytest

import dfc_numba as dfc
from dfc_numba.errors import DamagedFileError, UnusableFileError
from dfc_numba.support import foreign

PLAIN = np.arange(12.0).reshape(3, 4)


@pytest.fixture
def path(tmp_path):
    """A file with a data set, a text and a group."""
    path = tmp_path / "file.h5"
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        file["group/plain"] = PLAIN
        file.attrs.update(text="a text", number=3)
    return path


def changed(path, change):
    with h5py.File(path, "r+") as file:
        change(file)
    return foreign.open_hdf5(path)


def test_what_is_sound_is_read(path):
    with foreign.open_hdf5(path) as file:
        np.testing.assert_array_equal(foreign.read(file, "group/plain"), PLAIN)
        assert foreign.attributes(file) == {"text": "a text", "number": 3}
        assert foreign.file_name(file["group"]) == str(path)


def test_a_name_beyond_ascii_is_told_as_it_is(path):
    other = path.rename(path.with_name("Größe.h5"))
    with foreign.open_hdf5(other) as file:
        assert foreign.file_name(file) == str(other)
        with pytest.raises(UnusableFileError, match="Größe.h5: /nothing is missing"):
            foreign.dataset(file, "nothing")


def virtual(file):
    layout = h5py.VirtualLayout((3, 4), "f8")
    layout[...] = h5py.VirtualSource("other.h5", "group/plain", (3, 4))
    file.create_virtual_dataset("entry", layout)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda f: f.__setitem__("entry", h5py.ExternalLink("other.h5", "/group/plain")),
            "a link to another file",
        ),
        (lambda f: f.__setitem__("entry", h5py.SoftLink("/group/plain")), "a soft link"),
        (
            lambda f: f.create_dataset("entry", (3, 4), "f8", external=[("private.bin", 0, 96)]),
            "in other files",
        ),
        (virtual, "in other files"),
        (lambda f: f.__setitem__("entry", "text"), "not a numeric array"),
        (lambda f: f.create_group("entry"), "not a numeric array"),
        (lambda f: f.__setitem__("entry", h5py.Empty("f8")), "not a numeric array"),
        (lambda f: f.__setitem__("entry", np.array(f.ref, h5py.ref_dtype)), "not a numeric array"),
        (lambda f: f.create_dataset("entry", (50000, 50000), "f8", chunks=(1000, 1000)), "declares 20 GB"),
        (lambda f: f.create_dataset("entry", (50000, 50000), "f8"), "declares 20 GB"),
    ],
)
def test_what_leads_out_or_is_not_there_is_refused(path, tmp_path, change, message):
    shutil.copy(path, tmp_path / "other.h5")
    PLAIN.tofile(tmp_path / "private.bin")
    with changed(path, change) as file, pytest.raises(UnusableFileError, match=message):
        foreign.read(file, "entry")


def test_a_chunk_that_inflates_without_bound_is_not_unpacked(path):
    """Stored by hand: a chunk of 80 bytes whose content inflates to 60 MB."""
    import zlib

    packer = zlib.compressobj(9)
    bomb = b"".join(packer.compress(bytes(2**20)) for _ in range(60)) + packer.flush()

    def store(file):
        dataset = file.create_dataset("entry", (10,), "f8", chunks=(10,), compression="gzip")
        dataset.id.write_direct_chunk((0,), bomb)

    with (
        changed(path, store) as file,
        pytest.raises(UnusableFileError, match="has a chunk of .* bytes for 80 bytes"),
    ):
        foreign.read(file, "entry")


def test_a_large_chunk_that_inflates_further_than_declared_is_refused(path):
    import zlib

    packer = zlib.compressobj(9)
    bomb = b"".join(packer.compress(bytes(2**20)) for _ in range(900)) + packer.flush()

    def store(file):
        dataset = file.create_dataset("entry", (2**17,), "f8", chunks=(2**17,), compression="gzip")
        dataset.id.write_direct_chunk((0,), bomb)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with changed(path, store) as file, pytest.raises(DamagedFileError, match="entry is damaged"):
        foreign.read(file, "entry")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2e5  # kB


def test_two_compressions_one_after_the_other_are_refused(path):
    def store(file):
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((10,))
        properties.set_deflate(9)
        properties.set_deflate(9)
        space = h5py.h5s.create_simple((10,))
        h5py.h5d.create(file.id, b"entry", h5py.h5t.NATIVE_DOUBLE, space, properties)

    with changed(path, store) as file, pytest.raises(UnusableFileError, match="compressed twice"):
        foreign.read(file, "entry")


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.h5")
    for function in (
        foreign.open_regular,
        foreign.open_hdf5,
        foreign.read_text,
        dfc.Network.load,
        dfc.open_trajectories,
    ):
        with pytest.raises(OSError, match="pipe.h5"):
            function(tmp_path / "pipe.h5")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder"):
        foreign.open_regular(tmp_path)


def test_a_file_that_is_being_written_is_refused(path):
    with h5py.File(path, "r+"), pytest.raises(UnusableFileError, match="open for writing in another program"):
        foreign.open_hdf5(path, alone=True)


def test_no_descriptor_is_left_open(path):
    def count():
        return len(os.listdir("/proc/self/fd"))

    foreign.open_hdf5(path).close()
    before = count()
    for _ in range(20):
        with foreign.open_hdf5(path) as file:
            foreign.read(file, "group/plain")
        damaged = path.with_name("damaged.h5")
        damaged.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(DamagedFileError):
            foreign.open_hdf5(damaged)
    assert count() <= before


def test_an_unknown_filter_is_refused(path):
    def store(file):
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((10,))
        properties.set_filter(31999, h5py.h5z.FLAG_OPTIONAL, ())
        space = h5py.h5s.create_simple((10,))
        h5py.h5d.create(file.id, b"entry", h5py.h5t.NATIVE_DOUBLE, space, properties)

    pytest.importorskip("hdf5plugin")
    with (
        changed(path, store) as file,
        pytest.raises(UnusableFileError, match="filter 31999, which is not one of"),
    ):
        foreign.read(file, "entry")


HEAPS = """
import os, resource, sys
import dfc_numba as dfc
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
whole, path = open(sys.argv[1], "rb").read(), sys.argv[2]
start, outcomes = whole.index(b"GCOL"), {}
place = start + 16
while int.from_bytes(whole[place:place + 2], "little"):
    size = int.from_bytes(whole[place + 8:place + 16], "little")
    for at, bit in ((place, 0), (place + 8, 3), (place + 9, 3), (place + 12, 7), (place + 15, 7)):
        changed = bytearray(whole)
        changed[at] ^= 1 << bit
        open(path, "wb").write(changed)
        try:
            dfc.Network.load(path)
            outcomes["read"] = outcomes.get("read", 0) + 1
        except (OSError, ValueError) as error:
            assert path in str(error), error
            outcomes["refused"] = outcomes.get("refused", 0) + 1
    place += 16 + -(-size // 8) * 8
print(outcomes.get("refused", 0))
"""


def test_damaged_heaps_of_texts_do_not_hang(tmp_path):
    import subprocess

    dfc.Network.create([4, 6, 3], seed=0).save(tmp_path / "a.h5")
    command = [sys.executable, "-c", HEAPS, str(tmp_path / "a.h5"), str(tmp_path / "b.h5")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 15


def test_a_network_with_weights_of_other_sizes_is_refused_before_they_are_read(tmp_path):
    path = tmp_path / "a.h5"
    dfc.Network.create([4, 6, 3], seed=0).save(path)
    with h5py.File(path, "r+") as file:
        del file["weights/2"]
        file.create_dataset("weights/2", (20000, 20000), "f8", chunks=(1000, 1000), compression="gzip")
    with pytest.raises(
        ValueError, match=r"a.h5: /weights/2 has the shape \(20000, 20000\); expected \(3, 6\)"
    ):
        dfc.Network.load(path)


@pytest.mark.parametrize("name", ["dtype", "output_activation"])
def test_a_text_that_changed_unseen_is_noticed(tmp_path, name):
    path = tmp_path / "a.h5"
    dfc.Network.create([4, 6, 3], seed=0).save(path)
    with h5py.File(path, "r+") as file:
        file.attrs[name] = {"dtype": "float32", "output_activation": "tanh"}[name]
    with pytest.raises(OSError, match=f"{name} does not fit its checksum"):
        dfc.Network.load(path)


def test_a_text_file_is_read_without_its_byte_order_mark(tmp_path):
    (tmp_path / "a.toml").write_bytes(b"\xef\xbb\xbfkey = 1\n")
    assert foreign.read_text(tmp_path / "a.toml") == "key = 1\n"


def test_a_text_file_in_another_encoding_is_named(tmp_path):
    (tmp_path / "a.toml").write_bytes("größe".encode("latin-1"))
    with pytest.raises(UnusableFileError, match="a.toml is not a text in UTF-8"):
        foreign.read_text(tmp_path / "a.toml")


def test_exported_weights_are_read_through_the_same_door(tmp_path):
    """A pipe is not waited for, a size that is only declared takes no memory, and nothing is unpickled."""
    import zipfile

    from dfc_numba.runs import trained

    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(ValueError, match="pipe.npz is not a regular file"):
        trained.import_npz(tmp_path / "pipe.npz")
    dfc.Network.create([4, 3], seed=0).save(tmp_path / "net.h5")
    trained.export(tmp_path / "net.h5", tmp_path / "weights.npz")
    assert trained.import_npz(tmp_path / "weights.npz").sizes == (4, 3)
    header = (
        b"\x93NUMPY\x01\x00v\x00" + str({"descr": "<f8", "fortran_order": False, "shape": (2**40,)}).encode()
    )
    members = {"huge": header.ljust(127) + b"\n", "pickled": None}
    for name, content in members.items():
        with zipfile.ZipFile(tmp_path / f"{name}.npz", "w") as archive:
            if content is not None:
                archive.writestr("sizes.npy", content)
        if content is None:
            np.savez(tmp_path / f"{name}.npz", sizes=np.array([{}], dtype=object))
        with pytest.raises(ValueError, match=f"{name}.npz: is not a network .*(declares|not allowed)"):
            trained.import_npz(tmp_path / f"{name}.npz")
