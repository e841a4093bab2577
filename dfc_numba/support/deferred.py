"""Fields of a dataclass whose values are only computed when they are read."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


class Deferred(Generic[Value]):
    """A field that may be given a function in place of its value; it is called when the field is read for the first time.

    @dataclass(frozen=True)
    class Result:
        flags: Deferred[np.ndarray | None] = Deferred()      # None by default
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Value:
        if instance is None:
            return None  # type: ignore[return-value]  # what a dataclass takes for the default
        value = instance.__dict__[self._name]
        if callable(value):
            value = instance.__dict__[self._name] = value()
        return value

    def __set__(self, instance: Any, value: Any) -> None:
        instance.__dict__[self._name] = value
