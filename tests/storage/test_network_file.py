"""The file of a network: what is written comes back, old files open, and damaged or foreign ones are named."""

import resource
from pathlib import Path

import h5py
import numpy as np
import pytest
from problems import inputs

import dfc_numba as dfc

KEPT = Path(__file__).parents[1] / "resources" / "network-1.0.h5"
OPTIONS = [
    {"sizes": [4, 6, 5, 3], "hidden_activation": ["relu", "sigmoid"], "output_activation": "tanh"},
    {"sizes": [4, 6, 3], "bias": False},
    {"sizes": [4, 3], "dtype": "float32"},
]


def kept_array(shape, start):
    """The numbers of the kept file."""
    return np.sin(start + np.arange(np.prod(shape))).reshape(shape)


def kept_network():
    """The network that tests/resources/network-1.0.h5 was written from."""
    shapes = [(3, 2), (4, 3), (2, 4)]
    return dfc.Network(
        weights=[kept_array(shape, 10 * i) for i, shape in enumerate(shapes)],
        biases=[kept_array(shape[:1], 50 + i) for i, shape in enumerate(shapes)],
        feedback=[kept_array((shape[0], 2), 100 * i) for i, shape in enumerate(shapes)],
        hidden_activation=["tanh", "leakyrelu"],
        output_activation="sigmoid",
        dtype="float32",
    )


def assert_same_network(found, expected):
    assert repr(found) == repr(expected)
    for kind in ("weights", "biases", "feedback"):
        for a, b in zip(getattr(found, kind) or [], getattr(expected, kind) or [], strict=True):
            assert a.dtype == b.dtype and np.array_equal(a, b)


@pytest.fixture
def saved(tmp_path):
    dfc.Network.create([4, 6, 5, 3], seed=3).save(tmp_path / "network.h5")
    return tmp_path / "network.h5"


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", [str, Path])
def test_what_is_saved_is_loaded(tmp_path, options, kind):
    net, x = dfc.Network.create(**options, seed=2), inputs(3, 4)
    path = kind(tmp_path / "network.h5")
    net.save(path)
    loaded = dfc.Network.load(path)
    assert_same_network(loaded, net)
    assert np.array_equal(loaded.predict(x), net.predict(x))
    assert [file.name for file in tmp_path.iterdir()] == ["network.h5"]


def test_a_file_of_version_1_0_opens_for_ever():
    assert_same_network(dfc.Network.load(KEPT), kept_network())


def test_a_file_of_a_later_minor_version_opens(saved):
    with h5py.File(saved, "r+") as file:
        file.attrs["schema_version"] = "1.7"
        file["something_new"] = 3
    assert dfc.Network.load(saved).sizes == (4, 6, 5, 3)


def test_saving_replaces_the_older_file_as_a_whole(saved):
    net = dfc.Network.create([2, 3], bias=False)
    net.save(saved)
    assert_same_network(dfc.Network.load(saved), net)


def test_a_failed_save_leaves_the_older_file(saved, monkeypatch):
    before = saved.read_bytes()
    monkeypatch.setattr(
        h5py.Group, "create_dataset", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full"))
    )
    with pytest.raises(OSError, match="disk full"):
        dfc.Network.create([2, 3]).save(saved)
    assert saved.read_bytes() == before and [file.name for file in saved.parent.iterdir()] == ["network.h5"]


def test_a_full_disk_is_an_error_and_leaves_the_older_file(saved):
    """HDF5 itself would end the process."""
    before, limits = saved.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large: '.*network.h5'"):
            dfc.Network.create([40, 60, 3]).save(saved)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert saved.read_bytes() == before and [file.name for file in saved.parent.iterdir()] == ["network.h5"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.*there is no folder"):
        dfc.Network.create([2, 3]).save(tmp_path / "nowhere" / "network.h5")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="^there is no .*nothing.h5$"):
        dfc.Network.load(tmp_path / "nothing.h5")


def overwrite(path, change):
    path.write_bytes(change(path.read_bytes()))


def flip_a_weight(content):
    """One byte of the first weights, changed."""
    place = content.index(dfc.Network.create([4, 6, 5, 3], seed=3).weights[0].tobytes()) + 11
    return content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :]


@pytest.mark.parametrize(
    "change",
    [
        lambda _: b"",
        lambda _: b"not HDF5 at all",
        lambda c: c[: len(c) // 2],
        lambda c: c[:-1],
        flip_a_weight,
    ],
    ids=["empty", "text", "half", "last byte missing", "bit rot"],
)
def test_a_damaged_file_is_named(saved, change):
    overwrite(saved, change)
    with pytest.raises(OSError, match="network.h5 cannot be read: damaged, or not an HDF5 file"):
        dfc.Network.load(saved)


def edited(attribute, value):
    return lambda file: file.attrs.__setitem__(attribute, value)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (edited("schema", "somebody/else"), "not a network file: its schema is 'somebody/else'"),
        (lambda file: file.attrs.clear(), "not a network file: its schema is None"),
        (edited("schema_version", "2.0"), "has schema version 2.0; this program reads 1.x"),
        (lambda file: file.attrs.__delitem__("sizes"), "not a complete network file: .*'sizes'"),
        (lambda file: file.__delitem__("feedback"), "not a complete network file: .*'feedback'"),
        (lambda file: file.__delitem__("biases"), "not a complete network file: .*'biases'"),
        (lambda file: file.__delitem__("weights/2"), "not a complete network file: .*'2'"),
        (edited("output_activation", "step"), "output_activation is 'step'; allowed are"),
    ],
)
def test_a_foreign_newer_or_incomplete_file_is_refused(saved, edit, message):
    with h5py.File(saved, "r+") as file:
        edit(file)
    with pytest.raises(ValueError, match=message):
        dfc.Network.load(saved)
