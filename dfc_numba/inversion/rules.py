"""`backward_errors`: the errors of the hidden layers by dynamic inversion, and by the rules that it is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from dfc_numba.errors import DivergenceError
from dfc_numba.inversion.fixed_point import layer_at_rest, network_at_rest, pseudo_inverse_product
from dfc_numba.inversion.loops import LINEAR, SCALED, TANH, Loop, run
from dfc_numba.inversion.problem import check
from dfc_numba.inversion.trajectory import InversionTrajectory
from dfc_numba.support.array_types import ArrayLike, Layers, LayersLike
from dfc_numba.support.ranges import Leak, PositiveTolerance, Steps, TimeStep
from dfc_numba.support.validation import choice, flag, number, whole_number

LOOPS = ("di", "sldi", "ndi")
RULES = (*LOOPS, "bp", "fa", "pbp", "dfa")
SHOWS = {"linear": LINEAR, "tanh": TANH, "linearized": SCALED}
PHI_PRIME = ("once", "none")
BackwardRule: TypeAlias = Literal["di", "sldi", "ndi", "bp", "fa", "pbp", "dfa"]
Nonlinearity: TypeAlias = Literal["linear", "tanh", "linearized"]


@dataclass(frozen=True)
class Options:
    """Options of the loops; see `backward_errors`.

    Attributes:
        steps: None for the loops at rest. shows: LINEAR, TANH or SCALED.
        phi_prime: whether errors are multiplied by phi' on their way. record: whether states are kept.
    """

    alpha: float
    dt: float
    steps: int | None
    shows: int
    phi_prime: bool
    record: bool
    tolerance: float | None

    def run(self, loop):
        """Return (final states, records) of a loop."""
        return run(loop, dt=self.dt, steps=self.steps, tolerance=self.tolerance, record=self.record)


def backward_errors(
    weights: LayersLike,
    feedback: LayersLike | None,
    derivatives: LayersLike | None,
    delta_out: ArrayLike,
    *,
    rule: BackwardRule,
    alpha: float = 0.0,
    dt: float = 0.5,
    steps: int | None = 999,
    nonlinearity: Nonlinearity = "linear",
    phi_prime: Literal["once", "none"] = "once",
    trajectory: bool = False,
    tolerance: float | None = None,
) -> Layers | tuple[Layers, InversionTrajectory]:
    """Return the errors of the hidden layers by dynamic inversion (Podlaski & Machens 2020), or a rule it is compared with.

    Layers i = 1..L with v_i = W_i r_{i-1} + b_i, r_i = phi(v_i). All errors are target - output, so that a step of learning
    is +eta delta_i r_{i-1}^T. From delta_L the errors go down layer by layer; with W = W_{i+1}, d = delta_{i+1}, B = B_i:

        "bp"     phi'(v_i) o (W^T d)                     backpropagation
        "fa"     phi'(v_i) o (B d)                       feedback alignment
        "dfa"    phi'(v_i) o (B delta_L)                 direct feedback alignment
        "pbp"    phi'(v_i) o (W^+ d)                     the pseudo-inverse: least squares of least norm
        "ndi"    phi'(v_i) o B (W B - alpha I)^{-1} d    "di" at rest; least squares of least norm where it is singular
        "di"     phi'(v_i) o r_x                         sequential dynamic inversion: one loop for each layer
        "sldi"   r_1, ..., r_{L-1}                       single-loop dynamic inversion: one loop through all layers

    The loops start at zero; a step of dt takes one population after the other, with the newest values of the one before:

        "di"     dr_y/dt = -alpha r_y + W psi(r_x) - d       "sldi"   dr_1/dt = -r_1 + B r_L
                 dr_x/dt = -r_x + B r_y                               dr_i/dt = -r_i + W_i psi(r_{i-1}),  i = 2..L-1
                                                                      dr_L/dt = -alpha r_L + W_L psi(r_{L-1}) - delta_L

    phi' enters once: outside the loop where psi is linear, and not again where psi stands for the nonlinearity inside it
    (psi = tanh(r), "linearized": psi = r / phi'(v_i)). "sldi" never multiplies by phi', as published.

    Args:
        weights: W_1 .. W_L, list of (n_i, n_{i-1}); of W_1 only the shape matters.
        feedback: B_i, list of (n_i, n_{i+1}), one per hidden layer; (n_i, n_L) each for "dfa", a single (n_1, n_L) for
            "sldi"; None for "bp" and "pbp".
        derivatives: phi'(v_i) of the hidden layers, list of (B, n_i); None for linear layers.
        delta_out: delta_L, (B, n_L).
        rule: one of the names above.
        alpha: the leak of r_y or r_L, for "di", "sldi" and "ndi".
        dt, steps: of the loops, in units of the hidden layers' time constant. steps=None: the loops at rest, of which "ndi"
            is that of "di"; with a nonlinearity by Newton's method for each sample.
        nonlinearity: psi of the loops: "linear", "tanh" or "linearized".
        phi_prime: "once", or "none" to leave the factors phi'(v_i) out everywhere (a phi' inside psi stays).
        trajectory: whether to return the states of the loops, too; "di" and "sldi".
        tolerance: None takes all steps. A number stops a sample's loop before: once its states have changed by no more than
            this fraction of their largest value in 16 steps.

    Returns:
        list of (B, n_i) errors of the hidden layers, in float32 if all arrays are, else in float64. With `trajectory` a
        pair of it and an `InversionTrajectory`.

    Raises:
        DivergenceError: for a loop that is unstable and has overflowed, unless its trajectory is returned, which says so in
            `.diverged`; where no state of rest is found. A loop that grows without overflowing is returned as it is.
        ValueError, TypeError: for shapes that do not fit, numbers that are not finite, options that are not allowed.
    """
    choice("rule", rule, RULES)
    options = _options(rule, alpha, dt, steps, nonlinearity, phi_prime, trajectory, tolerance)
    errors, states = _computed(check(weights, feedback, derivatives, delta_out, rule), rule, options)
    if trajectory:
        return errors, states
    if rule in LOOPS:
        refuse_divergence(errors)
    return errors


def loop_errors(
    weights, feedback, derivatives, delta_out, *, rule, alpha, dt, steps, nonlinearity, trajectory
):
    """Return (errors, `InversionTrajectory` or None) of "di" or "sldi", see `backward_errors`; what diverged is not finite."""
    options = _options(rule, alpha, dt, steps, nonlinearity, "once", trajectory, None)
    return _computed(check(weights, feedback, derivatives, delta_out, rule), rule, options)


def _computed(problem, rule, options):
    """Return (errors, trajectory) by a rule; None for no trajectory."""
    if rule not in LOOPS:
        return _down(problem, options, _transported(problem, rule)), None
    if rule == "sldi":
        return _single(problem, options)
    if options.steps is None:
        return _down(problem, options, _at_rest(problem, options)), None
    return _sequential(problem, options)


def _options(rule, alpha, dt, steps, nonlinearity, phi_prime, trajectory, tolerance):
    """Return the `Options` of the arguments, checked."""
    choice("nonlinearity", nonlinearity, tuple(SHOWS))
    outside = rule not in LOOPS or (rule != "sldi" and nonlinearity == "linear")
    options = Options(
        alpha=number("alpha", alpha, Leak),
        dt=number("dt", dt, TimeStep),
        steps=None if steps is None or rule == "ndi" else whole_number("steps", steps, Steps),
        shows=SHOWS[nonlinearity],
        phi_prime=choice("phi_prime", phi_prime, PHI_PRIME) == "once" and outside,
        record=flag("trajectory", trajectory),
        tolerance=None if tolerance is None else number("tolerance", tolerance, PositiveTolerance),
    )
    _refuse_combinations(rule, options)
    return options


def _refuse_combinations(rule, options):
    if options.record and (rule not in ("di", "sldi") or options.steps is None):
        raise ValueError(
            f"rule {rule!r} with steps={options.steps} has no trajectory; use 'di' or 'sldi', and take steps"
        )
    if options.record and options.tolerance is not None:
        raise ValueError(
            "a trajectory holds all steps; leave out tolerance, which ends them early, or trajectory"
        )


# --- from the last hidden layer down ------------------------------------------------------------------------------------


def _down(problem, options, error_of):
    """Return the errors of all hidden layers; error_of(i, errors of the layer above) gives those of a layer without phi'."""
    errors = [problem.delta_out]
    with np.errstate(invalid="ignore", over="ignore"):  # divergence is reported as such
        for i in reversed(range(len(problem.weights))):
            error = error_of(i, errors[0])
            errors.insert(0, problem.derivatives[i] * error if options.phi_prime else error)
    return errors[:-1]


def _transported(problem, rule):
    """Return error_of(i, above) of a rule that takes errors down by a matrix."""
    weights, feedback = problem.weights, problem.feedback
    return {
        "bp": lambda i, above: above @ weights[i],
        "fa": lambda i, above: above @ feedback[i].T,
        "dfa": lambda i, above: problem.delta_out @ feedback[i].T,
        "pbp": lambda i, above: pseudo_inverse_product(weights[i], above),
    }[rule]


def _at_rest(problem, options):
    """Return error_of(i, above) of "ndi"."""
    scales = _scales(problem, options)
    return lambda i, above: layer_at_rest(
        problem.weights[i], problem.feedback[i], scales[i], options.shows == TANH, options.alpha, above
    )


def _sequential(problem, options):
    """Return (errors, trajectory) of "di"."""
    scales, records = _scales(problem, options), []

    def error_of(i, above):
        loop = Loop(
            matrices=[problem.weights[i], problem.feedback[i]],
            leaks=[options.alpha, 1.0],
            shows=[LINEAR, options.shows],
            scales=[None, scales[i]],
            driven=0,
            delta=above,
        )
        (_, r_x), record = options.run(loop)
        records.insert(0, record)
        return r_x

    errors = _down(problem, options, error_of)
    if not options.record:
        return errors, None
    r_y, r_x = map(list, zip(*records, strict=True))
    return errors, _trajectory(r_x, r_y, options)


# --- one loop through all layers ----------------------------------------------------------------------------------------


def _single(problem, options):
    """Return (errors, trajectory) of "sldi"."""
    (feedback,), hidden = problem.feedback, len(problem.weights)
    scales = _scales(problem, options)
    if options.steps is None:
        tanh, delta = options.shows == TANH, problem.delta_out
        return network_at_rest(problem.weights, feedback, scales, tanh, options.alpha, delta), None
    loop = Loop(
        matrices=[feedback, *problem.weights],
        leaks=[1.0] * hidden + [options.alpha],
        shows=[options.shows] * hidden + [LINEAR],
        scales=[*scales, None],
        driven=hidden,
        delta=problem.delta_out,
    )
    states, records = options.run(loop)
    return states[:-1], _trajectory(records[:-1], records[-1:], options) if options.record else None


def _scales(problem, options):
    """Return 1/phi' per hidden layer where the loop divides by it."""
    if options.shows != SCALED:
        return [None] * len(problem.weights)
    for i, slope in enumerate(problem.derivatives):
        if not slope.all():
            where = tuple(int(k) for k in np.argwhere(slope == 0)[0])
            raise ValueError(
                f"derivatives[{i}]{list(where)} is 0, and nonlinearity='linearized' divides by it; use 'linear' or 'tanh'"
            )
    with np.errstate(over="ignore"):
        return [1.0 / slope for slope in problem.derivatives]


def _trajectory(r_x, r_y, options):
    last = [states[-1] for states in (*r_x, *r_y)]
    diverged = ~np.logical_and.reduce([np.isfinite(states).all(axis=1) for states in last])
    step = np.arange(options.steps + 1)
    return InversionTrajectory(
        time=options.dt * step, step=step, r_x=r_x, r_y=r_y, depth=len(r_x) + 1, diverged=diverged,
        samples=np.arange(len(diverged)),
    )  # fmt: skip


def refuse_divergence(errors):
    """Raise a DivergenceError for errors of hidden layers that are not finite; name the last such layer, and the samples."""
    for layer, error in reversed(list(enumerate(errors, 1))):
        lost = np.flatnonzero(~np.isfinite(error).all(axis=1))
        if len(lost):
            raise DivergenceError(
                f"the errors of layer {layer} are not finite for {len(lost)} of {len(error)} samples: the loop is unstable "
                "with these weights, feedback, alpha and dt; feedback closer to -W^T, a smaller dt or a larger alpha may "
                "help",
                layer=layer, samples=lost.tolist(),
            )  # fmt: skip
