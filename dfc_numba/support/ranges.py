"""The range of every number, written once: for arguments of functions, options and keys of the configuration alike.

A range is a type with bounds. Classes of options and sections of the configuration have it as the type of a field, which pydantic
enforces; `validation.number("sigma_floor", value, SigmaFloor)` holds an argument of a function to the same bounds, and
`Option("sigma", 0.1, type=Sigma)` an option of a registered object.
"""

import operator
from functools import cache
from typing import Annotated, Any, get_args

from pydantic import Field

LARGEST = 1e150  # of a number that is an argument or a setting: its square is finite, too

Finite = Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False, strict=True)]
Positive = Annotated[float, Field(gt=0, le=LARGEST, allow_inf_nan=False, strict=True)]
NotNegative = Annotated[float, Field(ge=0, le=LARGEST, allow_inf_nan=False, strict=True)]
AtLeastOne = Annotated[float, Field(ge=1, le=LARGEST, allow_inf_nan=False, strict=True)]
BelowOne = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False, strict=True)]
UpToOne = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, strict=True)]
Probability = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False, strict=True)]
Count = Annotated[int, Field(ge=1, lt=2**31, strict=True)]
CountOrZero = Annotated[int, Field(ge=0, lt=2**31, strict=True)]
Position = Annotated[int, Field(ge=0, lt=2**63, strict=True)]
Word = Annotated[int, Field(ge=0, lt=2**64, strict=True)]
Flag = Annotated[bool, Field(strict=True)]

# quantities that functions take as arguments or options, and that the configuration has as keys
TimeStep = Positive  # dt
TimeConstant = Positive  # tau_...
Steps = Count
Leak = NotNegative  # alpha of a controller, of a population of errors
PositiveLeak = Positive  # alpha of least control, which divides by it
Gain = NotNegative  # k_p, k_i
Sigma = NotNegative  # of noise, 0 for none
PositiveSigma = Positive  # of noise that something is learned from
SigmaFloor = Positive
NudgeStep = NotNegative  # lambda of an output target; 0 leaves the output where it is
ClassValue = Probability
ClipError = Positive
Damping = NotNegative
InitialRange = Positive  # half of an interval that weights are drawn from
InitialNoise = NotNegative
FeedbackScale = Finite
LearningRate = Annotated[float, Field(gt=0, lt=float("inf"), strict=True)]  # nothing squares it
StabilisingRate = Positive
Passes = Annotated[int, Field(ge=2, lt=2**31, strict=True)]  # of least control, up and down
StabilisingIterations = CountOrZero
Tolerance = NotNegative  # 0 is never met
PositiveTolerance = Positive
Slowdown = AtLeastOne  # of the noisy phase of least control
KeptFraction = Probability  # of hidden units
Seed = Annotated[int, Field(ge=0, lt=2**63, strict=True)]  # what TOML can state


@cache
def bounds(kind: Any) -> dict[str, Any]:
    """Return the bounds of a range by the names "gt", "ge", "lt" and "le"."""
    _, field = get_args(kind)
    names = ("gt", "ge", "lt", "le")
    return {name: getattr(item, name) for item in field.metadata for name in names if hasattr(item, name)}


def contains(kind: Any, value: float) -> bool:
    """Return whether a range allows a number; none allows NaN."""
    return all(getattr(operator, name)(value, bound) for name, bound in bounds(kind).items())


@cache
def in_words(kind: Any) -> str:
    """Return what a range allows, such as "a finite number > 0" or "a whole number from 1 to 2**31 - 1"."""
    if get_args(kind)[0] is int:
        return f"a whole number from {bounds(kind)['ge']} to 2**{bounds(kind)['lt'].bit_length() - 1} - 1"
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    limits = [f"{signs[name]} {bound:g}" for name, bound in bounds(kind).items() if abs(bound) < LARGEST]
    return " ".join(["a finite number", " and ".join(limits)]).strip()
