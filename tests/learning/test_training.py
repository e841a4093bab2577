"""The trainer: its loops on small networks, and a real task through the Python interface."""

from itertools import pairwise
from math import isnan

import numpy as np
import pytest
from small_runs import NEEDS, SIZES, configuration, dataset, network, parameters, same, train

import dfc_numba as dfc
from dfc_numba import data
from dfc_numba.learning import methods
from dfc_numba.learning.evaluation import score
from dfc_numba.learning.training import Trainer
from dfc_numba.model.targets import mean_loss
from dfc_numba.registry import METHODS

SINGLE_PHASE = {"training": {"method": "dfc-single-phase"}, **NEEDS["dfc-single-phase"]}

# --- the loops ----------------------------------------------------------------------------------------------


def test_phases_come_in_their_order():
    config = configuration(feedback={"pretraining_epochs": 2, "epochs": 1, "extra_epochs": 1})
    _, watcher, outcome = train(config)
    epoch = ["feedback"] * 3 + ["forward"] * 3 + ["extra feedback"] * 3
    expected = ["pretraining"] * 6 + epoch + ["epoch 1"] + epoch + ["epoch 2"]
    assert watcher.calls == ["start", *expected, "done"]
    assert (outcome.status, outcome.epochs) == ("done", 2)
    assert [progress.epoch for progress in watcher.progress[:7]] == [1, 1, 1, 2, 2, 2, 1]


@pytest.mark.parametrize("method", ["bp", "dfa"])
def test_baselines_run_the_forward_phase_only(method):
    trainer, watcher, _ = train(configuration(training={"method": method}))
    assert watcher.calls == ["start", *["forward"] * 3, "epoch 1", *["forward"] * 3, "epoch 2", "done"]
    assert list(trainer.optimizers) == ["forward"]


def test_fixed_feedback_runs_the_forward_phase_only():
    net = network()
    start = parameters(net)
    _, watcher, _ = train(configuration(feedback={"train": False}), net=net)
    assert set(watcher.calls) == {"start", "forward", "epoch 1", "epoch 2", "done"}
    assert same(parameters(net), start, ("feedback",))


def test_each_phase_learns_its_own_parameters():
    net = network()
    before = parameters(net)
    _, watcher, _ = train(configuration(feedback={"extra_epochs": 1}), net=net)
    for progress, after in zip(watcher.progress, watcher.states, strict=True):
        still = ("feedback",) if progress.phase == "forward" else ("weights", "biases")
        moving = {"weights", "biases", "feedback"} - set(still)
        assert same(before, after, still)
        assert not any(same(before, after, (kind,)) for kind in moving)
        before = after


def test_pretraining_has_a_learning_rate_and_an_optimiser_of_its_own():
    optimizer = {"name": "sgd", "learning_rate": 1e-9, "pretraining_learning_rate": 0.1}
    trainer, watcher, _ = train(configuration(feedback_optimizer=optimizer))
    moved = [np.abs(a["feedback0"] - b["feedback0"]).max() for a, b in pairwise(watcher.states)]
    assert min(moved[:2]) > 1e4 * max(moved[2:5])
    assert int(trainer.optimizers["pretraining"].steps[0]) == 3
    assert int(trainer.optimizers["feedback"].steps[0]) == 6


def test_pretraining_controls_the_plain_difference(monkeypatch):
    """Also where training controls r* - softmax(r_L)."""
    seen = []
    real = methods.feedback_update

    def spy(net, x, target, controller, **options):
        seen.append((controller.error, np.asarray(target).copy()))
        return real(net, x, target, controller, **options)

    monkeypatch.setattr(methods, "feedback_update", spy)
    softmax = {"error": "softmax"}
    config = configuration(
        target={"feedback": "strong", "class_value": 0.9},
        training={"epochs": 1, "method": "dfc-ss"},
        controller=softmax,
        feedback_controller=softmax,
    )
    train(config)
    assert [error for error, _ in seen] == ["difference"] * 3 + ["softmax"] * 3
    for _, target in seen:
        assert sorted(set(np.round(target.ravel(), 12))) == [0.05, 0.9]


def test_weak_feedback_phases_hold_the_feedforward_output(monkeypatch):
    targets = []
    real = methods.feedback_update

    def spy(net, x, target, controller, **options):
        targets.append(np.abs(target - net.predict(x)).max())
        return real(net, x, target, controller, **options)

    monkeypatch.setattr(methods, "feedback_update", spy)
    train(configuration(training={"epochs": 1}))
    assert max(targets) == 0


def nudges(monkeypatch, **target):
    """Steps per sample that the output targets were made with."""
    steps = []
    real = methods.output_target

    def spy(net, x, y, *, loss, step):
        steps.append(step)
        return real(net, x, y, loss=loss, step=step)

    monkeypatch.setattr(methods, "output_target", spy)
    train(configuration(target=target, training={"epochs": 1}))
    return steps


def test_nudge_per_sample_or_per_minibatch(monkeypatch):
    assert nudges(monkeypatch, step=0.2) == [0.2, 0.2, 0.2]
    assert nudges(monkeypatch, step=0.2, step_per="minibatch") == [0.2 / 8, 0.2 / 8, 0.2 / 4]


def test_learning_rate_may_be_divided_by_the_step():
    optimizer = {"learning_rate": [0.1, 0.2, 0.3], "divide_by_step": True}
    config = configuration(target={"step": 0.25}, optimizer=optimizer)
    trainer = Trainer(network(), dataset(), config)
    assert trainer.optimizers["forward"].learning_rates == pytest.approx([0.4, 0.8, 1.2], rel=1e-15)
    assert trainer.optimizers["feedback"].learning_rates == [0.001] * 3


def test_optimisers_are_handed_minus_twice_the_update():
    """The published learning rates, epsilons and clipping norms refer to that."""
    data_set, net, optimizer = dataset(n_train=8), network(), {"name": "sgd", "learning_rate": 0.5}
    config = configuration(training={"epochs": 1}, feedback={"train": False}, optimizer=optimizer)
    x, y = data_set.train.x, data_set.train.y
    target = dfc.output_target(net, x, y, loss="cross_entropy", step=config.target.step)
    update = dfc.forward_update(net, x, target, config.controller)
    start = parameters(net)
    train(config, data_set, net)
    for i, (weights, biases) in enumerate(zip(update.weights, update.biases, strict=True)):
        np.testing.assert_allclose(net.weights[i], start[f"weights{i}"] + 0.5 * 2 * weights, atol=1e-13)
        np.testing.assert_allclose(net.biases[i], start[f"biases{i}"] + 0.5 * 2 * biases, atol=1e-13)


def test_frozen_forward_weights_are_measured_but_do_not_move():
    net = network()
    start = parameters(net)
    trainer, _, _ = train(configuration(training={"freeze_forward": True}), net=net)
    assert same(parameters(net), start, ("weights", "biases"))
    assert not same(parameters(net), start, ("feedback",))
    expected = mean_loss(net.predict(trainer.dataset.train.x), trainer.dataset.train.y, "cross_entropy")
    assert [row["train_loss"] for row in trainer.rows] == pytest.approx([expected] * 2, rel=1e-12)


def test_frozen_output_feedback_stays():
    net = network()
    train(configuration(feedback={"freeze_output": True}), net=net)
    assert np.array_equal(net.feedback[-1], np.eye(SIZES[-1]))
    assert not np.array_equal(net.feedback[0], network().feedback[0])


def test_networks_without_biases_learn():
    net = network(bias=False)
    trainer, _, outcome = train(configuration(), net=net)
    assert outcome.status == "done" and net.biases is None
    assert trainer.rows[-1]["train_loss"] < trainer.rows[0]["train_loss"]


# the relatives have rates of their own, and tests/learning for them
FAMILY = (
    "bp",
    "dfa",
    "dfc",
    "dfc-single-phase",
    "dfc-ss",
    "dfc-ss-newton",
    "dfc-ssa",
    "di",
    "fa",
    "ndi",
    "pbp",
    "sldi",
)


@pytest.mark.parametrize("method", FAMILY)
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_every_method_lowers_the_loss(method, task):
    config = configuration(
        target={"loss": "mse" if task == "regression" else "cross_entropy"},
        training={"method": method, "epochs": 6, "seed": 3},
        **NEEDS.get(method, {}),
    )
    net = network(feedback_init="weight_product")
    if METHODS[method].prepare:
        METHODS[method].prepare(net, config)
    trainer, _, outcome = train(config, dataset(task, n_train=64), net)
    assert outcome.status == "done"
    assert trainer.rows[-1]["train_loss"] < 0.8 * trainer.rows[0]["train_loss"]


@pytest.mark.parametrize("rule", ["noise_driven", "one_shot"])
def test_pretraining_brings_random_feedback_weights_towards_the_jacobian(rule):
    net, data_set = network(), dataset(n_train=64)
    config = configuration(
        training={"freeze_forward": True, "epochs": 1},
        feedback={"rule": rule, "pretraining_epochs": 60, "epochs": 0},
        feedback_controller={"sigma": 0.02, "steps": 40},
        feedback_optimizer={"pretraining_learning_rate": 0.01, "weight_decay": 0.1},
    )
    before = cosine_to_jacobian(net, data_set)
    train(config, data_set, net)
    assert before < 0.6 and cosine_to_jacobian(net, data_set) > 0.95


def cosine_to_jacobian(net, data_set):
    """Between the feedback weights of the hidden layers and the mean transposed Jacobian."""
    hidden = sum(SIZES[1:-1])
    jacobian = dfc.output_jacobian(net, data_set.train.x).mean(axis=0).T[:hidden].ravel()
    feedback = np.concatenate(net.feedback[:-1]).ravel()
    return feedback @ jacobian / np.linalg.norm(feedback) / np.linalg.norm(jacobian)


def test_homeostatic_decay_keeps_the_norm_at_the_start_or_the_one_that_is_named():
    homeostatic = {"decay": "homeostatic", "weight_decay": 0.5}
    for freeze in (False, True):
        config = configuration(feedback={"freeze_output": freeze}, feedback_optimizer=homeostatic)
        net = network()
        learned = net.feedback[:-1] if freeze else net.feedback
        expected = sum(np.sum(q**2) for q in learned)
        trainer, _, _ = train(config, net=net)
        for name in ("pretraining", "feedback"):
            assert trainer.optimizers[name].arrays()["keep_norm"] == pytest.approx(expected, rel=1e-14)
    named = configuration(feedback_optimizer={**homeostatic, "homeostatic_norm": 2.5})
    assert train(named)[0].optimizers["feedback"].arrays()["keep_norm"] == 2.5
    assert "keep_norm" not in train(configuration())[0].optimizers["feedback"].arrays()


def test_a_single_phase_steps_forward_and_feedback_weights_after_every_minibatch():
    config = configuration(**SINGLE_PHASE, feedback={"pretraining_epochs": 1, "extra_epochs": 1})
    trainer, watcher, _ = train(config)
    epoch = ["forward"] * 3 + ["extra feedback"] * 3
    assert [call for call in watcher.calls if not call.startswith(("start", "epoch", "done"))] == [
        "pretraining"
    ] * 3 + 2 * epoch
    before, after = watcher.states[2], watcher.states[3]
    assert not same(before, after, ("weights",)) and not any(
        np.array_equal(before[k], after[k]) for k in before if "feed" in k
    )
    assert [int(trainer.optimizers[name].steps[0]) for name in ("pretraining", "forward", "feedback")] == [
        3,
        6,
        12,
    ]


def test_a_single_phase_honours_frozen_and_fixed_feedback():
    frozen, fixed = network(), network()
    train(configuration(**SINGLE_PHASE, feedback={"freeze_output": True}), net=frozen)
    assert np.array_equal(frozen.feedback[-1], np.eye(SIZES[-1]))
    assert not np.array_equal(frozen.feedback[0], network().feedback[0])
    start = parameters(fixed)
    trainer, _, _ = train(configuration(**SINGLE_PHASE, feedback={"train": False}), net=fixed)
    assert same(parameters(fixed), start, ("feedback",)) and not same(parameters(fixed), start, ("weights",))
    assert list(trainer.optimizers) == ["forward"]


# --- noise, threads, continuing -----------------------------------------------------------------------------


def test_seeds_decide_everything():
    runs = [parameters(train(configuration(training={"seed": seed}))[0].network) for seed in (4, 4, 5)]
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2], ("weights",)) and not same(runs[0], runs[2], ("feedback",))


ALL_OF_IT = {  # a single phase, with all that evolves in a run
    **SINGLE_PHASE,
    "feedback": {"extra_epochs": 1, "high_pass": 0.2},
    "feedback_optimizer": {"decay": "homeostatic", "weight_decay": 0.3},
}
ONE_SHOT = {"feedback": {"rule": "one_shot"}}


@pytest.mark.parametrize("sections", [{}, ALL_OF_IT, ONE_SHOT])
def test_threads_do_not_change_the_bits(sections):
    data_set = dataset(n_train=200)  # several shards
    training = {**sections.get("training", {}), "batch_size": 100}
    config = configuration(**{**sections, "training": training})
    one, two = (parameters(train(config, data_set, threads=threads)[0].network) for threads in (1, 2))
    assert same(one, two)


@pytest.mark.parametrize("stop_after", [1, 3, 4, 6, 8, 9, 14])
def test_a_stopped_run_continues_to_the_same_bits(stop_after):
    whole, _, _ = train(configuration())
    trainer, watcher, outcome = train(configuration(), stop_after=stop_after)
    assert (outcome.status, outcome.message) == ("interrupted", "enough")
    assert len(watcher.progress) == stop_after
    assert trainer.run().status == "done"
    assert same(parameters(trainer.network), parameters(whole.network))
    for ours, theirs in zip(trainer.rows, whole.rows, strict=True):
        assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}


def test_a_stop_after_the_last_minibatch_changes_nothing():
    _, watcher, outcome = train(configuration(), stop_after=15)
    assert outcome.status == "done" and watcher.calls[-2:] == ["epoch 2", "done"]


@pytest.mark.parametrize("sections", [{}, ALL_OF_IT, ONE_SHOT])
def test_counters_and_arrays_are_all_that_evolves(sections):
    """A new trainer given the state of a stopped one ends with the same bits."""
    config = configuration(**sections)
    whole, _, _ = train(config)
    first, _, _ = train(config, stop_after=11)
    second = Trainer(network(seed=5), dataset(), config)
    second.restore(first.state())
    assert second.run().status == "done"
    assert same(parameters(second.network), parameters(whole.network))
    assert same(parameters(second.best_network), parameters(whole.best_network))


def test_injected_minibatches_and_noise():
    batches = [np.array([3, 1]), np.array([0, 2, 5])]
    config = configuration(training={"epochs": 1}, feedback_optimizer={"name": "sgd"})
    rng = np.random.default_rng(0)
    draws = [
        [rng.normal(size=(config.feedback_controller.steps + 1, len(batch), n)) for n in SIZES[1:]]
        for batch in batches * 2
    ]
    net, plain = network(), network()
    trainer, watcher, _ = train(config, net=net, minibatches=batches, noise=[*draws, None, None])
    assert [progress.minibatches for progress in watcher.progress] == [2] * 6
    x = trainer.dataset.train.x[batches[0]]
    update = dfc.feedback_update(plain, x, plain.predict(x), config.feedback_controller, noise=draws[0])
    rate = config.feedback_optimizer.pretraining_learning_rate
    for i, change in enumerate(update.feedback):
        expected = plain.feedback[i] + rate * change
        np.testing.assert_allclose(watcher.states[0][f"feedback{i}"], expected, atol=1e-14)


# --- metrics and observers ----------------------------------------------------------------------------------


def test_rows_have_the_columns_of_the_metrics_file():
    trainer, _, _ = train(configuration())
    names = [f"{split}_{kind}" for split in ("train", "val", "test") for kind in ("loss", "accuracy")]
    assert [list(row) for row in trainer.rows] == [["epoch", *names, "seconds"]] * 2
    target = trainer.config.target
    measured = score(trainer.network, trainer.dataset.test, loss=target.loss, task="classification")
    assert (trainer.rows[-1]["test_loss"], trainer.rows[-1]["test_accuracy"]) == (
        measured.loss,
        measured.accuracy,
    )


def test_training_metrics_are_measured_before_each_step_and_weighted_by_samples():
    config = configuration(training={"method": "bp", "epochs": 1})
    batches = [np.arange(8), np.arange(8, 11)]
    data_set, net = dataset(), network()
    trainer, watcher, _ = train(config, data_set, net, minibatches=batches)
    states = [network(), network()]
    for i in range(3):
        states[1].weights[i][...] = watcher.states[0][f"weights{i}"]
        states[1].biases[i][...] = watcher.states[0][f"biases{i}"]
    losses, right = [], []
    for state, batch in zip(states, batches, strict=True):
        output, y = state.predict(data_set.train.x[batch]), data_set.train.y[batch]
        losses.append(mean_loss(output, y, "cross_entropy") * len(batch))
        right.append(np.sum(output.argmax(axis=1) == y))
    assert trainer.rows[0]["train_loss"] == pytest.approx(sum(losses) / 11, rel=1e-12)
    assert trainer.rows[0]["train_accuracy"] == sum(right) / 11
    assert watcher.progress[0].loss == pytest.approx(losses[0] / 8, rel=1e-12)


def test_a_regression_has_no_accuracy_and_a_missing_split_no_metrics():
    config = configuration(target={"loss": "mse"})
    trainer, watcher, outcome = train(config, dataset("regression", validation=False))
    row = trainer.rows[-1]
    assert all(isnan(row[name]) for name in ("train_accuracy", "test_accuracy", "val_loss", "val_accuracy"))
    assert np.isfinite([row["train_loss"], row["test_loss"]]).all()
    assert {progress.accuracy for progress in watcher.progress} == {None}
    assert outcome.best_epoch == min(trainer.rows, key=lambda row: row["train_loss"])["epoch"]


def test_the_best_epoch_is_kept():
    config = configuration(training={"method": "bp", "epochs": 5}, optimizer={"learning_rate": 0.5})
    trainer, watcher, outcome = train(config)
    scores = [row["val_accuracy"] for row in trainer.rows]
    assert outcome.best_epoch == 1 + int(np.argmax(scores))
    last_step_of_best = watcher.states[3 * outcome.best_epoch - 1]
    assert same(parameters(trainer.best_network), last_step_of_best)
    assert same(parameters(trainer.network), watcher.states[-1])


def test_time_left_is_estimated_from_the_second_minibatch_on():
    _, watcher, _ = train(configuration())
    estimates = [progress.seconds_left for progress in watcher.progress]
    assert estimates[0] is None and all(estimate > 0 for estimate in estimates[1:-1])
    assert estimates[-1] == 0


@pytest.mark.parametrize("sections", [{}, ALL_OF_IT, ONE_SHOT])
def test_float32_stays_float32_and_close_to_float64(sections):
    net = network(dtype="float32")
    trainer, _, outcome = train(configuration(**sections), dataset(dtype=np.float32), net)
    assert outcome.status == "done"
    double, _, _ = train(configuration(**sections), dataset())
    for name, expected in parameters(double.network).items():
        np.testing.assert_allclose(parameters(net)[name], expected, rtol=1e-3, atol=1e-3)
    assert {array.dtype for array in parameters(trainer.best_network).values()} == {np.dtype(np.float32)}


# --- a real task --------------------------------------------------------------------------------------------


def test_dfc_learns_the_digits():
    """1,797 images of handwritten digits: a few passes reach 90 % on images never seen."""
    config = configuration(
        network={"hidden": [32]},
        target={"step": 0.1},
        training={"epochs": 4, "batch_size": 32},
        controller={"dt": 0.05, "steps": 40, "alpha": 0.001, "k_p": 2.0},
        optimizer={"learning_rate": 0.01},
    )
    digits = data.load("digits")
    net = network([digits.n_inputs, 32, digits.n_outputs], feedback_init="weight_product")
    trainer, _, outcome = train(config, digits, net)
    assert outcome.status == "done"
    losses = [row["train_loss"] for row in trainer.rows]
    assert all(later < earlier for earlier, later in pairwise(losses))
    assert trainer.rows[-1]["test_accuracy"] > 0.9
