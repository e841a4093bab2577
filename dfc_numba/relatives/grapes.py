"""GRAPES: the responsibility of a unit, read from its weights, modulates its error (Dellaferrera et al. 2022, arXiv:2104.11604).

    bp, fa   I_n = sum_j |W_l[n, j]|, f_l = 2 I / max I in (0, 2] (clipped to `clip` if given), hidden layers l < L
             propagating: delta_l = f_l (M_{l+1} delta_{l+1}) phi'(a_l), M = W^T or B; local: f_l enters Delta W_l only
    dfa      of the senders: I_j = sum_n |W_l[n, j]|, f_l = 2 I / max I of layer l's inputs, 1 < l < L, f_L = 1;
             Delta W_l[n, j] = -eta mean f_{l+1}[n] (B_l e)_n phi'(a_n) f_l[j] h_j for 1 < l < L

The local form scales rows of an update, so it goes with every method (`modulated`). Factors come from the weights before the
minibatch; with dropout a unit that the minibatch's first sample drops has no weights.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import expit, softmax

from dfc_numba.model.activations import phi, phi_prime
from dfc_numba.model.network import Network
from dfc_numba.model.targets import as_targets
from dfc_numba.relatives.finiteness import Flagged
from dfc_numba.support import threads
from dfc_numba.support.options import options
from dfc_numba.support.ranges import KeptFraction, NotNegative
from dfc_numba.support.validation import choice, finite_result, float_list, floats, instance, samples, silent

RULES = ("bp", "fa", "dfa")


@options
class Grapes:
    """Options of GRAPES.

    Args:
        rule: "bp", "fa" or "dfa", see the module. form: "propagating", "local" or "none" (the rule without GRAPES);
            "dfa" has no chain along which factors could propagate, so it makes no difference there.
        clip: (low, high) that factors are clipped to; None for no clipping. The published default is (1, 2) for "bp".
        keep: probability of keeping a hidden unit (inverted dropout).
        output: "softmax" or "sigmoid", both with the cross-entropy, whose error is output - y.

    Raises:
        ValueError: for an unknown option, or a value out of range.
    """

    rule: Literal["bp", "fa", "dfa"] = "bp"
    form: Literal["propagating", "local", "none"] = "propagating"
    clip: tuple[NotNegative, NotNegative] | None = None
    keep: KeptFraction = 1.0
    output: Literal["softmax", "sigmoid"] = "softmax"

    def __post_init__(self):
        if self.clip is not None and not self.clip[0] <= self.clip[1]:
            raise ValueError(f"clip is {self.clip}; two numbers 0 <= low <= high are allowed, such as (1, 2)")


@silent()
def responsibilities(weights, *, of="receivers", clip=None, masks=None):
    """Return the factors of the units, from the weights of all layers.

    Args:
        weights: list of (n_l, n_{l-1}).
        of: "receivers": a list of (n_l,) for the hidden layers l = 1 .. L-1, from incoming weights; "senders": of (n_{l-1},)
            for the inputs of the layers l = 2 .. L, from outgoing weights, the last of ones.
        clip: (low, high), or None. masks: 0/1 per hidden layer, (n_l,): dropped units have no weights.

    Returns:
        list of arrays; factors of a layer without any weight are 1.

    Raises:
        ValueError, TypeError: for arguments that do not fit, or weights that are too large for finite factors.
    """
    choice("of", of, ("receivers", "senders"))
    if not isinstance(weights, list | tuple) or not weights:
        raise TypeError(f"weights must be a list of matrices, one per layer, not {type(weights).__name__}")
    kinds = [getattr(w, "dtype", None) for w in weights]
    weights = [
        floats(f"weights[{i}]", w, (None, None), dtype="float32" if kind == np.float32 else "float64")
        for i, (w, kind) in enumerate(zip(weights, kinds, strict=True))
    ]
    clip = Grapes(clip=clip).clip
    if masks is not None:
        masks = float_list("masks", masks, [(len(w),) for w in weights[:-1]])
    for factor in (factors := factors_of(weights, of=of, clip=clip, masks=masks)):
        finite_result("the factor of a unit", factor)
    return factors


def factors_of(weights, *, of="receivers", clip=None, masks=None):
    """`responsibilities`, of arguments that are sound."""
    sizes = [
        np.abs(w) if masks is None or layer >= len(masks) else np.abs(w) * masks[layer][:, None]
        for layer, w in enumerate(weights)
    ]
    if of == "receivers":
        return [_relative(w.sum(axis=1), clip) for w in sizes[:-1]]
    return [_relative(w.sum(axis=0), clip) for w in sizes[1:-1]] + [np.ones_like(weights[-1][0])]


def _relative(sums, clip):
    """Return 2 I / max I."""
    largest = sums.max()
    factor = 2.0 * sums / largest if largest > 0 else np.ones_like(sums)
    return factor if clip is None else np.clip(factor, *clip)


def modulated(gradients, weights, *, clip=None):
    """Return gradients with the rows of each hidden layer scaled by its factors: the local form, for every method.

    Args:
        gradients: list of (n_l, n_{l-1}), or of (n_l,) for biases. weights: of all layers, before the step.

    Returns:
        list of new arrays; the output layer's is the one given.
    """
    factors = responsibilities(weights, clip=clip)
    if not isinstance(gradients, list | tuple) or len(gradients) != len(weights):
        raise ValueError(f"gradients must be a list of {len(weights)} arrays, one for each layer")
    for i, (gradient, w) in enumerate(zip(gradients, weights, strict=True)):
        floats(f"gradients[{i}]", gradient, np.shape(w)[: np.ndim(gradient)] or (len(w),))
    return [finite_result("a gradient", gradient) for gradient in scaled(gradients, factors)]


def scaled(gradients, factors):
    """Scale gradients by given factors of the hidden layers; None stays None."""
    if gradients is None:
        return None
    return [*(scaled_rows([g], f)[0] for g, f in zip(gradients[:-1], factors, strict=True)), gradients[-1]]


def scaled_rows(gradients, factor):
    """Scale the gradients of a layer by the factors of its units, their rows; arrays with other rows stay as they are."""
    return [
        (g.T * factor).T.astype(g.dtype, copy=False) if g.shape[:1] == factor.shape else g for g in gradients
    ]


@dataclass(frozen=True)
class GrapesUpdate(Flagged):
    """The change of the parameters by a minibatch, per unit learning rate; lists over the layers.

    Attributes:
        weights: (n_l, n_{l-1}). biases: (n_l,), or None.
        deltas: errors of each sample, (B, n_l), the gradient's sign; "dfa": those between the first and the last layer
            (B, n_l, n_{l-1}), with the senders' factors.
        factors: of the hidden layers (receivers), or of the inputs of the layers 2 .. L (senders); None without GRAPES.
        voltages, rates: a_l, and h_l with dropout. diverged: whether some number of it is not finite.
    """

    weights: list
    biases: list | None
    deltas: list
    factors: list | None
    voltages: list
    rates: list


@silent()
def grapes_update(network, x, y, options, *, feedback=None, masks=None):
    """Return the update of weights and biases by BP, FA or DFA with GRAPES, see the module.

    Args:
        network: its output activation is not used; `options.output` is.
        x: inputs (B, n_0). y: targets (B, n_L), or integer labels (B,).
        feedback: "fa": list of (n_l, n_{l+1}), "dfa": of (n_l, n_L), over the hidden layers.
        masks: 0/1, list of (B, n_l) over the hidden layers: which units are kept; needed where keep < 1.

    Returns:
        `GrapesUpdate`.

    Raises:
        ValueError, TypeError: for arguments that do not fit.
    """
    instance("options", options, Grapes)
    x = samples("x", x, instance("network", network, Network).sizes[0])
    y = as_targets(y, network.sizes[-1], count=len(x))
    feedback = _checked_feedback(network, options, feedback)
    masks = _checked_masks(network, options, masks, len(x))
    weights = [w.astype(np.float64) for w in network.weights]
    factors = None
    if options.form != "none":
        of = "senders" if options.rule == "dfa" else "receivers"
        firsts = None if masks is None else [mask[0] for mask in masks]
        factors = factors_of(weights, of=of, clip=options.clip, masks=firsts)
    with threads.one_thread():
        voltages, rates = _dropped_forward(network, weights, x, options, masks)
        error = rates[-1] - y
        if options.rule == "dfa":
            deltas = _direct(network, voltages, error, feedback, options, masks, factors)
        else:
            deltas = _chained(network, weights, voltages, error, feedback, options, masks, factors)
        below, scale = [x, *rates[:-1]], -1.0 / len(x)
        updates = [_outer(delta, h, scale) for delta, h in zip(deltas, below, strict=True)]
        posts = [d if d.ndim == 2 else d.mean(axis=2) for d in deltas]
        biases = None if network.biases is None else [scale * d.sum(axis=0) for d in posts]
        if options.form == "local" and options.rule != "dfa":
            updates, biases = scaled(updates, factors), scaled(biases, factors)
    return GrapesUpdate(updates, biases, deltas, factors, voltages, rates)


def _outer(delta, h, scale):
    """Return the sum over samples of delta h^T; a three-dimensional delta is multiplied elementwise."""
    return scale * (delta.T @ h if delta.ndim == 2 else np.einsum("bnj,bj->nj", delta, h))


def _dropped_forward(network, weights, x, options, masks):
    voltages, rates = [], []
    for i, w in enumerate(weights):
        a = (rates[-1] if rates else x) @ w.T + (0.0 if network.biases is None else network.biases[i])
        voltages.append(a)
        if i < len(weights) - 1:
            h = phi(network.activations[i], a)
            rates.append(h if masks is None else h * masks[i] / options.keep)
        elif options.output == "sigmoid":
            rates.append(expit(a))
        else:
            rates.append(softmax(a, axis=1))
    return voltages, rates


def _slope(network, i, voltages, options, masks):
    """Return phi'(a_l), of relu 0 at the kink, with dropout."""
    a, name = voltages[i], network.activations[i]
    slope = (a > 0).astype(a.dtype) if name == "relu" else phi_prime(name, a)
    return slope if masks is None else slope * masks[i] / options.keep


def _chained(network, weights, voltages, error, feedback, options, masks, factors):
    deltas = [error]
    for i in reversed(range(len(weights) - 1)):
        back = weights[i + 1].T if feedback is None else feedback[i]
        delta = deltas[0] @ back.T * _slope(network, i, voltages, options, masks)
        deltas.insert(0, delta if options.form != "propagating" else delta * factors[i])
    return deltas


def _direct(network, voltages, error, feedback, options, masks, factors):
    deltas = [error @ b.T * _slope(network, i, voltages, options, masks) for i, b in enumerate(feedback)]
    if factors is not None:
        for i in range(1, len(deltas)):  # layers 2 .. L-1; factors[i - 1] are of the inputs of layer i + 1
            deltas[i] = (deltas[i] * factors[i])[:, :, None] * factors[i - 1]
    return [*deltas, error]


def _checked_feedback(network, options, feedback):
    sizes = network.sizes
    if options.rule == "bp":
        if feedback is not None:
            raise ValueError(
                "rule = 'bp' has no feedback weights; leave feedback out, or choose 'fa' or 'dfa'"
            )
        return None
    above = sizes[2:] if options.rule == "fa" else [sizes[-1]] * (len(sizes) - 2)
    shapes = list(zip(sizes[1:-1], above, strict=True))
    if feedback is None:
        raise ValueError(
            f"rule = {options.rule!r} needs feedback, a list of arrays of shapes {', '.join(map(str, shapes))}"
        )
    return float_list("feedback", feedback, shapes)


def _checked_masks(network, options, masks, count):
    hidden = network.sizes[1:-1]
    if masks is None:
        if options.keep < 1.0:
            raise ValueError(
                f"keep = {options.keep:g} drops units; pass masks, a list of {len(hidden)} arrays (B, n_l) of 0 and 1"
            )
        return None
    masks = float_list("masks", masks, [(count, n) for n in hidden])
    if not all(np.isin(mask, (0.0, 1.0)).all() for mask in masks):
        raise ValueError("masks hold numbers other than 0 and 1")
    return masks
