"""The types of the values of a configuration: names from the registries, one value or one per layer, numbers in bounds."""

from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, PlainSerializer, PlainValidator

from dfc_numba.learning.phases import EXPECTED, ONE_SHOT, PHASES, phase_name
from dfc_numba.model import recording
from dfc_numba.model.initialization import Initialisation as Initialisation
from dfc_numba.registry import (
    ACTIVATIONS,
    HOW_TO_LOAD,
    LOSSES,
    MEASURES,
    METHODS,
    OBSERVERS,
    OPTIMIZERS,
    PLASTICITY_RULES,
    VARIABLES,
)
from dfc_numba.support.ranges import Count, LearningRate, contains
from dfc_numba.support.wording import nearest

FeedbackInitialisation = Literal[
    "xavier_normal", "xavier", "orthogonal",
    "weight_product", "jacobian_transpose", "jacobian_pinv", "jacobian_damped_pinv",
]  # fmt: skip
Phase = Annotated[
    Literal[PHASES],  # type: ignore[valid-type]
    BeforeValidator(lambda value: phase_name(value) if isinstance(value, str) else value),
]


def registered(registry, suits=None, others=()):
    """Return the validator of a name in a registry.

    Args:
        suits: function of the registered object that says whether it is allowed; None allows all.
        others: further names that are allowed.
    """

    def check(value):
        names = [*others, *(name for name, item in registry.items() if suits is None or suits(item))]
        if isinstance(value, str) and value in names:
            return value
        raise ValueError(must_be(registry, value, names))

    return PlainValidator(check)


def must_be(registry, value, names):
    """Return the sentence about a name that is not one of these."""
    *first, last = map(repr, names)
    texts = f"{', '.join(first)} or {last}" if first else last
    hint = nearest(value, names) if isinstance(value, str) else ""
    return f"must be {texts}{hint} (if an extension brings this {registry.kind}, load it: {HOW_TO_LOAD})"


Activation = Annotated[str, registered(ACTIVATIONS)]
ForwardRule = Annotated[str, registered(PLASTICITY_RULES, lambda rule: rule.weights == "forward")]
FeedbackRule = Annotated[
    str, registered(PLASTICITY_RULES, lambda rule: rule.weights == "feedback", others=(ONE_SHOT, EXPECTED))
]
Variable = Annotated[str, registered(VARIABLES, others=get_args(recording.Variable))]
MethodName = Annotated[str, registered(METHODS)]
LossName = Annotated[str, registered(LOSSES)]
Analysis = Annotated[str, registered(MEASURES)]
OptimizerName = Annotated[str, registered(OPTIMIZERS)]


def completed(item, stated, section):
    """Return the values of the options of a registered object: what is stated, checked, and the defaults.

    Args:
        stated: a dict. section: what messages call it, such as "method".

    Raises:
        ValueError: for an option that it does not have, or a value that is not allowed.
    """
    options = {option.name: option for option in item.options}
    for name in stated:
        if name not in options:
            known = f"its options are {', '.join(options)}" if options else "it has none"
            raise ValueError(
                f"{section}.{name}: {item.registry.kind} {item.name!r} has no such option{nearest(name, options)}; {known}"
            )
    return {name: option.checked_or_default(stated, section) for name, option in options.items()}


class MethodOptions(dict):
    """The section [method]: a dict whose keys are attributes, too; which there are, the method says."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(
                f"the method has no option {name!r}; its options are {', '.join(self)}"
            ) from None


def _check_observers(value):
    """Check observers by name with the values of their options; a list of names takes the defaults."""
    if isinstance(value, list | tuple) and all(isinstance(name, str) for name in value):
        value = {name: {} for name in value}
    if not isinstance(value, dict) or not all(isinstance(stated, dict) for stated in value.values()):
        raise ValueError(
            "must be a table of observers with their options, such as {early_stopping = {patience = 3}}, or a list of names"
        )
    unknown = [name for name in value if name not in OBSERVERS]
    if unknown:
        raise ValueError(must_be(OBSERVERS, unknown[0], OBSERVERS.names()))
    return {name: completed(OBSERVERS[name], stated, name) for name, stated in value.items()}


# a value that is one of several types by a validator of ours needs a serializer of ours, too
AS_IT_IS = PlainSerializer(lambda value: value, return_type=Any)


def one_or_per_layer(allowed, what):
    """Return a validator for one value, or a list with one value per layer (kept as a tuple)."""

    def check(value):
        values = value if isinstance(value, list | tuple) else [value]
        if not values or not all(map(allowed, values)):
            raise ValueError(f"must be {what}, or a list of them, one per layer")
        return tuple(value) if isinstance(value, list | tuple) else value

    return PlainValidator(check)


def _is_positive(value):
    return isinstance(value, int | float) and not isinstance(value, bool) and contains(LearningRate, value)


PerLayer = Annotated[
    float | tuple[float, ...], one_or_per_layer(_is_positive, "a number greater than 0"), AS_IT_IS
]


def _check_activations(value):
    """Check one activation, or a list with one per layer (kept as a tuple)."""
    names = value if isinstance(value, list | tuple) else [value]
    for name in names:
        if not isinstance(name, str) or name not in ACTIVATIONS:
            hint = nearest(name, ACTIVATIONS) if isinstance(name, str) else ""
            raise ValueError(
                f"must be one of {', '.join(ACTIVATIONS)}, or a list of them, one per layer{hint} (if an extension brings "
                f"this activation, load it: {HOW_TO_LOAD})"
            )
    if not names:
        raise ValueError("must be an activation, or a list of them, one per layer")
    return tuple(value) if isinstance(value, list | tuple) else value


Activations = Annotated[str | tuple[str, ...], PlainValidator(_check_activations), AS_IT_IS]


def _check_samples(value):
    """Check a number of samples, or a list of different positions (kept as a tuple)."""
    positions = value if isinstance(value, list | tuple) else [value - 1] if type(value) is int else []
    if (
        not positions
        or len({*positions}) < len(positions)
        or any(type(n) is not int or n < 0 for n in positions)
    ):
        raise ValueError("must be a number of samples, or a list of different positions, from 0")
    return tuple(value) if isinstance(value, list | tuple) else value


Samples = Annotated[int | tuple[int, ...], PlainValidator(_check_samples), AS_IT_IS]
Widths = Annotated[tuple[Count, ...], Field(strict=False, min_length=1)]
Observers = Annotated[dict[str, dict[str, Any]], PlainValidator(_check_observers), AS_IT_IS]
