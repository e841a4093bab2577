"""Target propagation: targets, updates, the learning of feedback mappings, and its fixed point."""

import numpy as np
import pytest
import relatives_oracle as oracle

import dfc_numba as dfc
from dfc_numba.relatives import target_propagation as tp
from dfc_numba.relatives.feedback_mappings import (
    RULES,
    FeedbackMappings,
    TargetPropagation,
    reconstruction_update,
)

SIZES = [6, 5, 4, 3]


def problem(rule, *, output="linear", loss="mse", sizes=SIZES, count=7, dtype="float64", **values):
    net = dfc.Network.create(sizes, output_activation=output, seed=1, dtype=dtype)
    rng = np.random.default_rng(2)
    for b in net.biases:
        b[...] = 0.3 * rng.standard_normal(b.shape)
    options = TargetPropagation(rule=rule, loss=loss, **values)
    mappings = FeedbackMappings.create(net, options, units=8, seed=3)
    for b in mappings.biases:
        b[...] = 0.3 * rng.standard_normal(b.shape)
    return (
        net,
        options,
        mappings,
        rng.standard_normal((count, sizes[0])),
        rng.uniform(0.2, 0.8, (count, sizes[-1])),
    )


@pytest.mark.parametrize("rule", RULES)
def test_mappings_descend_along_the_numerical_gradient_of_their_loss(rule):
    net, options, mappings, x, _ = problem(rule, sigma=0.3)
    xi = [np.random.default_rng(4).standard_normal((len(x), n)) for n in SIZES[1:-1]]
    update = reconstruction_update(net, mappings, x, options, noise=xi)
    for i, draws in enumerate(xi):

        def loss(layer=i, draws=draws):
            return oracle.reconstruction_loss(net, mappings, x, rule, 0.3, draws, layer, options.activation)

        assert np.isclose(update.losses[i], loss(), rtol=1e-12)
        assert np.allclose(
            -update.weights[i], oracle.numerical_gradient(loss, mappings.weights[i]), atol=1e-7
        )
        assert np.allclose(-update.biases[i], oracle.numerical_gradient(loss, mappings.biases[i]), atol=1e-7)


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("rule", RULES)
def test_forward_weights_descend_along_the_numerical_gradient_of_the_local_losses(rule, loss):
    net, options, mappings, x, y = problem(rule, loss=loss)
    update = tp.target_update(net, mappings, x, y, options)
    targets, below = update.targets.rates, [x, *update.targets.activity.r[:-1]]
    for i, w in enumerate(net.weights):

        def local(i=i, w=w):
            rates = oracle.ACTIVATIONS[net.activations[i]](below[i] @ w.T + net.biases[i])
            return np.sum((targets[i] - rates) ** 2) / len(x)

        assert np.allclose(-update.weights[i], oracle.numerical_gradient(local, w), atol=1e-8)
        assert np.allclose(-update.biases[i], oracle.numerical_gradient(local, net.biases[i]), atol=1e-8)


def test_with_transposed_weights_as_feedback_ddtp_linear_moves_along_the_gradient_for_a_linear_network():
    net, options, mappings, x, y = problem("ddtp_linear")
    linear = dfc.Network(
        weights=net.weights, biases=net.biases, feedback=net.feedback, hidden_activation="linear"
    )
    mappings.weights[0][...] = (linear.weights[2] @ linear.weights[1]).T
    mappings.weights[1][...] = linear.weights[2].T
    update = tp.target_update(linear, mappings, x, y, options)
    biases, names = linear.biases, linear.activations
    for i, w in enumerate(linear.weights):
        gradient = oracle.numerical_gradient(
            lambda: np.mean((oracle.feedforward(linear.weights, biases, names, x)[1][-1] - y) ** 2), w
        )
        # local losses carry 2/B and a step of the mean loss; the factor is 2 eta / B for all layers
        assert np.allclose(update.weights[i], -2 * options.step / len(x) * gradient, atol=1e-8)


def test_the_fixed_point_is_the_damped_pseudo_inverse_of_the_jacobian():
    """Q -> J^T (J J^T + lambda I)^{-1} for small noise, at every layer; lambda is half of n_i times the weight decay."""
    sizes, decay = [4, 6, 5, 3], 0.02
    net, options, mappings, *_ = problem("ddtp_linear", sizes=sizes, sigma=0.01)
    x = np.repeat(np.random.default_rng(5).standard_normal((1, 4)), 50_000, axis=0)
    jacobian = np.split(dfc.output_jacobian(net, x[:1])[0], np.cumsum(sizes[1:])[:-1], axis=1)
    rates = net.forward(x[:1]).r
    for i, (q, n) in enumerate(zip(mappings.weights, sizes[1:-1], strict=True)):
        j = jacobian[i] / (1 - rates[i] ** 2)  # d a_L / d h_i
        assert np.linalg.norm(q - fixed_point(j, 0.0)) > 0.5 * np.linalg.norm(q)
        damping = decay * n / 2
        for step in range(300):
            update = reconstruction_update(net, mappings, x[:2000], options, noise=step)
            gradient = -update.weights[i] + decay * q
            q -= 0.5 * n * np.linalg.solve(j @ j.T + damping * np.eye(3), gradient.T).T / (1 + step / 20)
        expected = fixed_point(j, damping)
        assert np.linalg.norm(q - expected) < 0.01 * np.linalg.norm(expected)


def fixed_point(j, damping):
    return j.T @ np.linalg.inv(j @ j.T + damping * np.eye(len(j)))


@pytest.mark.parametrize("rule", ["ddtp_linear", "dtpdrl"])
def test_the_bits_do_not_depend_on_threads_or_on_the_other_samples(rule):
    net, options, mappings, x, y = problem(rule, sizes=[40, 200, 150, 10], count=130)
    key = dfc.NoiseKey(7, 3)
    with dfc.limit_threads(1):
        one = reconstruction_update(net, mappings, x, options, noise=key)
        target = tp.target_update(net, mappings, x, y, options)
    with dfc.limit_threads(3):
        three = reconstruction_update(net, mappings, x, options, noise=key)
        assert all(
            map(np.array_equal, target.weights, tp.target_update(net, mappings, x, y, options).weights)
        )
    assert all(map(np.array_equal, one.weights, three.weights))
    part = reconstruction_update(net, mappings, x[5:9], options, noise=dfc.NoiseKey(7, 3, [5, 6, 7, 8]))
    assert np.array_equal(part.reconstructed[0], one.reconstructed[0][5:9])


def test_single_precision_agrees_with_double():
    for rule in RULES:
        updates = []
        for dtype in ("float64", "float32"):
            net, options, mappings, x, y = problem(rule, dtype=dtype)
            xi = [np.random.default_rng(4).standard_normal((len(x), n)) for n in SIZES[1:-1]]
            found = tp.target_update(net, mappings, x, y, options)
            updates.append(found.weights + reconstruction_update(net, mappings, x, options, noise=xi).weights)
        for double, single in zip(*updates, strict=True):
            assert single.dtype == np.float32
            assert np.linalg.norm(single - double) < 2e-5 * np.linalg.norm(double)


def test_gauss_newton_targets_bring_a_linear_output_where_it_is_to_go():
    net, _, _, x, y = problem("dtp", sizes=[6, 5, 5, 3])
    linear = dfc.Network(
        weights=net.weights, biases=net.biases, feedback=net.feedback, hidden_activation="linear"
    )
    targets = tp.gauss_newton_targets(linear, x, y)
    for i in range(2):
        out = targets.rates[i]
        for w, b in zip(linear.weights[i + 1 :], linear.biases[i + 1 :], strict=True):
            out = out @ w.T + b
        assert np.allclose(out, targets.rates[-1], atol=1e-12)


def test_samples_whose_sigmoid_target_leaves_its_range_are_flagged_and_left_out():
    net, options, mappings, x, y = problem("ddtp_linear", output="sigmoid", step=40.0)
    y[2] = 5.0
    targets = tp.propagated_targets(net, mappings, x, y, options)
    assert not targets.usable[2]
    assert all(np.isfinite(rates).all() for rates in targets.rates)
    assert all((shift[~targets.usable] == 0).all() for shift in targets.shifts)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TargetPropagation(step=0.0), "step is 0.0"),
        (lambda: TargetPropagation(rule="dtpdlr"), "'dtpdrl'"),
        (lambda: TargetPropagation(rule="ddtp_linear", feedback_activation="tanh"), "whose feedback is linear"),
        (lambda: TargetPropagation(damping=0.1), "no option 'damping'"),
        (lambda: updated(output="relu"), "'linear' .* or 'sigmoid'"),
        (lambda: updated(output="sigmoid", loss="cross_entropy"), "it needs 'linear'"),
        (lambda: FeedbackMappings.create(dfc.Network.create([3, 2]), TargetPropagation()), "one hidden layer"),
        (lambda: reconstructed(noise=[np.zeros((7, 5))]), "list of 2 arrays"),
        (lambda: reconstructed(noise=[np.zeros((7, 5)), np.zeros((7, 5))]), r"noise\[1\] has shape"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_with_its_reason(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def updated(**values):
    net, options, mappings, x, y = problem("dtp", **values)
    return tp.target_update(net, mappings, x, y, options)


def reconstructed(noise):
    net, options, mappings, x, _ = problem("dtp")
    return reconstruction_update(net, mappings, x, options, noise=noise)
