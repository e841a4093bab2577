"""Difference target propagation and its Gauss-Newton theory (Meulemans et al. 2020, arXiv:2006.14331).

An output target, a small step down the loss, is sent back by learned feedback mappings g; every layer then moves its
rates h_i towards its target h_i*. Samples b = 1..B, layers i = 1..L, a_i = W_i h_{i-1} + b_i, h_i = phi_i(a_i).

    rule            target of hidden layer i                                        reads
    dtp, dtpdrl     h_i* = h_i + g_i(h_{i+1}*) - g_i(h_{i+1}),  g_i(h) = g(Q_i h + d_i)   the layer above
    ddtp_linear     h_i* = h_i + Q_i (a_L* - a_L)                                       the output
    ddtp_rhl        h_i* = h_i + g_i(r(a_L*)) - g_i(r(a_L)),  r(a) = tanh(R a + c)         a fixed random layer
    ddtp_control    as ddtp_linear, with feedback that learns without difference correction

The mappings learn by the difference reconstruction loss (`dtp`, `ddtp_control`: by plain reconstruction). With small
noise and weight decay it has the fixed point Q = J^T (J J^T + lambda I)^{-1}: damped Gauss-Newton targets.
"""

from dataclasses import dataclass

import numpy as np

from dfc_numba.model.activations import phi, phi_prime
from dfc_numba.model.network import Activity, Network, exact_forward
from dfc_numba.model.targets import as_targets, loss_gradient
from dfc_numba.relatives.feedback_mappings import (
    LAYERWISE,
    LINEAR,
    checked_arguments,
    feedback_chain,
    mapped_voltage,
    read_output,
    run_chain,
)
from dfc_numba.relatives.finiteness import finite_samples, lost_samples
from dfc_numba.support import threads
from dfc_numba.support.ranges import Damping
from dfc_numba.support.validation import finite_result, instance, number, silent

# --- targets ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Targets:
    """Targets of all layers, in float64.

    Attributes:
        rates: list of L arrays (B, n_i), h_i*. shifts: h_i* - h_i, which keep their digits.
        output_voltage: a_L* where the rule reads voltages of the output, else None.
        activity: the feedforward `Activity` they belong to.
        usable: (B,) False where a_L* does not exist, since a sigmoid output's target leaves (0, 1); such samples have
            zero shifts. Also False where a target is not finite.
    """

    rates: list
    shifts: list
    output_voltage: np.ndarray | None
    activity: Activity
    usable: np.ndarray


@silent()
def propagated_targets(network, mappings, x, y, options, *, activity=None):
    """Return the targets of all layers by difference target propagation (Meulemans et al. 2020, eq. 3-8).

    Args:
        x: inputs (B, n_0). y: targets (B, n_L), or integer labels (B,).
        mappings: the `FeedbackMappings`.
        options: the `TargetPropagation`.
        activity: what `network.forward(x, dtype="float64")` returned, to save computing it again.

    Returns:
        `Targets`.

    Raises:
        ValueError, TypeError: for arguments that do not fit, or an output activation that cannot be inverted.
    """
    x, activity = checked_arguments(network, mappings, x, options, activity)
    gradient = loss_gradient(activity.r[-1], as_targets(y, network.sizes[-1], count=len(x)), options.loss)
    output = activity.r[-1] - options.step * gradient
    usable = np.ones(len(x), bool)
    with threads.one_thread():
        if options.rule in LAYERWISE:
            voltage, rates = None, _back_through_layers(network, mappings, activity, output, options)
        else:
            voltage, usable = _output_voltage(network, activity, output)
            if options.rule in LINEAR:
                delta = voltage - activity.v[-1]
                moved = [delta @ _double(q).T for q in mappings.weights]
            else:
                targets, outputs = (read_output(mappings, v, options) for v in (voltage, activity.v[-1]))
                moved = [target - output for target, output in zip(targets, outputs, strict=True)]
            rates = [h + shift for h, shift in zip(activity.r, moved, strict=False)] + [output]
    shifts = [np.where(usable[:, None], target - h, 0.0) for target, h in zip(rates, activity.r, strict=True)]
    if options.rule in LINEAR:
        shifts[:-1] = [np.where(usable[:, None], shift, 0.0) for shift in moved]
    return Targets(rates, shifts, voltage, activity, usable & _finite(rates, shifts, activity))


def _finite(rates, shifts, activity):
    """Return (B,) whether the targets of a sample, and the activity that they belong to, are finite."""
    return finite_samples(len(rates[-1]), rates, shifts, list(activity.v), list(activity.r))


@silent()
def gauss_newton_targets(network, x, y, *, loss="mse", damping=0.0):
    """Return the Gauss-Newton targets (GNT) that target propagation approximates (Meulemans et al. 2020, eq. 9).

        h_i* = h_i - J_i^T (J_i J_i^T + damping I)^{-1} dL/dh_L,   J_i = d h_L / d h_i    (damping 0: J_i^+ dL/dh_L)

    with the mean loss L, for every layer, the output's own (J = I) included.

    Returns:
        `Targets`.

    Raises:
        ValueError, TypeError: for arguments that do not fit.
    """
    number("damping", damping, Damping)
    x, activity = exact_forward(instance("network", network, Network), x)
    gradient = loss_gradient(activity.r[-1], as_targets(y, network.sizes[-1], count=len(x)), loss)
    with threads.one_thread():
        shifts = [
            -_least_norm(jacobian, gradient, damping) for jacobian in _rate_jacobians(network, activity)
        ]
    rates = [h + shift for h, shift in zip(activity.r, shifts, strict=True)]
    return Targets(rates, shifts, None, activity, _finite(rates, shifts, activity))


@silent()
def gauss_newton_layers(network, x, y, *, loss="mse", damping=0.0):
    """Return Gauss-Newton steps layer by layer, to compare those of target propagation with.

    Returns:
        voltages: list of (B, n_i), -J^T (J J^T + damping I)^{-1} dL/dh_L of each sample, J = d h_L / d a_i.
        weights, biases: the step of one layer's parameters alone that moves the outputs of all samples at once, with J =
            d (h_L of all samples) / d (W_i, b_i); biases None for a network without.

    Raises:
        ValueError, TypeError: for arguments that do not fit, or that are too large for a finite result.
    """
    number("damping", damping, Damping)
    x, activity = exact_forward(instance("network", network, Network), x)
    gradient = loss_gradient(activity.r[-1], as_targets(y, network.sizes[-1], count=len(x)), loss)
    voltages, weights, biases = [], [], []
    with threads.one_thread():
        rate_jacobians = _rate_jacobians(network, activity)
        for i, (jacobian, below) in enumerate(zip(rate_jacobians, [x, *activity.r[:-1]], strict=True)):
            jacobian = jacobian * phi_prime(network.activations[i], activity.v[i])[:, None, :]
            voltages.append(-_least_norm(jacobian, gradient, damping))
            inputs = below if network.biases is None else np.column_stack([below, np.ones(len(x))])
            stacked = np.einsum("bki,bj->bkij", jacobian, inputs).reshape(gradient.size, -1)
            step = -_least_norm(stacked[None], gradient.reshape(1, -1), damping)[0]
            step = step.reshape(jacobian.shape[2], -1)
            weights.append(step[:, : below.shape[1]])
            biases.append(None if network.biases is None else step[:, -1])
    biases = None if network.biases is None else biases
    for array in (*voltages, *weights, *(biases or [])):
        finite_result("the Gauss-Newton step", array)
    return voltages, weights, biases


def _least_norm(jacobian, vector, damping):
    """Return J^T (J J^T + damping I)^{-1} vector for each sample; J^+ vector without damping. NaN where numbers are too large."""
    sound = finite_samples(len(vector), jacobian, vector)
    if not sound.all():
        found = np.full((len(vector), jacobian.shape[2]), np.nan)
        found[sound] = _least_norm(jacobian[sound], vector[sound], damping)
        return found
    try:
        if damping == 0.0:
            return np.einsum("bik,bk->bi", np.linalg.pinv(jacobian), vector)
        gram = jacobian @ jacobian.transpose(0, 2, 1) + damping * np.eye(jacobian.shape[1])
        return np.einsum("bki,bk->bi", jacobian, np.linalg.solve(gram, vector[..., None])[..., 0])
    except np.linalg.LinAlgError:  # singular beside such large numbers, or such a small damping
        return np.full((len(vector), jacobian.shape[2]), np.nan)


def _rate_jacobians(network, activity):
    """Return d h_L / d h_i for i = 1..L: list of (B, n_L, n_i)."""
    count, outputs = activity.r[-1].shape
    jacobians = [np.broadcast_to(np.eye(outputs), (count, outputs, outputs))]
    for i in reversed(range(1, len(network.weights))):
        slopes = phi_prime(network.activations[i], activity.v[i])[:, None, :]
        jacobians.insert(0, (jacobians[0] * slopes) @ _double(network.weights[i]))
    return jacobians


def _output_voltage(network, activity, output):
    """Return (a_L*, usable) of an output target h_L*; of samples that are not usable the feedforward voltage."""
    if network.output_activation == "linear":
        return output, np.ones(len(output), bool)
    usable = np.all((output > 0.0) & (output < 1.0), axis=1)
    inside = np.where(usable[:, None], output, 0.5)
    return np.where(usable[:, None], np.log(inside) - np.log1p(-inside), activity.v[-1]), usable


def _back_through_layers(network, mappings, activity, output, options):
    """Return the targets h_1* .. h_L* that follow from h_L* layer by layer."""
    chain = feedback_chain(network, mappings, options, np.float64)
    hidden = reversed(range(len(mappings.weights)))
    lowered = [mapped_voltage(mappings, i, activity.r[i + 1]) for i in hidden]
    hidden = reversed(range(len(mappings.weights)))
    shifts = [activity.r[i] - phi(options.activation, v) for i, v in zip(hidden, lowered, strict=True)]
    shifts = np.concatenate([shift.ravel() for shift in shifts])
    _, rates, _ = run_chain(chain, 0, len(network.weights) - 1, output, shifts=shifts)
    return [*rates[::-1], output]


# --- learning ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TargetUpdate:
    """The change of weights and biases by target propagation, per unit learning rate.

    Attributes:
        weights: list of (n_i, n_{i-1}). biases: list of (n_i,), or None for a network without. targets: the `Targets`.
    """

    weights: list
    biases: list | None
    targets: Targets

    @property
    def diverged(self):
        """(B,) samples whose targets cannot be used; all of them where only the update is not finite."""
        return lost_samples(self.targets.usable, self.weights, self.biases)


@silent()
def target_update(network, mappings, x, y, options, *, activity=None):
    """Return the update of weights and biases towards the layers' targets: minus the gradient of the local losses.

        Delta W_i = (2/B) sum_b [phi_i'(a_i) (h_i* - h_i)] h_{i-1}^T        Delta b_i likewise

    Arguments and errors are those of `propagated_targets`.

    Returns:
        a `TargetUpdate`.
    """
    targets = propagated_targets(network, mappings, x, y, options, activity=activity)
    return TargetUpdate(*local_updates(network, x, targets), targets)


def local_updates(network, x, targets):
    """Return (weights, biases) of the update towards given `Targets`, in the network's dtype; biases None without."""
    activity, scale = targets.activity, 2.0 / len(targets.usable)
    below = [np.asarray(x, np.float64), *activity.r[:-1]]
    weights, biases = [], []
    with threads.one_thread():
        for i, shift in enumerate(targets.shifts):
            factor = scale * phi_prime(network.activations[i], activity.v[i]) * shift
            factor, rates = factor.astype(network.dtype), below[i].astype(network.dtype)
            weights.append(factor.T @ rates)
            biases.append(factor.sum(axis=0))
    return weights, None if network.biases is None else biases


def _double(array):
    return np.asarray(array, np.float64)
