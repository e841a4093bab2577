"""The expected update of the feedback weights, against means over draws that `feedback_update` itself is given.

Oracle: the noise-driven update is quadratic in its draws, which are independent with variance 1. Its expectation is therefore the
sum over all unit draws +-e_k (one step, layer and unit each), plus terms of fourth order, which vanish as the noise is scaled
down.
"""

from dataclasses import replace

import numpy as np
import pytest

import dfc_numba as dfc
from dfc_numba.dynamics.expected_feedback import random_signs

SIZES = (7, 6, 5, 4)
BIAS = 0.2
# two phases of DFC, published for MNIST, with fewer steps; single phase of Strong-DFC
DFC = dfc.Controller(
    dt=0.00203,
    steps=24,
    alpha=0.6134,
    k_p=0.1565,
    tau_v=0.0063,
    tau_apical=0.3247,
    proactive=False,
    sigma=0.00152,
)
SINGLE_PHASE = dfc.Controller(
    dt=0.001,
    steps=30,
    alpha=7.6e-6,
    k_p=2.0,
    tau_v=0.00927,
    sigma=0.000428,
    sigma_output=0.00297,
    tau_noise=0.07,
)
CASES = {
    "white": (DFC, {}),
    "low-passed": (replace(DFC, tau_noise=0.05), {}),
    "scaling": (replace(DFC, tau_noise=0.05), {"scaling": True}),
    "normalise": (DFC, {"normalise": (0.3, 0.1), "sigma_floor": 0.2}),
    "single phase": (SINGLE_PHASE, {"scaling": True, "high_pass": 0.05}),
    "softmax error": (replace(SINGLE_PHASE, error="softmax"), {"scaling": True, "high_pass": 0.05}),
    "delayed, filtered": (
        replace(DFC, instant_transmission=False, leak="integral", tau_control=0.01, k_p=2.0), {},
    ),
    "delayed, filtered, proactive": (
        replace(DFC, instant_transmission=False, tau_control=0.01, k_p=1.0, proactive=True), {},
    ),
    "instant dynamics": (replace(DFC, instant_dynamics=True, k_p=0.0), {}),
    "strong loop": (replace(DFC, k_p=2.0, tau_apical=0.1, steps=60), {}),
}  # fmt: skip


def network(sizes=SIZES, seed=1, **options):
    options = {"feedback_init": "weight_product", "hidden_activation": "tanh", "dtype": "float64", **options}
    net = dfc.Network.create(list(sizes), seed=seed, **options)
    rng = np.random.default_rng(seed)
    for bias in net.biases:
        bias += BIAS * rng.standard_normal(bias.shape)
    return net


def inputs(count=2, sizes=SIZES, seed=3):
    return np.random.default_rng(seed).standard_normal((count, sizes[0]))


def output(net, x, controller):
    r = net.predict(x, dtype="float64")
    if controller.error == "difference":
        return r
    p = np.exp(r)
    return p / p.sum(axis=1, keepdims=True)


def mean_over_unit_draws(net, x, controller, scale=1e-3, floor=0.01, **options):
    """The expectation of `feedback_update`, see above; `scale` takes the noise down, and its floor with it."""
    sigma, sigma_output = scale * controller.sigma, scale * controller.output_sigma
    small = replace(controller, sigma=sigma, sigma_output=sigma_output)
    places = [
        (t, i, k)
        for t in range(1, controller.steps + 1)
        for i, n in enumerate(net.sizes[1:])
        for k in range(n)
    ]
    count = len(x)
    draws = [np.zeros((controller.steps + 1, len(places) * count, n)) for n in net.sizes[1:]]
    for place, (t, i, k) in enumerate(places):
        draws[i][t, place * count : (place + 1) * count, k] = 1.0
    many = np.tile(x, (len(places), 1))
    target = output(net, many, controller)
    sums = [0.0] * len(net.weights)
    for sign in (1, -1):  # odd orders cancel, as they do for normal draws
        noise = [sign * d for d in draws]
        update = dfc.feedback_update(
            net, many, target, small, noise=noise, sigma_floor=scale * floor, **options
        )
        sums = [a + b * len(places) / 2 for a, b in zip(sums, update.feedback, strict=True)]
    return sums


def deviations(found, expected):
    """Relative, by layer, in the Frobenius norm."""
    pairs = zip(found, expected, strict=True)
    return np.array([np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in pairs])


@pytest.mark.parametrize("name", CASES)
def test_the_exact_form_is_the_mean_over_all_unit_draws(name):
    controller, options = CASES[name]
    net, x = network(), inputs()
    found = dfc.expected_feedback_update(
        net, x, output(net, x, controller), controller, form="exact", **options
    )
    floor = options.get("sigma_floor", 0.01)
    simulated = dict(options)
    if "normalise" in options:  # sigma is scaled down, and so is what is divided by
        simulated["normalise"] = tuple(1e-3 * sigma for sigma in options["normalise"])
    simulated.pop("sigma_floor", None)
    expected = mean_over_unit_draws(net, x, controller, floor=floor, **simulated)
    assert deviations(found.feedback, expected).max() < 1e-9


@pytest.mark.parametrize("name", ["white", "delayed, filtered", "instant dynamics"])
@pytest.mark.parametrize("activation", ["linear", "relu", "leakyrelu", "sigmoid"])
def test_the_exact_form_holds_for_every_activation(activation, name):
    controller, net, x = CASES[name][0], network(hidden_activation=activation), inputs()
    found = dfc.expected_feedback_update(net, x, None, controller, form="exact").feedback
    assert deviations(found, mean_over_unit_draws(net, x, controller)).max() < 1e-9


def test_the_exact_form_holds_for_one_layer_and_a_nonlinear_output():
    net, x = network((5, 4), output_activation="sigmoid"), inputs(3, (5, 4))
    found = dfc.expected_feedback_update(net, x, None, DFC, form="exact").feedback
    assert deviations(found, mean_over_unit_draws(net, x, DFC)).max() < 1e-9


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("options", [{}, {"output_activation": "sigmoid"}], ids=["linear", "sigmoid"])
def test_the_mean_field_is_exact_for_one_sample(name, options):
    controller, arguments = CASES[name]
    net, x = network(**options), inputs(1)
    found, exact = (
        dfc.expected_feedback_update(net, x, None, controller, form=form, **arguments).feedback
        for form in ("mean_field", "exact")
    )
    assert deviations(found, exact).max() < 1e-12


@pytest.mark.parametrize("name", [name for name in CASES if name != "softmax error"])
def test_the_mean_field_is_exact_for_a_linear_network(name):
    controller, options = CASES[name]
    net, x = network(hidden_activation="linear"), inputs(40)
    found, exact = (
        dfc.expected_feedback_update(net, x, None, controller, form=form, **options).feedback
        for form in ("mean_field", "exact")
    )
    assert deviations(found, exact).max() < 1e-12


PAPER = (784, 256, 256, 256, 10)
PAPER_DFC = replace(DFC, steps=47)


@pytest.fixture(scope="module")
def paper():
    """The published network at initialisation, 128 samples, and the exact form."""
    net, x = network(PAPER, feedback_init="xavier_normal"), inputs(128, PAPER)
    return net, x, dfc.expected_feedback_update(net, x, None, PAPER_DFC, form="exact").feedback


@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-3), ("float32", 1e-3)])
def test_the_mean_field_is_close_in_the_published_network(paper, dtype, bound):
    net, x, exact = paper
    found = dfc.expected_feedback_update(net.copy(dtype=dtype), x, None, PAPER_DFC).feedback
    assert all(q.dtype == dtype and q.flags.c_contiguous for q in found)
    assert deviations(found, exact).max() < bound


def test_single_precision_keeps_its_digits(paper):
    net, x, _ = paper
    double, single = (
        dfc.expected_feedback_update(net.copy(dtype=dtype), x, None, PAPER_DFC).feedback
        for dtype in ("float64", "float32")
    )
    assert deviations(single, double).max() < 5e-6


def test_one_probe_is_right_on_average_and_hardly_noisy(paper):
    net, x, exact = paper
    draws = [
        dfc.expected_feedback_update(
            net, x, None, PAPER_DFC, form="one_probe", noise=dfc.NoiseKey(5, n)
        ).feedback
        for n in range(40)
    ]
    for q, layer in zip(exact, map(np.stack, zip(*draws, strict=True)), strict=True):
        rms = np.sqrt((layer**2).sum(axis=(1, 2)).mean())
        assert np.linalg.norm(q) / rms > 0.9
        error = np.sqrt(layer.var(axis=0, ddof=1).sum() / len(layer))
        assert np.linalg.norm(layer.mean(axis=0) - q) < 1.5 * error


def test_one_probe_is_unbiased_in_a_linear_network():
    net, x = network(hidden_activation="linear"), inputs(12)
    exact = dfc.expected_feedback_update(net, x, None, SINGLE_PHASE, form="exact").feedback
    draws = [
        dfc.expected_feedback_update(net, x, None, SINGLE_PHASE, form="one_probe", noise=n).feedback
        for n in range(400)
    ]
    for q, layer in zip(exact, map(np.stack, zip(*draws, strict=True)), strict=True):
        error = np.sqrt(layer.var(axis=0, ddof=1).sum() / len(layer))
        assert np.linalg.norm(layer.mean(axis=0) - q) < 2 * error < 0.2 * np.linalg.norm(q)


def test_sampled_updates_scatter_about_the_expectation(paper):
    """The deviation of their mean, squared and in standard errors, is 1 on average over the elements of every layer."""
    net, x, _ = paper
    x, tile, calls = x[:16], 10, 32
    expected = dfc.expected_feedback_update(net, x, None, PAPER_DFC, form="exact").feedback
    many = np.tile(x, (tile, 1))
    rest = net.predict(many, dtype="float64")
    sampled = [
        dfc.feedback_update(net, many, rest, PAPER_DFC, noise=dfc.NoiseKey(11, n)).feedback
        for n in range(calls)
    ]
    for q, layer in zip(expected, map(np.stack, zip(*sampled, strict=True)), strict=True):
        squares = (layer.mean(axis=0) - q) ** 2 / (layer.var(axis=0, ddof=1) / calls)
        assert 0.75 < squares.mean() * (calls - 3) / (calls - 1) < 1.25


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("form", ["mean_field", "exact", "one_probe"])
def test_the_bits_do_not_depend_on_the_number_of_threads(form, dtype):
    sizes = (40, 96, 96, 10)
    net, x = network(sizes, dtype=dtype), inputs(75, sizes)
    noise = 4 if form == "one_probe" else None
    found = []
    for threads in (1, 2, 3):
        with dfc.limit_threads(threads):
            found.append(dfc.expected_feedback_update(net, x, None, DFC, form=form, noise=noise).feedback)
    for other in found[1:]:
        assert all(a.tobytes() == b.tobytes() for a, b in zip(found[0], other, strict=True))


def test_signs_belong_to_samples():
    key = dfc.NoiseKey(7, 3, np.array([5, 2, 9]))
    signs = random_signs(key, 3, 40)
    assert set(np.unique(signs)) == {-1.0, 1.0}
    other = random_signs(dfc.NoiseKey(7, 3, np.array([9, 5])), 2, 40)
    assert np.array_equal(other, signs[[2, 0]])
    assert not np.array_equal(random_signs(dfc.NoiseKey(7, 4, np.array([5, 2, 9])), 3, 40), signs)
    many = random_signs(dfc.NoiseKey(1), 2000, 30)
    assert np.abs(many.T @ many / 2000 - np.eye(30)).max() < 0.12


REFUSED = {
    "target": ({"target": np.ones((2, 4))}, "but the feedforward output is"),
    "shape of the target": ({"target": np.ones((3, 4))}, "target has shape"),
    "form": ({"form": "exakt"}, "form"),
    "noise that nothing draws": ({"noise": 3}, "leave out noise = 3"),
    "no noise for signs": ({"form": "one_probe"}, "needs noise, an int seed or a NoiseKey"),
    "no noise to learn from": (
        {"controller": replace(DFC, sigma=0.0)},
        "without noise the feedback weights learn nothing",
    ),
    "jacobian feedback": ({"controller": replace(DFC, jacobian_feedback=True)}, "jacobian_feedback"),
    "scaling of white noise": ({"scaling": True}, "scaling=True"),
    "short high-pass": ({"high_pass": 1e-4}, "high_pass"),
    "floor": ({"sigma_floor": 0.0}, "sigma_floor"),
    "inputs": ({"x": np.full((2, 7), np.nan)}, "x"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_arguments_that_expected_feedback_cannot_honour_are_refused(name):
    changes, message = REFUSED[name]
    arguments = {"x": inputs(), "target": None, "controller": DFC, **changes}
    with pytest.raises(ValueError, match=message):
        dfc.expected_feedback_update(network(), **arguments)


def test_other_types_are_refused():
    with pytest.raises(TypeError, match="network"):
        dfc.expected_feedback_update("net", inputs(), None, DFC)
    with pytest.raises(TypeError, match="controller"):
        dfc.expected_feedback_update(network(), inputs(), None, {"sigma": 1})


def test_wide_outputs_are_refused():
    sizes = (5, 4, 65)
    with pytest.raises(ValueError, match="is for up to 64 outputs, this network has 65"):
        dfc.expected_feedback_update(network(sizes), inputs(2, sizes), None, DFC)


@pytest.mark.parametrize("form", ["mean_field", "exact"])
@pytest.mark.parametrize("steps", [400, 4000])
def test_an_unstable_loop_is_refused(form, steps):
    net = network()
    for q in net.feedback:
        q *= -30.0
    with pytest.raises(ValueError, match="the control loop is unstable"):
        dfc.expected_feedback_update(net, inputs(), None, replace(DFC, k_p=2.0, steps=steps), form=form)


def test_noise_that_crosses_kinks_is_warned_of():
    loud = replace(DFC, sigma=0.2)
    with pytest.warns(UserWarning, match=r"in v_fb of layer 1 \(relu\) changes its slopes"):
        dfc.expected_feedback_update(network((7, 60, 4), hidden_activation="relu"), inputs(8), None, loud)
    with pytest.warns(UserWarning, match=r"\(tanh\) changes its slopes"):
        dfc.expected_feedback_update(network(), inputs(8), None, replace(DFC, sigma=1.5))
    dfc.expected_feedback_update(network(hidden_activation="linear"), inputs(), None, replace(DFC, sigma=9.0))
