#!/usr/bin/env python
"""Feedback weights that do (figure 2 of Deep Feedback Control, arXiv:2106.07887).

    python scripts/experiments/admissible_feedback.py [--out DIR] [--seed N] [--quick]

One input of the published small network (5-2-2, tanh) with Jacobian J = d r_L / d v. Feedback weights Q = J^T M satisfy
condition 2 (Col(Q) = Row(J)) for any M; they are admissible where, besides, all eigenvalues of J Q have positive real
parts, so that the controller is stable.

a: random Q = J^T M of norm 1, projected on the plane of J^T and J^+. With two outputs this plane holds all
   J^T (J J^T + gamma I)^{-1} exactly. Where does what is learned from noise lie?
b: admissible Q to which a part with J N = 0 is added, which leaves them stable: the angle of the update with the
   minimum-norm target update (MN) against condition 2, ||P Q|| / ||Q|| with P projecting on Row(J).
"""

import sys
from dataclasses import dataclass
from functools import cache

import numpy as np

import dfc_numba as dfc
from dfc_numba.analysis.alignment import alignment
from dfc_numba.analysis.conditions import conditions
from dfc_numba.analysis.directions import reference_update
from dfc_numba.support import figures
from results import Results, panel, parser

SIZES = (5, 2, 2)
SEED = 0  # with which the singular values of J differ enough to tell J^T and J^+ apart
DAMPINGS = np.logspace(-5, 2, 100)
NUMBER, QUICK_NUMBER = 1500, 40  # of random Q
LEARNERS = 5  # initial feedback weights from which Q is learned
MINIBATCHES, QUICK_MINIBATCHES = 800, 20  # of learning
COPIES = 64  # of the input in a minibatch
RATE, DECAY = 0.1, 0.025
NUDGE = 1e-5
# layers follow at once, as the condition on the eigenvalues assumes
CONTROLLER = dfc.Controller(dt=0.02, steps=2000, alpha=0.0, k_p=0.0, instant_dynamics=True)
NOISY = dfc.Controller(
    dt=0.002, steps=149, alpha=0.25, k_p=0.1, tau_v=0.01, tau_apical=0.3, proactive=False, sigma=0.01
)


@dataclass(frozen=True, eq=False)
class Problem:
    """One input (1, n_0), its label and nudged target (1, n_L), and the Jacobian there (n_L, N)."""

    network: dfc.Network
    x: np.ndarray
    y: np.ndarray
    target: np.ndarray
    jacobian: np.ndarray

    @classmethod
    def create(cls, seed):
        rng = np.random.default_rng(seed)
        network = dfc.Network.create(SIZES, hidden_activation="tanh", seed=seed)
        x, y = rng.standard_normal((1, SIZES[0])), rng.standard_normal((1, SIZES[-1]))
        return cls(
            network, x, y, dfc.output_target(network, x, y, step=NUDGE), dfc.output_jacobian(network, x)[0]
        )

    @cache  # noqa: B019 (the few objects live as long as the script)
    def reference(self, kind):
        """Return the update "mn", "gn" or "bp", which the feedback weights do not matter for."""
        return reference_update(self.network, self.x, self.y, kind)

    def with_feedback(self, q):
        """Return the network with feedback weights (N, n_L)."""
        network = self.network.copy()
        network.feedback = np.split(q, np.cumsum(SIZES[1:-1]))
        return network


def main(arguments=None):
    """Draw feedback weights, learn some, compare, print, draw."""
    options = parser(__doc__, seed=SEED).parse_args(arguments)
    results = Results("admissible-feedback", options)
    problem, rng = Problem.create(options.seed), np.random.default_rng(options.seed)
    drawn = random_feedback(problem.jacobian, rng, QUICK_NUMBER if options.quick else NUMBER)
    admissible = is_admissible(problem.jacobian, drawn)
    tilted = [tilt(problem.jacobian, q, rng) for q in drawn[admissible]]
    minibatches = QUICK_MINIBATCHES if options.quick else MINIBATCHES
    learned = [learn(problem, options.seed + k, minibatches) for k in range(LEARNERS)]
    measured = {
        "admissible": [measure(problem, q) for q in drawn[admissible]],
        "tilted": [measure(problem, q) for q in tilted],
        "learned": [measure(problem, q) for q in learned],
    }
    print_stability(results, problem, drawn, admissible)
    print_measured(results, problem, measured)
    print_learned(results, problem, learned)
    results.save(
        draw(problem, drawn, admissible, learned, measured), list(rows(problem, drawn, admissible, measured))
    )


# --- feedback weights ------------------------------------------------------------------------------------------------


def random_feedback(jacobian, rng, number):
    """Return random feedback Q = J^T M with normal M, of norm 1: (number, N, n_L)."""
    outputs = len(jacobian)
    return unit(jacobian.T @ rng.standard_normal((number, outputs, outputs)))


def is_admissible(jacobian, feedback):
    """Return which Q (..., N, n_L) leave all eigenvalues of J Q with positive real parts."""
    return np.linalg.eigvals(jacobian @ feedback).real.min(axis=-1) > 0


def tilt(jacobian, q, rng):
    """Mix Q and a random N with J N = 0 in a random proportion, which condition 2 measures; of norm 1."""
    null = rng.standard_normal(q.shape)
    null = unit(null - np.linalg.pinv(jacobian) @ jacobian @ null)
    condition = rng.uniform(0, 1)
    return condition * q + np.sqrt(1 - condition**2) * null


def damped_pseudoinverse(jacobian, damping):
    """Return J^T (J J^T + gamma I)^{-1}, of norm 1."""
    return unit(np.linalg.solve(jacobian @ jacobian.T + damping * np.eye(len(jacobian)), jacobian).T)


def unit(matrices):
    """Return the last two dimensions divided by their Frobenius norm."""
    return matrices / np.linalg.norm(matrices, axis=(-2, -1), keepdims=True)


def learn(problem, seed, minibatches):
    """Learn the feedback weights by noise and decay, from random ones; return them with norm 1."""
    rng = np.random.default_rng(seed)
    network = problem.with_feedback(rng.standard_normal((sum(SIZES[1:]), SIZES[-1])))
    x = np.repeat(problem.x, COPIES, axis=0)
    rest = network.predict(x)
    for minibatch in range(minibatches):
        update = dfc.feedback_update(network, x, rest, NOISY, noise=dfc.NoiseKey(seed, minibatch))
        for i, change in enumerate(update.feedback):
            network.feedback[i] += RATE * (change - DECAY * network.feedback[i])
    return unit(np.concatenate(network.feedback))


# --- what they do ----------------------------------------------------------------------------------------------------


def measure(problem, q):
    """Return (condition 2, angle in degrees between the update and the minimum-norm target update)."""
    network = problem.with_feedback(q)
    update = dfc.forward_update(
        network, problem.x, problem.target, CONTROLLER, readout="newton", rule="voltage_difference"
    )
    angle = alignment(update, problem.reference("mn")).total
    return float(conditions(network, problem.x, damping=0.0).condition_2[0]), angle


def settles(problem, q):
    """Return whether a simulation comes closer to the steady state."""
    network, last = problem.with_feedback(q), dfc.Record(variables=("u",), every=CONTROLLER.steps)
    end = dfc.simulate(network, problem.x, problem.target, CONTROLLER, record=last).u[-1]
    steady = dfc.steady_state(network, problem.x, problem.target, CONTROLLER).u
    return np.linalg.norm(end - steady) < np.linalg.norm(steady)


def print_stability(results, problem, drawn, admissible):
    """Print the verdicts of the eigenvalues beside those of simulations."""
    with np.errstate(over="ignore", invalid="ignore"):
        settled = np.array([settles(problem, q) for q in drawn])
    real = np.abs(np.linalg.eigvals(problem.jacobian @ drawn).real).min(axis=-1)
    rows = []
    for name, mask in (("all real parts positive", admissible), ("not", ~admissible)):
        other = mask & (settled != admissible)
        rows.append((name, int(mask.sum()), int((mask & settled).sum()), float(real[other].max(initial=0.0))))
    columns = (
        "eigenvalues of J Q, Q = J^T M",
        "number",
        "simulation settles",
        "|real part| of exceptions, at most",
    )
    results.table(columns, rows)
    singular = np.linalg.svd(problem.jacobian, compute_uv=False)
    results.table(
        ("J", "largest singular value", "smallest"), [("", float(singular[0]), float(singular[-1]))]
    )


def print_measured(results, problem, measured):
    """Print condition 2 and angles."""
    rows = []
    for name, values in measured.items():
        condition, angle = np.transpose(values)
        rows.append((name, len(values), float(condition.min()), float(np.median(angle)), float(angle.max())))
    results.table(("Q", "number", "condition 2, least", "angle with MN (deg), median", "largest"), rows)
    angles = [alignment(problem.reference("mn"), problem.reference(kind)).total for kind in ("gn", "bp")]
    results.table(("for comparison", "angle of MN with GN (deg)", "with BP"), [("this input", *angles)])


def print_learned(results, problem, learned):
    """Print how close learned feedback weights come to a damped pseudoinverse, and their part in the plane."""
    family = np.array([damped_pseudoinverse(problem.jacobian, damping) for damping in DAMPINGS])
    rows = []
    for number, q in enumerate(learned, start=1):
        cosines = np.sum(family * q, axis=(1, 2))
        best = int(cosines.argmax())
        angle = float(np.degrees(np.arccos(min(1.0, cosines[best]))))
        rows.append(
            (f"{number}", float(DAMPINGS[best]), angle, float(np.linalg.norm(in_plane(problem.jacobian, q))))
        )
    results.table(("learned Q", "closest gamma", "angle with it (deg)", "norm in the plane (of 1)"), rows)


# --- the figure ------------------------------------------------------------------------------------------------------


def in_plane(jacobian, feedback):
    """Return coordinates (..., 2) of Q along J^T, and along the part of J^+ that is orthogonal to it."""
    first = unit(jacobian.T)
    second = np.linalg.pinv(jacobian)
    second = unit(second - np.sum(second * first) * first)
    return np.stack([np.sum(feedback * axis, axis=(-2, -1)) for axis in (first, second)], axis=-1)


def rows(problem, drawn, admissible, measured):
    """Yield all random feedback weights and, where they are admissible, what they do with and without a tilt."""
    values = iter(zip(measured["admissible"], measured["tilted"], strict=True))
    for q, good in zip(in_plane(problem.jacobian, drawn), admissible, strict=True):
        (_, angle), (condition, tilted) = next(values) if good else 2 * [("", "")]
        yield {
            "along_transpose": q[0], "along_rest_of_pseudoinverse": q[1], "admissible": int(good), "mn_angle": angle,
            "tilted_condition_2": condition, "tilted_mn_angle": tilted,
        }  # fmt: skip


def draw(problem, drawn, admissible, learned, measured):
    """Draw two panels: where admissible feedback weights are, and what those without condition 2 do to the update."""
    figure = figures.new_figure(9.5, 4.4)
    plane, angles = figure.subplots(1, 2)
    draw_plane(plane, problem.jacobian, drawn, admissible, np.array(learned))
    draw_angles(angles, measured)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return figure


def draw_plane(axes, jacobian, drawn, admissible, learned):
    blue, vermilion, _, _, orange, *_ = figures.COLOURS
    points = in_plane(jacobian, drawn)
    axes.scatter(*points[~admissible].T, s=5, color="0.75", linewidths=0, label=r"$J^TM$, unstable")
    axes.scatter(*points[admissible].T, s=5, color=blue, alpha=0.5, linewidths=0, label=r"$J^TM$, admissible")
    curve = in_plane(jacobian, np.array([damped_pseudoinverse(jacobian, damping) for damping in DAMPINGS]))
    axes.plot(*curve.T, color=orange, linewidth=4, label=r"$J^T(JJ^T+\gamma I)^{-1}$")
    ends = {"$J^T$": jacobian.T, r"$J^\dagger$": np.linalg.pinv(jacobian)}
    for (name, q), marker in zip(ends.items(), "so", strict=True):
        axes.scatter(
            *in_plane(jacobian, unit(q)),
            s=60,
            marker=marker,
            color=orange,
            edgecolor="black",
            label=name,
            zorder=3,
        )
    axes.scatter(
        *in_plane(jacobian, learned).T,
        s=40,
        marker="D",
        color=vermilion,
        edgecolor="black",
        label="learned",
        zorder=4,
    )
    axes.set_aspect("equal")
    panel(axes, "a", xlabel=r"$Q$ along $J^T$", ylabel=r"$Q$ along the rest of $J^\dagger$")


def draw_angles(axes, measured):
    blue, vermilion, *_ = figures.COLOURS
    axes.scatter(*np.transpose(measured["tilted"]), s=5, color=blue, alpha=0.5, linewidths=0)
    axes.scatter(
        *np.transpose(measured["learned"]), s=40, marker="D", color=vermilion, edgecolor="black", zorder=4
    )
    axes.set(xlim=(0, 1.02), ylim=(-3, 103), yticks=range(0, 91, 15))
    panel(axes, "b", xlabel=r"condition 2, $\|P_JQ\|\,/\,\|Q\|$", ylabel="angle of the update with MN (deg)")


if __name__ == "__main__":
    sys.exit(main())
