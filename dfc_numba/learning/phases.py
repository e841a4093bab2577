"""The phases of a training: which run, what they simulate and what they log, by configuration."""

from dfc_numba.registry import METHODS

# the phases in the order of a run; the value is the stream of the random order of samples, which never changes its meaning
ORDER_STREAM = {"pretraining": 0, "feedback": 1, "forward": 2, "extra feedback": 3}
PHASES = tuple(ORDER_STREAM)
ONE_SHOT, EXPECTED = "one_shot", "expected"  # the rules of feedback weights that simulate nothing


def phase_name(text):
    """Return the name of a phase, also if written as in files: "extra feedback" for "extra_feedback"."""
    return text.replace("_", " ")


def group_name(phase):
    """Return the name of a phase in files, such as "extra_feedback"."""
    return phase.replace(" ", "_")


def method_of(config):
    """Return the `Method` of a configuration."""
    return METHODS.find(config.training.method, key="training.method")


def trains_feedback(config):
    """Return whether the feedback weights, or other weights that feedback phases learn, learn in a run."""
    return method_of(config).feedback is not None and config.feedback.train


def is_single_phase(config):
    """Return whether forward and feedback weights learn from the same simulation."""
    return method_of(config).single_phase


def solves(config):
    """Return whether the forward phase solves for the steady state of the controller instead of simulating."""
    return method_of(config).solves


def solves_in_time(config):
    """Return whether the forward phase is solved by the waveform integrator instead of stepped."""
    simulates = method_of(config).simulations.get("forward") == "controller"
    return simulates and not config.training.freeze_forward and config.controller.integrator == "waveform"


def is_controlled(config):
    """Return whether the forward phase drives the outputs to a target with a controller."""
    return method_of(config).controlled and not config.training.freeze_forward


def has_feedback_weights(config):
    """Return whether the network's feedback weights bring errors to the hidden layers."""
    method = method_of(config)
    without = method.controlled and config.controller.jacobian_feedback
    return method.reads_any("network.feedback_init") and not without


def logs(config):
    """Return whether trajectories are logged in a run."""
    return config.log.on and method_of(config).reads_any("log")


def feedback_epochs(config):
    """Return the number of feedback passes by phase: all of "pretraining"; of the others those of each epoch."""
    feedback, phases = config.feedback, method_of(config).phases
    if not trains_feedback(config):
        return {}
    counts = {
        "pretraining": feedback.pretraining_epochs,
        "feedback": feedback.epochs,
        "extra feedback": feedback.extra_epochs,
    }
    return {phase: count for phase, count in counts.items() if phase in phases}


def later_feedback_epochs(config):
    """Return the number of feedback passes before and after each forward pass."""
    feedback, phases = config.feedback, method_of(config).phases
    return feedback.extra_epochs + (feedback.epochs if "feedback" in phases else 0)


def learning_phases(config):
    """Return the phases of a run that make updates, in their order."""
    passes = {**feedback_epochs(config), "forward": not config.training.freeze_forward}
    return [phase for phase in PHASES if passes.get(phase)]


def logged_phases(config):
    """Return the phases of a run whose updates are logged, in their order."""
    return [phase for phase in learning_phases(config) if phase in (config.log.phases or PHASES)]


def simulation_of(phase, config):
    """Return the controller's or inversion's section that a phase simulates for its update; None without simulation."""
    if phase != "forward" and config.feedback.rule in (ONE_SHOT, EXPECTED):
        return None
    return method_of(config).simulations.get(phase)


def feedback_simulations(config):
    """Return the sections of the controllers from whose noisy simulations, or their mean, the feedback weights learn."""
    if not trains_feedback(config) or config.feedback.rule == ONE_SHOT:
        return []
    if not is_single_phase(config):
        return ["feedback_controller"]
    return ["controller"] + (["feedback_controller"] if config.feedback.pretraining_epochs else [])


def simulated_steps(phase, config):
    """Return how many steps a minibatch of this phase simulates (for estimates of time); 0 without simulation."""
    section = simulation_of(phase, config)
    if section and section not in type(config).model_fields:  # the steps are options of the method
        return sum(config.method.get(name, 0) for name in ("free_steps", "nudged_steps"))
    return getattr(config, section).steps if section else 0
