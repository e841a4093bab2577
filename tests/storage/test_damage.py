"""Files that are damaged, foreign or newer: a message that says what and where, and the rest stays readable."""

import errno
import json
import os
import resource
import subprocess
import sys

import h5py
import numpy as np
import pytest
import storage_files
from storage_files import assert_same_recipe, assert_same_trajectory, flip, overwrite, record, write

import dfc_numba as dfc
from dfc_numba.errors import DamagedFileError
from dfc_numba.storage.inspection import damages
from dfc_numba.storage.reader import open_trajectories


@pytest.fixture
def records():
    return [record(n) for n in range(3)]


@pytest.fixture
def path(tmp_path, records):
    write(tmp_path / "a.h5", records)
    return tmp_path / "a.h5"


# --- damage -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [lambda _: b"", lambda _: b"not HDF5 at all", lambda c: c[: len(c) // 2], lambda c: c[:-1]],
    ids=["empty", "text", "half", "last byte missing"],
)
def test_a_file_that_is_cut_off_is_named(path, change):
    overwrite(path, change)
    with pytest.raises(OSError, match="a.h5 cannot be read: damaged, or not an HDF5 file"):
        open_trajectories(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="^there is no .*nothing.h5$"):
        open_trajectories(tmp_path / "nothing.h5")


def test_a_flipped_byte_is_noticed_and_the_rest_stays_readable(path, records):
    flip(path, records[1][1].v[1][20])
    with open_trajectories(path) as file:
        forward = file["forward"]
        message = r"a.h5: /forward/v_2 of record 1 is damaged or cannot be read .*the rest can still be read"
        for read in (
            lambda: forward.variable("v", layer=2)[...],
            lambda: forward.variable("v", layer=2)[[2, 1]],
            lambda: forward[1].variable("v", layer=2)[3],
            forward[1].trajectory,
        ):
            with pytest.raises(DamagedFileError, match=message):
                read()
        assert_same_trajectory(forward[0].trajectory(), records[0][1])
        assert_same_trajectory(forward[2].trajectory(), records[2][1])
        assert_same_recipe(forward[1].recipe(), records[1][0])
        assert np.array_equal(forward[1].variable("v", layer=1), records[1][1].v[0])
        (found,) = damages(file)
        assert "/forward/v_2 of record 1 is damaged" in found


def test_damaged_parameters_are_named(path, records):
    flip(path, records[0][0].network.weights[1])
    with open_trajectories(path) as file:
        with pytest.raises(DamagedFileError, match="/weights_snapshots/W_2 of snapshot 0 is damaged"):
            file["forward"][0].recipe()
        assert np.array_equal(file["forward"].variable("u")[0], records[0][1].u)


@pytest.mark.parametrize(
    ("text", "where"), [(b'"alpha": 0.1', "controller"), (b'"readout": "average"', "update")]
)
def test_a_flipped_byte_in_a_text_is_noticed(path, text, where):
    overwrite(path, lambda content: content.replace(text, text[:-2] + bytes([text[-2] ^ 1]) + text[-1:], 1))
    with (
        open_trajectories(path) as file,
        pytest.raises(DamagedFileError, match=f"attribute {where} of /forward"),
    ):
        file["forward"][0].recipe()
    with open_trajectories(path) as file:
        (found,) = damages(file)
        assert f"attribute {where} of /forward is damaged" in found


def read_all(path):
    """Everything that can be read of a file, and how much of it is refused."""
    found, refused = {}, 0
    try:
        with open_trajectories(path) as file:
            for phase in file.phases:
                for name in file[phase].variables:
                    try:
                        found[phase, name] = file[phase].variable(name)[...]
                    except (OSError, ValueError):
                        refused += 1
    except (OSError, ValueError):
        refused += 1
    return found, refused


def test_no_flipped_byte_changes_what_is_read(tmp_path):
    path = tmp_path / "a.h5"
    write(path, [record(0, keep=dfc.Record(variables=["u"]))])
    content, (whole, _) = path.read_bytes(), read_all(path)
    noticed = 0
    for place in range(11, len(content), len(content) // 150):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :])
        found, refused = read_all(path)
        noticed += refused > 0
        assert refused or found.keys() == whole.keys(), place
        for name, array in found.items():
            assert np.array_equal(array, whole[name], equal_nan=True), (place, name)
    assert noticed > 50


# --- files of others ----------------------------------------------------------------------------------------


def edited(attribute, value):
    return lambda file: file.attrs.__setitem__(attribute, value)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (edited("schema", "somebody/else"), "is not a trajectory file: its schema is 'somebody/else'"),
        (lambda file: file.attrs.clear(), "is not a trajectory file: its schema is None"),
        (edited("schema_version", "2.0"), "has schema version 2.0; this program reads 1.x: use a newer one"),
    ],
)
def test_a_foreign_or_newer_file_is_refused(path, edit, message):
    with h5py.File(path, "r+") as file:
        edit(file)
    with pytest.raises(ValueError, match=message):
        open_trajectories(path)


def test_a_network_file_is_no_trajectory_file(tmp_path, records):
    records[0][0].network.save(tmp_path / "network.h5")
    with pytest.raises(ValueError, match="is not a trajectory file: its schema is 'dfc-numba/network'"):
        open_trajectories(tmp_path / "network.h5")


def test_a_file_of_a_later_minor_version_opens(path, records):
    with h5py.File(path, "r+") as file:
        file.attrs["schema_version"] = "1.7"
        file["forward/something_new"] = [1, 2]
        file["forward/v_new_3"] = [1, 2]
        file["something_else/record"] = [[1]]
        file["data"] = 3
        file.create_group("more")
    with open_trajectories(path) as file:
        assert_same_trajectory(file["forward"][1].trajectory(), records[1][1])


@pytest.mark.parametrize(
    ("place", "link", "kind"),
    [
        ("forward/v_1", h5py.ExternalLink("other.h5", "/secret"), "a link to another file"),
        ("forward/new", h5py.SoftLink("/forward/v_2"), "a soft link"),
        ("more", h5py.ExternalLink("other.h5", "/"), "a link to another file"),
        ("weights_snapshots/W_1", h5py.SoftLink("/forward/v_2"), "a soft link"),
    ],
    ids=str,
)
def test_links_are_not_followed(path, place, link, kind):
    with h5py.File(path.with_name("other.h5"), "w") as file:
        file["secret"] = [1]
    with h5py.File(path, "r+") as file:
        if place in file:
            del file[place]
        file[place] = link
    with pytest.raises(ValueError, match=f"/{place} is {kind}, which is not followed"):
        open_trajectories(path)


def virtual(group, name, shape):
    layout = h5py.VirtualLayout(shape, "f8")
    layout[...] = h5py.VirtualSource("other.h5", "secret", shape)
    group.create_virtual_dataset(name, layout)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (virtual, "is kept in other files"),
        (
            lambda g, name, shape: g.create_dataset(name, shape, "f8", external=[("raw.bin", 0, 10**6)]),
            "is kept in other files",
        ),
        (lambda g, name, shape: g.create_dataset(name, shape, h5py.ref_dtype), "is not a numeric array"),
        (lambda g, name, shape: g.create_dataset(name, shape, h5py.string_dtype()), "is not a numeric array"),
        (
            lambda g, name, shape: g.create_dataset(name, shape, np.dtype([("a", "f8")])),
            "is not a numeric array",
        ),
        (lambda g, name, shape: g.create_group(name), "is not a numeric array"),
        (
            lambda g, name, shape: g.create_dataset(name, shape[:2], "f8"),
            "has 2 dimensions; expected record, step",
        ),
    ],
    ids=["virtual", "external", "references", "texts", "compound", "group", "dimensions"],
)
def test_only_numbers_in_the_file_itself_are_read(path, make, message):
    with h5py.File(path, "r+") as file:
        shape = file["forward/v_1"].shape
        del file["forward/v_1"]
        make(file["forward"], "v_1", shape)
    with open_trajectories(path) as file:
        with pytest.raises(ValueError, match=f"/forward/v_1 {message}"):
            file["forward"].variable("v", layer=1)
        assert file["forward"].variable("v", layer=2)[0].shape == (31, 5, 5)
        assert any("v_1" in text for text in damages(file))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("forward/noise_kind", "variable 'noise_kind' is not stored"),
        ("forward/record", "holds no|phase is 'forward'"),
        ("weights_snapshots", "a.h5: /weights_snapshots is damaged, or cannot be read"),
        ("weights_snapshots/W_2", "a.h5: 'W_2' of the network is missing"),
    ],
)
def test_what_is_missing_is_named(path, name, message):
    with h5py.File(path, "r+") as file:
        del file[name]
    with open_trajectories(path) as file, pytest.raises((ValueError, OSError), match=message):
        file["forward"][0].recipe()


def test_parameters_without_description_are_refused(path):
    with h5py.File(path, "r+") as file:
        file["feedback_snapshots"].attrs.clear()
    with (
        open_trajectories(path) as file,
        pytest.raises(ValueError, match="'sizes' of the network is missing"),
    ):
        file["forward"][0].recipe()


def test_texts_that_are_not_json_are_refused(path):
    with h5py.File(path, "r+") as file:
        del file["forward"].attrs["controller_crc32"]
        file["forward"].attrs["controller"] = "__import__('os').abort()"
    with (
        open_trajectories(path) as file,
        pytest.raises(ValueError, match="controller of /forward is not JSON"),
    ):
        file["forward"][0].recipe()


# --- a full disk --------------------------------------------------------------------------------------------

FULL_DISK = """
import json, resource, signal, sys
from storage_files import record
from dfc_numba.storage.writer import TrajectoryWriter
one = record(0)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
written = 0
try:
    with TrajectoryWriter(sys.argv[1]) as writer:
        while True:
            writer.append(*one)
            written += 1
except OSError as error:
    print(json.dumps([error.errno, str(error), written]))
"""


@pytest.mark.skipif(
    not hasattr(resource, "RLIMIT_FSIZE"), reason="the system has no limit on the size of files"
)
@pytest.mark.parametrize("limit", [0, 5000, 60_000, 400_000, 1_000_000])
def test_a_full_disk_is_an_error_and_no_crash(tmp_path, limit):
    """A limit on the size of a file stands for the full disk: the system refuses to write in the same way."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, tmp_path / "a.h5", str(limit)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.path.dirname(storage_files.__file__)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    number, text, written = json.loads(done.stdout)
    assert number == errno.EFBIG and "a.h5" in text
    assert written < 100
