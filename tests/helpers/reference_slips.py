"""Values of the published code that are not what its papers mean, each beside ours.

For every such array `slips` computes what the published code computes, from its formula in plain NumPy; the same without
the slip; and what ours gives. The numbers of the slips are those of docs/reference-agreement.md.
"""

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import oracle
import oracle_analysis
from reference_measures import dampings, implementation, named_arrays, published_updates

from dfc_numba.data import teachers as teacher_data

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
    elif problem.family in ("metrics_new", "old_metrics"):
        yield from analytic_updates(problem)
        yield from spread_of_norms(problem)
        yield from feedback_ratios(problem)
        yield from nonlinear_targets(problem)
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
        yield Slip(f"y_{part}", published, right, teacher_data.teacher_outputs(x, weights["train"], "tanh"))


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


# ---------------------------------------------------------------------------------------- measures of theory


def analytic_updates(problem):
    """Slip 14: the update of the linearised steady state takes its presynaptic rates from the simulation."""
    arguments = problem.net, problem.x, problem.target, problem.controller
    steady, s = oracle.steady_state(*arguments), oracle.simulate(*arguments)
    published, right = (
        _update_at_rest(problem, steady.delta_v, [problem.x, *rates])
        for rates in ([r[-1] for r in s.r[:-1]], steady.r[:-1])
    )
    names = {f"ndi_angle_{kind}": attribute for kind, attribute in (("W", "weights"), ("b", "biases"))}
    names["ndi_angle_total"] = "total"
    ours = problem.forward_update("ndi", "nl")
    yield from _update_slips(problem, "ndi_g{}", -2, (published, right, ours), names)


def _update_at_rest(problem, delta_v, below):
    """mean over samples of (phi(v_ff + dv) - phi(v_ff)) r^T with v_ff made from the rates below."""
    voltages = [oracle._basal(problem.net, i, rates) for i, rates in enumerate(below)]
    factors = oracle_analysis.rate_changes(problem.net, voltages, delta_v)
    return _means(factors, below)


def _means(factors, below):
    weights = [factor.T @ rates / len(rates) for factor, rates in zip(factors, below, strict=True)]
    return SimpleNamespace(weights=weights, biases=[factor.mean(axis=0) for factor in factors])


def _update_slips(problem, template, scale, updates, angles):
    """Slips of the arrays of an update, and of the angles to it: of three updates, with the slip, without, ours.

    Args:
        template: of the names of the arrays. scale: published over ours. angles: names of arrays, and what of an
            `Alignment` they hold.
    """
    named = zip(*(named_arrays(template, update) for update in updates), strict=True)
    found = {name: [scale * a, scale * b, scale * c] for (name, a), (_, b), (_, c) in named}
    learned, align, ours = (
        problem.forward_update(),
        oracle_analysis.alignment,
        implementation(problem).alignment,
    )
    aligned = [f(learned, update) for f, update in zip((align, align, ours), updates, strict=True)]
    found |= {name: [getattr(one, attribute) for one in aligned] for name, attribute in angles.items()}
    yield from (Slip(name, *map(np.asarray, values)) for name, values in problem.present(found))


def spread_of_norms(problem):
    """Slip 15: the root of mean squared deviations over the mean, instead of the root over the mean."""
    if "dev_r" in problem.arrays:
        right = oracle_analysis.conditions(problem.net, problem.x, damping=0.0)
        ours = implementation(problem).conditions(problem.net, problem.x, damping=0.0)
        mean = right.input_norms.mean(axis=1)
        yield Slip("dev_r", right.dev_r * np.sqrt(mean), right.dev_r, ours.dev_r)


def feedback_ratios(problem):
    """Slip 16: in layers above the first, the feedback is divided by |W_i^T r_i| instead of |W_i r_{i-1}|."""
    if "ratio_ff_fb" in problem.arrays:
        u, net = problem.trajectory.u[-1], problem.net
        right, ours = (
            api.feedback_ratio(net, problem.x, u) for api in (oracle_analysis, implementation(problem))
        )
        published, rates = right.copy(), oracle.Network.forward(net, problem.x).r
        for i in problem.layers[1:]:
            feedback = np.linalg.norm(u @ net.feedback[i].T, axis=1)
            published[:, i] = feedback / np.linalg.norm(rates[i] @ net.weights[i], axis=1)
        yield Slip("ratio_ff_fb", *(ratio.mean(axis=0) for ratio in (published, right, ours)))


def nonlinear_targets(problem):
    """Slip 17: layer targets up the loss, phi(v) - phi(v - dv), instead of phi(v + dv) - phi(v) down the loss."""
    below = {"ss0": None, "ss1": [r[-1] for r in problem.trajectory.r[:-1]]}
    for name, damping in dampings(problem):
        for suffix, rates in below.items():
            options = {"damping": damping, "presynaptic": rates, "nonlinear": True}
            right, ours = (
                published_updates(problem, api)("mn", **options)
                for api in (oracle_analysis, implementation(problem))
            )
            up = published_updates(problem, oracle_analysis)("mn", **options | {"step": -1 / len(problem.x)})
            published = SimpleNamespace(weights=[-w for w in up.weights], biases=[-b for b in up.biases])
            place = f"{name}_{suffix}_nl1"
            names = {f"gnt_angle_W_{place}": "weights", f"gnt_angle_total_{place}": "total"}
            yield from _update_slips(problem, "gnt_{}_" + place, -1, (published, right, ours), names)
