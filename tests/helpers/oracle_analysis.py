"""The oracle of the measures of theory: plain NumPy, a sample at a time, whole Jacobians, no code of the package.

Names, arguments and signs are those of `dfc_numba.analysis`; the output layer is linear.
"""

from types import SimpleNamespace

import numpy as np
import oracle


def _feedforward(net, x):
    """Voltages, and what every layer receives: x and the rates of the hidden layers."""
    start = oracle._forward(net, x)
    return start, [np.asarray(x, float), *start.r[:-1]]


def inverse(j, damping):
    """J^T (J J^T + damping I)^{-1}, or J^+."""
    if damping == 0:
        return np.linalg.pinv(j)
    return j.T @ np.linalg.inv(j @ j.T + damping * np.eye(len(j)))


def parameter_jacobians(net, x):
    """d r_L / d(W_1, b_1, W_2, ...) of every sample, a list of (n_L, number of parameters)."""
    start, below = _feedforward(net, x)
    blocks, found = oracle.jacobian_blocks(net, start.v), []
    for b in range(len(x)):
        columns = []
        for block, rates in zip(blocks, below):
            columns.append(np.einsum("kn,m->knm", block[b], rates[b]).reshape(len(block[b]), -1))
            if net.biases is not None:
                columns.append(block[b])
        found.append(np.concatenate(columns, axis=1))
    return found


def _as_update(net, vector):
    """A vector of parameters, W_1, b_1, W_2, ..., as weights and biases."""
    weights, biases, start = [], [], 0
    for w in net.weights:
        weights.append(vector[start : start + w.size].reshape(w.shape))
        start += w.size
        if net.biases is not None:
            biases.append(vector[start : start + len(w)])
            start += len(w)
    return SimpleNamespace(weights=weights, biases=biases or None)


def _outer(net, factors, below):
    """Means over samples of p_i r_{i-1}^T and p_i."""
    weights = [p.T @ r / len(r) for p, r in zip(factors, below)]
    return SimpleNamespace(weights=weights, biases=net.biases and [p.mean(axis=0) for p in factors])


def reference_update(
    net, x, y, kind, *, loss="mse", step=1.0, damping=0.0, per="sample", presynaptic=None, nonlinear=False
):
    """Backpropagation, Gauss-Newton, least-norm layer targets."""
    start, below = _feedforward(net, x)
    delta = oracle.output_target(net, x, y, loss=loss, step=step) - start.r[-1]
    if kind == "gn":
        jacobians = parameter_jacobians(net, x)
        if per == "minibatch":
            return _as_update(net, inverse(np.concatenate(jacobians), damping) @ delta.ravel())
        changes = [inverse(j, damping) @ d for j, d in zip(jacobians, delta)]
        return _as_update(net, np.mean(changes, axis=0))
    jacobians = oracle.output_jacobian(net, x)
    changes = [(j.T if kind == "bp" else inverse(j, damping)) @ d for j, d in zip(jacobians, delta)]
    factors = np.split(np.array(changes), np.cumsum([len(w) for w in net.weights])[:-1], axis=1)
    if nonlinear:
        factors = rate_changes(net, start.v, factors)
    return _outer(net, factors, below if presynaptic is None else [below[0], *presynaptic])


def rate_changes(net, voltages, changes):
    """phi(v + change) - phi(v)."""
    functions = [oracle.ACTIVATIONS[name] for name in [*net.hidden_activations, "linear"]]
    return [phi(v + change) - phi(v) for phi, v, change in zip(functions, voltages, changes)]


def angle(first, second):
    """Degrees between two lists of arrays, by the cosine."""
    a, b = (np.concatenate([np.ravel(array) for array in arrays]) for arrays in (first, second))
    cosine = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def alignment(update, reference):
    """Angles of each layer and of all."""
    pairs = list(zip(update.weights, reference.weights))
    weights = [angle([a], [b]) for a, b in pairs]
    if update.biases is None:
        total = angle(update.weights, reference.weights)
        return SimpleNamespace(weights=weights, biases=None, layers=weights, total=total, total_weights=total)
    both = list(zip(update.biases, reference.biases))
    return SimpleNamespace(
        weights=weights,
        biases=[angle([a], [b]) for a, b in both],
        layers=[angle([a, c], [b, d]) for (a, b), (c, d) in zip(pairs, both)],
        total=angle([*update.weights, *update.biases], [*reference.weights, *reference.biases]),
        total_weights=angle(update.weights, reference.weights),
    )


def conditions(net, x, *, damping):
    """Conditions 1 and 2, and the angles between Q and inverses of J."""
    _, below = _feedforward(net, x)
    norms = np.array([[np.linalg.norm(rates[b]) for rates in below] for b in range(len(x))])
    q, jacobians = np.concatenate(net.feedback), oracle.output_jacobian(net, x)

    def angles(matrices):
        return np.array([angle([q], [matrix]) for matrix in matrices])

    transposed, pinv = [j.T for j in jacobians], [np.linalg.pinv(j) for j in jacobians]
    damped = [inverse(j, damping) for j in jacobians]
    projected = [np.linalg.norm(p @ j @ q) for p, j in zip(pinv, jacobians)]
    return SimpleNamespace(
        input_norms=norms,
        dev_r=np.sqrt(np.mean((norms - norms.mean(axis=1, keepdims=True)) ** 2, axis=1)) / norms.mean(axis=1),
        condition_2=np.array(projected) / np.linalg.norm(q),
        angle_transpose=angles(transposed),
        angle_pinv=angles(pinv),
        angle_damped=angles(damped),
        mean_angle_transpose=angle([q], [np.mean(transposed, axis=0)]),
        mean_angle_pinv=angle([q], [np.mean(pinv, axis=0)]),
        mean_angle_damped=angle([q], [np.mean(damped, axis=0)]),
    )


def null_space_fraction(net, x, update):
    """By the singular vectors of the Jacobian of all outputs of the minibatch with respect to W_i."""
    start, below = _feedforward(net, x)
    fractions = []
    for block, rates, g in zip(oracle.jacobian_blocks(net, start.v), below, update.weights):
        rows = np.concatenate(
            [np.einsum("kn,m->knm", j, r).reshape(len(j), -1) for j, r in zip(block, rates)]
        )
        _, s, right = np.linalg.svd(rows, full_matrices=False)
        seen = right[s >= 1e-12] @ g.ravel()
        fractions.append(np.linalg.norm(g.ravel() - right[s >= 1e-12].T @ seen) / np.linalg.norm(g))
    return np.array(fractions)


def control_effort(net, u):
    """|Q u|^2 / 2."""
    return np.array([0.5 * np.sum((np.concatenate(net.feedback) @ one) ** 2) for one in u])


def effort_update(net, x, u, controller, *, at):
    """Minus the gradient of the effort, with Jacobians and rates of the feedforward state."""
    assert at == "feedforward"
    _, below = _feedforward(net, x)
    q, outputs, rows = np.concatenate(net.feedback), len(u[0]), []
    for j, one in zip(oracle.output_jacobian(net, x), u):
        rows.append(one @ q.T @ q @ np.linalg.inv(j @ q + controller.alpha * np.eye(outputs)) @ j)
    return _outer(net, np.split(np.array(rows), np.cumsum([len(w) for w in net.weights])[:-1], axis=1), below)


def feedback_ratio(net, x, u):
    """|Q_i u| / |W_i r_{i-1}|."""
    _, below = _feedforward(net, x)
    return np.array([
        [np.linalg.norm(q @ one) / np.linalg.norm(w @ r[b]) for q, w, r in zip(net.feedback, net.weights, below)]
        for b, one in enumerate(u)
    ])  # fmt: skip


def distance_to_linear(net, x, target, controller, output):
    """|r_L - r_ssa| / |r_ff - r_ssa|."""
    linear, start = oracle.steady_state(net, x, target, controller).r[-1], oracle._forward(net, x).r[-1]
    return np.linalg.norm(output - linear, axis=1) / np.linalg.norm(start - linear, axis=1)
