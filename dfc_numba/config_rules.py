"""Rules between the keys of a configuration: what does not matter given the others, what contradicts."""

DFC_METHODS = ("dfc", "dfc-ss", "dfc-ssa")
OPTIMIZER_KEYS = {
    "sgd": {"momentum"},
    "adam": {"beta1", "beta2", "epsilon"},
    "rmsprop": {"momentum", "beta2", "epsilon"},
}
ANALYTIC_KEYS = {"alpha", "jacobian_feedback"}
NOTHING_LEARNS = (
    "training.freeze_forward = true leaves nothing to learn where the feedback weights do not; "
    "set training.freeze_forward = false, or use a DFC method with feedback.train = true"
)


def trains_feedback(config):
    """Whether the feedback weights learn in a run with this configuration."""
    return config.training.method in DFC_METHODS and config.feedback.train


def unused_places(config):
    """Pairs (place, reason) of what a run does not look at; a place is `section` or `section.key`."""
    rules = (
        _unused_by_network,
        _unused_by_method,
        _unused_by_target,
        _unused_by_feedback,
        _unused_by_optimizers,
    )
    return [(place, reason) for rule in rules for places, reason in rule(config) for place in places]


def _unused_by_network(config):
    if config.network.start_from:
        yield ["network.init", "network.feedback_init", "network.feedback_noise"], "network.start_from is set"
    if config.training.method == "bp":
        yield (
            ["network.feedback_init", "network.feedback_noise"],
            "backpropagation has no feedback weights of its own",
        )
    if config.network.feedback_init != "weight_product":
        yield ["network.feedback_noise"], "only network.feedback_init = 'weight_product' adds noise"


def _unused_by_method(config):
    training = config.training
    learning = ["training.rule", "training.samples"]
    if training.method not in DFC_METHODS:
        sections = ["controller", "feedback", "feedback_controller", "feedback_optimizer"]
        yield sections + learning, f"training.method = {training.method!r} runs no controller"
    if training.method == "dfc-ssa":
        keys = [f"controller.{key}" for key in vars(config.controller) if key not in ANALYTIC_KEYS]
        yield (
            [*keys, "training.samples"],
            "training.method = 'dfc-ssa' computes a steady state and simulates nothing",
        )
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
    if feedback.epochs == feedback.extra_epochs == 0:
        yield ["feedback_optimizer.learning_rate"], "feedback.epochs = feedback.extra_epochs = 0"


def _unused_by_optimizers(config):
    for section in ("optimizer", "feedback_optimizer"):
        optimizer = getattr(config, section)
        others = set.union(*OPTIMIZER_KEYS.values()) - OPTIMIZER_KEYS[optimizer.name]
        yield [f"{section}.{key}" for key in sorted(others)], f"{section}.name = {optimizer.name!r}"
        if optimizer.clip_norm is None:
            yield [f"{section}.clip_scope"], f"{section}.clip_norm = 'none'"


def contradictions(config):
    """The sentences, each saying what to change, for what contradicts itself."""
    rules = [*_lengths(config)]
    if config.training.method in DFC_METHODS:
        rules += _forward_learning(config)
    if trains_feedback(config):
        rules += _feedback_learning(config)
    elif config.training.freeze_forward:
        rules.append((True, NOTHING_LEARNS))
    return [remedy for is_so, remedy in rules if is_so]


def _lengths(config):
    """Lists that need one entry per layer."""
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


def _forward_learning(config):
    controller, samples = config.controller, config.training.samples
    yield (
        config.training.method == "dfc-ssa" and config.target.feedback == "strong",
        (
            "training.method = 'dfc-ssa' is linearised around the feedforward output, from which a strong "
            "target is far; set target.feedback = 'weak', or training.method = 'dfc-ss'"
        ),
    )
    yield _misplaced_softmax(config, "controller")
    yield (
        controller.error == "softmax" and config.target.class_value == 1,
        (
            "controller.error = 'softmax' cannot reach target.class_value = 1: the control would grow "
            "without bound; choose target.class_value below 1, such as 0.99"
        ),
    )
    yield (
        controller.error == "softmax" and samples == "converged",
        (
            "training.samples = 'converged' with controller.error = 'softmax' would discard every sample, "
            "since its error never falls to 0; set training.samples = 'all'"
        ),
    )


def _feedback_learning(config):
    feedback, controller = config.feedback, config.feedback_controller
    yield (
        not controller.noisy,
        (
            "feedback.train = true needs noise to learn from; set feedback_controller.sigma above 0, or "
            "feedback.train = false"
        ),
    )
    yield (
        feedback.pretraining_epochs == feedback.epochs == feedback.extra_epochs == 0,
        (
            "feedback.train = true without any feedback epochs; set feedback.pretraining_epochs, "
            "feedback.epochs or feedback.extra_epochs above 0, or feedback.train = false"
        ),
    )
    yield (
        controller.jacobian_feedback or config.controller.jacobian_feedback,
        (
            "jacobian_feedback = true goes without feedback weights, so that they cannot learn; set "
            "feedback.train = false"
        ),
    )
    yield (
        feedback.scaling and controller.tau_noise is None,
        (
            "feedback.scaling = true scales by the time constant of low-passed noise; set "
            "feedback_controller.tau_noise, or feedback.scaling = false"
        ),
    )
    yield _misplaced_softmax(config, "feedback_controller")


def _misplaced_softmax(config, section):
    """The rule that r* - softmax(r_L) is an error only for strong feedback towards classes."""
    suits = config.target.feedback == "strong" and config.target.loss == "cross_entropy"
    return getattr(config, section).error == "softmax" and not suits, (
        f"{section}.error = 'softmax' needs target.feedback = 'strong' and target.loss = 'cross_entropy'; "
        f"set these, or {section}.error = 'difference'"
    )
