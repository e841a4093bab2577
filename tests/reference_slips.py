"""Values of the published code that are not what its papers mean, each beside ours.

For every such array `slips` computes what the published code computes, from its formula in plain NumPy; the same without
the slip; and what ours gives. The numbers of the slips are those of docs/reference-agreement.md.
"""

from typing import NamedTuple

import numpy as np
import oracle
from dfc_numba.data import student_teacher

FLOOR = 0.01  # the least sigma that a feedback gradient is divided by


class Slip(NamedTuple):
    """One array in the published sign and scale: its name, with the slip, without it, and ours."""

    name: str
    published: np.ndarray
    right: np.ndarray
    ours: np.ndarray


def slips(problem):
    """Yield a `Slip` for every array of a `reference_problems.Problem` that contains one."""
    if problem.family == "student_teacher":
        yield from teachers(problem)
    elif problem.family == "bp_dfa":
        yield from direct_feedback(problem)
    elif problem.family == "sp_pre":
        yield from pretraining(problem)
    elif problem.family == "fb2p":
        yield from mean_control(problem)
        yield from scaled_white_noise(problem)
    elif not problem.older:
        yield from last_time_point(problem)


def ascends(problem, readout, rule):
    """Whether the published gradient of a readout and rule contains slip 1; the older code is free of it."""
    return readout in ("ss", "ssa") and rule == "vd" and not problem.older


def last_time_point(problem):
    """Slip 1: the rule voltage_difference at the last time point stores 4 mean dv r^T instead of -2 mean dv r^T."""
    for readout in ("ss", "ssa"):
        if f"gW0_{readout}_vd" in problem.arrays:
            differences, below = _last_voltages(problem, readout)
            ours = problem.forward_update(readout, "vd")
            for i in problem.layers:
                mean = differences[i].T @ below[i] / len(problem.x)
                yield Slip(f"gW{i}_{readout}_vd", 4 * mean, -2 * mean, -2 * ours.weights[i])
                if f"gb{i}_{readout}_vd" in problem.arrays:
                    mean = differences[i].mean(axis=0)
                    yield Slip(f"gb{i}_{readout}_vd", 4 * mean, -2 * mean, -2 * ours.biases[i])


def _last_voltages(problem, readout):
    """dv = v - v_ff of every layer and the rates below, at the last time point or in the linearised steady state."""
    arguments = problem.net, problem.x, problem.target, problem.controller
    if readout == "ssa":
        steady = oracle.steady_state(*arguments)
        return steady.delta_v, [problem.x, *steady.r[:-1]]
    s = oracle.simulate(*arguments, noise=problem.noise)
    keeps_all = problem.options.get("include_non_converged_samples", True)
    kept = np.ones_like(s.converged) if keeps_all else s.converged
    differences = [kept[:, None] * (v[-1] - v_ff[-1]) for v, v_ff in zip(s.v, s.v_ff, strict=True)]
    return differences, [problem.x, *(r[-1] for r in s.r[:-1])]


def direct_feedback(problem):
    """Slip 2: the hidden layers follow delta_L Q_i^T without the derivative of their activation."""
    for suffix in ("", "_relu", "_intlabels"):
        if f"gW0_dfa{suffix}" in problem.arrays:
            net, y = problem.baseline(suffix)
            published, right = (
                oracle.direct_feedback_gradient(net, problem.x, y, loss=problem.loss, derivative=flag)
                for flag in (False, True)
            )
            ours = problem.direct_feedback(net, problem.x, y, loss=problem.loss)
            for kind, values in (("W", "weights"), ("b", "biases")):
                for i, arrays in enumerate(
                    zip(*(getattr(g, values) for g in (published, right, ours)), strict=True)
                ):
                    yield Slip(f"g{kind}{i}_dfa{suffix}", *arrays)


def teachers(problem):
    """Slip 3: every part of the data gets the outputs of a teacher of its own; ours learns from one teacher."""
    weights = {
        part: [problem.arrays[f"teacher_{part}_W{i}"] for i in range(3)] for part in ("train", "val", "test")
    }
    for part in weights:
        x = problem.arrays[f"x_{part}"]
        published, right = (_tanh_network(weights[teacher], x) for teacher in (part, "train"))
        yield Slip(
            f"y_{part}", published, right, student_teacher.teacher_outputs(x, weights["train"], "tanh")
        )


def _tanh_network(weights, rates):
    for hidden in weights[:-1]:
        rates = np.tanh(rates @ hidden.T)
    return rates @ weights[-1].T


def pretraining(problem):
    """Slip 8: control is filtered, and layers scaled, by dt and tau_v of the phase that is not simulated."""
    s, options = (
        oracle.simulate(problem.net, problem.x, problem.target, problem.controller, problem.noise),
        problem.options,
    )
    published, right = (_high_passed(s.u[1:], options[dt] / options["tau_f"]) for dt in ("dt_di", "dt_di_fb"))
    for suffix in ("", "_scaled"):
        ours = problem.feedback_update(scaling=bool(suffix))
        for i in problem.layers:
            gains = (
                _gain(problem, i, options[tau]) for tau in ("time_constant_ratio", "time_constant_ratio_fb")
            )
            of_published, of_right = gains if suffix else (1, 1)
            yield Slip(
                f"gQ{i}{suffix}",
                of_published * _correlation(problem, s, i, published),
                of_right * _correlation(problem, s, i, right),
                -ours.feedback[i],
            )


def mean_control(problem):
    """Slip 9: u is summed over all but the last time point of the last quarter, and divided by their number."""
    quarter = problem.options["tmax_di_fb"] // 4
    u, ours = (
        oracle.simulate(problem.net, problem.x, problem.target, problem.controller, problem.noise).u,
        problem.trajectory.u,
    )
    means = u[-quarter:-1].sum(axis=0) / quarter, u[-quarter:].mean(axis=0), ours[-quarter:].mean(axis=0)
    yield Slip("u_mean_last_quarter", *means)


def scaled_white_noise(problem):
    """Slip 11: layers are scaled by the time constant of a noise filter that is off; ours refuses to."""
    if problem.controller.tau_noise is None and "gQ0_scaled" in problem.arrays:
        s, ours = (
            oracle.simulate(problem.net, problem.x, problem.target, problem.controller, problem.noise),
            problem.feedback_update(),
        )
        for i in problem.layers:
            right = _correlation(problem, s, i, s.u[1:])
            gain = _gain(problem, i, problem.controller.tau_v)
            yield Slip(f"gQ{i}_scaled", gain * right, right, -ours.feedback[i])


def _correlation(problem, s, layer, u):
    """mean of v_fb(t) u(t+1)^T over time points and samples, over sigma^2."""
    sigma = problem.option("sigma_output" if layer == problem.layers[-1] else "sigma")
    mean = np.einsum("tbi,tbk->ik", s.v_fb[layer][:-1], u) / (u.shape[0] * u.shape[1])
    return mean / max(sigma, FLOOR) ** 2


def _gain(problem, layer, tau_v):
    """The factor that makes up for the filters between layer and output."""
    return (1 + tau_v / problem.options["tau_noise"]) ** (problem.layers[-1] - layer)


def _high_passed(u, share):
    """u minus its running mean, in which the present value has this share."""
    mean, result = u[0], np.empty_like(u)
    for t, value in enumerate(u):
        mean = share * value + (1 - share) * mean
        result[t] = value - mean
    return result
