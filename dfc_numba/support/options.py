"""Options as objects: frozen, keyword-only, checked on construction, with errors that a user can act on."""

from dataclasses import fields
from functools import wraps
from typing import Annotated

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass
from typing_extensions import dataclass_transform

from dfc_numba.support.validation import LARGEST
from dfc_numba.support.wording import allowed, nearest

# the ranges of `validation.number`, as types of options and of the configuration
Finite = Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False, strict=True)]
Positive = Annotated[float, Field(gt=0, le=LARGEST, allow_inf_nan=False, strict=True)]
NotNegative = Annotated[float, Field(ge=0, le=LARGEST, allow_inf_nan=False, strict=True)]
Count = Annotated[int, Field(ge=1, lt=2**31, strict=True)]
Flag = Annotated[bool, Field(strict=True)]


@dataclass_transform(frozen_default=True, kw_only_default=True)
def options(cls):
    """Make a class with annotated fields a frozen pydantic dataclass that takes keyword arguments only.

    NumPy numbers and arrays are taken as Python numbers and lists. What is wrong raises a `ValueError` with a line for
    each argument: its value, what is allowed, the nearest valid name.
    """
    cls = dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))(cls)
    construct = cls.__init__

    @wraps(construct)
    def __init__(self, **values):
        try:
            construct(self, **{name: _plain(value) for name, value in values.items()})
        except ValidationError as error:
            lines = [_line(cls, entry) for entry in error.errors(include_url=False)]
            raise ValueError("\n".join(lines)) from None

    cls.__init__ = __init__
    return cls


def _plain(value):
    """Numbers and lists of Python for those of NumPy."""
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    return value.tolist() if hasattr(value, "tolist") else value


def _line(cls, entry):
    """One line of what is wrong."""
    kind, names = cls.__name__, [field.name for field in fields(cls)]
    if entry["type"] == "unexpected_keyword_argument":
        name = entry["loc"][0]
        return f"{kind} has no option {name!r}{nearest(name, names)}; its options are {', '.join(names)}"
    if not entry["loc"]:
        return f"{kind}: {allowed(entry)}"
    path = entry["loc"][0] + "".join(f"[{part}]" for part in entry["loc"][1:])
    return f"{kind}.{path} is {entry['input']!r}; it {allowed(entry)}"
