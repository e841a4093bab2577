"""Contradictions in a configuration, each with the sentence that says what to change.

A rule is a pair (whether it fires, the sentence).
"""

from dfc_numba.configuration.config_usage import selects_minibatches
from dfc_numba.learning.modulation import modulation_of
from dfc_numba.learning.phases import (
    EXPECTED,
    ONE_SHOT,
    feedback_simulations,
    is_single_phase,
    later_feedback_epochs,
    learning_phases,
    logged_phases,
    logs,
    method_of,
    simulation_of,
    solves,
    solves_in_time,
    trains_feedback,
)
from dfc_numba.model.controller import FLOAT32_RTOL
from dfc_numba.registry import LOSSES

NOTHING_LEARNS = (
    "training.freeze_forward = true leaves nothing to learn where the feedback weights do not; "
    "set training.freeze_forward = false, or use a DFC method with feedback.train = true"
)


def contradictions(config):
    """Return the sentences, each saying what to change, for what contradicts itself."""
    return [remedy for fires, remedy in rules(config) if fires]


def rules(config):
    """Yield all rules that apply to this configuration."""
    yield from _lengths(config)
    yield _undamped(config)
    yield _no_nudge(config)
    yield from _unsuited_loss(config)
    yield _unknown_path(config)
    method = method_of(config)
    if method.rules is not None:
        yield from method.rules(config)
    if method.controlled:
        yield from _forward_learning(config)
    if is_single_phase(config):
        yield from _single_phase(config)
    if trains_feedback(config):
        yield from _feedback_learning(config)
    if trains_feedback(config) and method.reads_any("feedback_controller"):
        yield from _feedback_simulations(config)
    if logs(config):
        yield from _log(config)
    if config.analysis.every:
        yield from _analysis(config)
    yield config.training.freeze_forward and not trains_feedback(config), NOTHING_LEARNS


def _lengths(config):
    """Yield rules for lists that need one entry per layer."""
    n_hidden = len(config.network.hidden)
    lists = {
        "network.hidden_activation": n_hidden,
        "optimizer.learning_rate": n_hidden + 1,
        "optimizer.epsilon": n_hidden + 1,
        "feedback_optimizer.learning_rate": n_hidden + 1,
        "feedback_optimizer.pretraining_learning_rate": n_hidden + 1,
        "feedback_optimizer.epsilon": n_hidden + 1,
    }
    for path, length in lists.items():
        section, key = path.split(".")
        value = getattr(getattr(config, section), key)
        got = len(value) if isinstance(value, tuple) else length
        yield (
            got != length,
            (
                f"{path} lists {got} values, but with {n_hidden} hidden layers (network.hidden) it needs "
                f"{length}, or a single one for all"
            ),
        )


def _undamped(config):
    network = config.network
    return network.feedback_init == "jacobian_damped_pinv" and network.feedback_damping == 0, (
        "network.feedback_init = 'jacobian_damped_pinv' needs a damping; set network.feedback_damping above 0, or "
        "network.feedback_init = 'jacobian_pinv'"
    )


def _no_nudge(config):
    nudges = "target.step" not in config.unused_keys()
    return nudges and config.target.step == 0, (
        "target.step = 0 leaves the output where it is, so that nothing is learned; set target.step above 0, such as 0.1"
    )


def _unsuited_loss(config):
    """Yield rules against a loss that the method does not have, or that does not suit the outputs."""
    method, loss, output = method_of(config), LOSSES[config.target.loss], config.network.output_activation
    if method.losses and loss.name not in method.losses:
        yield (
            True,
            f"training.method = {method.name!r} is not for target.loss = {loss.name!r}; set target.loss to one of "
            f"{', '.join(map(repr, method.losses))}",
        )
    if loss.output not in (None, output):
        yield (
            True,
            f"target.loss = {loss.name!r} is for {loss.output} outputs, and network.output_activation = {output!r}; set "
            f"network.output_activation = {loss.output!r}, or another loss",
        )


def _unknown_path(config):
    method, (propagates, _) = method_of(config), modulation_of(config) or (False, None)
    return propagates and method.error_path is None, (
        f"optimizer.modulation = {config.optimizer.modulation!r} multiplies errors on their way from the output, which "
        f"training.method = {method.name!r} does not send down; set it to 'grapes', the local form, which every method has"
    )


def _forward_learning(config):
    controller, method = config.controller, config.training.method
    yield (
        solves(config) and controller.noisy,
        (
            f"training.method = {method!r} solves for the steady state, which does not exist with noise; set "
            "controller.sigma = 0 and leave out controller.sigma_output, or set training.method = 'dfc-ss', which simulates"
        ),
    )
    yield (
        solves_in_time(config) and config.training.dtype == "float32" and controller.rtol < FLOAT32_RTOL,
        (
            f"controller.rtol = {controller.rtol:g} is below what float32 can reach; set controller.rtol to at least "
            f"{FLOAT32_RTOL:g}, or training.dtype = 'float64'"
        ),
    )
    yield _misplaced_softmax(config, "controller")
    yield (
        config.target.feedback == "strong" and LOSSES[config.target.loss].one_output,
        (
            f"target.feedback = 'strong' drives the outputs to the labels, but with target.loss = {config.target.loss!r} they "
            "are logits; set target.feedback = 'weak'"
        ),
    )
    yield (
        controller.error == "softmax" and config.target.class_value == 1,
        (
            "controller.error = 'softmax' cannot reach target.class_value = 1: the control would grow "
            "without bound; choose target.class_value below 1, such as 0.99"
        ),
    )
    yield (
        controller.error == "softmax" and config.training.samples == "converged" and not solves(config),
        (
            "training.samples = 'converged' with controller.error = 'softmax' would discard every sample, "
            "since its error never falls to 0; set training.samples = 'all'"
        ),
    )


def _single_phase(config):
    method = f"training.method = {config.training.method!r}"
    yield (
        not config.controller.noisy,
        (
            f"{method} learns the feedback weights from noise in the forward epochs; set controller.sigma above 0, or "
            "training.method = 'dfc'"
        ),
    )
    yield (
        config.controller.tau_noise is None,
        (
            f"{method} needs low-passed noise, which the forward weights see through; set controller.tau_noise, or "
            "training.method = 'dfc'"
        ),
    )
    yield (
        config.training.freeze_forward,
        (
            f"{method} learns forward and feedback weights from the same simulation; set training.freeze_forward = "
            "false, or training.method = 'dfc'"
        ),
    )
    yield (
        config.feedback.rule in (ONE_SHOT, EXPECTED),
        (
            f"{method} learns the feedback weights from simulations; set feedback.rule = 'noise_driven', or "
            "training.method = 'dfc'"
        ),
    )


def _feedback_learning(config):
    feedback, optimizer = config.feedback, config.feedback_optimizer
    yield (
        not is_single_phase(config)
        and feedback.pretraining_epochs == feedback.epochs == feedback.extra_epochs == 0,
        (
            "feedback.train = true without any feedback epochs; set feedback.pretraining_epochs, "
            "feedback.epochs or feedback.extra_epochs above 0, or feedback.train = false"
        ),
    )
    yield (
        feedback.rule == "one_shot" and config.feedback_controller.sigma == 0,
        (
            "feedback.rule = 'one_shot' needs noise to learn from; set feedback_controller.sigma above 0, or "
            "feedback.train = false"
        ),
    )
    yield (
        feedback.rule == "expected" and "target" in (feedback.pursue, feedback.pretraining_pursue),
        (
            "feedback.rule = 'expected' holds around the feedforward output, from which the state moves away where the "
            "feedback epochs pursue the target; set feedback.pursue = 'output' and feedback.pretraining_pursue = 'none', "
            "or feedback.rule = 'noise_driven'"
        ),
    )
    yield (
        method_of(config).controlled and config.controller.jacobian_feedback,
        (
            "controller.jacobian_feedback = true replaces the feedback weights by J^T, so that they cannot learn; set "
            "feedback.train = false"
        ),
    )
    yield (
        optimizer.decay == "homeostatic" and optimizer.weight_decay == 0,
        (
            "feedback_optimizer.decay = 'homeostatic' with feedback_optimizer.weight_decay = 0 keeps nothing; set "
            "feedback_optimizer.weight_decay above 0, or feedback_optimizer.decay = 'l2'"
        ),
    )


def _feedback_simulations(config):
    """Yield rules for the controllers whose simulations the feedback weights learn from."""
    sections = feedback_simulations(config)
    for section in sections:
        yield _unresolved_high_pass(config, section)
    if sections:
        yield _softmax_of_output(config)
    if "feedback_controller" in sections:
        yield from _feedback_controller(config)


def _feedback_controller(config):
    controller = config.feedback_controller
    yield (
        not controller.noisy,
        (
            "feedback.train = true needs noise to learn from; set feedback_controller.sigma above 0, or "
            "feedback.train = false"
        ),
    )
    yield (
        controller.jacobian_feedback,
        (
            "feedback_controller.jacobian_feedback = true replaces the feedback weights by J^T, so that they cannot learn; set "
            "feedback.train = false"
        ),
    )
    yield (
        config.feedback.scaling and controller.tau_noise is None,
        (
            "feedback.scaling = true scales by the time constant of low-passed noise; set "
            "feedback_controller.tau_noise, or feedback.scaling = false"
        ),
    )
    yield _misplaced_softmax(config, "feedback_controller")


def _unresolved_high_pass(config, section):
    high_pass, dt = config.feedback.high_pass, getattr(config, section).dt
    return high_pass is not None and high_pass < dt, (
        f"feedback.high_pass = {high_pass} is shorter than {section}.dt = {dt}, which has to resolve it; set it to "
        f"{section}.dt or more, or feedback.high_pass = 'none'"
    )


def _softmax_of_output(config):
    """Return the rule that the feedforward output is not a target for softmax(r_L)."""
    section = "controller" if is_single_phase(config) else "feedback_controller"
    runs = later_feedback_epochs(config) > 0 and getattr(config, section).error == "softmax"
    return runs and config.feedback.pursue == "output", (
        f"feedback.pursue = 'output' has feedforward rates as r*, which {section}.error = 'softmax' would compare with "
        f"probabilities; set feedback.pursue = 'target', or {section}.error = 'difference'"
    )


def _misplaced_softmax(config, section):
    """Return the rule that r* - softmax(r_L) is an error only for strong feedback towards classes."""
    suits = config.target.feedback == "strong" and LOSSES[config.target.loss].softmax
    return getattr(config, section).error == "softmax" and not suits, (
        f"{section}.error = 'softmax' needs target.feedback = 'strong' and target.loss = 'cross_entropy'; "
        f"set these, or {section}.error = 'difference'"
    )


def _log(config):
    log, batch_size = config.log, config.training.batch_size
    yield (
        not selects_minibatches(log) and not log.last_of_epoch,
        (
            "[log] chooses no minibatch; set log.every, log.minibatches or log.last_of_epoch = true, or log.on = false"
        ),
    )
    if not set(log.phases) <= set(learning_phases(config)):
        there = ", ".join(learning_phases(config))
        yield (
            True,
            f"log.phases lists {', '.join(log.phases)}; choose from those where this run makes updates: {there}",
        )
    last = max(log.samples) if isinstance(log.samples, tuple) else 0
    yield (
        last >= batch_size,
        (
            f"log.samples lists the position {last}, but with training.batch_size = {batch_size} they go from 0 to "
            f"{batch_size - 1}; leave it out"
        ),
    )
    yield (
        "noise" in log.variables and not any(_noisy(phase, config) for phase in logged_phases(config)),
        ("log.variables lists 'noise', which the controllers of the logged phases do not have; leave it out"),
    )


def _noisy(phase, config):
    """Return whether the simulation of a phase has noise."""
    section = simulation_of(phase, config)
    return section is not None and getattr(getattr(config, section, None), "noisy", False)


def _analysis(config):
    from dfc_numba.analysis.measurements import (
        possible_in,
    )  # which takes longer to import than a run without needs

    training, possible = config.training, possible_in(config)
    others = [name for name in config.analysis.what if name not in possible]
    if others:
        run = (
            "training.freeze_forward = true"
            if training.freeze_forward
            else f"training.method = {training.method!r}"
        )
        remedy = (
            f"choose from: {', '.join(possible)}"
            if possible
            else "it has nothing to measure: set analysis.every = 0"
        )
        yield (
            True,
            f"analysis.what lists {', '.join(others)}, which {run} does not have; {remedy}",
        )
    yield (
        len({*config.analysis.what}) < len(config.analysis.what),
        "analysis.what lists a name twice; leave one out",
    )
