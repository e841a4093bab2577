"""The keys of a configuration that a run uses, given the others; stating any other key is refused."""

from dfc_numba.learning.method import EQUILIBRIUM, READABLE
from dfc_numba.learning.optimizer import SHARED
from dfc_numba.learning.phases import (
    is_single_phase,
    later_feedback_epochs,
    logged_phases,
    method_of,
    simulation_of,
)
from dfc_numba.registry import MEASURES, OPTIMIZERS
from dfc_numba.support.wording import nearest

LOOP_KEYS = {"alpha", "dt", "steps", "nonlinearity", "restabilise", "feedback"}
FEEDBACK_INIT_KEYS = ["network.feedback_init", "network.feedback_noise", "network.feedback_damping"]
# initialisations that have a number of their own
SPECIAL_INIT_KEYS = {
    "weight_product": "network.feedback_noise",
    "jacobian_damped_pinv": "network.feedback_damping",
}


def selects_minibatches(log):
    """Return whether a section `[log]` chooses any minibatches, besides the last of each pass."""
    return log.every is not None or len(log.minibatches) > 0


def published_pursuit(config):
    """Return the target of the published feedback epochs: "output" in two phases with weak feedback, else "target"."""
    two_phases = not is_single_phase(config)
    return "output" if two_phases and config.target.feedback == "weak" else "target"


def unused_places(config):
    """Return pairs (place, reason) of what a run does not use; a place is `section` or `section.key`."""
    rules = (
        _unused_by_network,
        _unused_by_method,
        _unused_by_options,
        _unused_by_integrator,
        _unused_by_target,
        _unused_by_feedback,
        _unused_by_feedback_rule,
        _unused_by_optimizers,
        _unused_by_log,
        _unused_by_analysis,
        _unused_by_inversion,
    )
    return [(place, reason) for rule in rules for places, reason in rule(config) for place in places]


def _unused_by_network(config):
    if config.network.start_from:
        yield ["network.init", "network.init_range", *FEEDBACK_INIT_KEYS], "network.start_from is set"
    if config.network.init != "uniform":
        yield ["network.init_range"], "it is only used with network.init = 'uniform'"
    method = method_of(config)
    if not method.reads_any("network.feedback_init"):
        which = "the feedback of [inversion]" if method.reads_any("inversion") else "no feedback weights"
        yield FEEDBACK_INIT_KEYS, f"training.method = {method.name!r} has {which}"
    if method.controlled and config.controller.jacobian_feedback:
        yield FEEDBACK_INIT_KEYS, "controller.jacobian_feedback = true replaces the feedback weights by J^T"
    for init, key in SPECIAL_INIT_KEYS.items():
        if config.network.feedback_init != init:
            yield [key], f"it is only used with network.feedback_init = {init!r}"


def _unused_by_method(config):
    """Yield what the method does not read, see `Method.reads`."""
    method, training = method_of(config), config.training
    learning = ["training.rule", "training.samples"]
    name = f"training.method = {method.name!r}"
    if method.solves:
        integrates = config.controller.leak == "integral"
        unused = _unread(config, "controller") + ([] if integrates else ["controller.k_p"])
        yield unused, f"{name} computes a steady state and simulates nothing"
        if "training.samples" not in method.places:
            yield ["training.samples"], f"{name} simulates nothing that could converge"
    for place, reason in READABLE.items():
        if place == "inversion" or (place == "target.step" and config.optimizer.divide_by_step):
            continue
        because = "does not depend on it" if method.reads_any(place) else reason
        yield _unread(config, place), f"{name} {because}"
    if training.freeze_forward:
        yield ["controller", "optimizer", *learning], "training.freeze_forward = true"


def _unread(config, place):
    """Return the keys of a section that the method does not read; a key itself, if it does not."""
    read = method_of(config).places
    if place in read or "." in place:
        return [] if place in read else [place]
    return [path for key in vars(getattr(config, place)) if (path := f"{place}.{key}") not in read]


def _unused_by_options(config):
    """Yield keys of [method] that its method does not have."""
    options = [option.name for option in method_of(config).options]
    name = f"training.method = {config.training.method!r}"
    known = f"its options are {', '.join(options)}" if options else "it has no options"
    for key in config.method:
        if key not in options:
            yield [f"method.{key}"], f"{name} has no such option{nearest(key, options)}; {known}"


def _unused_by_integrator(config):
    if config.controller.integrator == "euler":
        reason = "only controller.integrator = 'waveform' has a tolerance"
        yield ["controller.rtol", "controller.limit"], reason
    keys = [f"feedback_controller.{key}" for key in ("integrator", "rtol", "limit")]
    yield keys, "feedback weights learn from noise, which has to be stepped by the Euler method"


def _unused_by_target(config):
    step = [] if config.optimizer.divide_by_step else ["target.step"]
    if config.target.feedback == "strong":
        yield ["target.step_per", *step], "target.feedback = 'strong' pursues the target itself"


def _unused_by_feedback(config):
    feedback = config.feedback
    if not feedback.train:
        keys = [f"feedback.{key}" for key in type(feedback).model_fields if key != "train"]
        yield [*keys, "feedback_controller", "feedback_optimizer"], "feedback.train = false"
    pretraining = ["feedback_optimizer.pretraining_learning_rate", "feedback.pretraining_pursue"]
    if feedback.pretraining_epochs == 0:
        yield pretraining, "feedback.pretraining_epochs = 0"
    if "pretraining" not in method_of(config).phases:
        yield pretraining, f"training.method = {config.training.method!r} has no pre-training"
    if is_single_phase(config):
        yield from _unused_by_single_phase(feedback, config.training.method)
    elif later_feedback_epochs(config) == 0 and method_of(config).parameters is None:
        yield ["feedback_optimizer.learning_rate"], "feedback.epochs = feedback.extra_epochs = 0"
    if method_of(config).controlled and (is_single_phase(config) or later_feedback_epochs(config) == 0):
        reason = "the pre-training, which alone runs this controller, controls the difference r* - r_L"
        yield ["feedback_controller.error"], reason


def _unused_by_single_phase(feedback, name):
    reason = (
        f"training.method = {name!r} learns the feedback weights from the simulation of the forward epochs"
    )
    yield ["feedback.epochs"], reason
    if feedback.pretraining_epochs == 0:
        yield ["feedback_controller"], f"{reason}, and feedback.pretraining_epochs = 0"
    if feedback.extra_epochs == 0 and (feedback.pretraining_epochs == 0 or feedback.pretraining_pursue):
        yield ["feedback.pursue"], f"{reason}, and no other feedback epochs pursue it"


def _unused_by_feedback_rule(config):
    if config.feedback.rule == "one_shot":
        keys = [f"feedback_controller.{key}" for key in vars(config.feedback_controller) if key != "sigma"]
        keys += ["feedback.scaling", "feedback.pursue", "feedback.pretraining_pursue", "feedback.high_pass"]
        yield keys, "feedback.rule = 'one_shot' simulates no controller"
    if config.feedback.rule == "expected":
        yield (
            ["feedback_controller.convergence_epsilon"],
            "feedback.rule = 'expected' simulates no controller",
        )
    else:
        yield ["feedback.form"], "only feedback.rule = 'expected' has several forms"


def _unused_by_optimizers(config):
    for section in ("optimizer", "feedback_optimizer"):
        optimizer = getattr(config, section)
        chosen = OPTIMIZERS[optimizer.name]
        others = [key for key in SHARED if key not in chosen.keys] + ["options"] * (not chosen.options)
        yield [f"{section}.{key}" for key in others], f"{section}.name = {optimizer.name!r}"
        if optimizer.clip_norm is None:
            yield [f"{section}.clip_scope"], f"{section}.clip_norm = 'none'"
    if config.feedback_optimizer.decay != "homeostatic":
        yield ["feedback_optimizer.homeostatic_norm"], "feedback_optimizer.decay = 'l2' keeps no norm"


def _unused_by_log(config):
    log, keys = config.log, ["log.samples", "log.every_step", "log.variables", "log.dtype"]
    stored = {"inversion": "r_x and r_y", EQUILIBRIUM: "s and, with two sides, s_minus"}.get(
        method_of(config).simulates
    )
    if stored:
        yield ["log.variables"], f"training.method = {config.training.method!r} stores {stored}"
    if not log.on:
        yield [f"log.{key}" for key in type(log).model_fields if key != "on"], "log.on = false"
    if log.recipe_only:
        yield keys, "log.recipe_only = true stores no trajectories"
    if not any(simulation_of(phase, config) for phase in logged_phases(config)):
        yield keys, "nothing is simulated in the phases that are logged"


def _unused_by_analysis(config):
    if config.analysis.every == 0:
        keys = [f"analysis.{key}" for key in type(config.analysis).model_fields if key != "every"]
        yield keys, "analysis.every = 0 measures nothing"
    if not any(MEASURES[name].damped for name in config.analysis.what):
        yield ["analysis.damping"], f"analysis.what = {list(config.analysis.what)} does not depend on it"


def _unused_by_inversion(config):
    inversion, method = config.inversion, config.training.method
    keys = LOOP_KEYS - {path.partition(".")[2] for path in _unread(config, "inversion")}
    yield (
        [f"inversion.{key}" for key in sorted(LOOP_KEYS - keys)],
        f"training.method = {method!r} does not depend on it",
    )
    made = inversion.feedback if "feedback" in keys else "none"
    reason = (
        f"inversion.feedback = {made!r}"
        if made != "none"
        else f"training.method = {method!r} has no such feedback"
    )
    yield ["inversion.feedback_range"] if made not in ("random", "stable") else [], reason
    yield ["inversion.feedback_scale"] if made != "transpose" else [], reason
    if made != "stable" and ("restabilise" not in keys or inversion.restabilise == "never"):
        yield (
            ["inversion.stabilising_rate", "inversion.stabilising_iterations"],
            "no feedback is optimised for stability",
        )
