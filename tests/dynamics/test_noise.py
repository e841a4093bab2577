"""Noise: given draws reach the apical compartments, drawn noise is standard normal and named by its key."""

import numpy as np
import pytest
from problems import draws, relative_deviation
from simulations import NOISY, SAMPLES, SIZES, assert_same_bits, problem, simulate

import dfc_numba as dfc


@pytest.mark.parametrize("tau_apical", [None, 0.2])
@pytest.mark.parametrize("sigma_output", [None, 0.03])
@pytest.mark.parametrize("tau_noise", [None, 0.3])
def test_given_draws_reach_the_apical_compartments(tau_apical, sigma_output, tau_noise):
    net, x, target = problem()
    c = dfc.Controller(**{**NOISY, "tau_noise": tau_noise}, tau_apical=tau_apical, sigma_output=sigma_output)
    noise = draws(c, SIZES, SAMPLES)
    found = dfc.simulate(net, x, target, c, noise=noise)
    tau = tau_apical or c.dt
    for i, (q, v_fb) in enumerate(zip(net.feedback, found.v_fb, strict=True)):
        sigma = sigma_output if i == 2 and sigma_output is not None else 0.1
        added = noise[i] * np.sqrt(c.dt) / (tau_noise or tau)
        added[0] = 0
        for t in range(1, len(added) if tau_noise else 0):
            added[t] += (1 - c.dt / tau_noise) * added[t - 1]
        kept = (1 - c.dt / tau) * v_fb[:-1] + c.dt / tau * found.u[1:] @ q.T
        assert relative_deviation(v_fb[1:], kept + sigma * added[1:]) < 1e-12


def test_a_draw_drives_the_step_before_its_index():
    c = dfc.Controller(**NOISY)
    noise = draws(c, SIZES, SAMPLES)
    before = simulate(NOISY, noise=noise)
    noise[0][0] += 1.0
    assert_same_bits(simulate(NOISY, noise=noise), before)
    noise[0][10] += 1.0
    after = simulate(NOISY, noise=noise)
    changed = (after.v_fb[0] != before.v_fb[0]).any(axis=(1, 2))
    assert not changed[:10].any() and changed[10]


def recovered(noise, dtype=np.float64, n_samples=SAMPLES):
    """The draws of a simulation whose layers receive nothing but white noise."""
    c = dfc.Controller(dt=0.1, steps=400, sigma=0.1, alpha=0.0)
    net, x, target = problem(dtype, n_samples)
    for q in net.feedback:
        q[:] = 0
    found = dfc.simulate(net, x, target, c, noise=noise, record=dfc.Record(variables=["v_fb"]))
    return [v_fb[1:] / (0.1 / np.sqrt(0.1)) for v_fb in found.v_fb]


def test_drawn_noise_is_standard_normal_and_independent():
    found = np.concatenate(recovered(7), axis=2).reshape(400, -1)
    count = found.size
    assert abs(found.mean()) < 4 / np.sqrt(count) and found.std() == pytest.approx(
        1, abs=4 / np.sqrt(2 * count)
    )
    assert np.mean(found**4) == pytest.approx(3, abs=4 * np.sqrt(96 / count))
    correlations = np.corrcoef(found, rowvar=False) - np.eye(found.shape[1])
    assert np.abs(correlations).max() < 5.5 / np.sqrt(400)
    lagged = np.mean(found[1:] * found[:-1], axis=0)
    assert np.abs(lagged).max() < 5 / np.sqrt(400)


def test_noise_is_named_by_seed_minibatch_and_sample():
    reference = recovered(7)
    for same in (np.int64(7), dfc.NoiseKey(7), dfc.NoiseKey(seed=7, minibatch=0, samples=range(SAMPLES))):
        assert all(np.array_equal(a, b) for a, b in zip(recovered(same), reference, strict=True))
    for other in (8, dfc.NoiseKey(7, 1), dfc.NoiseKey(7, 0, [5, 6, 7, 8, 9])):
        assert all(
            not np.isclose(a, b).any(axis=(0, 2)).all()
            for a, b in zip(recovered(other), reference, strict=True)
        )


def test_the_largest_keys_are_taken():
    key = dfc.NoiseKey(2**64 - 1, 2**64 - 1, [0, 1, 2, 3, 2**32 - 1])
    assert np.isfinite(recovered(key)[0]).all()


def test_either_dtype_draws_the_same_noise():
    for a, b in zip(recovered(7), recovered(7, np.float32), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-6, atol=1e-7)


def test_noise_without_sigma_changes_nothing():
    assert_same_bits(simulate(noise=3), simulate())


# --- what is refused ---------------------------------------------------------------------------------------

GIVEN = draws(dfc.Controller(**NOISY), SIZES, SAMPLES)


@pytest.mark.parametrize(
    ("noise", "error", "message"),
    [
        (None, ValueError, "sigma = 0.1, sigma_output = 0.1, but noise is None; pass noise=<int seed>"),
        (-1, ValueError, "NoiseKey.seed is -1; a whole number from 0 to 2"),
        (True, TypeError, "noise is bool; expected an int seed"),
        (1.0, TypeError, "noise is float; expected an int seed"),
        (np.zeros((31, 5, 14)), TypeError, "noise is ndarray; expected an int seed"),
        (GIVEN[:2], TypeError, "expected an int seed, a NoiseKey, or a list of 3 arrays"),
        ([a[1:] for a in GIVEN], ValueError, r"noise\[0\] has shape \(30, 5, 6\); expected \(31, 5, 6\)"),
        ([GIVEN[0], GIVEN[0], GIVEN[2]], ValueError, r"noise\[1\] has shape \(31, 5, 6\); expected \(31, 5, 5\)"),
        ([a[:, :2] for a in GIVEN], ValueError, r"noise\[0\] has shape \(31, 2, 6\)"),
        ([GIVEN[0], GIVEN[1], np.full((31, 5, 3), np.nan)], ValueError, r"noise\[2\]\[0, 0, 0\] is nan"),
        (dfc.NoiseKey(1, 0, [1, 2]), ValueError, r"NoiseKey.samples has shape \(2,\); expected 5 whole numbers"),
    ],
)  # fmt: skip
def test_noise_that_does_not_fit_is_refused(noise, error, message):
    with pytest.raises(error, match=message):
        simulate(NOISY, noise=noise)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2**64,), "NoiseKey.seed is 18446744073709551616"),
        ((True,), "NoiseKey.seed is True"),
        ((0.5,), "NoiseKey.seed is 0.5"),
        ((0, -1), "NoiseKey.minibatch is -1"),
        ((0, "first"), "NoiseKey.minibatch is 'first'"),
        ((1, 0, np.arange(5.0)), "dtype float64; expected one axis of whole numbers"),
        ((1, 0, [0, 1, 2, 3, -4]), "NoiseKey.samples ranges from -4 to 3"),
        ((1, 0, [0, 1, 2, 3, 2**32]), "NoiseKey.samples ranges from 0 to 4294967296"),
        ((1, 0, [[0], [1, 2]]), "NoiseKey.samples must be an array of numbers"),
    ],
)
def test_wrong_keys_are_refused(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        dfc.NoiseKey(*arguments)
