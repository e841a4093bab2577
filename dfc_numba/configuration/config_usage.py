"""Which keys of a configuration a run looks at, given the others; what it does not look at is refused when stated."""

SINGLE_PHASE = "dfc-single-phase"
LEARNING_PHASES = ("pretraining", "feedback", "forward", "extra feedback")
DFC_METHODS = ("dfc", "dfc-ss", "dfc-ss-newton", "dfc-ssa", SINGLE_PHASE)
# methods whose feedback matrices invert the weights, and the keys of [inversion] that each looks at
LOOP_KEYS = {"alpha", "dt", "steps", "nonlinearity", "restabilise", "feedback"}
LOOP_METHODS = ("di", "sldi")
INVERSION_KEYS = dict.fromkeys(LOOP_METHODS, LOOP_KEYS) | {"ndi": {"alpha", "feedback"}, "fa": {"feedback"}, "pbp": set()}
# what can be measured, and what of it depends on analysis.damping
ANALYSES = ("alignment", "loss_decrease", "null_space", "conditions", "control", "stability")
DAMPED = {"alignment", "loss_decrease"}
# methods that solve for the steady state, and what of the controller it depends on
SOLVED_KEYS = {
    "dfc-ssa": {"alpha", "leak", "jacobian_feedback"},
    "dfc-ss-newton": {"alpha", "leak", "error"},
}
OPTIMIZER_KEYS = {
    "sgd": {"momentum"},
    "adam": {"beta1", "beta2", "epsilon"},
    "rmsprop": {"momentum", "beta2", "epsilon"},
}
FEEDBACK_INIT_KEYS = ["network.feedback_init", "network.feedback_noise", "network.feedback_damping"]
# initialisations that have a number of their own
SPECIAL_INIT_KEYS = {
    "weight_product": "network.feedback_noise",
    "jacobian_damped_pinv": "network.feedback_damping",
}


def trains_feedback(config):
    """Whether the feedback weights learn in a run with this configuration."""
    return config.training.method in DFC_METHODS and config.feedback.train


def is_single_phase(config):
    """Whether forward and feedback weights learn from the same simulation."""
    return config.training.method == SINGLE_PHASE


def solves(config):
    """Whether the forward phase solves for the steady state instead of simulating."""
    return config.training.method in SOLVED_KEYS


def later_feedback_epochs(config):
    """Feedback epochs before and after each forward epoch."""
    return config.feedback.extra_epochs + (0 if is_single_phase(config) else config.feedback.epochs)


def feedback_simulations(config):
    """Sections of the controllers whose noisy simulations the feedback weights learn from."""
    if not trains_feedback(config) or config.feedback.rule == "one_shot":
        return []
    if not is_single_phase(config):
        return ["feedback_controller"]
    return ["controller"] + (["feedback_controller"] if config.feedback.pretraining_epochs else [])


def logs(config):
    """Whether trajectories are logged in a run with this configuration."""
    return config.log.on and config.training.method in (*DFC_METHODS, *LOOP_METHODS)


def selects_minibatches(log):
    """Whether a section `[log]` chooses any minibatches, beside the last of each pass."""
    return log.every is not None or len(log.minibatches) > 0


def possible_analyses(config):
    """What of `ANALYSES` has a meaning for a run with this configuration."""
    training = config.training
    has_feedback = training.method == "dfa" or (
        training.method in DFC_METHODS and not config.controller.jacobian_feedback
    )
    controls = training.method in DFC_METHODS and not training.freeze_forward
    runs = {"conditions": has_feedback, "control": controls and has_feedback, "stability": controls}
    return [name for name in ANALYSES if runs.get(name, not training.freeze_forward)]


def logged_phases(config):
    """The phases of the run whose updates are logged, in their order."""
    return [phase for phase in learning_phases(config) if phase in (config.log.phases or LEARNING_PHASES)]


def learning_phases(config):
    """The phases of a run by a method that is logged that make updates, in their order."""
    feedback = config.feedback if trains_feedback(config) else None
    runs = {
        "pretraining": feedback and feedback.pretraining_epochs > 0,
        "feedback": feedback and feedback.epochs > 0 and not is_single_phase(config),
        "forward": not config.training.freeze_forward,
        "extra feedback": feedback and feedback.extra_epochs > 0,
    }
    return [phase for phase in LEARNING_PHASES if runs[phase]]


def simulation_of(phase, config):
    """The section of the controller or inversion that a phase simulates for its update; None if it simulates nothing."""
    if config.training.method in LOOP_METHODS:
        return "inversion"
    if phase == "forward":
        return None if solves(config) else "controller"
    if config.feedback.rule == "one_shot":
        return None
    return "controller" if phase == "extra feedback" and is_single_phase(config) else "feedback_controller"


def published_pursuit(config):
    """What the published feedback epochs pursue: the output in two phases with weak feedback, else the target."""
    two_phases = not is_single_phase(config)
    return "output" if two_phases and config.target.feedback == "weak" else "target"


def unused_places(config):
    """Pairs (place, reason) of what a run does not look at; a place is `section` or `section.key`."""
    rules = (
        _unused_by_network,
        _unused_by_method,
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
        yield ["network.init_range"], "only network.init = 'uniform' looks at it"
    if config.training.method == "bp":
        yield FEEDBACK_INIT_KEYS, "backpropagation has no feedback weights of its own"
    if config.training.method in INVERSION_KEYS:
        yield FEEDBACK_INIT_KEYS, f"training.method = {config.training.method!r} has the feedback of [inversion], if any"
    if config.training.method in DFC_METHODS and config.controller.jacobian_feedback:
        yield FEEDBACK_INIT_KEYS, "controller.jacobian_feedback = true goes without feedback weights"
    for init, key in SPECIAL_INIT_KEYS.items():
        if config.network.feedback_init != init:
            yield [key], f"only network.feedback_init = {init!r} looks at it"


def _unused_by_method(config):
    training = config.training
    learning = ["training.rule", "training.samples"]
    if training.method not in DFC_METHODS:
        sections = ["controller", "feedback", "feedback_controller", "feedback_optimizer"]
        yield (
            sections + learning,
            f"training.method = {training.method!r} runs no controller and learns no feedback weights",
        )
    else:
        reason = f"training.method = {training.method!r} brings no errors of single samples to the hidden layers"
        yield ["training.clip_error", "training.normalise_updates"], reason
    if solves(config):
        keys = SOLVED_KEYS[training.method] | ({"k_p"} if config.controller.leak == "integral" else set())
        yield (
            [f"controller.{key}" for key in vars(config.controller) if key not in keys],
            f"training.method = {training.method!r} computes a steady state and simulates nothing",
        )
    if training.method == "dfc-ssa":
        yield ["training.samples"], "training.method = 'dfc-ssa' simulates nothing that could converge"
    if training.freeze_forward:
        yield ["controller", "optimizer", *learning], "training.freeze_forward = true"


def _unused_by_target(config):
    step = [] if config.optimizer.divide_by_step else ["target.step"]
    if config.training.method not in DFC_METHODS:
        reason = f"training.method = {config.training.method!r} has no output target"
        yield ["target.feedback", "target.step_per", *step], reason
    if config.target.feedback == "strong":
        yield ["target.step_per", *step], "target.feedback = 'strong' pursues the target itself"


def _unused_by_feedback(config):
    feedback = config.feedback
    if not feedback.train:
        keys = [f"feedback.{key}" for key in type(feedback).model_fields if key != "train"]
        yield [*keys, "feedback_controller", "feedback_optimizer"], "feedback.train = false"
    if feedback.pretraining_epochs == 0:
        yield ["feedback_optimizer.pretraining_learning_rate"], "feedback.pretraining_epochs = 0"
    if is_single_phase(config):
        yield from _unused_by_single_phase(feedback)
    elif later_feedback_epochs(config) == 0:
        yield ["feedback_optimizer.learning_rate"], "feedback.epochs = feedback.extra_epochs = 0"
    if is_single_phase(config) or later_feedback_epochs(config) == 0:
        reason = "the pre-training, which alone runs this controller, controls the difference r* - r_L"
        yield ["feedback_controller.error"], reason


def _unused_by_single_phase(feedback):
    reason = f"training.method = {SINGLE_PHASE!r} learns the feedback weights from the simulation of the forward epochs"
    yield ["feedback.epochs"], reason
    if feedback.pretraining_epochs == 0:
        yield ["feedback_controller"], f"{reason}, and feedback.pretraining_epochs = 0"
    if feedback.pretraining_epochs == feedback.extra_epochs == 0:
        yield ["feedback.pursue"], f"{reason}, and there are no other feedback epochs"


def _unused_by_feedback_rule(config):
    if config.feedback.rule == "one_shot":
        keys = [f"feedback_controller.{key}" for key in vars(config.feedback_controller) if key != "sigma"]
        keys += ["feedback.scaling", "feedback.pursue", "feedback.high_pass"]
        yield keys, "feedback.rule = 'one_shot' simulates no controller"


def _unused_by_optimizers(config):
    for section in ("optimizer", "feedback_optimizer"):
        optimizer = getattr(config, section)
        others = set.union(*OPTIMIZER_KEYS.values()) - OPTIMIZER_KEYS[optimizer.name]
        yield [f"{section}.{key}" for key in sorted(others)], f"{section}.name = {optimizer.name!r}"
        if optimizer.clip_norm is None:
            yield [f"{section}.clip_scope"], f"{section}.clip_norm = 'none'"
    if config.feedback_optimizer.decay != "homeostatic":
        yield ["feedback_optimizer.homeostatic_norm"], "feedback_optimizer.decay = 'l2' keeps no norm"


def _unused_by_log(config):
    log, keys = config.log, ["log.samples", "log.every_step", "log.variables", "log.dtype"]
    if config.training.method in LOOP_METHODS:
        yield ["log.variables"], f"training.method = {config.training.method!r} stores r_x and r_y"
    elif config.training.method not in DFC_METHODS:
        yield ["log"], f"training.method = {config.training.method!r} runs no controller that could be logged"
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
    if not DAMPED & {*config.analysis.what}:
        yield ["analysis.damping"], f"analysis.what = {list(config.analysis.what)} does not depend on it"


def _unused_by_inversion(config):
    inversion, method = config.inversion, config.training.method
    keys = INVERSION_KEYS.get(method, set())
    yield (
        [f"inversion.{key}" for key in sorted(LOOP_KEYS - keys)],
        f"training.method = {method!r} does not depend on it",
    )
    made = inversion.feedback if "feedback" in keys else "none"
    reason = f"inversion.feedback = {made!r}" if made != "none" else f"training.method = {method!r} has no such feedback"
    yield ["inversion.feedback_range"] if made not in ("random", "stable") else [], reason
    yield ["inversion.feedback_scale"] if made != "transpose" else [], reason
    if made != "stable" and ("restabilise" not in keys or inversion.restabilise == "never"):
        yield ["inversion.stabilising_rate", "inversion.stabilising_iterations"], "no feedback is optimised for stability"
