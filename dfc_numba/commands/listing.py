"""`dfc list`: everything that is chosen by name, with its documentation, options and origin."""

from dfc_numba import data
from dfc_numba.errors import ConfigurationError
from dfc_numba.registry import BUILT_IN, DATA_SOURCES, REGISTRIES, Option
from dfc_numba.support.wording import nearest

PLURALS = {"loss": "losses"}


def lines(kind=None, name=None):
    """Yield lines of text about all names, those of a kind, or a single name.

    Args:
        kind: as the headings call it, such as "methods" or "method". name: of one object of this kind.

    Raises:
        ConfigurationError: for a kind that there is not. ValueError: for such a name.
    """
    kinds = {_plural(registry): registry for registry in REGISTRIES}
    singular = {registry.kind.replace(" ", "-"): registry for registry in REGISTRIES}
    if kind is None:
        for heading, registry in kinds.items():
            yield from (f"{heading}:", *(f"  {line}" for line in _names(registry)), "")
        return
    text = kind.replace(" ", "-")
    if text not in kinds and text not in singular:
        hint = nearest(text, kinds)
        raise ConfigurationError(f"dfc list {kind}: no such kind{hint}; kinds: {', '.join(kinds)}")
    registry = kinds.get(text) or singular[text]
    if name is None:
        yield from _names(registry)
    elif registry is DATA_SOURCES:
        yield data.describe(name)
    else:
        yield from _described(registry.find(name))


def _plural(registry):
    return PLURALS.get(registry.kind, f"{registry.kind}s").replace(" ", "-")


def _names(registry):
    width = max(map(len, registry), default=0)
    for name, item in registry.items():
        origin = "" if item.origin == BUILT_IN else f" ({item.origin})"
        yield f"{name:<{width}}  {item.summary}{origin}".rstrip()


def _described(item):
    yield f"{item.name}: {item.summary}" if item.summary else item.name
    yield f"  from: {item.origin}"
    for option in item.options:
        default = "(required)" if option.default is Option.REQUIRED else f"= {option.default!r}"
        yield f"  {option.name} {default}: {option.description} ({option.allowed()})"
