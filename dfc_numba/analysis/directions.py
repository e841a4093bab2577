"""Updates of the forward weights that theory compares those of DFC with: backpropagation, Gauss-Newton, minimum norm."""

from __future__ import annotations

from typing import Literal

import numpy as np

from dfc_numba.analysis import least_norm
from dfc_numba.analysis.linear_response import LinearResponse
from dfc_numba.dynamics.plasticity import ForwardUpdate, flagged
from dfc_numba.model.activations import phi
from dfc_numba.model.network import Network
from dfc_numba.model.targets import as_targets, loss_gradient
from dfc_numba.registry import LOSSES
from dfc_numba.support.array_types import ArrayLike, LayersLike
from dfc_numba.support.ranges import Damping, Positive
from dfc_numba.support.threads import one_thread
from dfc_numba.support.validation import choice, flag, number, samples, silent

KINDS = ("bp", "gn", "mn")
PER = ("sample", "minibatch")


@np.errstate(over="ignore", invalid="ignore", divide="ignore")  # of networks that have diverged
@silent()
def reference_update(
    network: Network,
    x: ArrayLike,
    y: ArrayLike,
    kind: Literal["bp", "gn", "mn"],
    *,
    loss: str = "mse",
    step: float = 1.0,
    damping: float = 0.0,
    per: Literal["sample", "minibatch"] = "sample",
    solver: Literal["dense", "matrix_free"] = "dense",
    presynaptic: LayersLike | None = None,
    nonlinear: bool = False,
) -> ForwardUpdate:
    """Return the update of the forward weights by a method that DFC is compared with, as a direction of descent.

    The output is to move by delta = r* - r_L = -step B d(mean loss)/d r_L, as by `output_target`. Then with J = d r_L / d v
    of a sample, and J_W = d r_L / d(W, b) of a sample or a minibatch (Meulemans et al. 2021, theorem 2 and appendix),

        "bp"    Delta W_i = mean over b of (J^T delta)_i r_{i-1}^T, the negative gradient of the mean loss
        "mn"    Delta W_i = mean over b of (J^+ delta)_i r_{i-1}^T, least-norm changes of the voltages (layer targets)
        "gn"    Delta (W, b) = mean over b of J_W^+ delta, least-norm changes of the parameters (Gauss-Newton);
                with per="minibatch" the one change J_W^+ delta that moves the outputs of all samples

    Args:
        x: inputs (B, n_0). y: targets (B, n_L), or integer labels (B,). loss: "mse" or "cross_entropy".
        step: the nudge lambda > 0; only `nonlinear` depends on more than its product with the result.
        damping: "gn", "mn": gamma in J^T (J J^T + gamma I)^{-1} instead of J^+, likewise for J_W.
        per: "gn": "sample" or "minibatch".
        solver: "gn", "mn": "dense", or "matrix_free" where the matrices would not fit into memory.
        presynaptic: "mn": rates of the hidden layers to take for r_1 .. r_{L-1} instead of the feedforward ones, such as
            the controlled ones: a list of L - 1 arrays (B, n_i).
        nonlinear: "mn": phi(v_i + (J^+ delta)_i) - phi(v_i) instead of (J^+ delta)_i, as the plasticity of DFC has it.

    Returns:
        a `ForwardUpdate` in float64; it is zero where J is, and flagged as diverged where it is not finite.

    Raises:
        ValueError, TypeError: for arguments that do not fit, or that the kind cannot honour.
        MemoryError: for matrices that do not fit; it says how much they need.
        LinAlgError: if the matrix-free solution does not converge.
    """
    _check(kind, damping, per, solver, presynaptic, nonlinear)
    with one_thread():
        response = LinearResponse(network, x)
        delta = _output_step(response, y, loss, number("step", step, Positive))
        if per == "minibatch":
            arrays = least_norm.in_parameters(response, delta, damping, solver)
        else:
            factors = _voltage_changes(response, delta, kind, damping, solver)
            if nonlinear:
                factors = _rate_changes(response, factors)
            below = [response.x, *_presynaptic(response, presynaptic)]
            arrays = least_norm.outer_sums(network, [f / len(delta) for f in factors], below)
        return flagged(ForwardUpdate(*arrays), len(delta))


def _check(kind, damping, per, solver, presynaptic, nonlinear):
    choice("kind", kind, KINDS)
    choice("per", per, PER)
    choice("solver", solver, least_norm.SOLVERS)
    given = {
        "damping": number("damping", damping, Damping) > 0 and ("gn", "mn"),
        "solver": solver != "dense" and ("gn", "mn"),
        "per": per != "sample" and ("gn",),
        "presynaptic": presynaptic is not None and ("mn",),
        "nonlinear": flag("nonlinear", nonlinear) and ("mn",),
    }
    for name, kinds in given.items():
        if kinds and kind not in kinds:
            allowed = " and ".join(map(repr, kinds))
            raise ValueError(f"{name} has no meaning for {kind!r}, only for {allowed}; leave it out")


def _output_step(response, y, loss, step):
    """Return delta = -step B d(mean loss) / d r_L, (B, n_L)."""
    LOSSES.find(loss, key="loss")
    output = response.r[-1]
    y = as_targets(y, output.shape[1], count=len(output))
    return -step * len(output) * loss_gradient(output, y, loss)


def _voltage_changes(response, delta, kind, damping, solver):
    """Return the postsynaptic factors, a list of (B, n_i)."""
    if kind == "bp":
        return response.pull_back(delta)
    norms = _input_norms(response) if kind == "gn" else None
    return least_norm.in_voltages(response, delta, damping, solver, norms)


def _input_norms(response):
    """Return (B, L) norms of what the parameters of a layer are multiplied with: of r_{i-1}, and 1 with a bias."""
    bias = float(response.network.biases is not None)
    return np.stack([np.sqrt(np.sum(rates**2, axis=1) + bias) for rates in response.below], axis=1)


def _rate_changes(response, changes):
    names = response.network.activations
    return [
        phi(name, v + change) - phi(name, v)
        for name, v, change in zip(names, response.v, changes, strict=True)
    ]


def _presynaptic(response, rates):
    """Return the rates of the hidden layers, checked."""
    if rates is None:
        return response.r[:-1]
    widths = response.network.sizes[1:-1]
    if not hasattr(rates, "__len__") or len(rates) != len(widths):
        raise ValueError(f"presynaptic must be a list with the rates of the {len(widths)} hidden layers")
    return [
        samples(f"presynaptic[{i}]", r, n, count=len(response.x))
        for i, (r, n) in enumerate(zip(rates, widths, strict=True))
    ]
