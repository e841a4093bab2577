"""Slips of the published code: what it computes, and that ours computes what the papers mean instead.

The numbers are those of docs/reference-agreement.md. `test_reference_arrays` compares the values with the slip, as
`reference_slips` computes them, with those in the files.
"""

from dataclasses import replace

import numpy as np
import oracle
import pytest
import training_cases
from problems import finite_differences, relative_deviation
from reference_files import RESOURCES, family, label, more_files, read, shipped_files
from reference_problems import READOUTS, Problem
from reference_slips import slips
from reference_table import find_row

import dfc_numba as dfc
from dfc_numba import data
from dfc_numba.data.teachers import teacher_weights
from dfc_numba.learning import methods

BOUND = 1e-12


def has_slips(path):
    """Whether the table names a slip for some array of a file; training runs are tested elsewhere."""
    arrays, options = read(path)
    return family(path) != "train" and any(find_row(path, array, options).slip for array in arrays)


FILES = [path for path in shipped_files() + more_files() if has_slips(path)]


@pytest.mark.parametrize("path", FILES, ids=label)
def test_the_package_computes_what_the_papers_mean_where_the_published_code_has_a_slip(path):
    found = list(slips(Problem(path)))
    assert [slip.name for slip in found if differ(slip.ours, slip.right)] == []
    if any(slip.published.any() for slip in found):
        assert any(differ(slip.published, slip.right, bound=1e-3) for slip in found)


def differ(a, b, bound=BOUND):
    return relative_deviation(a, b) > bound


def shipped(name):
    return Problem(RESOURCES / "reference" / f"{name}.npz")


# -------------------------------------------------------------------------------- 1: sign at the last time point


@pytest.mark.parametrize("readout", ["ss", "ssa"])
def test_1_learning_from_ours_approaches_the_target_and_from_the_published_gradient_leaves_it(readout):
    problem = shipped("ctrl_mse_weak_inst1_pro1_kp0")
    ours = problem.forward_update(readout, "vd")
    published = [-problem.arrays[f"gW{i}_{readout}_vd"] for i in problem.layers]
    before, after, led_astray = (
        distance(problem, weights)
        for weights in (problem.net.weights, learned(problem, ours.weights), learned(problem, published))
    )
    assert after < before < led_astray


def learned(problem, updates):
    return [weight + 1e-3 * update for weight, update in zip(problem.net.weights, updates, strict=True)]


def distance(problem, weights):
    net = dfc.Network(weights=weights, biases=problem.net.biases, feedback=problem.net.feedback)
    return np.linalg.norm(problem.target - net.predict(problem.x))


@pytest.mark.parametrize("readout", ["ss", "ssa"])
def test_1_the_published_gradient_is_four_times_ours_where_minus_two_times_is_meant(readout):
    problem = shipped("ctrl_mse_weak_inst1_pro1_kp0")
    ours = problem.forward_update(readout, "vd").weights
    for i in problem.layers:
        assert not differ(4 * ours[i], problem.arrays[f"gW{i}_{readout}_vd"])


@pytest.mark.parametrize("readout", ["ss", "ndi"])
def test_1_the_older_code_has_the_sign_of_ours(readout):
    problem = shipped("old_forward_mse")
    ours = problem.forward_update(readout, "vd").weights
    for i in problem.layers:
        assert not differ(-2 * ours[i], problem.arrays[f"gW{i}_{readout}_vd"])


# -------------------------------------------------------------------------------- 2: the derivative in direct feedback


def layer_gradients(net, x, signals):
    """Central differences of sum_b signal_i . phi_i(W_i r_{i-1} + b_i) with respect to W_i, for every layer."""
    rates, gradients = [x, *net.forward(x).r], []
    for i, signal in enumerate(signals):
        weight, phi = net.weights[i].copy(), oracle.ACTIVATIONS[net.activations[i]]

        def pursued(i=i, signal=signal, weight=weight, phi=phi):
            return np.sum(signal * phi(rates[i] @ weight.T + net.biases[i]))

        gradients.append(finite_differences(pursued, weight))
    return gradients


@pytest.mark.parametrize("suffix", ["", "_relu"])
def test_2_ours_climbs_what_the_feedback_makes_of_the_error(suffix):
    """Finite differences agree with ours, and with the published gradient in the output layer alone."""
    problem = shipped("bp_dfa_mse")
    net, y = problem.baseline(suffix)
    error = oracle.output_gradient(net.predict(problem.x), y, problem.loss)
    expected = layer_gradients(net, problem.x, [error @ q.T for q in net.feedback[:-1]] + [error])
    ours = problem.direct_feedback(net, problem.x, y, loss=problem.loss).weights
    published = [problem.arrays[f"gW{i}_dfa{suffix}"] for i in problem.layers]
    assert [differ(a, b, 1e-8) for a, b in zip(ours, expected, strict=True)] == [False] * 3
    assert [differ(a, b, 1e-2) for a, b in zip(published, expected, strict=True)] == [True, True, False]


@pytest.mark.parametrize("suffix", ["", "_relu"])
def test_2_backpropagation_of_both_is_the_gradient_of_the_loss(suffix):
    problem = shipped("bp_dfa_mse")
    net, y = problem.baseline(suffix)
    for i in problem.layers:
        expected = finite_differences(
            lambda: problem.mean_loss(net.predict(problem.x), y, problem.loss), net.weights[i]
        )
        assert not differ(problem.arrays[f"gW{i}_bp{suffix}"], expected, 1e-8)


def test_2_in_training_ours_has_the_derivative_and_the_published_gradient_has_not():
    run = training_cases.Run(RESOURCES / "training" / "train_dfa_ce_adam.npz")
    _, recorder = run.train()
    for step, (net, batch) in enumerate(recorder.visited):
        ours = methods.find("dfa").gradients(net, batch, run.config).weights
        right = oracle.direct_feedback_gradient(net, batch.x, batch.y, loss="cross_entropy").weights
        published = [run.arrays[f"e{step:02d}_grawW{i}"] for i in range(3)]
        assert [differ(a, b) for a, b in zip(ours, right, strict=True)] == [False] * 3
        assert [differ(a, b, 1e-2) for a, b in zip(published, right, strict=True)] == [True, True, False]


# -------------------------------------------------------------------------------- 3: one teacher


def test_3_the_inputs_are_those_of_the_published_seeds():
    arrays, options = read(RESOURCES / "reference" / "student_teacher.npz")
    seeds = np.random.RandomState(options["data_random_seed"]).randint(100, size=3)
    assert np.array_equal(seeds, arrays["seeds_test_train_val"])
    for seed, part in zip(seeds, ("test", "train", "val"), strict=True):
        expected = np.random.RandomState(seed).uniform(-1, 1, (options["num"], options["n_in"]))
        assert np.array_equal(arrays[f"x_{part}"], expected)
        assert not any(arrays[f"teacher_{part}_b{i}"].any() for i in range(3))


def test_3_a_network_like_the_teacher_explains_every_part_of_our_data():
    """The weights that the data set draws reproduce its targets in all parts, not only in the training set."""
    sizes = {"n_inputs": 4, "n_outputs": 2, "teacher_hidden": (6, 5)}
    ours = data.load(
        "student_teacher", dtype="float64", train_size=20, validation_size=20, test_size=20, **sizes
    )
    weights = teacher_weights((4, 6, 5, 2), 3.0, 0)
    teacher = dfc.Network(
        weights=weights, biases=None, feedback=[np.zeros((n, 2)) for n in (6, 5, 2)], hidden_activation="relu"
    )
    for part in (ours.train, ours.validation, ours.test):
        np.testing.assert_allclose(teacher.predict(part.x), part.y, atol=1e-12)


# -------------------------------------------------------------------------------- 8: phases mixed up


def test_8_without_the_slip_pretraining_is_the_update_of_the_simulated_phase():
    """Our gradient, at every state that the published run visits, is the API's update with tau_f, tau_v of that phase."""
    run = training_cases.Run(RESOURCES / "training" / "train_sp_strong_ce_adam.npz")
    _, recorder = run.train()
    controller = replace(run.config.feedback_controller, error="difference")
    for step, (net, minibatch) in enumerate(recorder.visited[:3]):
        assert minibatch.phase == "pretraining"
        ours = methods.find("dfc-single-phase").gradients(net, minibatch, run.config).feedback
        update = dfc.feedback_update(
            net,
            minibatch.x,
            minibatch.y,
            controller,
            noise=minibatch.noise,
            scaling=True,
            high_pass=run.options["tau_f"],
        )
        published = training_cases.scaling_ratios(run.options)
        for i, gradient in enumerate(ours):
            assert np.array_equal(gradient, -update.feedback[i])
            assert not differ(published[i] * gradient, run.arrays[f"e{step:02d}_grawQ{i}"])
    assert [round(ratio, 3) for ratio in published] == [1.16, 1.077, 1.0]


def test_8_extra_feedback_epochs_are_divided_by_the_sigma_of_another_phase():
    problem = shipped("sp_extra_mse_strong")
    update = dfc.feedback_update(
        problem.net, problem.x, problem.target, problem.controller, noise=problem.noise, high_pass=0.5
    )
    ratios = training_cases.division_ratios(problem.options, 0.01)
    assert ratios == [(0.1 / 0.05) ** 2, (0.1 / 0.05) ** 2, (0.07 / 0.08) ** 2]
    for i in problem.layers:
        assert not differ(-ratios[i] * update.feedback[i], problem.arrays[f"gQ{i}"])


# -------------------------------------------------------------------------------- 10: samples that never converge


def test_10_the_softmax_error_discards_every_sample():
    """The cross-entropy cannot fall below the entropy of the target, so no sample counts as converged."""
    problem = shipped("conv_ce_strong_onlyconverged")
    entropy = -np.sum(problem.y * np.log(problem.y), axis=1)
    trajectory = problem.trajectory
    assert (trajectory.error >= entropy).all() and (entropy > 1e-5).all()
    assert not trajectory.converged.any()
    for readout in ("cont", "ss"):
        update = problem.forward_update(readout, "nl")
        assert not any(weight.any() for weight in update.weights)


def test_10_the_samples_that_converged_make_the_mean_over_all():
    """What is discarded counts in the number of samples: ours for those that converged, times their share."""
    problem = shipped("conv_mse_weak_all")
    kept = problem.trajectory.converged
    assert kept.sum() == 3
    for readout in ("cont", "ss"):
        some, few = (
            dfc.forward_update(
                problem.net, x, r, problem.controller, readout=READOUTS[readout], samples="converged"
            )
            for x, r in ((problem.x, problem.target), (problem.x[kept], problem.target[kept]))
        )
        for a, b in zip(some.weights, few.weights, strict=True):
            np.testing.assert_allclose(a, b * kept.mean(), rtol=0, atol=1e-15)


# -------------------------------------------------------------------------------- 11: scaling of white noise


def test_11_ours_refuses_to_scale_by_the_filter_of_white_noise():
    with pytest.raises(ValueError, match="set tau_noise, or scaling=False"):
        shipped("fb2p_ce_strong_ceerror").feedback_update(scaling=True)
