"""Reference values computed by the published code, beside results of the public API.

`comparisons` repeats what a file holds with an implementation of the API (the package, or the oracle) and yields each
result beside the published one, brought to our sign and scale by the factor in `reference_table.TABLE`. Values that
contain a slip of the published code are computed by `reference_slips`, whole training runs by `training_cases`.
"""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import oracle
import reference_slips
import training_cases
from reference_files import Comparison, family
from reference_measures import measures
from reference_problems import Problem
from reference_table import find_row

import dfc_numba as dfc
from dfc_numba.analysis.published_systems import published_systems
from dfc_numba.analysis.stability import stability
from dfc_numba.dynamics.plasticity import one_shot_feedback_update
from dfc_numba.learning import descent

GRADIENT = re.compile(
    r"g(?P<kind>[Wb])(?P<layer>\d)(_(?P<readout>cont|conteff|ss|ssa|ndi)(_pro(?P<proactive>\d))?_(?P<rule>nl|vd|dm))?"
)
STATE = re.compile(r"(?P<variable>v_ff|v_fb|v|r)(?P<last>_ss)?(?P<layer>\d)")


def comparisons(path, api=dfc):
    """Yield a `Comparison` for every array of a reference file that is computed, be it by ours or with a slip."""
    if family(path) == "train":
        if api is dfc:
            yield from training_cases.Run(path).comparisons()
        return
    problem = Problem(path, api)
    for name, ours in results(problem):
        row = find_row(path, name, problem.options)
        yield Comparison(name, ours, row.ours_per_theirs(problem.options) * problem.arrays[name])
    for slip in reference_slips.slips(problem):
        yield Comparison(slip.name, slip.published, problem.arrays[slip.name])


def results(problem):
    """Pairs (name of an array, our result) for the arrays that hold what the papers mean."""
    special = {
        "init": (initial_feedback,),
        "student_teacher": (),
        "bp_dfa": (backpropagation,),
        "old_clip": (feedforward, clipped_update),
        "old_feedback": (feedforward, older_feedback_updates),
        "sp_pre": (feedforward, trajectory),
    }
    simulated = (
        feedforward,
        trajectory,
        steady_state,
        forward_updates,
        feedback_updates,
        stability_systems,
        measures,
    )
    for part in special.get(problem.family, simulated):
        yield from part(problem)


def initial_feedback(problem):
    """Feedback weights initialised as the product of the forward weights."""
    problem.net.set_feedback("weight_product")
    yield from ((f"Q{i}", problem.net.feedback[i]) for i in problem.layers)
    yield "homeostatic_const", descent.squared_norm([problem.net.feedback])


def backpropagation(problem):
    """Backpropagation: as it is, with rectified units, with integer labels."""
    for suffix in ("", "_relu", "_intlabels"):
        if f"gW0_bp{suffix}" in problem.arrays:
            net, y = problem.baseline(suffix)
            output = net.forward(problem.x).r[-1]
            loss = problem.mean_loss(output, y, problem.loss)
            yield from problem.present({f"y_ff{suffix}": output, f"loss{suffix}": loss})
            ours = problem.backpropagation(net, problem.x, y, loss=problem.loss)
            for i in problem.layers:
                yield f"gW{i}_bp{suffix}", ours.weights[i]
                yield f"gb{i}_bp{suffix}", ours.biases[i]


def feedforward(problem):
    """The feedforward pass, its loss, the output target."""
    activity = problem.net.forward(problem.x)
    output = activity.r[-1]
    loss = problem.mean_loss(output, problem.y, problem.loss)
    yield from problem.present({"y_ff": output, "loss": loss})
    if "r_target" in problem.arrays:
        yield "r_target", problem.target
    for i in problem.layers:
        yield from problem.present({f"a{i}": activity.v[i], f"h{i}": activity.r[i]})


def trajectory(problem):
    """Every variable of the simulation, and which samples converged."""
    if not {"u", "u_used", "v_ss0", "n_converged"} & set(problem.arrays):
        return
    ours = problem.trajectory
    for name in problem.arrays:
        if match := STATE.fullmatch(name):
            values = getattr(ours, match["variable"])[int(match["layer"])]
            yield name, values[-1] if match["last"] else values
    counts = {name: np.sum(getattr(ours, name)) for name in ("converged", "diverged")}
    counts["not_converged"] = len(problem.x) - sum(counts.values())
    yield from problem.present({f"n_{name}": count for name, count in counts.items()})
    found = {"u": ours.u, "u_int": ours.u_int, "sample_error": ours.error, "u_used": ours.u[-1]}
    yield from problem.present(found)


def steady_state(problem):
    """The Jacobian at the feedforward state, and the linearised steady state."""
    if "J" in problem.arrays:
        yield "J", problem.api.output_jacobian(problem.net, problem.x)
    if "ssa_u" in problem.arrays:
        arguments = problem.net, problem.x, problem.target, problem.controller
        ours = problem.api.steady_state(*arguments, method="linear")
        yield "ssa_u", ours.u
        for i in problem.layers:
            found = {f"ssa_dv{i}": ours.delta_v[i], f"ssa_v{i}": ours.v[i], f"ssa_r{i}": ours.r[i]}
            yield from problem.present(found)


def forward_updates(problem):
    """Every readout and rule that the file holds, but for those that ascend."""
    variants = {}
    for match in filter(None, map(GRADIENT.fullmatch, problem.arrays)):
        variants.setdefault(match.group("readout", "rule", "proactive"), []).append(match)
    for (readout, rule, proactive), matches in variants.items():
        if reference_slips.ascends(problem, readout, rule):
            continue
        ours = problem.forward_update(readout, rule, proactive=proactive and proactive == "1")
        arrays = {"W": ours.weights, "b": ours.biases}
        yield from ((match.string, arrays[match["kind"]][int(match["layer"])]) for match in matches)


def clipped_update(problem):
    """Gradients of which each array is clipped on its own."""
    update = problem.forward_update("cont")
    gradients = [[-2 * w, -2 * b] for w, b in zip(update.weights, update.biases, strict=True)]
    factors = descent.clip_factors(gradients, problem.options["clip_grad_norm"], "tensor")
    for i in problem.layers:
        for kind, factor, gradient in zip("Wb", factors[i], gradients[i], strict=True):
            yield f"g{kind}{i}_clip", factor * gradient


def feedback_updates(problem):
    """The feedback update, without and with scaling by depth, which white noise has not."""
    for suffix in ("", "_scaled") if problem.controller.tau_noise else ("",):
        if f"gQ0{suffix}" in problem.arrays:
            ours = problem.feedback_update(scaling=bool(suffix))
            yield from ((f"gQ{i}{suffix}", ours.feedback[i]) for i in problem.layers)


def stability_systems(problem):
    """Linearised systems at the end of the simulation, and their leading eigenvalues; the oracle has none."""
    if "max_eig_A_I" not in problem.arrays or problem.api is not dfc:
        return
    controller = replace(problem.controller, tau_apical=None)  # their systems have no apical compartments
    voltages = [v[-1] for v in problem.trajectory.v]
    constants = {name: getattr(controller, name) for name in ("alpha", "k_p", "tau_v")}
    systems = published_systems(problem.net, voltages, **constants)
    found = stability(problem.net, problem.x, problem.target, controller, at="simulation")
    leading = found.integral, found.integral, found.instantaneous, found.proportional
    for name, system, rate in zip(("tildeI", "I", "instI", "PI"), systems, leading, strict=True):
        yield from problem.present({f"A_A_{name}": system, f"max_eig_A_{name}": rate})


# ---------------------------------------------------------------------------------------- feedback weights, older code


def older_feedback_updates(problem):
    """Three rules of the older code for the feedback weights, each without and with homeostatic decay."""
    updates = {
        "normal_controller": problem.feedback_update().feedback,
        "special_controller": one_shot_update(problem),
        "old_learning_rule": steady_state_update(problem),
    }
    for rule, arrays in updates.items():
        steps = homeostatic_steps(problem, [-update for update in arrays])
        for i in problem.layers:
            yield f"gQ{i}_{rule}", arrays[i]
            yield f"gQ{i}_{rule}_homeo", steps[i]


def one_shot_update(problem):
    """The rule without simulation; the oracle has its formula: mean of the noise times its effect, over sigma^2."""
    sigma = problem.options["sigma_fb"]
    draws, noisy = perturbed_output(problem, "special_controller")
    if problem.api is dfc:
        return one_shot_feedback_update(problem.net, problem.x, sigma=sigma, noise=draws).feedback
    effect = noisy - problem.net.forward(problem.x).r[-1]
    return [draw.T @ effect / (sigma * len(effect)) for draw in draws]


def steady_state_update(problem):
    """Minus the mean of delta_v u^T over sigma^2, in the steady state that reaches for the output of a noisy pass."""
    _, noisy = perturbed_output(problem, "old_learning_rule")
    controller = replace(problem.controller, alpha=problem.options["alpha_di"])
    steady = problem.api.steady_state(problem.net, problem.x, noisy, controller, method="linear")
    count = len(problem.x) * problem.options["sigma_fb"] ** 2
    return [-delta.T @ steady.u / count for delta in steady.delta_v]


def perturbed_output(problem, rule):
    """The draws of a rule, and the output of a forward pass with them in the voltages."""
    draws = [problem.arrays[f"xi{i}_{rule}"] for i in problem.layers]
    rates, names = problem.x, [problem.options["activation"]] * (len(draws) - 1) + ["linear"]
    for i, name in enumerate(names):
        voltage = rates @ problem.net.weights[i].T + problem.net.biases[i]
        rates = oracle.ACTIVATIONS[name](voltage + problem.options["sigma_fb"] * draws[i])
    return draws, rates


def homeostatic_steps(problem, gradients):
    """What an optimiser with homeostatic decay takes from the weights at learning rate 1."""
    after = [[q.copy()] for q in problem.net.feedback]
    options = SimpleNamespace(
        name="sgd", learning_rate=1.0, momentum=0.0, epsilon=1.0, clip_norm=None, clip_scope="layer",
        weight_decay=problem.options["homeostatic_wd_fb"],
    )  # fmt: skip
    optimizer = descent.Descent(after, options, keep_norm=problem.options["homeostatic_constant"])
    optimizer.step([[gradient] for gradient in gradients])
    return [q - layer[0] for q, layer in zip(problem.net.feedback, after, strict=True)]
