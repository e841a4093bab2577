"""Measures of theory in reference files, computed by ours or by the oracle: updates, angles, conditions.

The values that contain a slip of the published code are in `reference_slips`.
"""

import re
from functools import partial
from types import SimpleNamespace

import numpy as np
import oracle
import oracle_analysis

from dfc_numba.analysis import alignment, conditions, control, directions

FAMILIES = ("metrics_new", "old_metrics")
DAMPING = re.compile(r"gn_W0_damp(\d+)(?:p(\d+))?")
OURS = SimpleNamespace(
    reference_update=directions.reference_update, alignment=alignment.alignment, conditions=conditions.conditions,
    null_space_fraction=conditions.null_space_fraction, control_effort=control.control_effort,
    effort_update=control.effort_update, feedback_ratio=control.feedback_ratio,
    distance_to_linear=control.distance_to_linear,
)  # fmt: skip


def implementation(problem):
    """The functions of the package, or of the oracle."""
    return oracle_analysis if problem.api is oracle else OURS


def measures(problem):
    """Pairs (name of an array, our result)."""
    if problem.family in FAMILIES:
        for part in (
            backpropagation,
            effort,
            conditions_of_feedback,
            input_norms,
            gauss_newton,
            layer_targets,
        ):
            yield from problem.present(dict(part(problem, implementation(problem))))


def published_updates(problem, api):
    """`reference_update` with the published scale: the output moves by the gradient of the mean loss."""
    step = 1 / len(problem.x)
    return partial(api.reference_update, problem.net, problem.x, problem.y, loss=problem.loss, step=step)


def dampings(problem):
    """Pairs (how names of arrays write it, damping)."""
    for match in filter(None, map(DAMPING.fullmatch, problem.arrays)):
        yield match.string.removeprefix("gn_W0_"), float(f"{match[1]}.{match[2] or 0}")


def named_arrays(name, update):
    """Weights and biases with the names {name}_W{i}, {name}_b{i}; `name` may have a {} for these."""
    template = name if "{}" in name else name + "{}"
    for kind, arrays in (("W", update.weights), ("b", update.biases)):
        yield from ((template.format(f"{kind}{i}"), array) for i, array in enumerate(arrays))


def backpropagation(problem, api):
    """Angles to the gradient."""
    found = api.alignment(problem.forward_update(), published_updates(problem, api)("bp"))
    return {"bp_angle_W": found.weights, "bp_angle_b": found.biases}


def effort(problem, api):
    """The weight-norm objective, its gradient, the angles to it; the published scale is per sample and per neuron."""
    if "H_loss" not in problem.arrays:
        return
    u = problem.trajectory.u[-1]
    update = api.effort_update(problem.net, problem.x, u, problem.controller, at="feedforward")
    found = api.alignment(problem.forward_update(), update)
    yield from named_arrays("H_g", update)
    yield from {"H_angle_W": found.weights, "H_angle_total_W": found.total_weights}.items()
    yield "H_loss", 2 * np.mean(api.control_effort(problem.net, u)) / sum(problem.options["sizes"][1:])


def conditions_of_feedback(problem, api):
    """Condition 2, the angles to Jacobians, the null space, the distance to the linear steady state."""
    output = problem.trajectory.r[-1][-1]
    distance = api.distance_to_linear(problem.net, problem.x, problem.target, problem.controller, output)
    yield from dict.fromkeys(("rel_dist_to_ndi", "rel_dist_to_NDI"), np.mean(distance, keepdims=True)).items()
    found = api.conditions(problem.net, problem.x, damping=0.0)
    yield "condition_two", np.mean(found.condition_2)
    yield "jac_transpose_angle", np.mean(found.angle_transpose)
    yield "nullspace_rel_norm", api.null_space_fraction(problem.net, problem.x, problem.forward_update())
    for name, damping in dampings(problem):
        found = api.conditions(problem.net, problem.x, damping=damping)
        yield f"jac_pinv_angle_{name}", np.mean(found.angle_damped)


def input_norms(problem, api):
    """Norms of the inputs of the layers: their mean, and relative deviations from it."""
    norms = api.conditions(problem.net, problem.x, damping=0.0).input_norms
    mean = norms.mean(axis=1)
    yield "norm_r_mean", mean
    for i, column in enumerate(norms.T):
        yield f"norm_r_layer{i}" if i else "norm_r_input", (column - mean) / mean


def gauss_newton(problem, api):
    """Gauss-Newton of each sample, and the angles to it."""
    for name, damping in dampings(problem):
        update = published_updates(problem, api)("gn", damping=damping)
        yield from named_arrays("gn_{}_" + name, update)
        found = api.alignment(problem.forward_update(), update)
        yield from {f"gn_angle_W_{name}": found.weights, f"gn_angle_total_{name}": found.total}.items()


def layer_targets(problem, api):
    """Least-norm targets with feedforward and with controlled rates below, and the angles to them."""
    below = {"ss0": None, "ss1": [r[-1] for r in problem.trajectory.r[:-1]]}
    for name, damping in dampings(problem):
        for suffix, rates in below.items():
            update = published_updates(problem, api)("mn", damping=damping, presynaptic=rates)
            place = f"{name}_{suffix}_nl0"
            yield from named_arrays("gnt_{}_" + place, update)
            found = api.alignment(problem.forward_update(), update)
            yield from {
                f"gnt_angle_W_{place}": found.weights,
                f"gnt_angle_total_{place}": found.total,
            }.items()
