"""The configuration of a run: one validated, documented model; TOML in and out is in `config_file`.

Every section is a frozen model whose fields say what they mean and in which unit. What a method does not use
is refused when it is stated, so that no setting is accepted and ignored. The defaults are those of the preset
`digits`.
"""

from dataclasses import asdict, fields
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from dfc_numba.configuration.config_rules import contradictions
from dfc_numba.configuration.config_usage import published_pursuit, selects_minibatches, unused_places
from dfc_numba.configuration.values import (
    Activation,
    Activations,
    Analysis,
    FeedbackInitialisation,
    FeedbackRule,
    ForwardRule,
    Initialisation,
    LossName,
    MethodName,
    MethodOptions,
    Observers,
    OptimizerName,
    PerLayer,
    Phase,
    Samples,
    Variable,
    Widths,
    completed,
)
from dfc_numba.model.controller import Controller
from dfc_numba.registry import METHODS, OPTIMIZERS
from dfc_numba.support import ranges
from dfc_numba.support.shapes import html_table


class Section(BaseModel):
    """Base of the sections: frozen, strict types, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class DataSection(Section):
    """The source of the samples."""

    name: str = Field(
        "digits",
        description="data set: digits, student_teacher, mnist, ..., or file for a .npz or .h5 of your own",
    )
    options: dict[str, Any] = Field(
        {},
        description="options of this data set, such as validation_size, split_seed, or the path of a file",
    )


class NetworkSection(Section):
    """The network: hidden layers; the data set decides the number of inputs and outputs."""

    hidden: Widths = Field((128, 64), description="units of each hidden layer")
    hidden_activation: Activations = Field(
        "tanh", description="one activation, or a list with one per hidden layer"
    )
    output_activation: Activation = Field(
        "linear", description="activation of the output layer; the softmax belongs to the loss"
    )
    bias: bool = Field(True, description="whether the layers have biases")
    init: Initialisation = Field(
        "xavier_normal", description="initial forward weights; orthonormal: orthogonal without its scale"
    )
    init_range: ranges.InitialRange = Field(0.01, description="init = uniform draws from +- this")
    feedback_init: FeedbackInitialisation = Field(
        "xavier_normal",
        description="initial feedback weights; those of the output layer are the identity, except with jacobian_...: "
        "the mean over the first samples of J^T, J^+ or J^T (J J^T + feedback_damping I)^-1",
    )
    feedback_noise: ranges.InitialNoise = Field(
        0.0, description="standard deviation of noise added to feedback_init = weight_product"
    )
    feedback_damping: ranges.Damping = Field(
        0.0, description="damping of feedback_init = jacobian_damped_pinv, above 0"
    )
    start_from: str = Field(
        "", description="path of a saved network whose weights the run starts from; empty for none"
    )


class TargetSection(Section):
    """The loss, and the output target r* that the controller pursues."""

    loss: LossName = Field("cross_entropy", description="mean loss over the minibatch (mse: and the outputs)")
    feedback: Literal["weak", "strong"] = Field(
        "weak", description="weak: nudge the output; strong: the target itself"
    )
    step: ranges.NudgeStep = Field(
        0.1, description="nudge: r* = r_L - step * gradient of the loss of a sample"
    )
    step_per: Literal["sample", "minibatch"] = Field(
        "sample",
        description="minibatch: each sample is nudged by step / batch size (the DFC paper's convention)",
    )
    class_value: ranges.ClassValue = Field(
        1.0, description="target of the true class; the others share the rest"
    )


class TrainingSection(Section):
    """What is learned, for how long and in which precision."""

    method: MethodName = Field("dfc", description="learning method")
    rule: ForwardRule = Field("nonlinear_difference", description="plasticity rule of the forward weights")
    samples: Literal["all", "converged"] = Field(
        "all", description="converged: samples that did not converge are left out"
    )
    epochs: ranges.Count = Field(10, description="epochs of forward learning")
    batch_size: ranges.Count = Field(
        32, description="samples per minibatch; the last one of an epoch may be smaller"
    )
    seed: ranges.Seed = Field(0, description="seed of initialisation, order of samples and noise")
    dtype: Literal["float64", "float32"] = Field("float64", description="precision of network and simulation")
    freeze_forward: bool = Field(False, description="learn the feedback weights only")
    clip_error: ranges.ClipError | None = Field(
        None,
        description="largest norm of a sample's error in a hidden layer, the output's error being target - output; none: "
        "no clipping",
    )
    normalise_updates: bool = Field(
        False, description="divide a sample's update of each array by its norm (Frobenius)"
    )
    observers: Observers = Field(
        {}, description="observers of the run: early_stopping, tensorboard, ..., each with its options"
    )


class FeedbackSection(Section):
    """Learning of the feedback weights from noise."""

    train: bool = Field(True, description="whether the feedback weights learn")
    rule: FeedbackRule = Field(
        "noise_driven",
        description="what the feedback epochs do: noise_driven simulates the controller, one_shot correlates noise with "
        "its effect on a forward pass, expected computes the mean of noise_driven over its noise; or a plasticity rule of "
        "feedback "
        "weights, in the simulation of noise_driven",
    )
    form: Literal["mean_field", "exact", "one_probe"] = Field(
        "mean_field",
        description="of rule = expected: mean_field from the minibatch's mean Jacobian, exact sample by sample, one_probe a "
        "random estimate from one backward pass",
    )
    pursue: Literal["output", "target"] | None = Field(
        None,
        description="constant r* of the feedback epochs: the feedforward output, or what the forward epochs pursue; left "
        "out: output for two phases with target.feedback = weak, else target",
    )
    pretraining_pursue: Literal["output", "target"] | None = Field(
        None, description="the same for the epochs before the first forward epoch; none: as feedback.pursue"
    )
    pretraining_epochs: ranges.CountOrZero = Field(
        3, description="epochs of feedback learning before the first forward epoch"
    )
    epochs: ranges.CountOrZero = Field(1, description="feedback epochs before each forward epoch")
    extra_epochs: ranges.CountOrZero = Field(0, description="feedback epochs after each forward epoch")
    scaling: bool = Field(False, description="scale layer i by (1 + tau_v / tau_noise) ** (L - i)")
    high_pass: ranges.TimeConstant | None = Field(
        None, description="time constant tau_f of a high-pass filter on u; none: no filter"
    )
    sigma_floor: ranges.SigmaFloor = Field(
        0.01, description="the update is divided by max(sigma, sigma_floor) ** 2"
    )
    freeze_output: bool = Field(False, description="keep the feedback weights of the output layer")


RATE = "one number, or a list with one per layer"
DECAY = "L2 term added to the gradient, per unit weight"


class _Optimizer(Section):
    """An optimiser. It is handed -2 times the plasticity update, to which the published values refer."""

    name: OptimizerName = Field("adam", description="sgd (with momentum), nesterov, adam, or centred rmsprop")
    learning_rate: PerLayer = Field(0.005, description=RATE)
    cosine_to: ranges.UpToOne | None = Field(
        None,
        description="fraction of the learning rate that half a cosine over the epochs falls to; none: it stays",
    )
    momentum: ranges.BelowOne = Field(
        0.0, description="momentum of sgd, nesterov (there 0.9 by default) and rmsprop"
    )
    beta1: ranges.BelowOne = Field(0.9, description="adam: decay of the first moment, per update")
    beta2: ranges.BelowOne = Field(
        0.999, description="adam: of the second moment; rmsprop: of both (published: 0.95)"
    )
    epsilon: PerLayer = Field(
        1e-8, description="adam, rmsprop (published: 0.03): added to the root; or a list"
    )
    weight_decay: ranges.NotNegative = Field(0.0, description=DECAY)
    clip_norm: ranges.Positive | None = Field(
        None, description="largest norm of the gradient; none: no clipping"
    )
    clip_scope: Literal["layer", "tensor", "all"] = Field("layer", description="scope of clip_norm")

    options: dict[str, Any] = Field({}, description="options specific to this optimiser")

    @model_validator(mode="before")
    @classmethod
    def _fill_defaults(cls, table):
        """Fill keys that a table leaves open with the defaults of the chosen optimiser, such as the published ones."""
        name = table.get("name") if isinstance(table, dict) else None
        chosen = OPTIMIZERS.get(name) if isinstance(name, str) else None
        return table if chosen is None else {**chosen.defaults, **table}

    @model_validator(mode="after")
    def _complete_options(self):
        values = completed(OPTIMIZERS[self.name], self.options, "options")
        object.__setattr__(self, "options", values)
        return self


class OptimizerSection(_Optimizer):
    """The optimiser of the forward weights."""

    modulation: (
        Literal["grapes", "grapes-clipped", "grapes-propagating", "grapes-propagating-clipped"] | None
    ) = Field(
        None,
        description="grapes: the gradient of a hidden unit times its responsibility (GRAPES, local form), in (0, 2]; "
        "propagating: errors on their way down times it, or times the senders' where they come straight from the output; "
        "clipped: in [1, 2]",
    )
    divide_by_step: bool = Field(False, description="divide the learning rate by target.step")


class FeedbackOptimizerSection(_Optimizer):
    """The optimisers of the feedback weights: one for the pre-training, another for the epochs afterwards."""

    learning_rate: PerLayer = Field(0.001, description=RATE)
    pretraining_learning_rate: PerLayer = Field(0.003, description="learning rate of the pre-training")
    weight_decay: ranges.NotNegative = Field(0.1, description=DECAY)
    decay: Literal["l2", "homeostatic"] = Field(
        "l2", description="homeostatic: weight_decay is multiplied by ||Q||^2 - homeostatic_norm"
    )
    homeostatic_norm: ranges.Positive | None = Field(
        None, description="squared norm that the feedback weights keep; none: the one at the start of the run"
    )


class LogSection(Section):
    """The minibatches to log in the trajectory files of the run, and what to store of them."""

    on: bool = Field(True, description="whether the run is logged; stating any other key here turns it on")
    every: ranges.Count | None = Field(
        None,
        description="log every n-th minibatch of each pass over the data, from the first; none: not by this",
    )
    minibatches: Annotated[tuple[ranges.CountOrZero, ...], Field(strict=False)] = Field(
        (), description="log the minibatches with these running numbers in the run, from 0"
    )
    last_of_epoch: bool | None = Field(
        None,
        description="log the last minibatch of each pass over the data; left out: if no others are chosen",
    )
    phases: Annotated[tuple[Phase, ...], Field(strict=False)] = Field(
        (),
        description="log in these phases only: pretraining, feedback, forward, extra_feedback; empty: in all",
    )
    samples: Samples = Field(
        16,
        description="number of samples of a minibatch, from the first, or a list of their positions, from 0",
    )
    every_step: ranges.Count = Field(1, description="store every n-th time point, from the initial state")
    variables: Annotated[tuple[Variable, ...], Field(strict=False, min_length=1)] = Field(
        ("u", "u_int", "e", "error", "r", "v", "v_ff", "v_fb"),
        description="variables to store; v, v_ff, v_fb, r and noise of every layer",
    )
    dtype: Literal["float32", "float64"] = Field(
        "float32", description="precision in which trajectories are stored"
    )
    compression: Literal["none", "gzip", "zstd", "blosc"] = Field(
        "none", description="zstd and blosc need the extra compression"
    )
    recipe_only: bool = Field(
        False,
        description="store only what dfc replay computes the trajectories from: inputs, parameters, noise key",
    )
    updates: bool | None = Field(
        None, description="store the updates that were made; left out: unless recipe_only"
    )


class AnalysisSection(Section):
    """Measures of the theory while training, on a fixed probe batch: columns of metrics.csv, and analysis.h5."""

    every: ranges.CountOrZero = Field(
        0,
        description="measure before the first minibatch, after every n-th one of the run in any phase, and at the end of "
        "each epoch; 0: never",
    )
    what: Annotated[tuple[Analysis, ...], Field(strict=False, min_length=1)] = Field(
        ("alignment",),
        description="alignment, loss_decrease, null_space: of the update that the method makes; conditions: of the network; "
        "control, stability: of the controlled network",
    )
    samples: ranges.Count = Field(
        32, description="samples of the probe batch, which are drawn once from the training set"
    )
    damping: ranges.Damping | None = Field(
        None,
        description="gamma of the damped Gauss-Newton and minimum-norm updates, 0: without; left out: controller.alpha",
    )


class InversionSection(Section):
    """Options of dynamic inversion and related rules, which send errors to hidden layers; times in time constants."""

    alpha: ranges.Leak = Field(0.0, description="leak of the error populations")
    dt: ranges.TimeStep = Field(0.5, description="Euler step")
    steps: ranges.Steps = Field(999, description="number of Euler steps")
    nonlinearity: Literal["linear", "tanh", "linearized"] = Field(
        "linear", description="psi(r) in the loops: r, tanh(r), or r / phi'(v)"
    )
    feedback: Literal["random", "transpose", "stable"] = Field(
        "transpose",
        description="feedback matrices B: uniform in +-feedback_range, feedback_scale times the transposed initial weights, "
        "or random and then optimised for stability (sldi: with alpha, the others: without)",
    )
    feedback_range: ranges.InitialRange = Field(
        0.5, description="feedback = random, stable: drawn from +- this"
    )
    feedback_scale: ranges.FeedbackScale = Field(
        -1.0, description="feedback = transpose: factor; di, sldi and ndi need it negative"
    )
    restabilise: Literal["never", "continuous", "euler"] = Field(
        "never",
        description="after each update, optimise the feedback of loops that have become unstable: in continuous time, or "
        "in the Euler steps that are run",
    )
    stabilising_rate: ranges.StabilisingRate = Field(0.05, description="optimising for stability: step size")
    stabilising_iterations: ranges.StabilisingIterations = Field(
        200,
        description="optimising for stability: maximum number of iterations; a 20th of them are always done",
    )


DEFAULT_CONTROLLER = Controller(dt=0.05, steps=99, alpha=0.001, k_p=1.0)
DEFAULT_FEEDBACK_CONTROLLER = Controller(
    dt=0.002, steps=49, alpha=0.6, k_p=0.15, tau_v=0.006, tau_apical=0.32, proactive=False, sigma=0.01
)


def _controller_over(default):
    """Return a validator that completes a table with some options of a controller by those of `default`."""

    def fill(value):
        if not isinstance(value, dict):
            return value
        if "duration" in value:
            value = Controller.translated({"dt": default.dt, **value})
        return {**asdict(default), **value}

    return BeforeValidator(fill)


class Config(Section):
    """Everything that a run depends on.

    Raises:
        pydantic.ValidationError: (a `ValueError`) for an unknown key, a value that is not allowed, a
            contradiction, or a key that is stated although this run does not use it.
    """

    data: DataSection = Field(DataSection(), description="source of the samples")
    network: NetworkSection = Field(NetworkSection(), description="the network")
    target: TargetSection = Field(TargetSection(), description="loss and output target")
    training: TrainingSection = Field(TrainingSection(), description="what is learned, and for how long")
    method: dict[str, Any] = Field({}, description="options of the learning method")
    controller: Annotated[Controller, _controller_over(DEFAULT_CONTROLLER)] = Field(
        DEFAULT_CONTROLLER,
        description="the simulation that the forward weights learn from; times in units of tau_u",
    )
    feedback: FeedbackSection = Field(
        FeedbackSection(), description="learning of the feedback weights from noise"
    )
    feedback_controller: Annotated[Controller, _controller_over(DEFAULT_FEEDBACK_CONTROLLER)] = Field(
        DEFAULT_FEEDBACK_CONTROLLER,
        description="the simulation that the feedback weights learn from; times in units of tau_u",
    )
    optimizer: OptimizerSection = Field(OptimizerSection(), description="optimiser of the forward weights")
    feedback_optimizer: FeedbackOptimizerSection = Field(
        FeedbackOptimizerSection(), description="optimisers of the feedback weights"
    )
    inversion: InversionSection = Field(
        InversionSection(), description="how errors reach the hidden layers by dynamic inversion"
    )
    log: LogSection = Field(LogSection(on=False), description="trajectories of chosen minibatches")
    analysis: AnalysisSection = Field(
        AnalysisSection(),
        description="quantities of the theory to measure while training, on a fixed probe batch",
    )

    def __repr__(self):
        training, hidden = self.training, "-".join(map(str, self.network.hidden))
        return (
            f"Config({self.data.name}, {training.method}, hidden {hidden}, {self.target.loss}, epochs {training.epochs}, "
            f"minibatches of {training.batch_size}, seed {training.seed}, {training.dtype})"
        )

    def _repr_html_(self):
        unused = self.unused_keys()
        rows = [
            (path, str(values[key]))
            for section in type(self).model_fields
            for values in [_values(getattr(self, section))]
            for key in values
            if (path := f"{section}.{key}") not in unused
        ]
        return html_table("Config: what this run uses", ("key", "value"), rows)

    @model_validator(mode="wrap")
    @classmethod
    def _refuse_unused(cls, table, handler, info):
        config = handler(table)
        unused = config.unused_keys() if (info.context or {}).get("refuse_unused", True) else {}
        stated = [path for path in key_paths(table) if path in unused]
        if stated:
            raise ValueError(
                f"{', '.join(stated)}: not used, because {unused[stated[0]]}; remove what is not used"
            )
        return config

    @model_validator(mode="after")
    def _complete_options(self):
        """Check the options of the method, and fill in the defaults."""
        method = METHODS[self.training.method]
        for section, _, key in (place.partition(".") for place in method.reads):
            if key and key not in vars(getattr(self, section)):
                raise ValueError(
                    f"method {method.name!r} reads {section}.{key}, which is not a key; keys of [{section}]: "
                    f"{', '.join(vars(getattr(self, section)))}"
                )
        known = {option.name for option in method.options}
        stated = {name: value for name, value in self.method.items() if name in known}
        others = {name: value for name, value in self.method.items() if name not in known}
        object.__setattr__(self, "method", MethodOptions(completed(method, stated, "method") | others))
        return self

    @model_validator(mode="after")
    def _resolve(self):
        """Fill in what is left open, before anyone sees the frozen model."""
        log = self.log
        self._fill_in("feedback", pursue=published_pursuit(self))
        self._fill_in("log", last_of_epoch=not selects_minibatches(log), updates=not log.recipe_only)
        self._fill_in("analysis", damping=self.controller.alpha)
        return self

    def _fill_in(self, section, **values):
        """Fill open keys of a section with these values."""
        table = getattr(self, section)
        values = {key: value for key, value in values.items() if getattr(table, key) is None}
        object.__setattr__(self, section, table.model_copy(update=values))

    @model_validator(mode="after")
    def _refuse_contradictions(self):
        remedies = contradictions(self)
        if remedies:
            raise ValueError("; ".join(remedies))
        return self

    def unused_keys(self):
        """Return the keys, as `section.key`, that a run with this configuration does not use, and why."""
        unused = {}
        for place, reason in unused_places(self):
            paths = [place] if "." in place else [f"{place}.{key}" for key in section_keys(place, self)]
            unused.update((path, reason) for path in paths if path not in unused)
        return unused


def _values(section):
    return section if isinstance(section, dict) else vars(section)


def section_keys(section, config=None):
    """Return the names of the keys of a section, in order; those of [method] depend on the configuration."""
    if section == "method":
        return [] if config is None else list(config.method)
    kind = Config.model_fields[section].annotation
    return [field.name for field in fields(kind)] if kind is Controller else list(kind.model_fields)


def key_paths(table):
    """Return the keys that a table of sections states, as `section.key`."""
    sections = table.items() if isinstance(table, dict) else ()
    return [f"{section}.{key}" for section, keys in sections if isinstance(keys, dict) for key in keys]
