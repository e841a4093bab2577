"""Checkpoints: a run continues from them to the same bits, and a damaged, foreign or unsuitable one is named."""

import itertools
from dataclasses import asdict

import h5py
import numpy as np
import pytest
from small_runs import NEEDS, configuration, dataset, largest_file, network, parameters, train

from dfc_numba.errors import CheckpointError
from dfc_numba.learning.training import Trainer
from dfc_numba.runs import checkpoint
from dfc_numba.runs.checkpoint import CheckpointPair
from dfc_numba.support import hdf5

SGD = {"name": "sgd", "momentum": 0.9}
RMSPROP = {"name": "rmsprop", "momentum": 0.5}
CASES = {
    "dfc": {"feedback": {"extra_epochs": 1}},
    "dfc, sgd": {"optimizer": SGD, "feedback_optimizer": SGD},
    "dfc, one shot": {"feedback": {"rule": "one_shot", "extra_epochs": 1}},
    "dfc, expected": {"feedback": {"rule": "expected", "extra_epochs": 1}},
    "dfc, one probe": {"feedback": {"rule": "expected", "form": "one_probe", "extra_epochs": 1}},
    "dfc, frozen": {"feedback": {"freeze_output": True}, "training": {"freeze_forward": True}},
    "dfc-ss": {"training": {"method": "dfc-ss"}, "optimizer": RMSPROP, "feedback_optimizer": RMSPROP},
    "dfc-ssa": {"training": {"method": "dfc-ssa"}, "feedback": {"extra_epochs": 2}, "optimizer": SGD},
    "dfc-single-phase": {
        "training": {"method": "dfc-single-phase"},
        "feedback": {"extra_epochs": 1, "high_pass": 0.2},
        "feedback_optimizer": {"decay": "homeostatic", "weight_decay": 0.3},
        **NEEDS["dfc-single-phase"],
    },
    "bp": {"training": {"method": "bp"}, "optimizer": {"clip_norm": 0.1}},
}


class Saver:
    """Saves a checkpoint after every minibatch."""

    def __init__(self, folder):
        self.folder, self.paths = folder, {}

    def on_start(self, trainer):
        self.trainer = trainer

    def on_minibatch(self, progress):
        path = self.folder / f"{len(list(self.folder.iterdir()))}.h5"
        self.paths.setdefault(progress.phase, []).append(path)
        checkpoint.save(self.trainer, path)


def everything(trainer):
    """All that evolves in a run, apart from times, in a form that can be compared bit for bit."""
    state = trainer.state()
    networks = {"last": parameters(state.network), "best": parameters(state.best_network)}
    arrays = {
        (group, name): (array.dtype, array.tobytes())
        for group, named in {**networks, **state.optimizers}.items()
        for name, array in named.items()
    }
    rows = [{**row, "seconds": 0} for row in state.rows]
    return arrays, repr(rows), repr({**asdict(state.counters), "seconds": 0})


@pytest.fixture
def stopped(tmp_path):
    """A trainer in the middle of its first epoch, and its checkpoint."""
    trainer, _, _ = train(configuration(), stop_after=8)
    checkpoint.save(trainer, tmp_path / "checkpoint.h5")
    return trainer, tmp_path / "checkpoint.h5"


# --- the same bits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("case", CASES)
def test_a_run_continues_to_the_same_bits(tmp_path, case, dtype):
    """From a random minibatch of every phase, and from the last of each."""
    data, config = dataset(dtype=dtype), configuration(**CASES[case])
    saver = Saver(tmp_path)
    whole = Trainer(network(dtype=dtype), data, config, observers=[saver])
    whole.run()
    assert set(saver.paths) == {current.phase for current in whole.schedule}
    rng = np.random.default_rng(list(CASES).index(case))
    for paths in saver.paths.values():
        for path in (paths[rng.integers(len(paths))], paths[-1]):
            trainer = Trainer(network(dtype=dtype, seed=99), data, config)
            checkpoint.restore(trainer, path)
            assert trainer.run().status == "done"
            assert everything(trainer) == everything(whole)


def test_a_checkpoint_holds_what_it_was_saved_of(stopped):
    trainer, path = stopped
    other = Trainer(network(seed=99), dataset(), configuration())
    assert everything(other) != everything(trainer)
    checkpoint.restore(other, path)
    assert everything(other) == everything(trainer)
    assert other.counters.seconds == trainer.counters.seconds > 0


def test_what_is_restored_is_copied(stopped):
    trainer, path = stopped
    state = checkpoint.load(path).state
    first, second = (Trainer(network(), dataset(), configuration()) for _ in range(2))
    first.restore(state)
    first.run()
    second.restore(state)
    assert everything(second) == everything(trainer)


def test_a_continued_run_may_have_more_epochs(tmp_path):
    short, _, _ = train(configuration())
    checkpoint.save(short, tmp_path / "checkpoint.h5")
    longer = configuration(training={"epochs": 4})
    whole, _, _ = train(longer)
    continued = Trainer(network(), dataset(), longer)
    checkpoint.restore(continued, tmp_path / "checkpoint.h5")
    assert continued.run().status == "done"
    assert everything(continued) == everything(whole)


# --- what does not fit --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"config": configuration(optimizer={"learning_rate": 0.02})},
            r"optimizer.learning_rate = 0.01 in the run, 0.02 requested",
        ),
        ({"config": configuration(training={"seed": 3})}, "training.seed = 0 in the run, 3 requested"),
        ({"config": configuration(training={"epochs": 1})}, "training.epochs = 2 in the run, 1 requested"),
        ({"data": dataset(seed=4)}, "other data: test, train, val of clusters differ"),
        ({"data": dataset(validation=False)}, "other data: val of clusters differ"),
        ({"net": network(dtype="float32")}, r"float64\), but this run has .*float32"),
        ({"net": network([4, 7, 5, 3])}, "Network.4-6-5-3.*but this run has Network.4-7-5-3"),
    ],
)
def test_another_run_is_refused_and_left_alone(stopped, options, message):
    _, path = stopped
    trainer = Trainer(
        options.get("net", network()), options.get("data", dataset()), options.get("config", configuration())
    )
    before = everything(trainer)
    with pytest.raises(ValueError, match=message):
        checkpoint.restore(trainer, path)
    assert everything(trainer) == before


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"optimizer": SGD}, "other arrays of optimisers than this run, such as forward/buffer/0/0"),
        ({"feedback": {"train": False}}, "other arrays of optimisers.*feedback/first_moment"),
        (
            {"training": {"epochs": 1}, "feedback": {"pretraining_epochs": 0}},
            "5 passes over the data or more, but this one has 2; raise",
        ),
    ],
)
def test_a_state_of_another_run_is_refused(sections, message):
    state = train(configuration())[0].state()
    trainer = Trainer(network(), dataset(), configuration(**sections))
    with pytest.raises(ValueError, match=message):
        trainer.restore(state)


def test_another_version_or_processor_brings_a_warning(stopped, monkeypatch):
    _, path = stopped
    here = checkpoint.origin()
    monkeypatch.setattr(checkpoint, "origin", lambda: {**here, "numpy": "9.9"})
    trainer = Trainer(network(), dataset(), configuration())
    with pytest.warns(UserWarning, match=rf"not continue bit for bit: numpy was {here['numpy']}, is 9.9$"):
        checkpoint.restore(trainer, path)


# --- damage -------------------------------------------------------------------------------------------------


def test_every_flipped_byte_is_noticed(stopped):
    """HDF5 itself would miss some, and hang or crash at others."""
    _, path = stopped
    content = path.read_bytes()
    places = np.random.default_rng(0).integers(len(content), size=600)
    for place in itertools.chain(range(0, 1024, 9), places):
        damaged = bytearray(content)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        with pytest.raises(OSError, match="cannot be read: .*its checksum is missing or does not fit"):
            checkpoint.load(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda _: b"",
        lambda _: b"not HDF5 at all",
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: content[:4096] + bytes(4096) + content[8192:],
        lambda content: content + b"more",
    ],
    ids=["empty", "text", "last byte missing", "half", "zeros", "longer"],
)
def test_a_damaged_file_is_named(stopped, change):
    _, path = stopped
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(OSError, match="checkpoint.h5 cannot be read"):
        checkpoint.load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="^there is no .*checkpoint.h5$"):
        checkpoint.load(tmp_path / "checkpoint.h5")


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"schema": "somebody/else"}, "not a checkpoint: its schema is 'somebody/else'"),
        ({"schema_version": "2.0"}, "has schema version 2.0; this program reads 1.x"),
        ({}, "is not a complete checkpoint"),
    ],
)
def test_a_foreign_newer_or_incomplete_file_is_refused(tmp_path, attributes, message):
    with hdf5.replacing(tmp_path / "file.h5", sealed=True) as file:
        file.attrs.update({"schema": checkpoint.SCHEMA, "schema_version": "1.0", **attributes})
    with pytest.raises(ValueError, match=message):
        checkpoint.load(tmp_path / "file.h5")


def test_a_checkpoint_is_plain_hdf5(stopped):
    trainer, path = stopped
    with h5py.File(path) as file:
        assert file.attrs["schema"] == "dfc-numba/checkpoint"
        assert np.array_equal(file["network/weights/1"], trainer.network.weights[0])
        assert file["network/weights/1"].fletcher32
        assert file["counters"].attrs["minibatches"] == 8


# --- two checkpoints ----------------------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path):
    """A pair of checkpoints, after 5 and after 9 minibatches."""
    pair = CheckpointPair(tmp_path)
    for minibatches in (5, 9):
        pair.write(train(configuration(), stop_after=minibatches)[0])
    return pair


def found(pair):
    return pair.find().state.counters.minibatches


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def test_the_newest_is_found(pair):
    assert found(pair) == 9 and pair.written == 2 and pair.seconds > 0
    assert CheckpointPair(pair.directory / "nothing").find() is None


def test_the_previous_checkpoint_serves_where_the_newest_is_damaged(pair):
    damage(pair.directory / "checkpoint.h5")
    with pytest.warns(
        UserWarning,
        match=r"checkpoint.h5 cannot be read.*now checkpoint_damaged.h5; continuing from .*_previous.h5",
    ):
        assert found(pair) == 5
    pair.write(train(configuration(), stop_after=6)[0])
    assert found(pair) == 6
    (pair.directory / "checkpoint.h5").unlink()
    with pytest.warns(
        UserWarning, match="checkpoint.h5 is missing; continuing from .*checkpoint_previous.h5"
    ):
        assert found(pair) == 5


def test_two_damaged_checkpoints_are_named_and_left_alone(pair):
    for name in ("checkpoint.h5", "checkpoint_previous.h5"):
        damage(pair.directory / name)
    with pytest.raises(
        CheckpointError, match=r"checkpoint.h5 cannot be .*_previous.h5 cannot be .*start a new run"
    ):
        pair.find()
    assert {file.name for file in pair.directory.iterdir()} == {"checkpoint.h5", "checkpoint_previous.h5"}


def test_a_checkpoint_of_a_newer_version_is_not_taken_for_damaged(pair, monkeypatch):
    with monkeypatch.context() as newer:
        newer.setattr(checkpoint, "SCHEMA_VERSION", "2.0")
        pair.write(train(configuration(), stop_after=2)[0])
    with pytest.raises(ValueError, match="use a newer one"):
        pair.find()


def test_a_full_disk_leaves_both_checkpoints_as_they_were(pair):
    before = {file.name: file.read_bytes() for file in pair.directory.iterdir()}
    trainer, _, _ = train(configuration(), stop_after=11)
    with (
        largest_file(10_000),
        pytest.raises(CheckpointError, match="cannot be written.*last checkpoint is as it was"),
    ):
        pair.write(trainer)
    assert {file.name: file.read_bytes() for file in pair.directory.iterdir()} == before


def test_a_checkpoint_is_written_when_it_is_due(tmp_path):
    trainer, _, _ = train(configuration(), stop_after=1)
    never, always = CheckpointPair(tmp_path, minutes=1e6), CheckpointPair(tmp_path, minutes=0)
    for pair in (never, always):
        pair.write_if_due(trainer)
    assert (never.written, always.written) == (0, 1)
