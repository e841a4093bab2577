"""Baselines: the gradients of the mean loss by backpropagation, and by direct feedback alignment.

Both return gradients that an optimiser descends along (they point uphill). B samples, layers i = 1..L, n_L
outputs; v_i = W_i r_{i-1} + b_i and r_i = phi_i(v_i). Options of both are those of `signals.gradients`.
"""

from dfc_numba.learning.signals import gradients
from dfc_numba.model.activations import slope
from dfc_numba.model.products import row_products
from dfc_numba.model.targets import loss_gradient


def backpropagation(network, x, y, *, loss, activity=None, factors=None, **options):
    """Return the gradient of the mean loss with respect to all weights and biases.

        delta_L = phi_L'(v_L) dloss/dr_L        delta_i = phi_i'(v_i) (W_{i+1}^T delta_{i+1})
        dloss/dW_i = sum_b delta_i r_{i-1}^T    dloss/db_i = sum_b delta_i

    Args:
        network: a `Network`.
        x, y: inputs (B, n_0); targets (B, n_L), or integer labels (B,).
        loss: "mse" (mean over samples and outputs) or "cross_entropy" (of softmax(r_L); mean over samples).
        activity: what `network.forward(x)` returned, to save computing it again.
        factors: of delta_i in the hidden layers, a list of (n_i,), with which they are passed on; None for ones.

    Returns:
        `Gradients` with `.weights[i]` (n_i, n_{i-1}) and `.biases[i]` (n_i,), or `.biases` None without
        biases.
    """
    activity = network.forward(x) if activity is None else activity
    deltas = [_output_delta(network, activity, y, loss)]
    for layer in reversed(range(len(network.weights) - 1)):
        delta = row_products(deltas[0], network.weights[layer + 1].T) * slope(network, layer, activity)
        deltas.insert(0, delta if factors is None else delta * factors[layer])
    return gradients(network, x, activity, deltas, loss=loss, **options)


def direct_feedback_alignment(network, x, y, *, loss, activity=None, **options):
    """Compute the gradient as `backpropagation`, but with the output's error sent directly to every hidden layer (Nøkland 2016):

    delta_i = phi_i'(v_i) (Q_i delta_L)   with the network's feedback weights Q_i
    """
    activity = network.forward(x) if activity is None else activity
    output = _output_delta(network, activity, y, loss)
    hidden = range(len(network.weights) - 1)
    deltas = [
        row_products(output, network.feedback[layer]) * slope(network, layer, activity) for layer in hidden
    ]
    return gradients(network, x, activity, [*deltas, output], loss=loss, **options)


def _output_delta(network, activity, y, loss):
    gradient = loss_gradient(activity.r[-1], y, loss)
    return (gradient * slope(network, -1, activity)).astype(network.dtype, copy=False)
