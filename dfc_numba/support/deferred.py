"""Fields of a dataclass whose values are only computed when they are read."""


class Deferred:
    """A field that may be given a function in place of its value; it is called when the field is read for the first time.

        @dataclass(frozen=True)
        class Result:
            flags: np.ndarray | None = Deferred()      # None by default
    """

    def __set_name__(self, owner, name):
        self._name = name

    def __get__(self, instance, owner=None):
        if instance is None:
            return None
        value = instance.__dict__[self._name]
        if callable(value):
            value = instance.__dict__[self._name] = value()
        return value

    def __set__(self, instance, value):
        instance.__dict__[self._name] = value
