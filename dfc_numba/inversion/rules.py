"""`backward_errors`: the errors of the hidden layers by dynamic inversion, and by the rules that it is compared with."""

from dataclasses import dataclass

import numpy as np

from dfc_numba.errors import DivergenceError
from dfc_numba.inversion import equilibrium
from dfc_numba.inversion.loops import LINEAR, SCALED, TANH, Loop, run
from dfc_numba.inversion.problem import check
from dfc_numba.support.validation import choice, flag, number, whole_number

RULES = ("di", "sldi", "ndi", "bp", "fa", "pbp", "dfa")
SHOWS = {"linear": LINEAR, "tanh": TANH, "linearized": SCALED}
PHI_PRIME = ("once", "none")


@dataclass(frozen=True)
class InversionTrajectory:
    """States of the loops from zero on; T = steps + 1 time points, B samples.

    Attributes:
        r_x: list of (T, B, n_i), one per hidden layer, before any factor phi'.
        r_y: list of (T, B, n): with "di" the error population of each hidden layer, n = n_{i+1}; with "sldi" that of the
            output alone.
        diverged: (B,) whether some state of a sample is not finite at the end.
    """

    r_x: list
    r_y: list
    diverged: np.ndarray


@dataclass(frozen=True)
class Options:
    """How the loops run; see `backward_errors`."""

    alpha: float
    dt: float
    steps: int
    shows: int
    applies: bool
    record: bool
    tolerance: float | None

    def run(self, loop):
        """(final states, records) of a loop."""
        return run(loop, dt=self.dt, steps=self.steps, tolerance=self.tolerance, record=self.record)


def backward_errors(
    weights, feedback, derivatives, delta_out, *,
    rule, alpha=0.0, dt=0.5, steps=999, nonlinearity="linear", phi_prime="once", trajectory=False, tolerance=None,
):  # fmt: skip
    """The errors of the hidden layers by dynamic inversion (Podlaski & Machens 2020), or by a rule it is compared with.

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
        dt, steps: of the loops, in units of the hidden layers' time constant.
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
            `.diverged`. A loop that grows without overflowing is returned as it is.
        ValueError, TypeError: for shapes that do not fit, numbers that are not finite, options that are not allowed.
    """
    choice("rule", rule, RULES)
    problem = check(weights, feedback, derivatives, delta_out, rule)
    options = _options(rule, alpha, dt, steps, nonlinearity, phi_prime, trajectory, tolerance)
    if rule == "sldi":
        errors, record = _single_loop(problem, options)
    elif rule == "di":
        errors, record = _sequential(problem, options)
    else:
        return _closed_form(problem, rule, options)
    if trajectory:
        return errors, record
    _refuse_divergence(errors)
    return errors


def _options(rule, alpha, dt, steps, nonlinearity, phi_prime, trajectory, tolerance):
    choice("nonlinearity", nonlinearity, tuple(SHOWS))
    applies = choice("phi_prime", phi_prime, PHI_PRIME) == "once" and (
        rule not in ("di", "sldi") or (rule == "di" and nonlinearity == "linear")
    )
    return Options(
        alpha=number("alpha", alpha),
        dt=number("dt", dt, exclusive=True),
        steps=whole_number("steps", steps, least=1, bits=31),
        shows=SHOWS[nonlinearity],
        applies=applies,
        record=flag("trajectory", trajectory),
        tolerance=tolerance,
    )


def _down(problem, options, step):
    """Errors from the last hidden layer down; step(i, delta of the layer above) is that of layer i without phi'."""
    errors, delta = [], problem.delta_out
    for i in reversed(range(len(problem.weights))):
        delta = step(i, delta)
        if options.applies:
            delta = problem.derivatives[i] * delta
        errors.insert(0, delta)
    return errors


def _closed_form(problem, rule, options):
    w, b = problem.weights, problem.feedback
    steps = {
        "bp": lambda i, delta: delta @ w[i],
        "fa": lambda i, delta: delta @ b[i].T,
        "dfa": lambda i, delta: problem.delta_out @ b[i].T,
        "pbp": lambda i, delta: equilibrium.pseudo_inverse_product(w[i], delta),
        "ndi": lambda i, delta: equilibrium.sequential_rest(w[i], b[i], options.alpha, delta),
    }
    return _down(problem, options, steps[rule])


def _sequential(problem, options):
    records = []

    def step(i, delta):
        (_, r_x), record = options.run(_layer_loop(problem, i, delta, options))
        records.insert(0, record)
        return r_x

    errors = _down(problem, options, step)
    if not options.record:
        return errors, None
    r_y, r_x = (list(states) for states in zip(*records, strict=True))
    return errors, InversionTrajectory(r_x, r_y, _diverged(r_x + r_y))


def _layer_loop(problem, i, delta, options):
    scale = _scales(problem, options)[i]
    return Loop(
        [problem.weights[i], problem.feedback[i]],
        [options.alpha, 1.0],
        [LINEAR, options.shows],
        [None, scale],
        0,
        delta,
    )


def _single_loop(problem, options):
    hidden = len(problem.weights)
    loop = Loop(
        matrices=[problem.feedback[0], *problem.weights],
        leaks=[1.0] * hidden + [options.alpha],
        shows=[options.shows] * hidden + [LINEAR],
        scales=[*_scales(problem, options), None],
        driven=hidden,
        delta=problem.delta_out,
    )
    states, records = options.run(loop)
    record = InversionTrajectory(records[:-1], records[-1:], _diverged(records)) if options.record else None
    return states[:-1], record


def _scales(problem, options):
    """1/phi' per hidden layer where the loop divides by it."""
    if options.shows != SCALED:
        return [None] * len(problem.weights)
    for i, slope in enumerate(problem.derivatives):
        if not slope.all():
            raise ValueError(
                f"derivatives[{i}] has zeros, and nonlinearity='linearized' divides by them; use 'linear'"
            )
    return [1.0 / slope for slope in problem.derivatives]


def _diverged(records):
    return ~np.logical_and.reduce([np.isfinite(states[-1]).all(axis=1) for states in records])


def _refuse_divergence(errors):
    for layer in reversed(range(len(errors))):
        wrong = np.flatnonzero(~np.isfinite(errors[layer]).all(axis=1))
        if len(wrong):
            raise DivergenceError(
                f"the inversion of layer {layer + 1} diverged for {len(wrong)} of {len(errors[layer])} samples; its loop is "
                "unstable with these weights, feedback, alpha and dt: a smaller dt or a larger alpha may help, or feedback "
                "nearer to -W^T",
                layer=layer + 1, samples=wrong.tolist(),
            )  # fmt: skip
