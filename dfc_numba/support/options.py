"""Options as objects: frozen, keyword-only, checked on construction, with errors that a user can act on."""

from dataclasses import fields
from functools import reduce, wraps
from inspect import Parameter, Signature
from operator import or_
from types import UnionType
from typing import Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass
from typing_extensions import dataclass_transform

from dfc_numba.support.shapes import html_repr
from dfc_numba.support.wording import allowed, nearest


@dataclass_transform(frozen_default=True, kw_only_default=True)
def options(cls):
    """Make a class with annotated fields a frozen pydantic dataclass that takes keyword arguments only.

    A class may have `translated`, a function of the arguments that returns those of the fields, and in TRANSLATED (default,
    type) of arguments that are not fields. NumPy numbers and arrays are taken as Python numbers and lists. What is
    wrong raises a `ValueError` with a line for each argument: its value, what is allowed, the nearest valid name.
    """
    cls = dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))(cls)
    construct = cls.__init__

    @wraps(construct)
    def __init__(self, **values):
        if hasattr(cls, "translated"):
            values = cls.translated(values)
        try:
            construct(self, **{name: _plain(value) for name, value in values.items()})
        except ValidationError as error:
            lines = [_line(cls, entry) for entry in error.errors(include_url=False)]
            raise ValueError("\n".join(lines)) from None

    cls.__init__, cls._repr_html_ = __init__, html_repr
    cls.__signature__ = _signature(cls)
    return cls


def _signature(cls):
    """Return the signature with plain types: the bounds of a value are a matter of messages, not of Shift-Tab."""
    types = get_type_hints(cls)
    arguments = {field.name: (field.default, _plain_type(types[field.name])) for field in fields(cls)}
    arguments |= getattr(cls, "TRANSLATED", {})
    return Signature(
        [
            Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=kind)
            for name, (default, kind) in arguments.items()
        ]
    )


def _plain_type(hint):
    """Return a type as people write it: X | None for an optional one."""
    if get_origin(hint) not in (Union, UnionType):
        return hint
    return reduce(or_, map(_plain_type, get_args(hint)))


def _plain(value):
    """Return Python's numbers and lists for NumPy's."""
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    return value.tolist() if hasattr(value, "tolist") else value


def _line(cls, entry):
    """Return one line of what is wrong."""
    kind, names = cls.__name__, [field.name for field in fields(cls)]
    if entry["type"] == "unexpected_keyword_argument":
        name = entry["loc"][0]
        return f"{kind} has no option {name!r}{nearest(name, names)}; its options are {', '.join(names)}"
    if not entry["loc"]:
        return f"{kind}: {allowed(entry)}"
    path = entry["loc"][0] + "".join(f"[{part}]" for part in entry["loc"][1:])
    return f"{kind}.{path} is {entry['input']!r}; it {allowed(entry)}"
