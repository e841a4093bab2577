"""The types of the values of a configuration: names from the registries, one value or one per layer, numbers in bounds."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, PlainValidator

from dfc_numba.configuration.config_usage import ANALYSES
from dfc_numba.learning.phases import PHASES, phase_name
from dfc_numba.registry import METHODS
from dfc_numba.support.options import Count

Activation = Literal["linear", "tanh", "relu", "leakyrelu", "sigmoid"]
Initialisation = Literal["xavier_normal", "xavier", "orthogonal", "orthonormal", "uniform"]
FeedbackInitialisation = Literal[
    "xavier_normal", "xavier", "orthogonal",
    "weight_product", "jacobian_transpose", "jacobian_pinv", "jacobian_damped_pinv",
]  # fmt: skip
Phase = Annotated[
    Literal[PHASES],
    BeforeValidator(lambda value: phase_name(value) if isinstance(value, str) else value),
]
Analysis = Literal[ANALYSES]
Variable = Literal["u", "u_int", "e", "error", "r", "v", "v_ff", "v_fb", "noise"]
CountOrZero = Annotated[int, Field(ge=0, lt=2**31)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]

ACTIVATIONS = Activation.__args__


def registered(registry):
    """The type of a name in a registry."""

    def check(value):
        if isinstance(value, str) and value in registry:
            return value
        raise ValueError(registry.must_be(value))

    return Annotated[str, PlainValidator(check)]


MethodName = registered(METHODS)

# a value that is one of several types by a validator of ours needs a serializer of ours, too
AS_IT_IS = PlainSerializer(lambda value: value, return_type=Any)


def one_or_per_layer(allowed, what):
    """A validator for one value, or a list with one value per layer (kept as a tuple)."""

    def check(value):
        values = value if isinstance(value, list | tuple) else [value]
        if not values or not all(map(allowed, values)):
            raise ValueError(f"must be {what}, or a list of them, one per layer")
        return tuple(value) if isinstance(value, list | tuple) else value

    return PlainValidator(check)


def _is_positive(value):
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")


PerLayer = Annotated[
    float | tuple[float, ...], one_or_per_layer(_is_positive, "a number greater than 0"), AS_IT_IS
]
Activations = Annotated[
    str | tuple[str, ...],
    one_or_per_layer(ACTIVATIONS.__contains__, "one of " + ", ".join(ACTIVATIONS)),
    AS_IT_IS,
]


def _check_samples(value):
    """A number of samples, or a list of different positions (kept as a tuple)."""
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
