"""Optimisers as registered objects: how a gradient changes one array, and the state that this needs.

    def step(theta, gradient, state, rate, number, options):
        theta -= rate * np.sign(gradient)

    dfc.register(dfc.Optimizer("sign", step=step))

`descent.Descent` holds the parameters of a network and steps them, layer by layer.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import numpy as np

from dfc_numba.kernels import optimizers as kernels
from dfc_numba.registry import OPTIMIZERS, Extension, Option, register_built_ins
from dfc_numba.support.array_types import Array

SHARED = ("momentum", "beta1", "beta2", "epsilon")  # keys of [optimizer] that several optimisers look at


@dataclass(frozen=True, eq=False)
class Optimizer(Extension):
    """An optimiser.

    Args:
        name: by which `optimizer.name` chooses it. summary: one line of documentation.
        step: function of (theta, gradient, state, rate, number, options) that changes the parameter array theta in place:

            theta, gradient     arrays of one shape and type; the gradient is clipped, and weight decay is added to it
            state               a dict of arrays like theta, zeros at the start, named by `state`; changed in place
            rate                learning rate of the layer
            number              how many steps were taken, with this one, from 1
            options             a dict with the values of `keys` (epsilon: that of the layer) and of `options`
        state: names of the arrays that the optimiser keeps for each parameter array; they are in checkpoints.
        keys: which of the keys "momentum", "beta1", "beta2", "epsilon" of the section it looks at.
        defaults: a dict with the values that keys have for this optimiser where they are not stated.
        options: `Option`s of its own, which are set as `optimizer.options = { name = value }`.
    """

    name: str
    _: KW_ONLY
    summary: str = ""
    step: Callable[..., None] | None = None
    state: Sequence[str] = ()
    keys: Sequence[str] = ()
    defaults: Mapping[str, float] = field(default_factory=dict)
    options: Sequence[Option] = ()
    _kernel: Any = None  # built-in: clips, decays and steps in one pass
    _numbers: Any = None  # (values, rate, number) -> the last arguments of the kernel

    registry = OPTIMIZERS

    def check(self) -> None:
        """Raise a ValueError for keys that there are not, or a step that does not work on small arrays."""
        unknown = [key for key in (*self.keys, *self.defaults) if key not in SHARED]
        if unknown or not all(isinstance(name, str) and name.isidentifier() for name in self.state):
            raise ValueError(
                f"optimizer {self.name!r} has keys {self.keys!r}, defaults of {tuple(self.defaults)!r} and state "
                f"{self.state!r}; allowed keys are {', '.join(SHARED)}, and words for the state"
            )
        if self._kernel is not None:
            return
        if not callable(self.step):
            raise ValueError(f"optimizer {self.name!r} has step = {self.step!r}; it needs to be a function")
        try:
            inspect.signature(self.step).bind(*range(6))
        except TypeError as error:
            raise ValueError(
                f"optimizer {self.name!r}: step is called with (theta, gradient, state, rate, number, options), which it "
                f"does not take ({error})"
            ) from None
        self._try()

    def _try(self):
        """Step arrays of either type once."""
        values = {"momentum": 0.0, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}
        values = {key: value for key, value in (values | dict(self.defaults)).items() if key in self.keys}
        values |= {option.name: option.default for option in self.options}
        if any(not isinstance(value, str | float | int | tuple | None) for value in values.values()):
            return  # an option without default
        for dtype in (np.float64, np.float32):
            theta, gradient = np.ones((2, 3), dtype), np.full((2, 3), 0.5, dtype)
            state = {name: np.zeros_like(theta) for name in self.state}
            arrays = {"theta": theta, **state}
            try:
                self.step(theta, gradient, state, 0.1, 1, values)
            except Exception as error:
                raise ValueError(
                    f"optimizer {self.name!r}: step fails for arrays of {np.dtype(dtype)}: {type(error).__name__}: {error}"
                ) from error
            if set(state) != set(self.state) or any(state[name] is not arrays[name] for name in self.state):
                raise ValueError(
                    f"optimizer {self.name!r}: step replaces arrays of its state; change them in place, as in "
                    "state['mean'][...] = ..."
                )
            if not all(np.isfinite(array).all() for array in arrays.values()) or (theta == 1).all():
                raise ValueError(
                    f"optimizer {self.name!r}: step does not change theta, or not to finite numbers; change it in place, "
                    "as in theta -= rate * gradient"
                )

    def update(
        self,
        theta: Array,
        gradient: Array,
        state: dict[str, Array],
        factor: float,
        decay: float,
        rate: float,
        number: int,
        values: Mapping[str, Any],
    ) -> None:
        """Clip the gradient by a factor, add the decay, and step an array."""
        kind = theta.dtype.type
        if self._kernel is None:
            gradient = kind(factor) * gradient + kind(decay) * theta
            self.step(theta, gradient, state, rate, number, values)  # type: ignore[misc]  # `check` refuses None
            return
        numbers = map(kind, (factor, decay, *self._numbers(values, rate, number)))
        self._kernel(*(array.reshape(-1) for array in (theta, gradient, *state.values())), *numbers)


# --- the built-in optimisers ---------------------------------------------------------------------------------------------


def _sgd_numbers(values, rate, _number):
    return values["momentum"], rate


def _adam_numbers(values, rate, number):
    """Return Adam's numbers, with the bias corrections folded into the learning rate and a factor of the root."""
    beta1, beta2, epsilon = values["beta1"], values["beta2"], values["epsilon"]
    return (
        beta1,
        1 - beta1,
        beta2,
        1 - beta2,
        rate / (1 - beta1**number),
        (1 - beta2**number) ** -0.5,
        epsilon,
    )


def _rmsprop_numbers(values, rate, _number):
    return values["beta2"], 1 - values["beta2"], values["momentum"], rate, values["epsilon"]


register_built_ins(
    Optimizer(
        "sgd", summary="gradient descent with momentum", state=("buffer",), keys=("momentum",),
        _kernel=kernels.sgd, _numbers=_sgd_numbers,
    ),
    Optimizer(
        "adam", summary="Adam (Kingma & Ba 2015)", state=("first_moment", "second_moment"),
        keys=("beta1", "beta2", "epsilon"), _kernel=kernels.adam, _numbers=_adam_numbers,
    ),
    Optimizer(
        "rmsprop", summary="centred RMSprop with momentum", state=("mean", "mean_square", "buffer"),
        keys=("momentum", "beta2", "epsilon"), defaults={"beta2": 0.95, "epsilon": 0.03},
        _kernel=kernels.rmsprop, _numbers=_rmsprop_numbers,
    ),
    Optimizer(
        "nesterov", summary="gradient descent with Nesterov's momentum", state=("buffer",), keys=("momentum",),
        defaults={"momentum": 0.9}, _kernel=kernels.nesterov, _numbers=_sgd_numbers,
    ),
)  # fmt: skip
