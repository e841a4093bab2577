"""Registries: what may be registered under which name, what counts as the same again, and where it came from."""

from functools import partial

import numpy as np
import pytest

import dfc_numba as dfc
from dfc_numba.registry import (
    REGISTRIES,
    Extension,
    Option,
    Registry,
    register_built_ins,
    registered_from,
    registering_from,
)
from dfc_numba.support.fingerprint import fingerprint

SCALE = 2.0


@pytest.fixture
def thing():
    """A kind of extension with a separate registry."""

    class Thing(Extension):
        registry = Registry("thing")

        def __init__(self, name, function=None, *, summary="", options=(), size=1):
            self.name, self.function, self.summary, self.options = name, function, summary, options
            self.size = size

        def check(self):
            if self.size < 0:
                raise ValueError(f"thing {self.name!r} has size {self.size}; at least 0 is allowed")

    return Thing


def scaled(factor):
    return lambda v: factor * v


def test_a_registered_object_is_found_by_its_name_and_remembers_its_origin(thing):
    one, other = thing("one"), thing("the-other")
    dfc.register(one)
    with registering_from("lab"):
        dfc.register(other)
    assert thing.registry.find("one") is one and thing.registry["the-other"] is other
    assert thing.registry.names() == ("one", "the-other") == tuple(thing.registry)
    assert "one" in thing.registry and "two" not in thing.registry and ["one"] not in thing.registry
    assert (one.origin, other.origin) == ("this program", "lab")


def test_an_unknown_name_is_refused_with_the_nearest_and_the_way_to_load_an_extension(thing):
    dfc.register(thing("sigmoid"), thing("tanh"))
    message = (
        "network.hidden is 'sigmid'; allowed are 'sigmoid', 'tanh'; did you mean 'sigmoid'.*--extension FILE"
    )
    with pytest.raises(ValueError, match=message):
        thing.registry.find("sigmid", key="network.hidden")


@pytest.mark.parametrize("name", ["", "two words", "a.b", "1st", "none", "True", "nan", 3, None])
def test_a_name_that_is_not_a_word_is_refused(thing, name):
    with pytest.raises(ValueError, match="the name of a thing is"):
        dfc.register(thing(name))
    assert not thing.registry


def test_registering_the_same_again_is_silent(thing):
    first = thing("one", scaled(2.0))
    dfc.register(first)
    dfc.register(first, thing("one", scaled(2.0)))
    assert thing.registry["one"] is first


@pytest.mark.parametrize("other", [{"function": scaled(3.0)}, {"function": abs}, {"size": 2}])
def test_something_else_under_a_taken_name_needs_replace(thing, other):
    dfc.register(thing("one", scaled(2.0)))
    changed = thing("one", **{"function": scaled(2.0), **other})
    with pytest.raises(
        ValueError, match=r"another thing is called 'one' \(registered before\).*replace=True"
    ):
        dfc.register(changed)
    dfc.register(changed, replace=True)
    assert thing.registry["one"] is changed


def test_a_wrong_object_is_refused_before_any_is_registered(thing):
    with pytest.raises(ValueError, match="size -1; at least 0"):
        dfc.register(thing("good"), thing("bad", size=-1))
    assert not thing.registry


@pytest.mark.parametrize("item", [3, "dfc", Extension, object()])
def test_what_is_no_extension_is_refused(item):
    with pytest.raises(TypeError, match="register takes objects of dfc.Activation"):
        dfc.register(item)


@pytest.mark.parametrize("options", [["rate"], [Option("a", 1), Option("a", 2)]])
def test_options_that_are_none_or_two_of_a_name_are_refused(thing, options):
    with pytest.raises(ValueError, match="a list of dfc.Option is allowed, each name once"):
        dfc.register(thing("one", options=options))


def test_built_ins_are_imported_at_the_first_look_up():
    for registry in REGISTRIES:
        assert all(registry[name].origin == "built-in" for name in registry)


def test_built_ins_come_from_the_package_whoever_imports_them(thing):
    with registering_from("lab"):
        register_built_ins(thing("one"))
    assert thing.registry["one"].origin == "built-in"
    assert registered_from("lab") == []


def twice(v):
    return 2 * v


def with_global(v):
    return SCALE * v


@pytest.mark.parametrize(
    "one, other",
    [
        (scaled(2.0), scaled(2.0)),
        (partial(scaled, 2.0), partial(scaled, 2.0)),
        (np.arange(3.0), np.arange(3.0)),
        ({"a": [1, 2.0]}, {"a": (1, 2.0)}),
        (lambda v: SCALE * v, lambda v: SCALE * v),
    ],
)
def test_a_fingerprint_is_equal_for_what_does_the_same(one, other):
    assert fingerprint(one) == fingerprint(other)


@pytest.mark.parametrize(
    "one, other",
    [
        (scaled(2.0), scaled(2.5)),
        (lambda v: 2 * v, lambda v: 3 * v),
        (lambda v: abs(v), lambda v: np.abs(v)),
        (partial(scaled, 2.0), partial(scaled, 3.0)),
        (np.arange(3.0), np.arange(3)),
        (1, 1.0),
        (True, 1),
        (lambda v, a=1: a * v, lambda v, a=2: a * v),
        (lambda v: (lambda w: w + 1)(v), lambda v: (lambda w: w + 2)(v)),
    ],
)
def test_a_fingerprint_differs_for_what_does_something_else(one, other):
    assert fingerprint(one) != fingerprint(other)


def test_a_changed_global_counts_as_a_change(monkeypatch):
    before = fingerprint(with_global)
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    assert fingerprint(with_global) != before


def test_what_contains_itself_has_a_fingerprint():
    recursive = []
    recursive.append(recursive)
    assert fingerprint(recursive) == fingerprint(recursive)


@pytest.mark.parametrize(
    "option, given, value",
    [
        (Option("rate", 0.1), 1, 1.0),
        (Option("rate", 0.1), np.float32(0.5), 0.5),
        (Option("steps", 3), np.int64(4), 4),
        (Option("mode", "a", choices=("a", "b")), "b", "b"),
        (Option("sizes", (1,)), [2, 3], (2, 3)),
        (Option("limit", None, type=float), None, None),
        (Option("limit", None, type=float), 2, 2.0),
    ],
)
def test_an_option_takes_values_of_its_type(option, given, value):
    checked = option.checked(given)
    assert checked == value and type(checked) is type(value)


@pytest.mark.parametrize(
    "option, given, message",
    [
        (Option("rate", 0.1, least=0, exclusive=True), 0, "method.x = 0: must be a number > 0"),
        (Option("rate", 0.1), "fast", "method.x = 'fast': must be a number"),
        (Option("rate", 0.1), float("nan"), "must be a number"),
        (Option("rate", 0.1), True, "must be a number"),
        (Option("steps", 3, least=1, most=5), 6, "must be an integer >= 1 and <= 5"),
        (Option("steps", 3), 2.5, "must be an integer"),
        (Option("on", True), 1, "must be true or false"),
        (Option("mode", "all", choices=("all", "one")), "al", "must be one of 'all', 'one'; did you mean"),
        (Option("sizes", (1,), least=1), [0], "must be a list >= 1"),
        (Option("limit", None, type=float), "x", 'must be a number, or "none"'),
    ],
)
def test_an_option_refuses_other_values(option, given, message):
    with pytest.raises(ValueError, match=message):
        option.checked(given, "method.x")


def test_an_option_checks_its_default_and_its_name():
    with pytest.raises(ValueError, match="must be a number >= 1"):
        Option("rate", 0.5, least=1)
    with pytest.raises(ValueError, match="an option is called 'two words'"):
        Option("two words", 1)


def test_a_fingerprint_takes_no_longer_for_functions_that_call_each_other():
    """Thirty functions, each of which calls the one before twice: each is taken apart once."""
    space = {}
    for n in range(1, 31):
        exec(f"def f{n}(v):\n    return f{n - 1}(v) + f{n - 1}(v), f{max(n - 2, 0)}", space)
    exec("def f0(v):\n    return v", space)
    assert fingerprint(space["f30"]) == fingerprint(space["f30"])
