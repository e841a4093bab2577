"""Trajectory files of small problems, written as a run writes them; for the tests of replay and plots."""

from dataclasses import replace

import numpy as np
from problems import draws, inputs, parameters, probabilities
from simulations import NOISY, SHORT, SIZES

import dfc_numba as dfc
from dfc_numba.model.recording import Recipe, StoredUpdate
from dfc_numba.storage.writer import TrajectoryWriter

SAMPLES = 5
AVERAGE = {
    "function": "forward_update",
    "readout": "average",
    "rule": "nonlinear_difference",
    "samples": "all",
}
FINAL = {**AVERAGE, "readout": "final", "rule": "voltage_difference", "samples": "converged"}
NEWTON = {**AVERAGE, "readout": "newton"}
FEEDBACK = {"function": "feedback_update", "scaling": False, "high_pass": None, "sigma_floor": 0.01}
SINGLE_PHASE = {
    "function": "forward_and_feedback_update", "rule": "derivative_matrix", "samples": "all", "scaling": True,
    "high_pass": 0.5, "sigma_floor": 0.01,
}  # fmt: skip
ONE_SHOT = {"function": "one_shot_feedback_update", "sigma": 0.1, "sigma_floor": 0.01}


def recipe(options=SHORT, *, update=None, dtype="float64", bias=True, noise=None, count=SAMPLES, **facts):
    """The recipe of a small problem; options None for no controller, noise "given" for draws."""
    net = dfc.Network(**parameters(SIZES, bias=bias, activation=["tanh", "leakyrelu"], dtype=np.dtype(dtype)))
    x = inputs(count, SIZES[0])
    target = net.predict(x, dtype="float64") + 0.3 * inputs(count, SIZES[-1], seed=5)
    controller = None if options is None else dfc.Controller(**options)
    if (options or {}).get("error") == "softmax":
        target = probabilities(count, SIZES[-1])
    if noise == "given":
        noise = draws(controller, SIZES, count)
    return Recipe(
        network=net,
        controller=controller,
        x=x.astype(dtype),
        target=target,
        noise=noise,
        update=update or {},
        **facts,
    )


def made(one, record=None):
    """(trajectory, update) of a recipe by the public functions, as a run has them."""
    problem = one.network, one.x, one.target, one.controller
    options = dict(one.update)
    function = options.pop("function", None)
    if function is None:
        return record and dfc.simulate(*problem, noise=one.noise, record=record), None
    if function == ONE_SHOT["function"]:
        return None, dfc.one_shot_feedback_update(*problem[:2], noise=one.noise, **options)
    if options.get("readout") == "newton":
        return None, dfc.forward_update(*problem, **options)
    update = getattr(dfc, function)(*problem, noise=one.noise, record=record, **options)
    if not isinstance(update, tuple):
        return update.trajectory, update
    return update[0].trajectory, StoredUpdate(
        weights=update[0].weights, biases=update[0].biases, feedback=update[1].feedback
    )


def write(path, recipes, *, record=dfc.Record(), recipe_only=False, **options):
    """A trajectory file with a record for each recipe."""
    with TrajectoryWriter(path, **options) as writer:
        for one in recipes:
            writer.append(one, *((None, None) if recipe_only else made(one, record)))
    return path


def training(count=3, last=2):
    """Recipes of a run with two phases, whose weights change; the last minibatch is smaller."""
    found = []
    for number in range(2 * count):
        phase = ("feedback", "forward")[number % 2]
        options, update = {"feedback": (NOISY, FEEDBACK), "forward": (SHORT, AVERAGE)}[phase]
        noise = dfc.NoiseKey(7, number) if phase == "feedback" else None
        size = last if number >= 2 * count - 2 else SAMPLES
        one = recipe(options, update=update, noise=noise, count=size, phase=phase, epoch=1, number=number)
        for i, weight in enumerate(one.network.weights if phase == "forward" else []):
            weight *= 1 - 0.01 * (number + i)
        found.append(replace(one, minibatch=number // 2 + 1, indices=np.arange(size) + 10 * number))
    return found
