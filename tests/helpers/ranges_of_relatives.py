"""Sound calls of every public function of `dfc_numba.relatives`, for test_public_ranges.py: (function, arguments, numbers)."""

import inspect
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import numpy as np

import dfc_numba as dfc
from dfc_numba import relatives
from dfc_numba.relatives import (
    continual,
    control_learning,
    energy_control,
    equilibrium_energy,
    equilibrium_newton,
    equilibrium_propagation,
    equilibrium_trajectory,
    feedback_mappings,
    grapes,
    least_control,
    target_propagation,
)

X = np.random.default_rng(0).normal(size=(3, 4))
Y = np.eye(3)
# parts that other modules of the package share: they are handed what was checked
INNER = {
    "checked", "checked_arguments", "contrast", "dense_views", "extrapolated", "feedback_chain", "keyed_states", "local_updates",
    "mapped_voltage", "mapping_shapes", "names_of", "rate_of", "slope_of", "rates_of", "slopes_of", "read_output", "recorded",
    "recorded_bytes", "recorded_equilibrium_update", "run_chain", "scaled", "scaled_rows", "settled_state", "sources",
    "system_of", "free_state", "factors_of", "finite_samples", "is_finite", "lost_samples", "Phases", "check_nudge", "usable",
}  # fmt: skip


def public_names():
    """Functions and classes that the modules of `dfc_numba.relatives` define, but for results."""
    found = set()
    for path in Path(relatives.__file__).parent.glob("[a-z]*.py"):
        module = import_module(f"dfc_numba.relatives.{path.stem}")
        for name, item in vars(module).items():
            mine = getattr(item, "__module__", None) == module.__name__ and not name.startswith("_")
            if mine and (
                inspect.isfunction(item)
                or hasattr(item, "create")
                or hasattr(item, "translated")
                or is_options(item)
            ):
                found.add(name)
    return found - INNER


def is_options(item):
    """Whether a class is one of options, whose numbers have ranges."""
    return inspect.isclass(item) and hasattr(item, "__pydantic_config__")


def values_of(options):
    return {field.name: getattr(options, field.name) for field in fields(options)}


def cases(dtype):
    """A call for each name, more where a function has several rules."""
    return {
        **of_target_propagation(network(dtype)), **of_equilibrium_propagation(network(dtype)), **of_least_control(network(dtype)),
        **of_grapes(network(dtype)),
    }  # fmt: skip


def network(dtype, output="linear"):
    net = dfc.Network.create([4, 5, 4, 3], seed=0, dtype=dtype, output_activation=output)
    net.backward = [0.1 * w.T for w in net.weights[1:]]
    return net


def of_target_propagation(net):
    found = {}
    for rule in ("ddtp_linear", "ddtp_rhl", "ddtp_control", "dtpdrl", "dtp"):
        options = feedback_mappings.TargetPropagation(rule=rule)
        mappings = feedback_mappings.FeedbackMappings.create(net, options, units=6)
        common = {"network": net, "mappings": mappings, "x": X, "options": options}
        found |= {
            f"reconstruction_update {rule}": (
                feedback_mappings.reconstruction_update,
                {**common, "noise": 0},
                ("noise",),
            ),
            f"propagated_targets {rule}": (target_propagation.propagated_targets, {**common, "y": Y}, ()),
            f"target_update {rule}": (target_propagation.target_update, {**common, "y": Y}, ()),
        }
    options, gauss_newton = (
        feedback_mappings.TargetPropagation(rule="ddtp_rhl"),
        {"network": net, "x": X, "y": Y, "damping": 0.1},
    )
    weights = [np.ones((5, 3)), np.ones((4, 3))]
    return {
        **found,
        "TargetPropagation": (feedback_mappings.TargetPropagation, values_of(options), ("step", "sigma", "sigma_floor")),
        "FeedbackMappings": (
            feedback_mappings.FeedbackMappings,
            {"network": net, "options": feedback_mappings.TargetPropagation(), "weights": weights},
            (),
        ),
        "FeedbackMappings.create": (
            feedback_mappings.FeedbackMappings.create,
            {"network": net, "options": options, "units": 6, "seed": 0},
            ("units", "seed"),
        ),
        "gauss_newton_targets": (target_propagation.gauss_newton_targets, gauss_newton, ("damping",)),
        "gauss_newton_layers": (target_propagation.gauss_newton_layers, gauss_newton, ("damping",)),
    }  # fmt: skip


def of_equilibrium_propagation(net):
    found = {}
    kinds = {
        "": {}, " settled": {"tolerance": 1e-3}, " hopfield": {"form": "hopfield"}, " gaussian": {"form": "gaussian"},
        " separate": {"backward": "separate"}, " entropy": {"loss": "cross_entropy", "sides": 2},
    }  # fmt: skip
    for kind, values in kinds.items():
        options = equilibrium_propagation.EquilibriumPropagation(**values)
        phase = {"network": net, "x": X, "options": options}
        states = [np.full((3, n), 0.1) for n in net.sizes[1:]]
        free = equilibrium_propagation.free_phase(**phase)
        found |= {
            f"free_phase{kind}": (equilibrium_propagation.free_phase, {**phase, "initial": 0}, ("initial",)),
            f"nudged_phase{kind}": (
                equilibrium_propagation.nudged_phase,
                {**phase, "y": Y, "free": free, "beta": 0.1, "steps": 3},
                ("beta", "steps"),
            ),
            f"equilibrium_update{kind}": (equilibrium_propagation.equilibrium_update, {**phase, "y": Y}, ()),
            f"simulate_equilibrium{kind}": (
                equilibrium_trajectory.simulate_equilibrium,
                {**phase, "y": Y},
                (),
            ),
        }
        at = {"network": net, "x": X, "states": states, "options": options}
        if kind in (" hopfield", " gaussian"):
            found[f"free_energy{kind}"] = (equilibrium_energy.free_energy, at, ())
            found[f"energy_gradient{kind}"] = (equilibrium_energy.energy_gradient, at, ())
        if kind != " gaussian":
            found |= {
                f"equilibrium{kind}": (
                    equilibrium_newton.equilibrium,
                    {**phase, "y": Y, "beta": 0.1, "tolerance": 1e-12, "iterations": 20},
                    ("beta", "tolerance", "iterations"),
                ),
                f"newton_update{kind}": (equilibrium_newton.newton_update, {**phase, "y": Y}, ()),
                f"equilibrium_gradient{kind}": (
                    equilibrium_newton.equilibrium_gradient,
                    {**phase, "y": Y},
                    (),
                ),
            }
    plain = equilibrium_propagation.EquilibriumPropagation(nudged_steps=3)
    hopfield = equilibrium_propagation.EquilibriumPropagation(form="hopfield", dt=0.1, tolerance=1e-3)
    return {
        **found,
        "EquilibriumPropagation": (
            equilibrium_propagation.EquilibriumPropagation,
            values_of(hopfield),
            ("beta", "free_steps", "nudged_steps", "dt", "tau", "tolerance"),
        ),
        "cost": (equilibrium_energy.cost, {"output": X[:, :3], "y": Y, "loss": "cross_entropy"}, ()),
        "cost mse": (equilibrium_energy.cost, {"output": X[:, :3], "y": Y, "loss": "mse"}, ()),
        "continual_updates": (
            continual.continual_updates,
            {"network": net, "x": X, "y": Y, "options": plain, "learning_rate": 0.1},
            ("learning_rate",),
        ),
    }  # fmt: skip


def of_least_control(net):
    found, learn, phases = {}, control_learning, least_control
    recurrent = phases.RecurrentNetwork.create([4, 5, 3], seed=0)
    for kind, one in (("", net), (" recurrent", recurrent)):
        for rule in ("di", "kp", "lf"):
            options = phases.LeastControl(rule=rule, dt=0.2, steps=40)
            extra = {
                "kp": {"transposed": learn.initial_transposed(one)},
                "lf": {"feedback": learn.initial_feedback(one)},
            }
            common = {"network": one, "x": X, "y": Y, "options": options, **extra.get(rule, {})}
            found[f"controlled_phase {rule}{kind}"] = (phases.controlled_phase, common, ())
            found[f"control_update {rule}{kind}"] = (learn.control_update, common, ())
            if rule != "lf" and not kind:
                found[f"controlled_equilibrium {rule}"] = (
                    phases.controlled_equilibrium,
                    {**common, "tolerance": 1e-6, "iterations": 20},
                    ("tolerance", "iterations"),
                )
            if rule == "lf":
                state = phases.controlled_phase(**common)
                found[f"noisy_feedback_update{kind}"] = (
                    learn.noisy_feedback_update,
                    {**common, "state": state, "noise": 0},
                    ("noise",),
                )
        free = {"network": one, "x": X, "options": phases.LeastControl(dt=0.2, steps=40)}
        energy = energy_control.EnergyControl(steps=20)
        found |= {
            f"free_equilibrium{kind}": (phases.free_equilibrium, free, ()),
            f"energy_control{kind}": (energy_control.energy_control, {**free, "y": Y, "options": energy}, ()),
            f"initial_feedback control{kind}": (
                learn.initial_feedback,
                {"network": one, "seed": 0},
                ("seed",),
            ),
            f"initial_transposed{kind}": (learn.initial_transposed, {"network": one, "seed": 0}, ("seed",)),
            f"decayed{kind}": (
                learn.decayed,
                {"network": one, "transposed": learn.initial_transposed(one), "rate": 0.1},
                ("rate",),
            ),
        }
    free = {"network": recurrent, "x": X, "y": Y, "options": phases.LeastControl(dt=0.2, steps=40)}
    options, energy = phases.LeastControl(), energy_control.EnergyControl()
    numbers = [name for name, value in values_of(options).items() if type(value) in (int, float)]
    return {
        **found,
        "recurrent_backpropagation": (learn.recurrent_backpropagation, free, ()),
        "LeastControl": (phases.LeastControl, values_of(options), numbers),
        "EnergyControl": (energy_control.EnergyControl, values_of(energy), ("alpha", "learning_rate", "steps")),
        "RecurrentNetwork": (phases.RecurrentNetwork, recurrent.parameters(), ()),
        "RecurrentNetwork.create": (phases.RecurrentNetwork.create, {"sizes": [4, 5, 3], "seed": 0}, ("seed",)),
    }  # fmt: skip


def of_grapes(net):
    options, weights = grapes.Grapes(keep=0.9, clip=(1.0, 2.0)), [w.copy() for w in net.weights]
    masks, found = [np.ones((3, 5)), np.ones((3, 4))], {}
    feedback = {"fa": [np.ones((5, 4)), np.ones((4, 3))], "dfa": [np.ones((5, 3)), np.ones((4, 3))]}
    for rule in ("bp", "fa", "dfa"):
        for form in ("propagating", "local"):
            one = grapes.Grapes(rule=rule, form=form)
            arguments = {
                "network": net,
                "x": X,
                "y": Y,
                "options": one,
                "feedback": feedback.get(rule),
                "masks": masks,
            }
            found[f"grapes_update {rule} {form}"] = (grapes.grapes_update, arguments, ())
    return {
        **found,
        "Grapes": (grapes.Grapes, values_of(options), ("keep",)),
        "responsibilities": (grapes.responsibilities, {"weights": weights, "clip": (1.0, 2.0)}, ()),
        "responsibilities senders": (grapes.responsibilities, {"weights": weights, "of": "senders"}, ()),
        "modulated": (grapes.modulated, {"gradients": weights, "weights": weights}, ()),
    }
