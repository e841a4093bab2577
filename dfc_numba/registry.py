"""Registries: everything that can be added from outside, by name, one for each kind.

    dfc.register(dfc.Activation("softsign", phi=..., derivative=...))     adds it: usable by its name from then on
    ACTIVATIONS.find("softsign", key="network.hidden_activation")         looks it up; the error names the nearest

Each kind is a class that derives from `Extension`, and has one `Registry`. The built-ins go through the same doors: the
modules `homes` of a registry register them with `register_built_ins`, and are imported at the first look-up.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from numbers import Integral, Real
from typing import Annotated, Any, ClassVar, get_args, get_origin

import numpy as np

from dfc_numba.support.fingerprint import fingerprint
from dfc_numba.support.ranges import contains, in_words
from dfc_numba.support.wording import nearest

BUILT_IN = "built-in"
ENTRY_POINTS = "dfc_numba.extensions"  # the module that loads those of installed packages
INTERACTIVE = "this program"  # registered by a script or a notebook, not by an extension that was loaded
REQUIRED = object()  # the default of an option that has to be stated
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
RESERVED = {
    "none",
    "true",
    "false",
    "inf",
    "nan",
}  # which TOML, `--set` or "none" would read as something else
_entry_points = {"loaded": False}
_origin = ContextVar("origin", default=INTERACTIVE)


class Extension:
    """Base of everything that can be registered: an object with a name, a line of documentation and options.

    A subclass sets the class attribute `registry`, checks its arguments in `check`, and may narrow `identity`.

    Attributes:
        name: a word of letters, digits, "_" and "-" that begins with a letter.
        summary: one line for lists and help.
        options: tuple of `Option`, what a configuration may set of it.
        origin: where it was registered: "built-in", "this program", or an extension's name; None before.
    """

    registry: Any = None
    name: str
    summary: str = ""
    options: Sequence[Option] = ()
    origin: str | None = None

    def check(self) -> None:
        """Raise a ValueError or TypeError that says what is wrong; called before the object is registered."""

    def identity(self) -> tuple[Any, ...]:
        """Return a value that is equal for two objects that do the same: attributes by value, functions by their code."""
        public = {
            key: value for key, value in vars(self).items() if key != "origin" and not key.startswith("_")
        }
        return type(self).__qualname__, fingerprint(public)


@dataclass(frozen=True)
class Option:
    """One option of an extension, as a configuration states it.

    Args:
        name: its key. default: its value where nothing is stated, of the type that is allowed; `dfc.Option.REQUIRED`: it has
            to be stated. description: what it is, in which unit.
        type: float, int, bool, str, or tuple (a list), or one of `support.ranges`; that of `default` if left out.
        least, most: bounds of a number; exclusive: whether they themselves are excluded.
        choices: the allowed values. optional: whether "none" (None) is allowed, too.
    """

    name: str
    default: Any
    description: str = ""
    type: Any = None
    least: float | None = None
    most: float | None = None
    exclusive: bool = False
    choices: tuple[Any, ...] = ()
    optional: bool = False
    within: Any = field(default=None, init=False)  # the range that was given as the type

    REQUIRED: ClassVar[object] = REQUIRED

    def __post_init__(self):
        if not NAME.fullmatch(str(self.name)) or "-" in self.name:
            raise ValueError(
                f"an option is called {self.name!r}; letters, digits and _ are allowed, a letter first"
            )
        if self.type is None:
            object.__setattr__(
                self, "type", str if self.default in (None, REQUIRED) else type_of(self.default)
            )
        if get_origin(self.type) is Annotated:
            object.__setattr__(self, "within", self.type)
            object.__setattr__(self, "type", get_args(self.type)[0])
        if self.default is None:
            object.__setattr__(self, "optional", True)
        if self.default is not REQUIRED:
            object.__setattr__(self, "default", self.checked(self.default))

    def checked(self, value: Any, path: str | None = None) -> Any:
        """Return the value in the type of the option, or raise a ValueError that says what is allowed.

        Args:
            path: what messages call it, such as "method.inverse_rate"; the name if left out.
        """
        if value is None and self.optional:
            return None
        converted = _CONVERSIONS.get(self.type, _as(self.type))(value)
        if converted is _REFUSED or not self._allows(converted):
            hint = nearest(value, [str(choice) for choice in self.choices])
            raise ValueError(f"{path or self.name} = {value!r}: must be {self.allowed()}{hint}")
        return converted

    def checked_or_default(self, values: Mapping[str, Any], section: str) -> Any:
        """Return the value of the option in a section, a dict; its default if it is not stated there.

        Raises:
            ValueError: for a value that is not allowed, or none where there is no default.
        """
        path = f"{section}.{self.name}"
        if self.name in values:
            value = values[self.name]
            return self.checked(None if value == "none" and self.optional else value, path)
        if self.default is REQUIRED:
            raise ValueError(f"{path} has to be stated: {self.allowed()}")
        return self.default

    def allowed(self) -> str:
        """Return a text with the allowed values."""
        if self.choices:
            text = "one of " + ", ".join(map(repr, self.choices))
        else:
            text = _WORDS.get(self.type, f"a {getattr(self.type, '__name__', self.type)}")
            bounds = (
                (self.least, ">" if self.exclusive else ">="),
                (self.most, "<" if self.exclusive else "<="),
            )
            limits = [f"{sign} {bound:g}" for bound, sign in bounds if bound is not None]
            text = in_words(self.within) if self.within else " ".join([text, " and ".join(limits)]).strip()
        return f'{text}, or "none"' if self.optional else text

    def _allows(self, value):
        if self.choices and value not in self.choices:
            return False
        numbers = value if isinstance(value, tuple) else (value,)
        return all(self._within(number) for number in numbers if isinstance(number, Real))

    def _within(self, number):
        if isinstance(number, float) and not np.isfinite(number):
            return False
        if self.within and not contains(self.within, number):
            return False
        above = self.least is None or (number > self.least if self.exclusive else number >= self.least)
        below = self.most is None or (number < self.most if self.exclusive else number <= self.most)
        return above and below


_REFUSED = object()
_WORDS = {float: "a number", int: "an integer", bool: "true or false", str: "a string", tuple: "a list"}


def _as(kind):
    return lambda value: value if isinstance(value, kind) else _REFUSED


def _number(kind, abstract, value):
    return kind(value) if isinstance(value, abstract) and not isinstance(value, bool | np.bool_) else _REFUSED


_CONVERSIONS: dict[Any, Callable[[Any], Any]] = {
    float: partial(_number, float, Real),
    int: partial(_number, int, Integral),
    bool: lambda value: bool(value) if isinstance(value, bool | np.bool_) else _REFUSED,
    tuple: lambda value: tuple(value) if isinstance(value, list | tuple) else _REFUSED,
}


def type_of(value):
    """Return the type of option that a default stands for."""
    return tuple if isinstance(value, list) else type(value)


class Registry(Mapping):
    """The extensions of one kind by name, in the order in which they were registered.

    Iteration gives names, as for a dict; `registry[name]` the object.

    Args:
        kind: what messages call it, such as "activation".
        homes: modules of the package that register the built-ins; imported at the first look-up.
    """

    def __init__(self, kind, homes=()):
        self.kind = kind
        self._homes, self._items = tuple(homes), {}
        self._lock, self._complete = threading.RLock(), False

    def add(self, item, replace=False):
        """Register an object and return the one that is registered: the same again is silent.

        Raises:
            ValueError: for something else under a name that is taken, unless `replace`.
        """
        origin = _origin.get()
        if origin != BUILT_IN:
            self._import_homes()
        taken = self._items.get(item.name)
        if taken is not None and not replace:
            if taken is item or taken.identity() == item.identity():
                return taken
            raise ValueError(
                f"another {self.kind} is called {item.name!r} ({_from(taken.origin)}); choose another name, or register "
                "with replace=True to take its place"
            )
        object.__setattr__(item, "origin", origin)
        self._items[item.name] = item
        return item

    def remove(self, name):
        """Take an object out again."""
        del self._items[name]

    def find(self, name, key=None):
        """Return the object of this name.

        Args:
            key: what the name was given for, such as "training.method"; the kind if left out.

        Raises:
            ValueError: if there is none, with the nearest name and what to do where an extension brings it.
        """
        if name in self:
            return self._items[name]
        raise ValueError(f"{key or self.kind} is {name!r}; {self.allowed(name)}")

    def allowed(self, name):
        """List the known names, and suggest the nearest to an unknown one."""
        names = self.names()
        return (
            f"allowed are {', '.join(map(repr, names))}{nearest(name, names)} "
            f"(if an extension brings this {self.kind}, load it: {HOW_TO_LOAD})"
        )

    def names(self):
        """Return the names, in the order in which they were registered."""
        return tuple(self)

    def __getitem__(self, name):
        self._import_homes()
        return self._items[name]

    def __contains__(self, name):
        self._import_homes()
        return isinstance(name, str) and name in self._items

    def __iter__(self):
        self._import_homes()
        return iter(tuple(self._items))

    def __len__(self):
        self._import_homes()
        return len(self._items)

    def __repr__(self):
        return f"<registry of {self.kind}s: {', '.join(self._items)}>"

    def _import_homes(self):
        """Import the modules that register the built-ins, once; what they look up meanwhile is what there is."""
        if not self._complete:
            with self._lock:
                homes, self._homes = self._homes, ()
                for home in homes:
                    import_module(home)
                self._complete = True
        _load_entry_points()


def _load_entry_points():
    """Load the extensions of installed packages, once, as soon as no module of this package is half imported."""
    if _entry_points["loaded"]:
        return
    specs = (
        getattr(module, "__spec__", None)
        for name, module in tuple(sys.modules.items())
        if name.startswith("dfc_numba")
    )
    if not any(getattr(spec, "_initializing", False) for spec in specs):
        _entry_points["loaded"] = True
        import_module(ENTRY_POINTS).load_entry_points()


HOW_TO_LOAD = "--extension FILE, [extensions] modules in the TOML file, or dfc.load_extension(FILE)"

ACTIVATIONS = Registry("activation", homes=["dfc_numba.model.activations"])
PLASTICITY_RULES = Registry("plasticity rule", homes=["dfc_numba.model.unit_formulas"])
CONTROLLER_TERMS = Registry("controller term")
VARIABLES = Registry("variable")
LOSSES = Registry("loss", homes=["dfc_numba.model.targets"])
METHODS = Registry(
    "method", homes=[f"dfc_numba.learning.{name}" for name in ("methods", "relatives", "recurrent_methods")]
)
OPTIMIZERS = Registry("optimizer", homes=["dfc_numba.learning.optimizer"])
DATA_SOURCES = Registry("data set", homes=["dfc_numba.data.sources"])
MEASURES = Registry("measure", homes=["dfc_numba.analysis.measurements"])
OBSERVERS = Registry("observer", homes=["dfc_numba.learning.observers"])
REGISTRIES = (
    ACTIVATIONS, PLASTICITY_RULES, CONTROLLER_TERMS, VARIABLES, LOSSES, METHODS, OPTIMIZERS, DATA_SOURCES, MEASURES,
    OBSERVERS,
)  # fmt: skip


def register(*items: Extension, replace: bool = False) -> None:
    """Register objects under their names: activations, plasticity rules, controller terms, methods, optimisers, ...

    All are checked before the first is registered. Registering the same again (the same values, functions of the same
    code) changes nothing, so that a cell of a notebook can be run twice.

    Args:
        items: objects of `dfc.Activation`, `dfc.PlasticityRule`, `dfc.ControllerTerm`, `dfc.Method`, `dfc.Optimizer`,
            `dfc.Loss`, `dfc.DataSource`, `dfc.Variable`, `dfc.Measure`, or observers of a class that derives from `dfc.Observer`.
        replace: whether they take the place of others under the same names.

    Raises:
        TypeError, ValueError: for something else, an object that is wrong, or a name that is taken.
    """
    for item in items:
        _check(item)
    for item in items:
        item.registry.add(item, replace=replace)


def register_built_ins(*items):
    """Register what the package itself brings."""
    with registering_from(BUILT_IN):
        register(*items)


@contextmanager
def registering_from(origin):
    """Remember what is registered inside the context as coming from `origin`."""
    token = _origin.set(origin)
    try:
        yield
    finally:
        _origin.reset(token)


def registered_from(origin):
    """Return all (kind, name) that are registered from an origin, such as an extension's name."""
    return [
        (registry.kind, name)
        for registry in REGISTRIES
        for name, item in registry._items.items()
        if item.origin == origin
    ]


def _check(item):
    if not isinstance(item, Extension) or item.registry is None:
        kinds = (
            "dfc.Activation, PlasticityRule, ControllerTerm, Method, Optimizer, Loss, DataSource, Variable, Measure or "
            "Observer"
        )
        hint = "; call it to make one" if isinstance(item, type) else ""
        raise TypeError(f"register takes objects of {kinds}, not {item!r}{hint}")
    kind, name = item.registry.kind, item.name
    if not isinstance(name, str) or not NAME.fullmatch(name) or name.lower() in RESERVED:
        raise ValueError(
            f"the name of a {kind} is {name!r}; letters, digits, _ and - are allowed, a letter first, "
            f"and none of {', '.join(sorted(RESERVED))}"
        )
    if not isinstance(item.summary, str) or "\n" in item.summary:
        raise ValueError(
            f"the summary of the {kind} {name!r} is {item.summary!r}; one line of text is allowed"
        )
    names = [option.name for option in item.options if isinstance(option, Option)]
    if len(names) < len(item.options) or len({*names}) < len(names):
        raise ValueError(
            f"the options of the {kind} {name!r} are {item.options!r}; a list of dfc.Option is allowed, each name once"
        )
    item.check()


def _from(origin):
    return {BUILT_IN: "built in", INTERACTIVE: "registered before"}.get(origin, f"of the extension {origin}")
