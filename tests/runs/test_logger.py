"""Logging a run: what is chosen, the same training as without, bounded memory, errors, segments, and going on with a run."""

import errno
import json
import sys
import threading
import time
from dataclasses import replace

import h5py
import numpy as np
import pytest
from small_runs import NEEDS, configuration, dataset, largest_file, network, parameters, train

from dfc_numba.errors import ConfigurationError, LogError
from dfc_numba.learning.schedule import plan_passes
from dfc_numba.learning.training import Trainer
from dfc_numba.runs import checkpoint, logger
from dfc_numba.runs.logger import Logger
from dfc_numba.storage import segments
from dfc_numba.storage.reader import open_trajectories
from dfc_numba.storage.recipes import computed
from dfc_numba.storage.replay import replay

# 20 samples in minibatches of 8, 8 and 4: 3 of pre-training, then 3 of feedback and 3 of forward learning in 2 epochs
FORWARD = [6, 7, 8, 12, 13, 14]
ALL = {"every": 1}
METHODS = {
    "dfc": {"feedback": {"extra_epochs": 1}},
    "dfc, converged": {"training": {"samples": "converged"}},
    "dfc, frozen": {"training": {"freeze_forward": True}},
    "dfc, feedforward only": {"feedback": {"train": False}},
    "dfc, float32": {"training": {"dtype": "float32"}},
    "dfc, one shot": {"feedback": {"rule": "one_shot"}},
    "dfc, expected": {"feedback": {"rule": "expected"}},
    "dfc, one probe": {"feedback": {"rule": "expected", "form": "one_probe"}},
    "dfc-ss": {"training": {"method": "dfc-ss"}},
    "dfc-ssa": {"training": {"method": "dfc-ssa"}},
    "dfc-ss-newton": {"training": {"method": "dfc-ss-newton"}},
    "dfc-single-phase": {
        "training": {"method": "dfc-single-phase"}, "feedback": {"extra_epochs": 1, "high_pass": 0.2},
        **NEEDS["dfc-single-phase"],
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """Nobody cuts the power during these tests."""
    monkeypatch.setattr("os.fsync", lambda _: None)


def logged(folder, log=None, sections=None):
    """A trainer after a logged run, what a watcher saw, and the outcome."""
    config = configuration(log={"dtype": "float64", **(log or ALL)}, **(sections or {}))
    dtype = config.training.dtype
    with Logger(folder, config) as log:
        return train(config, dataset(dtype=dtype), network(dtype=dtype), log=log)


def numbers(folder):
    """The running numbers of the records, by phase."""
    with open_trajectories(folder) as file:
        return {file[name].phase: list(file[name].variable("number")[:]) for name in sorted(file.phases)}


def contents(folder):
    """Type, shape and bytes of every data set of all files."""
    found = {}
    for path in sorted(folder.rglob("*.h5")):
        with h5py.File(path) as file:
            file.visititems(
                lambda name, item: (
                    found.update({name: (item.dtype, item.shape, item[...].tobytes())})
                    if isinstance(item, h5py.Dataset)
                    else None
                )
            )
    return found


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# --- what is chosen --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ({}, {"pretraining": [2], "feedback": [5, 11], "forward": [8, 14]}),
        ({"every": 2}, {"pretraining": [0, 2], "feedback": [3, 5, 9, 11], "forward": [6, 8, 12, 14]}),
        ({"every": 100, "phases": ["forward", "feedback"]}, {"feedback": [3, 9], "forward": [6, 12]}),
        ({"minibatches": [7, 0, 99]}, {"pretraining": [0], "forward": [7]}),
        ({"minibatches": [7], "last_of_epoch": True, "phases": ["forward"]}, {"forward": [7, 8, 14]}),
        ({"every": 1, "phases": ["forward"]}, {"forward": FORWARD}),
    ],
)
def test_the_chosen_minibatches_are_logged(tmp_path, log, expected):
    log = log or {"last_of_epoch": True}
    trainer, _, _ = logged(tmp_path, log)
    assert numbers(tmp_path) == expected
    records, _ = logger.expected(trainer.config, trainer.network, trainer.schedule, 20)
    assert records == sum(map(len, expected.values()))


def test_samples_steps_variables_and_type_are_those_chosen(tmp_path):
    log = {
        "every": 1,
        "samples": [5, 0],
        "every_step": 7,
        "variables": ["u", "noise", "v_ff"],
        "dtype": "float32",
    }
    logged(tmp_path, log)
    with open_trajectories(tmp_path) as file:
        forward, feedback = file["forward"], file["feedback"]
        assert list(forward.step) == [0, 7, 14] and list(feedback.step) == [0, 7]
        assert {"u", "v_ff_1", "v_ff_3"} <= set(forward.variables) and "r_1" not in forward.variables
        assert "noise_2" in feedback.variables and "noise_2" not in forward.variables
        assert forward.variable("u").dtype == forward.variable("v_ff_1").dtype == np.float32
        assert list(forward[0]["position"]) == [5, 0]
        assert list(forward[2]["position"]) == [0]  # of a smaller minibatch, in which there is no position 5
        assert forward[2]["u"].shape == (3, 1, 3) and not np.isnan(forward[2]["u"]).any()


def test_a_minibatch_without_any_of_the_samples_has_a_recipe_alone(tmp_path):
    logged(tmp_path, {"every": 1, "samples": [6, 7], "phases": ["forward"]})
    with open_trajectories(tmp_path) as file:
        first, _, smaller = list(file["forward"])[:3]
        assert list(first["position"]) == [6, 7] and len(smaller["position"]) == 0
        assert smaller["inputs"].shape == (4, 4) and smaller["dW_1"].shape == (6, 4)
    assert all(one.status == "identical" for one in replay(tmp_path))


# --- the same training -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sections", METHODS.values(), ids=METHODS.keys())
def test_a_logged_run_learns_the_same_bits_and_its_log_replays(tmp_path, sections):
    _, watcher, outcome = logged(tmp_path, sections=sections)
    config = configuration(**sections)
    dtype = config.training.dtype
    _, plain, _ = train(config, dataset(dtype=dtype), network(dtype=dtype))
    assert outcome.status == "done" and len(watcher.states) == len(plain.states)
    for ours, theirs in zip(watcher.states, plain.states, strict=True):
        assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    replayed = list(replay(tmp_path))
    assert {one.status for one in replayed} == {"identical"}
    learning = [
        one for one in watcher.progress if one.phase != "forward" or not config.training.freeze_forward
    ]
    assert len(replayed) == len(learning)


def test_a_record_holds_what_the_minibatch_had_before_its_update(tmp_path):
    _, watcher, _ = logged(tmp_path)
    states = [parameters(network()), *watcher.states]
    with open_trajectories(tmp_path) as file:
        stored = {int(record["number"]): record for phase in file.phases for record in file[phase]}
        assert sorted(stored) == list(range(15))
        for number, record in stored.items():
            recipe, data = record.recipe(), dataset().train
            before = parameters(recipe.network)
            assert all(np.array_equal(before[name], array) for name, array in states[number].items())
            assert np.array_equal(recipe.x, data.x[recipe.indices])
            assert np.array_equal(recipe.labels.argmax(axis=1), data.y[recipe.indices])
            progress = watcher.progress[number]
            place = recipe.phase, recipe.epoch, recipe.minibatch, recipe.number
            assert place == (progress.phase, progress.epoch, progress.minibatch, number)


def test_the_stored_update_is_the_one_that_was_made(tmp_path):
    """With plain gradient descent it is the change of the parameters over twice the learning rate."""
    sgd = {"optimizer": {"name": "sgd", "learning_rate": 0.5}}
    _, watcher, _ = logged(tmp_path, {"every": 1, "phases": ["forward"]}, sgd)
    with open_trajectories(tmp_path) as file:
        for record in file["forward"]:
            number, update = int(record["number"]), record.update()
            before, after = (watcher.states[number + step] for step in (-1, 0))
            for layer in range(3):
                for kind in ("weights", "biases"):
                    change = after[f"{kind}{layer}"] - before[f"{kind}{layer}"]
                    np.testing.assert_allclose(getattr(update, kind)[layer], change, atol=1e-15)


def test_parameters_are_stored_once_per_change(tmp_path):
    logged(tmp_path)
    with open_trajectories(tmp_path) as file:
        places = {
            int(record["number"]): (int(record["weights_snapshot"]), int(record["feedback_snapshot"]))
            for phase in file.phases for record in file[phase]
        }  # fmt: skip
    weights, feedback = zip(*(places[number] for number in range(15)), strict=True)
    assert weights == (0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 3, 3, 3, 4, 5)
    assert feedback == (0, 1, 2, 3, 4, 5, 6, 6, 6, 6, 7, 8, 9, 9, 9)


def test_only_parameters_that_changed_are_copied(tmp_path):
    log, net = Logger(tmp_path, configuration(log=ALL)), network()
    first = log._snapshot(net)
    assert log._snapshot(net).weights[0] is first.weights[0] and first.weights[0] is not net.weights[0]
    before = first.feedback[0].copy()
    net.feedback[0] += 1
    second = log._snapshot(net)
    assert second.weights[0] is first.weights[0] and np.array_equal(first.feedback[0], before)
    assert np.array_equal(second.feedback[0], net.feedback[0])
    net.weights[0][0, 0] = -0.0
    minus = log._snapshot(net)
    net.weights[0][0, 0] = 0.0
    assert log._snapshot(net).weights[0] is not minus.weights[0]  # other bits, although the numbers are equal


# --- recipes alone ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dfc", "dfc-single-phase", "dfc-ss", "dfc, one shot"])
def test_recipes_give_the_trajectories_that_a_full_log_has(tmp_path, name):
    (tmp_path / "full").mkdir(), (tmp_path / "recipes").mkdir()
    logged(tmp_path / "full", sections=METHODS[name])
    logged(tmp_path / "recipes", {"every": 1, "recipe_only": True}, METHODS[name])
    with open_trajectories(tmp_path / "full") as full, open_trajectories(tmp_path / "recipes") as recipes:
        assert full.phases == recipes.phases
        for phase in full.phases:
            for ours, theirs in zip(recipes[phase], full[phase], strict=True):
                assert not [one for one in ours.variables if one.startswith(("u", "v", "r_", "dW", "dQ"))]
                if "u" not in theirs.variables:
                    continue
                keep = logger.kept(full_log(full), theirs.records.controller, len(theirs["inputs"]))
                trajectory, _ = computed(ours.recipe(), keep)
                assert all(np.array_equal(a, theirs[f"v_{i}"]) for i, a in enumerate(trajectory.v, 1))
                assert np.array_equal(trajectory.u, theirs["u"])


def full_log(file):
    """The section [log] of the run that a file is of."""
    return configuration(
        log={key: value for key, value in file.config["log"].items() if value is not None}
    ).log


def test_updates_are_stored_unless_told_otherwise(tmp_path):
    (tmp_path / "without").mkdir(), (tmp_path / "recipes").mkdir()
    logged(tmp_path / "without", {"every": 1, "updates": False})
    logged(tmp_path / "recipes", {"every": 1, "recipe_only": True, "updates": True})
    for name, stored in (("without", False), ("recipes", True)):
        with open_trajectories(tmp_path / name) as file:
            assert ("dW_1" in file["forward"].variables) == stored == ("dQ_1" in file["feedback"].variables)


# --- sizes and memory ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "log", [{}, {"dtype": "float32"}, {"recipe_only": True}, {"every": 2, "samples": [1]}]
)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_size_is_told_before(tmp_path, log, dtype):
    """On large layers, beside which the rest of a file is small."""
    sections = {"network": {"hidden": [60, 50]}, "training": {"dtype": dtype}, "controller": {"steps": 60}}
    config = configuration(log={"every": 1, "phases": ["forward"], **log}, **sections)
    trainer = Trainer(
        network([4, 60, 50, 3], dtype=dtype), dataset(dtype=dtype), config, log=Logger(tmp_path, config)
    )
    with trainer.log:
        trainer.run()
    _, expected = trainer.log.expected(trainer)
    actual = sum((tmp_path / name).stat().st_size for name in names(tmp_path))
    assert abs(expected - actual) < 0.2 * actual + 1e5


def test_the_memory_of_what_is_not_written_yet_is_bounded(tmp_path, monkeypatch):
    """The trainer waits for a slow disk rather than to pile up records."""
    append, waiting, most = segments.SegmentWriter.append, [], []

    def slow(writer, *arguments):
        time.sleep(0.01)
        append(writer, *arguments)

    class Watched(logger.Background):
        def reserve(self, size):
            super().reserve(size)
            waiting.append(size)
            most.append(self._reserved)

    monkeypatch.setattr(segments.SegmentWriter, "append", slow)
    monkeypatch.setattr(logger, "Background", Watched)
    limit = 400_000
    monkeypatch.setattr(logger, "MEMORY", limit)
    logged(tmp_path)
    assert len(waiting) == 15 and max(most) <= limit < sum(waiting) / 2
    assert max(most) > max(waiting)  # more than one at a time


def test_a_record_that_is_larger_than_the_memory_is_written_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(logger, "MEMORY", 1)
    logged(tmp_path)
    assert sum(map(len, numbers(tmp_path).values())) == 15


def test_what_is_reserved_is_what_a_record_takes(tmp_path, monkeypatch):
    sizes, taken = [], []

    class Watched(logger.Background):
        def submit(self, function, *arguments, size=0):
            if size:
                recipe, trajectory, update = arguments
                lists = [getattr(trajectory, name) for name in ("v", "v_ff", "v_fb", "r")]
                lists += [[getattr(trajectory, name) for name in ("u", "u_int", "e", "error")]]
                lists += [
                    update.weights or [],
                    update.biases or [],
                    update.feedback or [],
                    [recipe.x, recipe.labels],
                ]
                taken.append(sum(array.nbytes for arrays in lists for array in arrays))
                sizes.append(size)
            super().submit(function, *arguments, size=size)

    monkeypatch.setattr(logger, "Background", Watched)
    logged(tmp_path)
    assert all(small <= size < 1.3 * small + 5000 for size, small in zip(sizes, taken, strict=True))


# --- errors ----------------------------------------------------------------------------------------------------


def fail_at(call, monkeypatch, error):
    """Lets the n-th record fail to be written."""
    append, calls = segments.SegmentWriter.append, []

    def failing(writer, *arguments):
        calls.append(arguments)
        if len(calls) == call:
            raise error
        append(writer, *arguments)

    monkeypatch.setattr(segments.SegmentWriter, "append", failing)
    return calls


def test_an_error_of_the_writer_stops_the_run(tmp_path, monkeypatch):
    calls = fail_at(
        4, monkeypatch, OSError(errno.ENOSPC, "No space left on device", "trajectories/000000.h5.part")
    )
    with pytest.raises(
        LogError, match=r"log of the run cannot be written \(.*No space left on device.*000000.h5.part"
    ):
        logged(tmp_path)
    assert 4 <= len(calls) < 7  # soon after


def test_an_error_that_nobody_expected_is_told_by_its_name(tmp_path, monkeypatch):
    fail_at(4, monkeypatch, ValueError("shapes"))
    with pytest.raises(LogError, match=r"ValueError: shapes"):
        logged(tmp_path)


@pytest.mark.parametrize("size", [3_000, 40_000, 150_000])
def test_a_full_disk_stops_the_run_and_spares_what_was_closed(tmp_path, monkeypatch, size):
    monkeypatch.setattr(logger, "SEGMENT_BYTES", 100_000)
    with largest_file(size), pytest.raises(LogError, match="cannot be written"):
        logged(tmp_path, {**ALL, "samples": 2})
    assert not list(tmp_path.glob(".trajectories.h5*"))  # the room for what was being joined is free again
    if (tmp_path / "trajectories").exists() and segments.numbered(tmp_path / "trajectories"):
        found = sorted(number for phase in numbers(tmp_path).values() for number in phase)
        assert found == list(range(len(found)))
        assert all(one.status == "identical" for one in replay(tmp_path))


def test_other_errors_leave_what_was_logged_until_then(tmp_path):
    class Failing:
        def on_minibatch(self, progress):
            if progress.phase == "forward":
                raise ArithmeticError("elsewhere")

    config = configuration(log=ALL)
    trainer = Trainer(network(), dataset(), config, observers=[Failing()], log=Logger(tmp_path, config))
    with pytest.raises(ArithmeticError, match="elsewhere"), trainer.log:
        trainer.run()
    assert numbers(tmp_path) == {"feedback": [3, 4, 5], "forward": [6], "pretraining": [0, 1, 2]}
    assert names(tmp_path) == ["trajectories/000000.h5"]
    with open_trajectories(tmp_path) as file:
        assert file.status == "failed"


@pytest.mark.timing
def test_leaving_at_once_closes_what_is_written(tmp_path, monkeypatch):
    append, begun = segments.SegmentWriter.append, threading.Event()

    def slow(writer, *arguments):
        begun.set()
        time.sleep(0.05)
        append(writer, *arguments)

    class Impatient:
        def on_minibatch(self, progress):
            if progress.phase == "forward":
                assert begun.wait(5)
                raise KeyboardInterrupt

    monkeypatch.setattr(segments.SegmentWriter, "append", slow)
    config = configuration(log=ALL)
    trainer = Trainer(network(), dataset(), config, observers=[Impatient()], log=Logger(tmp_path, config))
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt), trainer.log:
        trainer.run()
    assert time.monotonic() - start < 5
    found = sorted(number for phase in numbers(tmp_path).values() for number in phase)
    assert found == list(range(len(found))) and len(found) < 7
    with open_trajectories(tmp_path) as file:
        assert file.status == "interrupted"


def test_a_diverged_run_has_the_minibatch_that_diverged(tmp_path):
    sections = {"optimizer": {"name": "sgd", "learning_rate": 1e200}, "feedback": {"train": False}}
    _, _, outcome = logged(tmp_path, sections=sections)
    assert outcome.status == "diverged"
    with open_trajectories(tmp_path) as file:
        assert file.status == "diverged" and len(file["forward"]) >= 1
    assert not (tmp_path / "trajectories.h5").exists()


def test_a_compression_without_its_extra_is_refused_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    with pytest.raises(
        ConfigurationError, match=r"log.compression: .*pip install 'dfc-numba\[compression\]'"
    ):
        Logger(tmp_path, configuration(log={"compression": "zstd"}))


# --- segments --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["SEGMENT_BYTES", "SEGMENT_SECONDS", None])
def test_large_and_old_segments_are_closed(tmp_path, monkeypatch, limit):
    if limit is not None:
        monkeypatch.setattr(logger, limit, 0)
    publish, closed = segments.publish, []
    monkeypatch.setattr(segments, "publish", lambda *paths: closed.append(paths[1].name) or publish(*paths))
    logged(tmp_path)
    assert closed == [f"{number:06d}.h5" for number in range(15 if limit else 1)]
    assert names(tmp_path) == ["trajectories.h5"] and sum(map(len, numbers(tmp_path).values())) == 15


def test_what_is_settled_is_closed(tmp_path):
    class Settling:
        def on_start(self, trainer):
            self.trainer, self.kept = trainer, []

        def on_minibatch(self, progress):
            self.trainer.settle()
            self.kept.append(sum(map(len, numbers(tmp_path).values())))

    config = configuration(log=ALL)
    trainer = Trainer(network(), dataset(), config, observers=[Settling()], log=Logger(tmp_path, config))
    with trainer.log:
        trainer.run()
    assert trainer.observers[0].kept == list(range(1, 16))
    trainer.settle()  # after the end there is nothing left to do


@pytest.mark.parametrize("size", [1, 200_000])
def test_the_file_of_a_complete_run_does_not_depend_on_its_segments(tmp_path, monkeypatch, size):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    logged(tmp_path / "one")
    monkeypatch.setattr(logger, "SEGMENT_BYTES", size)
    logged(tmp_path / "other")
    assert contents(tmp_path / "one") == contents(tmp_path / "other") != {}
    with open_trajectories(tmp_path / "other") as file:
        assert file.status == "complete" and file.files == [tmp_path / "other" / "trajectories.h5"]


def test_the_file_says_what_made_it(tmp_path):
    config = configuration(log=ALL, training={"seed": 3})
    log = Logger(tmp_path, config, command=["dfc", "train"])
    with log:
        Trainer(network(), dataset(), config, threads=1, log=log).run()
    with open_trajectories(tmp_path) as file:
        facts = file.attributes
        assert (facts["seed"], facts["threads"], facts["command"]) == ("3", 1, "dfc train")
        assert file.config == json.loads(config.model_dump_json())


# --- going on --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("saved", [0, 4, 7, 15])
@pytest.mark.parametrize("killed", [False, True])
def test_a_run_that_goes_on_ends_with_the_same_file(tmp_path, monkeypatch, saved, killed):
    """Interrupted after a checkpoint; or killed later, with records behind the checkpoint closed and half written."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir(), parts.mkdir()
    config = logged(whole)[0].config
    monkeypatch.setattr(logger, "SEGMENT_BYTES", 200_000)

    class Saving:
        def on_start(self, trainer):
            self.trainer = trainer
            self.save()

        def on_minibatch(self, progress):
            self.save()
            if self.trainer.counters.minibatches == min(saved + 3 * killed, 15):
                self.trainer.request_stop("enough")

        def save(self):
            if self.trainer.counters.minibatches == saved:
                self.trainer.settle()
                checkpoint.save(self.trainer, tmp_path / "checkpoint.h5")

    log = Logger(parts, config)
    with log:
        Trainer(network(), dataset(), config, observers=[Saving()], log=log).run()
    if killed:
        (parts / "trajectories").mkdir(exist_ok=True)
        (parts / "trajectories" / "000077.h5.part").write_bytes(b"half written")
        (parts / ".trajectories.h5.1234.tmp").write_bytes(b"half joined")
    log = Logger(parts, config)
    trainer = Trainer(network(), dataset(), config, log=log)
    checkpoint.restore(trainer, tmp_path / "checkpoint.h5")
    with log:
        assert trainer.run().status == "done"
    assert names(parts) == ["trajectories.h5"]
    assert contents(parts) == contents(whole)
    assert all(one.status == "identical" for one in replay(parts))


def test_more_epochs_come_after_those_of_a_complete_run(tmp_path):
    long, short = tmp_path / "long", tmp_path / "short"
    long.mkdir(), short.mkdir()
    trainer, _, _ = logged(short, ALL)
    checkpoint.save(trainer, tmp_path / "checkpoint.h5")
    config = configuration(log={"dtype": "float64", **ALL}, training={"epochs": 3})
    log = Logger(short, config)
    going_on = Trainer(network(), dataset(), config, log=log)
    checkpoint.restore(going_on, tmp_path / "checkpoint.h5")
    with log:
        going_on.run()
    logged(long, sections={"training": {"epochs": 3}})
    assert contents(short) == contents(long) and names(short) == ["trajectories.h5"]


def test_a_log_counts_as_used_configuration():
    """A run that goes on has to log what it began to log."""
    from dfc_numba.configuration.config_file import used_values

    values = used_values(configuration(log={"every": 3}))
    assert values["log.every"] == 3 and values["log.on"] is True
    assert [key for key in used_values(configuration()) if key.startswith("log.")] == ["log.on"]


def test_the_plan_of_a_pass_knows_every_phase():
    config = configuration(log=ALL, feedback={"extra_epochs": 2})
    passes = plan_passes(
        ("pretraining", "feedback", "forward", "extra feedback"), config.training, config.feedback
    )
    records, _ = logger.expected(config, network(), passes, 20)
    assert records == 3 * len(passes)
    nothing = replace(config.controller, sigma=0.0)
    assert logger.kept(config.log, nothing, 2).samples == (0, 1)
