"""Noise of the kernels: known answers of Philox, distribution and independence of the draws."""

import os
import subprocess
import sys

import numpy as np
import problems
import pytest
from compiled_calls import call_loop, compiled
from scipy import stats

import dfc_numba as dfc
from dfc_numba.kernels import noise as kernel
from dfc_numba.kernels.elementwise import normal_pair
from dfc_numba.kernels.noise import normals, philox, scratch

# counter, key -> words, as published with Random123 for philox4x32-10
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]
KEY = 0x123456789ABCDEF0


def words(text):
    return [np.array([int(word, 16)], np.uint64) for word in text.split()]


@pytest.mark.parametrize("counter, key, expected", KNOWN_ANSWERS)
def test_philox_known_answers(counter, key, expected):
    assert [int(w[0]) for w in philox(*words(counter), *words(key))] == [int(w, 16) for w in expected.split()]


@compiled
def stream(work, blocks, key, step, sample, layer):
    kernel._random_words(work, blocks, key, step, sample, layer)


def compiled_words(blocks, key, step, sample, layer):
    """The four words of each block as the kernels make them: numbers in single precision (4, blocks)."""
    work = np.zeros((4, blocks), np.float32)
    stream(work.ravel(), blocks, *(np.uint64(n) for n in (key, step, sample, layer)))
    return work[[0, 2, 1, 3]]


def as_numbers(four):
    """Words 0 and 2 read as unsigned, 1 and 3 as signed numbers, in single precision."""
    return np.stack(
        [
            w.astype(np.uint32).view(np.int32 if i % 2 else np.uint32).astype(np.float32)
            for i, w in enumerate(four)
        ]
    )


def test_the_compiled_stream_gives_the_known_answer():
    expected = as_numbers(words(KNOWN_ANSWERS[0][2]))
    np.testing.assert_array_equal(compiled_words(16, 0, 0, 0, 0)[:, :1], expected)


@pytest.mark.parametrize(
    "key, step, sample, layer",
    [
        (0, 0, 0, 0),
        (KEY, 1, 2, 3),
        (2**64 - 1, 2**31, 2**32 - 1, 7),
        (2**32, 5, 2**31, 1),
        (2**32 - 1, 1, 0, 2),
    ],
)
@pytest.mark.parametrize("blocks", [16, 48, 256])
def test_the_compiled_stream_is_philox(blocks, key, step, sample, layer):
    counter = [np.full(blocks, number, np.uint64) for number in (step, sample, layer)]
    halves = np.uint64(key & 0xFFFFFFFF), np.uint64(key >> 32)
    expected = as_numbers(philox(np.arange(blocks, dtype=np.uint64), *counter, *halves))
    np.testing.assert_array_equal(compiled_words(blocks, key, step, sample, layer), expected)


# --- from words to normal deviates -------------------------------------------------------------------------


def test_box_muller():
    """Against double precision, over all radii and angles, the ends included."""
    rng = np.random.default_rng(0)
    unsigned = np.concatenate([[0, 1, 2, 2**31, 2**32 - 1], rng.integers(0, 2**32, 40000), np.arange(2000)])
    signed = np.concatenate([[-(2**31), 2**31 - 1, 0, -1, 2**30], rng.integers(-(2**31), 2**31, 42000)])
    unsigned, signed = (array.astype(np.float32) for array in (unsigned, signed))
    first, second = call_loop(normal_pair, unsigned, signed, outputs=2)
    radius = np.sqrt(-2 * np.log(np.minimum((unsigned.astype(float) + 0.5) / 2**32, 1)))
    angle = 2 * np.pi * signed.astype(float) / 2**32
    assert np.abs(first - radius * np.cos(angle)).max() < 4e-6
    assert np.abs(second - radius * np.sin(angle)).max() < 4e-6
    assert 6.7 < radius.max() < 6.8, "the farthest that a draw can be"


def draws(units, *, key=KEY, step=1, sample=0, layer=1, dtype="float64"):
    """Standard normal draws of one layer of one sample at one step."""
    out = np.zeros(units, dtype)
    normals(out, 0, units, np.uint64(key), step, sample, layer, scratch(units))
    return out


@pytest.mark.parametrize("units", [*range(1, 11), 63, 64, 65, 66, 255, 257, 1000])
def test_any_number_of_units(units):
    work = scratch(1100)
    for dtype in ("float32", "float64"):
        out = np.full(units + 7, 99.0, dtype)
        normals(out, 3, units, np.uint64(KEY), 5, 6, 7, work)
        np.testing.assert_array_equal(out[3:-4], draws(units, step=5, sample=6, layer=7, dtype=dtype))
        assert np.all(out[:3] == 99) and np.all(out[-4:] == 99)
        assert np.isfinite(out).all() and len(set(out[3:-4])) == units


@pytest.mark.parametrize("units", [3, 50, 300])
def test_both_dtypes_get_the_same_draws(units):
    np.testing.assert_array_equal(draws(units, dtype="float32"), draws(units))


@pytest.fixture(scope="module")
def sample_of_draws():
    """A million draws (steps, units)."""
    return np.array([draws(1000, step=step) for step in range(1, 1001)])


def test_moments(sample_of_draws):
    """Mean, variance, third and fourth moment within 4 standard errors."""
    z, count = sample_of_draws.ravel(), sample_of_draws.size
    assert abs(z.mean()) < 4 / np.sqrt(count)
    assert abs((z**2).mean() - 1) < 4 * np.sqrt(2 / count)
    assert abs((z**3).mean()) < 4 * np.sqrt(15 / count)
    assert abs((z**4).mean() - 3) < 4 * np.sqrt(96 / count)


def test_distribution(sample_of_draws):
    assert stats.kstest(sample_of_draws.ravel(), "norm").pvalue > 1e-3


def test_tails(sample_of_draws):
    """Counts in bins of half a standard deviation, and beyond 4."""
    edges = np.concatenate([[-np.inf], np.linspace(-4, 4, 17), [np.inf]])
    counted, _ = np.histogram(sample_of_draws, edges)
    expected = np.diff(stats.norm.cdf(edges)) * sample_of_draws.size
    assert stats.chisquare(counted, expected).pvalue > 1e-3
    assert 4.4 < np.abs(sample_of_draws).max() < 6.8


@pytest.mark.parametrize("unit", [0, 1, 2, 499, 997, 999])
def test_distribution_of_one_unit(sample_of_draws, unit):
    assert stats.kstest(sample_of_draws[:, unit], "norm").pvalue > 1e-3


# --- independence ------------------------------------------------------------------------------------------


def key_of(seed, minibatch=0):
    return dfc.NoiseKey(seed, minibatch).word()


# what tells the streams apart -> 24 of them, each with the same other arguments
STREAMS = {
    "samples": [{"sample": n} for n in range(24)],
    "steps": [{"step": n} for n in range(24)],
    "layers": [{"layer": n} for n in range(1, 25)],
    "keys": [{"key": n} for n in range(24)],
    "seeds": [{"key": key_of(n)} for n in range(24)],
    "minibatches": [{"key": key_of(0, n)} for n in range(24)],
    "far apart": [{"sample": 2**27 * n, "step": 2**26 * n} for n in range(24)],
}


@pytest.mark.parametrize("what", STREAMS)
def test_streams_are_not_correlated(what):
    """Neither the draws nor their squares, for any pair of streams and a shift by one unit."""
    z = np.array([draws(20000, **options) for options in STREAMS[what]])
    assert len(np.unique(z[:, 0])) == 24
    z = np.concatenate([z, np.roll(z, 1, axis=1)])
    for values in (z, z**2):
        correlation = np.corrcoef(values)
        np.fill_diagonal(correlation, 0)
        # 1128 pairs: the largest of so many is beyond 5 standard errors once in 1500 times
        assert np.abs(correlation).max() * np.sqrt(z.shape[1]) < 5


def test_units_are_not_correlated(sample_of_draws):
    correlation = np.corrcoef(sample_of_draws[:, :200].T)
    np.fill_diagonal(correlation, 0)
    assert np.abs(correlation).max() * np.sqrt(len(sample_of_draws)) < 5.5


def test_the_correlation_test_sees_a_repeated_stream():
    z = np.array([draws(20000, sample=n) for n in (0, 1, 0)])
    assert np.corrcoef(z)[0, 2] > 0.99


# --- in a simulation ---------------------------------------------------------------------------------------

SIZES, SAMPLES = (4, 9, 5, 3), 19


def noisy_case(dtype="float64", **options):
    """(network, x, target, controller) with noise in every layer."""
    net = dfc.Network(**problems.stable_parameters(SIZES, dtype=dtype))
    x = problems.inputs(SAMPLES, SIZES[0])
    controller = dfc.Controller(steps=12, sigma=0.1, sigma_output=0.03, **options)
    return net, x, net.predict(x, dtype="float64") + 0.1, controller


def read_draws(noise, controller):
    """The draws that a `NoiseKey` stands for, one array (T, B, n_i) per layer; index 0 is not used."""
    numbers = noise.numbers(SAMPLES)
    arrays = [np.zeros((controller.steps + 1, SAMPLES, n)) for n in SIZES[1:]]
    for i, array in enumerate(arrays, 1):
        for step in range(1, controller.steps + 1):
            for b, number in enumerate(numbers):
                array[step, b] = draws(SIZES[i], key=noise.word(), step=step, sample=number, layer=i)
    return arrays


def assert_same_trajectories(ours, theirs):
    for name in ("v", "v_ff", "v_fb", "r"):
        for found, expected in zip(getattr(ours, name), getattr(theirs, name), strict=True):
            np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(ours.u, theirs.u)


@pytest.mark.parametrize("numbers", [None, np.arange(SAMPLES)[::-1] + 1000])
@pytest.mark.parametrize("tau_noise", [None, 0.1])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_given_draws_give_the_same_bits_as_their_key(dtype, tau_noise, numbers):
    net, x, target, controller = noisy_case(dtype, tau_noise=tau_noise)
    key = dfc.NoiseKey(seed=11, minibatch=5, samples=numbers)
    keyed = dfc.simulate(net, x, target, controller, noise=key)
    given = dfc.simulate(net, x, target, controller, noise=read_draws(key, controller))
    assert_same_trajectories(keyed, given)
    for update in (dfc.forward_update, dfc.feedback_update):
        keyed, given = (
            update(net, x, target, controller, noise=noise) for noise in (key, read_draws(key, controller))
        )
        for name in ("weights", "feedback"):
            for ours, theirs in zip(getattr(keyed, name, []), getattr(given, name, []), strict=True):
                np.testing.assert_array_equal(ours, theirs)


def test_a_sample_keeps_its_noise_in_another_minibatch():
    net, x, target, controller = noisy_case()
    numbers = np.arange(SAMPLES) + 7
    whole = dfc.simulate(net, x, target, controller, noise=dfc.NoiseKey(1, 2, numbers))
    chosen = [17, 3, 4]
    part = dfc.simulate(net, x[chosen], target[chosen], controller, noise=dfc.NoiseKey(1, 2, numbers[chosen]))
    for found, expected in zip(part.v, whole.v, strict=True):
        np.testing.assert_array_equal(found, expected[:, chosen])


def distinct_keys(numbers):
    """Whether all pairs (seed, minibatch) of some numbers have keys of their own."""
    pairs = [(seed, minibatch) for seed in numbers for minibatch in numbers]
    return len({int(key_of(*pair)) for pair in pairs}) == len(pairs)


def test_keys_of_seeds_and_minibatches_differ():
    assert distinct_keys([*range(40), 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**33, 2**64 - 1])


# --- the same on every processor ---------------------------------------------------------------------------------

# units 0, 85, 170, ... of a layer of 600, as made on x86 with AVX-512, AVX2 and SSE2
KEPT = [
    "-0x1.7b51be0000000p+0",
    "0x1.7898b00000000p-3",
    "-0x1.8b2fb40000000p-4",
    "-0x1.c40ee00000000p-1",
    "0x1.b6a8280000000p-4",
    "-0x1.147afe0000000p-1",
    "0x1.46db600000000p-2",
    "-0x1.f2cb9e0000000p-7",
]


def test_draws_are_those_of_every_processor():
    """No operation is contracted with another one, so that fused multiply-add changes nothing."""
    assert [float(draw).hex() for draw in draws(600, step=11, sample=12, layer=2)[::85]] == KEPT


@pytest.mark.slow
def test_draws_of_a_processor_without_fused_multiply_add(tmp_path):
    code = (
        "import numpy as np\n"
        "from dfc_numba.kernels.noise import normals, scratch\n"
        "out = np.zeros(600)\n"
        f"normals(out, 0, 600, np.uint64({KEY}), 11, 12, 2, scratch(600))\n"
        "print(' '.join(float(draw).hex() for draw in out))"
    )
    environment = {**os.environ, "NUMBA_CPU_NAME": "generic", "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [float(draw).hex() for draw in draws(600, step=11, sample=12, layer=2)]
