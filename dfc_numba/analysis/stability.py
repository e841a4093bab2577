"""Stability of the controlled network, per sample: with instantaneous layers, in continuous time, and as it is simulated."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from dfc_numba.analysis.closed_loop import EulerMap, Flow, steady_response
from dfc_numba.analysis.linearisation import Layers
from dfc_numba.analysis.spectrum import (
    COARSE,
    DENSE_SIZE,
    FINE,
    STABLE_RADIUS,
    abscissa,
    eigenvalues,
    largest_stable_step,
    spectral_radius,
)
from dfc_numba.dynamics.phase import judging_divergence
from dfc_numba.dynamics.simulation import simulate
from dfc_numba.model.controller import Controller
from dfc_numba.model.jacobian import PIECE_BYTES
from dfc_numba.model.network import Network, feedforward_state
from dfc_numba.model.recording import Record
from dfc_numba.steady.equilibrium import steady_state
from dfc_numba.support.array_types import Array, ArrayLike
from dfc_numba.support.shapes import html_repr, short_repr
from dfc_numba.support.threads import one_thread
from dfc_numba.support.validation import choice, instance, samples

SETTLED = 1e-5  # of the norm of the control error in the feedforward state
PLACES = ("steady_state", "feedforward", "simulation")
STABLE, TOO_LARGE, UNSTABLE, NO_STATE = "stable", "dt too large", "unstable", "no steady state"
VERDICTS = (STABLE, TOO_LARGE, UNSTABLE, NO_STATE)


@dataclass(frozen=True)
class Stability:
    """Stability of the steady state, per sample: arrays (B,), NaN where there is no such state.

    Attributes:
        instantaneous: largest real part of the eigenvalues of -(E J Q + alpha I), layers at once; rates per tau_u.
        integral: the same of the dynamics of layers and controller with k_p = 0 (A_I). proportional: with k_p (A_PI).
        euler: spectral radius of one Euler step; deviations change by this factor per step in the end.
        largest_dt: largest dt such that all smaller ones are stable; see `stability`.
        verdict: "stable": euler < 1; "dt too large": euler >= 1, but all steps up to largest_dt are stable; "unstable":
            euler >= 1 and largest_dt = 0, also where something neither grows nor decays; "no steady state": none was
            found, or the state, or a matrix of the linearised network there, is not finite.
        status: how the state was found: `SteadyState.status`, or "feedforward", or for a simulated state "settled" (the
            norm of e - alpha u is 1e-5 of what the norm of e was), "not settled", "not finite".
    """

    __repr__, _repr_html_ = short_repr, html_repr

    instantaneous: Array
    integral: Array
    proportional: Array
    euler: Array
    largest_dt: Array
    verdict: Array
    status: Array


def stability(
    network: Network,
    x: ArrayLike,
    target: ArrayLike,
    controller: Controller,
    *,
    at: Literal["steady_state", "feedforward", "simulation"] = "steady_state",
) -> Stability:
    """Linearise the controlled network at a state of each sample and look at the eigenvalues, without noise.

    Three systems, from the idealised to what is run (DFC, Meulemans et al. 2021; D = phi', E = -de/dr_L, tau_u = 1):

        instantaneous   du/dt = -(E J Q + alpha I) u
        integral        tau_v dv_i/dt = -v_i + W_i D v_{i-1} + Q_i u,  du/dt = -E D v_L - alpha u
        proportional    the same with u = w - k_p E D v_L, where the integral part w leaks as `leak` says
        Euler           the map of one step of `simulate`, with all options of the controller

    `integral` and `proportional` are the limits dt -> 0 of the Euler map; they have the compartments and filters that the
    controller has (tau_apical, tau_control, instant_dynamics), which the matrices of the paper have not. At a state that is
    not at rest ("feedforward" with an error to control), the slopes are taken to stay what they are there.

    `largest_dt` scales dt alone: tau_v, tau_apical and tau_control keep their values in units of tau_u, and what is
    instantaneous (tau_apical=None, tau_control=None, instant_transmission, instant_dynamics) is so for every dt. It is at
    most the smallest of the time constants, beyond which no `Controller` can be made, and equals it where every dt that can
    be is stable. It is 0 where the network itself is unstable, `proportional` >= 0. The spectral radius need not grow with
    dt: 25 steps from 1/300 of this limit are looked at, and the first that is unstable is approached to four digits, so that
    other stable ones may lie above; even a network that is unstable can have some.

    States of more than 600 numbers (more than about 60 outputs, or jacobian_feedback with as many units) are not made into
    matrices. Their leading eigenvalues are found by Arnoldi's method, sample by sample, and largest_dt to two digits from
    7 steps.

    Args:
        x: inputs (B, n_0). target: r*, (B, n_L).
        controller: a `Controller`; its noise is ignored, its steps matter for at="simulation" only.
        at: the state to linearise at: "steady_state" (by Newton's method), "feedforward" (without control: what happens
            first), or "simulation": the last state that `simulate` reaches.

    Returns:
        a `Stability`. With the softmax error and alpha = 0 the sum of u, which nothing moves, is left out.

    Raises:
        ValueError, TypeError: for arguments that do not fit; at="steady_state" with jacobian_feedback.
    """
    choice("at", at, PLACES)
    instance("controller", controller, Controller).require_no_terms("the linearised loop")
    x, _ = feedforward_state(network, x)
    target = samples("target", target, network.sizes[-1], count=len(x))
    voltages, control, status, found = _STATES[at](network, x, target, _without_noise(controller))
    found &= np.isfinite(control).all(axis=1) & np.all([np.isfinite(v).all(axis=1) for v in voltages], axis=0)
    numbers = np.full((5, len(control)), np.nan)
    with one_thread(), np.errstate(over="ignore", invalid="ignore"):  # of enormous weights
        for piece in _pieces(network, controller, np.flatnonzero(found)):
            layers = Layers(network, [v[piece] for v in voltages], control[piece], controller)
            numbers[:, piece] = _judge(layers, controller)
    instantaneous, integral, proportional, euler, largest_dt = numbers
    verdict = _verdict(euler, largest_dt)
    return Stability(instantaneous, integral, proportional, euler, largest_dt, verdict, status)


def _without_noise(controller):
    return replace(controller, sigma=0.0, sigma_output=None, tau_noise=None)


# --- the state to linearise at ---------------------------------------------------------------------------------------------


def _at_rest(network, x, target, controller):
    """Return (voltages, control signal, status, whether there is such a state)."""
    if controller.jacobian_feedback:
        raise ValueError(
            "with jacobian_feedback the steady state cannot be solved for; use at='simulation', with a controller that has "
            "enough steps to converge, or at='feedforward'"
        )
    rest = steady_state(network, x, target, controller, method="newton")
    return rest.v, rest.u, rest.status, rest.converged.copy()


def _feedforward(network, x, target, controller):
    _, activity = feedforward_state(network, x)
    count = len(target)
    return activity.v, np.zeros(target.shape), np.full(count, "feedforward"), np.ones(count, np.bool_)


def _simulated(network, x, target, controller):
    record = Record(variables=("u", "v", "e"), every=controller.steps)
    with judging_divergence():
        end = simulate(network, x, target, controller, record=record)
    with np.errstate(invalid="ignore", over="ignore"):
        left = np.linalg.norm(end.e[-1] - controller.steady_leak * end.u[-1], axis=1)
        settled = left <= SETTLED * np.linalg.norm(end.e[0], axis=1)
    finite = np.isfinite(left)
    status = np.where(settled, "settled", np.where(finite, "not settled", "not finite"))
    return [v[-1].astype(np.float64) for v in end.v], end.u[-1], status, finite


_STATES = {"steady_state": _at_rest, "feedforward": _feedforward, "simulation": _simulated}


def _pieces(network, controller, found):
    """Split the samples into pieces whose matrices fit into PIECE_BYTES; one by one where no matrices are made."""
    outputs, units = network.sizes[-1], sum(network.sizes[1:])
    voltages = units if controller.jacobian_feedback else sum(np.minimum(network.sizes[1:], outputs))
    size = 2 * voltages + 3 * outputs  # of a state, at most
    most = 1 if size > DENSE_SIZE else int(PIECE_BYTES / (8 * (4 * size**2 + 2 * units * outputs)))
    at_a_time = max(1, most)
    return [found[first : first + at_a_time] for first in range(0, len(found), at_a_time)]


# --- its stability ---------------------------------------------------------------------------------------------------------


def _judge(layers, controller):
    """Return the five numbers of each sample, (5, B); NaN where a matrix is not finite."""
    layers = layers.reduced() if layers.reducible else layers
    rates = eigenvalues(_at_once(layers, controller.alpha))
    proportional = abscissa(Flow(layers, controller))
    flow = replace(controller, k_p=0.0)
    integral = proportional if flow == controller else abscissa(Flow(layers, flow))

    def radius(dt, chosen):
        return spectral_radius(EulerMap(layers.take(chosen), controller, dt[:, None, None]))

    euler = radius(np.full(len(rates), controller.dt), np.arange(len(rates)))
    effort = COARSE if EulerMap(layers, controller, controller.dt).size > DENSE_SIZE else FINE
    largest = largest_stable_step(radius, _longest(controller, rates), proportional < 0, effort)
    instantaneous = rates.real.max(axis=1, initial=-np.inf)
    numbers = np.stack([instantaneous, integral, proportional, euler, largest])
    return np.where(np.isnan(numbers).any(axis=0), np.nan, numbers)


def _at_once(layers, alpha):
    """Return -(E J Q + alpha I), (B, n_c, n_c)."""
    identity = np.eye(layers.controls)[None]
    output = steady_response(layers, layers.drive(identity, None))[-1]
    return layers.error(output) - alpha * identity


def _longest(controller, rates):
    """Return (B,) the longest time step that the time constants allow, or twice what layers without any can take."""
    taus = [controller.tau_apical, controller.tau_control, controller.tau_noise if controller.noisy else None]
    taus += [] if controller.instant_dynamics else [controller.tau_v]
    shortest = min((tau for tau in taus if tau is not None), default=np.inf)
    if np.isfinite(shortest):
        return np.full(len(rates), shortest)
    fastest = np.abs(rates).max(axis=1, initial=0.0)
    return 4.0 / np.where(fastest > 0, fastest, 1.0)


def _verdict(radius, largest):
    verdict = np.where(radius < STABLE_RADIUS, STABLE, np.where(largest > 0, TOO_LARGE, UNSTABLE))
    return np.where(np.isnan(radius), NO_STATE, verdict)
