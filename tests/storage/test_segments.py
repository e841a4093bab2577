"""The trajectory files of a run: segments that are closed for good, one file in the end, and nothing lost in between."""

import os
import shutil
from contextlib import suppress

import h5py
import numpy as np
import pytest
from storage_files import assert_same_recipe, assert_same_trajectory, flip, network, record

import dfc_numba as dfc
from dfc_numba.errors import DamagedFileError
from dfc_numba.storage import segments
from dfc_numba.storage.reader import open_trajectories
from dfc_numba.storage.segments import SegmentWriter, compact, keep_before
from dfc_numba.storage.writer import TrajectoryWriter

PHASES = ["pretraining", "forward", "extra feedback"]
KEEP = dfc.Record(variables=["u", "v"], every=2)
LEFT_OPEN = []
FACTS = {"seed": "3", "config": '{"training": {"seed": 3}}', "threads": 1}


@pytest.fixture(scope="module")
def records():
    """Ten minibatches of three phases, of different sizes; the parameters change now and then."""
    net, found = network(), []
    for n in range(10):
        if n % 4 == 3:
            net.weights[0] += 0.1
        found.append(record(n, net=net, phase=PHASES[n % 3], count=[5, 3, 5, 2][n % 4], keep=KEEP))
    return found


@pytest.fixture(autouse=True)
def left_open():
    """Writers that a test leaves open, as a killed process does; closed after it."""
    yield
    while LEFT_OPEN:
        with suppress(OSError):
            LEFT_OPEN.pop().close("failed")


def write(run, records, per_segment=3, *, finish=None, **options):
    """Write a run; it is left open unless `finish` names its status."""
    writer = SegmentWriter(run, attributes=FACTS, **options)
    LEFT_OPEN.append(writer)
    for n, one in enumerate(records, 1):
        writer.append(*one)
        if n % per_segment == 0:
            writer.close_segment()
    if finish:
        writer.close(finish)
    return writer


def assert_holds(run, records):
    """The run has these records, in their order, and no others."""
    with open_trajectories(run) as file:
        assert len(file) == len(records)
        for phase in {recipe.phase for recipe, *_ in records}:
            expected = [one for one in records if one[0].phase == phase]
            for found, (recipe, trajectory, update) in zip(file[phase], expected, strict=True):
                assert_same_recipe(found.recipe(), recipe)
                assert_same_trajectory(found.trajectory(), trajectory)
                for a, b in zip(found.update().weights, update.weights, strict=True):
                    assert np.array_equal(a, b)


def names(run):
    """The files of a run but for the one that becomes complete."""
    return sorted(str(path.relative_to(run)) for path in run.rglob("[!.]*") if path.is_file())


def hidden(run):
    return list(run.glob(".*.tmp"))


# --- segments -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_closed_segments_hold_every_record(tmp_path, records, compression):
    write(tmp_path, records[:9], compression=compression)
    assert names(tmp_path) == [f"trajectories/00000{n}.h5" for n in range(3)]
    assert_holds(tmp_path, records[:9])
    assert_holds(tmp_path / "trajectories", records[:9])
    with open_trajectories(tmp_path) as file:
        assert (file.status, file.notes, file.damaged) == ("closed", [], [])


def test_a_segment_stands_alone(tmp_path, records):
    write(tmp_path, records[:9])
    shutil.move(tmp_path / "trajectories" / "000001.h5", tmp_path / "alone.h5")
    assert_holds(tmp_path / "alone.h5", records[3:6])


def test_what_is_being_written_is_left_aside_with_a_note(tmp_path, records):
    writer = write(tmp_path, records[:8])
    part = tmp_path / "trajectories" / "000002.h5.part"
    assert_holds(tmp_path, records[:6])
    with open_trajectories(tmp_path) as file:
        assert file.notes == [f"{part} is left aside: it was never closed"]
    with pytest.raises(ValueError, match="000002.h5.part was never closed: .* contents are unreliable"):
        open_trajectories(part)
    writer.close("interrupted")
    assert_holds(tmp_path, records[:8])
    with open_trajectories(tmp_path) as file:
        assert (file.status, file.notes) == ("interrupted", [])


def test_a_segment_gets_its_name_when_it_is_on_the_disk(tmp_path, records, monkeypatch):
    events = []
    for name in ("fsync", "replace"):
        function = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *a, name=name, function=function: (events.append(name), function(*a))[1]
        )
    write(tmp_path, records[:3])
    assert events == [
        "fsync",
        "fsync",
        "replace",
        "fsync",
    ]  # the new folder; the file; its name; the folder again


def test_killed_between_close_and_rename(tmp_path, records, monkeypatch):
    writer = write(tmp_path, records[:8])
    with monkeypatch.context() as patch:
        patch.setattr(segments, "publish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            writer.close_segment()
    assert_holds(tmp_path, records[:6])
    keep_before(tmp_path, 6)
    assert names(tmp_path) == ["trajectories/000000.h5", "trajectories/000001.h5"]
    write(tmp_path, records[6:], finish="complete")
    assert_holds(tmp_path, records)


def test_a_directory_without_trajectories_is_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="holds no trajectories: neither trajectories.h5 nor closed segments"
    ):
        open_trajectories(tmp_path)


def test_another_writer_is_noticed(tmp_path, records):
    writer = write(tmp_path, records[:1])
    other = SegmentWriter(tmp_path)
    with pytest.raises(
        FileExistsError, match="000000.h5.part exists: another process writes to this run, or was killed"
    ):
        other.append(*records[1])
    writer.close("interrupted")


def test_a_missing_segment_is_told(tmp_path, records):
    write(tmp_path, records[:9])
    (tmp_path / "trajectories" / "000001.h5").unlink()
    with open_trajectories(tmp_path) as file:
        assert file.notes == [f"{tmp_path / 'trajectories'} lacks the segment 000001.h5"]
    assert_holds(tmp_path, records[:3] + records[6:9])


def test_a_damaged_segment_is_left_out_with_a_warning(tmp_path, records):
    write(tmp_path, records[:9])
    path = tmp_path / "trajectories" / "000001.h5"
    os.truncate(path, path.stat().st_size // 2)
    with pytest.warns(UserWarning, match="000001.h5 cannot be read: .*; its records are left out"):
        file = open_trajectories(tmp_path)
    with file:
        assert len(file.damaged) == 1 and "000001.h5 cannot be read" in file.damaged[0]
        assert file["forward"].variable("number")[:].tolist() == [1, 7]
        assert_same_trajectory(file["forward"][1].trajectory(), records[7][1])


def test_when_all_is_damaged_that_is_an_error(tmp_path, records):
    write(tmp_path, records[:3])
    os.truncate(tmp_path / "trajectories" / "000000.h5", 1000)
    with pytest.raises(OSError, match="000000.h5 cannot be read"):
        open_trajectories(tmp_path)


# --- one file in the end ------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"compression": "gzip"}, {"dtype": "float32"}], ids=str)
@pytest.mark.parametrize("per_segment", [1, 4, 20])
def test_a_run_that_ends_well_leaves_one_file_with_the_same_bits(tmp_path, records, options, per_segment):
    (tmp_path / "made").mkdir()
    write(tmp_path / "made", records, 20, **options).close_segment()
    run = tmp_path / "run"
    run.mkdir()
    write(run, records, per_segment, finish="complete", **options)
    assert names(run) == ["trajectories.h5"] and not (run / "trajectories").exists()
    if "dtype" not in options:
        assert_holds(run, records)
    with open_trajectories(run) as found, open_trajectories(tmp_path / "made") as expected:
        assert (found.status, found.config) == ("complete", {"training": {"seed": 3}})
        assert found.attributes["seed"] == "3" and found.attributes["compression"] == options.get(
            "compression", "none"
        )
        assert found.phases == expected.phases
        for phase in found.phases:
            assert found[phase].variables == expected[phase].variables
            for name in found[phase].variables:
                ours, theirs = (file[phase].variable(name)[...] for file in (found, expected))
                assert ours.dtype == theirs.dtype and np.array_equal(
                    ours, theirs, equal_nan=ours.dtype.kind == "f"
                ), name


def test_parameters_of_several_segments_are_stored_once(tmp_path, records):
    write(tmp_path, records, 1, finish="complete")
    with h5py.File(tmp_path / "trajectories.h5") as file:
        assert len(file["weights_snapshots/snapshot"]) == 3 and len(file["feedback_snapshots/snapshot"]) == 1


@pytest.mark.parametrize("status", ["interrupted", "diverged", "failed"])
def test_a_run_that_ends_otherwise_keeps_its_segments(tmp_path, records, status):
    write(tmp_path, records, 4, finish=status)
    assert names(tmp_path) == [f"trajectories/00000{n}.h5" for n in range(3)]
    assert_holds(tmp_path, records)
    with open_trajectories(tmp_path) as file:
        assert file.status == status


def test_a_run_that_goes_on_after_its_end_adds_to_it(tmp_path, records):
    write(tmp_path, records[:4], 2, finish="complete")
    writer = write(tmp_path, records[4:8], 2)
    assert names(tmp_path) == ["trajectories.h5", "trajectories/000002.h5", "trajectories/000003.h5"]
    assert_holds(tmp_path, records[:8])
    for one in records[8:]:
        writer.append(*one)
    writer.close("complete")
    assert names(tmp_path) == ["trajectories.h5"]
    assert_holds(tmp_path, records)


def test_a_run_without_records_leaves_nothing(tmp_path):
    with SegmentWriter(tmp_path):
        pass
    assert names(tmp_path) == []


def stop_at(call, function):
    """A function that raises KeyboardInterrupt instead of its n-th call."""
    calls = []

    def stopping(*arguments, **options):
        calls.append(arguments)
        if len(calls) == call:
            raise KeyboardInterrupt
        return function(*arguments, **options)

    return stopping


@pytest.mark.parametrize(
    ("place", "call"),
    [
        ("copy", 1),
        ("copy", 5),
        ("fsync", 1),
        ("fsync", 4),
        ("publish", 1),
        ("unlink", 1),
        ("unlink", 2),
        ("rmdir", 1),
    ],
)
def test_interrupted_at_any_moment_everything_is_there_once(tmp_path, records, monkeypatch, place, call):
    """Left as it is at that moment, the directory reads as before; done again, the compaction comes to its end."""
    write(tmp_path, records, 4, finish="interrupted")
    with monkeypatch.context() as patch:
        owner, name = {
            "copy": (TrajectoryWriter, "table"), "fsync": (os, "fsync"), "publish": (os, "replace"),
            "unlink": (type(tmp_path), "unlink"), "rmdir": (type(tmp_path), "rmdir"),
        }[place]  # fmt: skip
        call += place == "unlink"  # the first is that of the temporary file
        patch.setattr(owner, name, stop_at(call, getattr(owner, name)))
        with pytest.raises(KeyboardInterrupt):
            compact(tmp_path)
    assert_holds(tmp_path, records)
    if numbered := segments.numbered(tmp_path / "trajectories"):
        assert numbered and not hidden(tmp_path)
        compact(tmp_path)
    assert_holds(tmp_path, records)
    assert "trajectories.h5" in names(tmp_path)


def test_a_damaged_segment_stops_the_compaction_and_all_stays(tmp_path, records):
    write(tmp_path, records, 4, finish="interrupted")
    before = names(tmp_path)
    flip(tmp_path / "trajectories" / "000001.h5", records[4][1].v[1][10])
    with pytest.raises(DamagedFileError, match="000001.h5 .*/forward/v_2 of record 0 is damaged"):
        compact(tmp_path)
    assert names(tmp_path) == before


def test_compaction_takes_little_memory(tmp_path, monkeypatch):
    """No more than a chunk is read at a time, whatever a record holds."""
    monkeypatch.setattr("dfc_numba.storage.table.CHUNK_BYTES", 2**12)
    one = record(0, count=256)
    write(tmp_path, [one] * 4, 2)
    largest, read = [], h5py.Dataset.__getitem__

    def watched(dataset, key, **options):
        found = read(dataset, key, **options)
        largest.append(np.asarray(found).nbytes)
        return found

    monkeypatch.setattr(h5py.Dataset, "__getitem__", watched)
    compact(tmp_path)
    assert 20 * max(largest) < sum(array.nbytes for array in one[1].v)


# --- resuming -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 4, 5, 9, 100])
@pytest.mark.parametrize("finish", [None, "complete"])
def test_a_resumed_run_keeps_what_is_before_it(tmp_path, records, number, finish):
    writer = write(tmp_path, records, 4, finish=finish)
    if finish is None:
        writer.close_segment("interrupted")
        (tmp_path / "trajectories" / "000003.h5.part").write_bytes(b"left by a killed process")
    (tmp_path / ".trajectories.h5.abcd.tmp").write_bytes(b"left by a killed process")
    keep_before(tmp_path, number)
    assert not list(tmp_path.rglob("*.part")) and not hidden(tmp_path)
    if number:
        assert_holds(tmp_path, records[:number])
    write(tmp_path, records[number:], 3, finish="complete")
    assert names(tmp_path) == ["trajectories.h5"]
    assert_holds(tmp_path, records)
