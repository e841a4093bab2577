"""Reading lazily: an index reads what it asks for, as NumPy would index the whole, and nothing else."""

from collections import Counter

import h5py
import numpy as np
import pytest
from storage_files import assert_same_trajectory, record, write

import dfc_numba as dfc
from dfc_numba.storage.reader import OPEN_FILES, open_trajectories

COUNTS = [5, 3, 5, 2]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "a.h5"
    write(path, [record(n, count=count) for n, count in enumerate(COUNTS)])
    return path


@pytest.fixture
def forward(path):
    with open_trajectories(path) as file:
        yield file["forward"]


@pytest.fixture
def reads(monkeypatch):
    """Counts the numbers that are read of each data set."""
    counts, read = Counter(), h5py.Dataset.__getitem__

    def counted(dataset, key, **options):
        found = read(dataset, key, **options)
        counts[dataset.name.rpartition("/")[2]] += np.size(found)
        return found

    monkeypatch.setattr(h5py.Dataset, "__getitem__", counted)
    return counts


# --- only what is asked for ---------------------------------------------------------------------------------


def test_opening_reads_nothing(path, reads):
    with open_trajectories(path) as file:
        assert len(file) == 4 and file.phases == ("forward",)
        assert file["forward"].variable("v", layer=2).shape == (4, 31, 5, 5)
        assert set(reads) <= {"step", "time"}


@pytest.mark.parametrize(
    ("key", "count"),
    [
        ((2, slice(None, None, 10), 0), 4 * 5),
        ((2, 7, 3, 1), 1),
        ((slice(0, 4, 2), 5), 2 * 5 * 5),
        ((-1, [3, 4], slice(1, 3)), 2 * 2 * 5),
        ((0, [30, 0, 17]), 3 * 5 * 5),
        (([3, 0, 1],), 3 * 31 * 5 * 5),
    ],
    ids=str,
)
def test_an_index_reads_what_it_asks_for(forward, reads, key, count):
    reads.clear()
    v = forward.variable("v", layer=2)[key]
    assert v.size == count and reads == {"v_2": count}


def test_a_record_reads_no_other(forward, reads):
    one = forward[1]
    reads.clear()
    assert one.variable("v", layer=2)[::10, 0].shape == (4, 5)
    assert reads == {"v_2": 20}


# --- as NumPy would -----------------------------------------------------------------------------------------

KEYS = [
    (),
    ...,
    2,
    -1,
    np.int64(1),
    slice(None),
    slice(1, 3),
    slice(None, None, -1),
    slice(3, 1),
    [2, 0, 3],
    [],
    [True, False, True, False],
    (slice(None), 4),
    (slice(None), slice(None, None, 7), -1),
    (..., 2),
    (1, ..., slice(0, 2)),
    (0, slice(20, 2, -5), 1, [4, 0]),
    ([1, 1], 3),
    (0, [30, 0, 0, 17], [4, 0, 1]),
    (np.array([3, 2]), slice(2, 4), np.array([0, 2]), 1),
]


def outer(array, key):
    """Each index for its own dimension, with plain NumPy."""
    key = key if isinstance(key, tuple) else (key,)
    if any(one is Ellipsis for one in key):
        place = [one is Ellipsis for one in key].index(True)
        key = key[:place] + (slice(None),) * (array.ndim - len(key) + 1) + key[place + 1 :]
    dropped = []
    for axis, one in enumerate(key):
        if isinstance(one, int | np.integer):
            dropped.append(axis)
            one = slice(one, None if one == -1 else one + 1)
        if not isinstance(one, slice):
            one = np.array(one) if len(one) else np.array([], int)
        array = array[(slice(None),) * axis + (one,)]
    return array.squeeze(axis=tuple(dropped))


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_indices_mean_what_they_mean_to_numpy(forward, key):
    v = forward.variable("v", layer=2)
    whole = np.asarray(v)
    assert whole.shape == v.shape == (4, 31, 5, 5)
    found = v[key]
    expected = outer(whole, key)
    assert found.shape == expected.shape and np.array_equal(found, expected, equal_nan=True)


@pytest.mark.parametrize("key", [4, (0, 31), (0, 0, 0, 0, 0), "u", 1.5, [[0]], [9], (0, [-40])], ids=str)
def test_wrong_indices_are_refused(forward, key):
    with pytest.raises(IndexError):
        forward.variable("v", layer=2)[key]


def test_a_variable_describes_itself(forward):
    v = forward.variable("v", layer=2)
    assert v.dims == ("record", "step", "sample", "unit_2") and v.dtype == np.float64 and len(v) == 4
    assert (v.long_name, v.units) == ("somatic voltage of layer 2", "1")
    assert (
        repr(v)
        == "<v_2 (record: 4, step: 31, sample: 5, unit_2: 5) float64: somatic voltage of layer 2, in 1>"
    )
    assert forward[1].variable("v_2").dims == ("step", "sample", "unit_2")
    assert forward[1].variable("v_2").shape == (31, 3, 5)  # without padding
    assert forward.variable("time").units == "tau_u" and np.array_equal(
        forward.variable("time"), forward.time
    )
    assert np.asarray(v, dtype=np.float32).dtype == np.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["v"], "layer is None; v is stored for the layers 1, 2, 3"),
        (["v", 0], "layer is 0; v is stored for the layers 1, 2, 3"),
        (["u", 1], "layer is 1, but u has no layers"),
        (["uu"], "variable 'uu' is not stored; stored are .*did you mean 'u'"),
    ],
)
def test_variables_that_are_not_there_are_named(forward, arguments, message):
    with pytest.raises(ValueError, match=message):
        forward.variable(*arguments)
    with pytest.raises(ValueError, match=message):
        forward[0].variable(*arguments)


def test_reading_too_much_for_memory_is_refused(forward, monkeypatch):
    monkeypatch.setattr("dfc_numba.support.memory.available_bytes", lambda: 1000)
    monkeypatch.setattr("dfc_numba.storage.stored.SMALL_BYTES", 100)
    with pytest.raises(
        MemoryError, match="v_2 of shape .* needs .* only 1 kB is available; read less of it at a time"
    ):
        forward.variable("v", layer=2)[...]
    assert forward.variable("v", layer=2)[0, 0, 0].shape == (5,)


# --- phases and files ---------------------------------------------------------------------------------------


def test_a_phase_is_a_sequence(forward):
    assert len(forward) == 4 and [one.place for one in forward] == [0, 1, 2, 3] and forward[-1].place == 3
    assert forward.controller == record(0)[0].controller and forward.update == {"readout": "average"}
    for n in (4, -5):
        with pytest.raises(IndexError, match=f"record {n} of 'forward': there are 4"):
            forward[n]


def test_nothing_is_read_from_a_closed_file(path):
    with open_trajectories(path) as file:
        v = file["forward"].variable("u")
    with pytest.raises(ValueError, match="a.h5 is closed"):
        v[0]


def test_many_files_are_not_open_at_once(tmp_path):
    (tmp_path / "trajectories").mkdir()
    count = OPEN_FILES + 3
    records = [record(n) for n in range(count)]
    for n, one in enumerate(records):
        write(tmp_path / "trajectories" / f"{n:06d}.h5", [one])
    with open_trajectories(tmp_path) as file:
        assert len(file["forward"]) == count
        for n in (0, count - 1, 1):
            assert_same_trajectory(file["forward"][n].trajectory(), records[n][1])
        assert file["forward"].variable("number")[::-1].tolist() == list(range(count))[::-1]
        assert len(file._handles) <= OPEN_FILES


def test_a_trajectory_is_read_from_a_run_directory(tmp_path):
    (tmp_path / "trajectories").mkdir()
    _, trajectory, _ = one = record(0)
    write(tmp_path / "trajectories" / "000000.h5", [one])
    assert_same_trajectory(dfc.Trajectory.load(tmp_path), trajectory)
