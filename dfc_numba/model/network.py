"""The network: packed parameters and the feedforward pass."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from itertools import pairwise
from numbers import Integral
from typing import Any, Generic, Literal, NamedTuple, TypeAlias, TypeVar, overload

import numpy as np

from dfc_numba.kernels.feedforward import feedforward
from dfc_numba.kernels.layout import dense_views, layout, pack, padded_rows
from dfc_numba.kernels.units import rate_loop
from dfc_numba.model import jacobian
from dfc_numba.model.activations import addresses
from dfc_numba.model.initialization import (
    FEEDBACK_INITS,
    FeedbackInit,
    Initialisation,
    initial_matrix,
    weight_product,
)
from dfc_numba.model.shared_passes import shared_pass
from dfc_numba.registry import ACTIVATIONS
from dfc_numba.support import filing, memory, threads
from dfc_numba.support.array_types import Array, ArrayLike, DTypeLike, Layers, LayersLike, PathLike
from dfc_numba.support.ranges import Count, Damping, InitialNoise, InitialRange, Seed
from dfc_numba.support.shapes import html_repr, html_table, short_repr
from dfc_numba.support.validation import (
    as_array,
    choice,
    dtype_of,
    finite,
    finite_result,
    flag,
    floats,
    instance,
    number,
    samples,
    whole_number,
)

JACOBIAN_KINDS = ("jacobian_transpose", "jacobian_pinv", "jacobian_damped_pinv")
FEEDBACK_KINDS = ("weight_product", *JACOBIAN_KINDS)
FeedbackKind: TypeAlias = Literal[
    "weight_product", "jacobian_transpose", "jacobian_pinv", "jacobian_damped_pinv"
]


class Activity(NamedTuple):
    """Voltages and rates of all layers: lists of (B, n_i) arrays, the first hidden layer first."""

    v: Layers
    r: Layers

    @property
    def finite(self) -> Array:
        """True for each sample whose numbers are all finite, (B,): large weights or inputs may overflow."""
        return np.logical_and.reduce([np.isfinite(array).all(axis=1) for array in [*self.v, *self.r]])

    def __repr__(self) -> str:
        return short_repr(self)

    def _repr_html_(self) -> str:
        return html_repr(self)


class Parameters(list[Array]):
    """The arrays of one kind, one per layer, views into the block of a network; assigned values are checked and copied."""

    def __init__(self, name: str, arrays: Sequence[Array]) -> None:
        super().__init__(arrays)
        self._name = name

    def _fixed(self, *_, **__):
        raise TypeError(f"{self._name} has one array per layer; layers are neither added, removed nor moved")

    def __reduce__(self):
        return type(self), (self._name, list(self))

    append = extend = insert = pop = remove = clear = reverse = sort = __delitem__ = __iadd__ = __imul__ = (
        _fixed
    )

    def __setitem__(self, i, value):
        if not isinstance(i, Integral):
            raise TypeError(f"{self._name}[{i}] cannot be assigned to; assign to one layer at a time")
        if value is not self[i]:  # after weights[i] -= ... it is
            self[i][...] = self._checked(i, value)

    def fill(self, values: LayersLike) -> None:
        """Copy the arrays of all layers."""
        _check_length(self._name, values, len(self))
        checked = [self._checked(i, value) for i, value in enumerate(values)]
        for array, value in zip(self, checked, strict=True):
            array[...] = value

    def _checked(self, i, value):
        return floats(f"{self._name}[{i}]", value, self[i].shape, dtype=self[i].dtype)


Kind = TypeVar("Kind", bound="Parameters | None")


class Assignable(Generic[Kind]):
    """The parameters of one kind as an attribute of a network: assigned values are checked and copied."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, network: None, owner: type) -> Assignable[Kind]: ...
    @overload
    def __get__(self, network: Network, owner: type) -> Kind: ...
    def __get__(self, network: Network | None, owner: type) -> Any:
        return self if network is None else getattr(network, f"_{self._name}")

    def __set__(self, network: Network, values: LayersLike) -> None:
        stored = getattr(network, f"_{self._name}")
        if stored is None:
            raise ValueError(
                f"the network has no {self._name}; make one that has, by Network.create or Network(...)"
            )
        if values is not stored:
            stored.fill(values)


class Network:
    """A feedforward network with feedback weights from the controller to every layer.

        v_i = W_i r_{i-1} + b_i,  r_i = phi_i(v_i)          (Meulemans et al. 2021)

    Attributes:
        sizes: (n_0, ..., n_L), inputs first.
        weights: list of L arrays; `weights[i]` is W_{i+1}, (n_{i+1}, n_i).
        biases: list of L arrays (n_i,), or None.
        feedback: list of L arrays (n_i, n_L), the feedback weights Q_i.
        backward: the feedback matrices of dynamic inversion, as `backward_errors` takes them: list of L - 1 arrays
            (n_i, n_{i+1}), or of one, (n_1, n_L), for its single loop; None without. A list that is assigned is copied.
        hidden_activations: names of phi_1 .. phi_{L-1}; output_activation: name of phi_L.
        dtype: float32 or float64, of all parameters.

    The arrays are views into one block of memory; assigning `weights[i] = array`, or a list to `weights`, copies into it.
    Sizes, activations and dtype stay as they are.
    """

    __slots__ = (
        "__weakref__",
        "_backward",
        "_biases",
        "_dtype",
        "_feedback",
        "_hidden_activations",
        "_output_activation",
        "_sizes",
        "_weights",
    )  # fmt: skip

    weights = Assignable[Parameters]()
    biases = Assignable["Parameters | None"]()
    feedback = Assignable[Parameters]()

    def __init__(
        self,
        *,
        weights: LayersLike,
        biases: LayersLike | None,
        feedback: LayersLike,
        hidden_activation: str | Sequence[str] = "tanh",
        output_activation: str = "linear",
        dtype: DTypeLike | None = None,
        backward: LayersLike | None = None,
    ) -> None:
        """Make a network with the given parameters, which are copied.

        Args:
            weights, biases, feedback, backward: see the class; biases and backward may be None.
            hidden_activation: one name for all hidden layers, or a list with one name for each.
            dtype: float32 or float64; None takes float32 if all weights are float32, else float64.

        Raises:
            ValueError, TypeError: for shapes that do not fit together, numbers that are not finite, unknown names.
        """
        self._sizes = _sizes(weights)
        self._dtype = dtype_of(_common_dtype(weights) if dtype is None else dtype)
        depth = len(weights)
        hidden = (
            [hidden_activation] * (depth - 1) if isinstance(hidden_activation, str) else hidden_activation
        )
        _check_length("hidden_activation", hidden, depth - 1)
        self._hidden_activations = tuple(ACTIVATIONS.find(name, "hidden_activation").name for name in hidden)
        self._output_activation = ACTIVATIONS.find(output_activation, "output_activation").name
        self._allocate(biases is not None)
        self.weights.fill(weights)
        self.feedback.fill(feedback)
        if self.biases is not None and biases is not None:
            self.biases.fill(biases)
        self.backward = backward

    @property
    def sizes(self) -> tuple[int, ...]:
        """(n_0, ..., n_L), inputs first."""
        return self._sizes

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of all parameters, float32 or float64."""
        return self._dtype

    @property
    def hidden_activations(self) -> tuple[str, ...]:
        """Names of phi_1 .. phi_{L-1}."""
        return self._hidden_activations

    @property
    def output_activation(self) -> str:
        """Name of phi_L."""
        return self._output_activation

    @property
    def backward(self) -> Parameters | None:
        """See the class."""
        return self._backward

    @backward.setter
    def backward(self, matrices: LayersLike | None) -> None:
        self._backward = None
        if matrices is not None:
            shapes = _backward_shapes(self.sizes, matrices)
            self._backward = Parameters("backward", [np.zeros(shape, self.dtype) for shape in shapes])
            self._backward.fill(matrices)

    @classmethod
    def create(
        cls,
        sizes: Sequence[int],
        *,
        hidden_activation: str | Sequence[str] = "tanh",
        output_activation: str = "linear",
        bias: bool = True,
        init: Initialisation = "xavier_normal",
        feedback_init: FeedbackInit = "xavier_normal",
        seed: int = 0,
        dtype: DTypeLike = "float64",
        feedback_noise: float = 0.0,
        init_range: float = 0.01,
    ) -> Network:
        """Create a network with random weights, zero biases, and the identity as feedback weights of the output layer.

        Args:
            sizes: [n_0, ..., n_L]; at least one hidden layer is usual, none is allowed.
            init: "xavier_normal", "xavier", "orthogonal", "orthonormal", "he_uniform" or "uniform", which is in +- init_range;
                feedback_init: "xavier_normal", "xavier", "orthogonal" or "weight_product".
            feedback_noise: standard deviation of the noise added to a weight_product.
            seed: of the random weights, a whole number; the same weights for either dtype, up to rounding.

        Raises:
            ValueError, TypeError: for sizes that are not positive whole numbers, unknown names, or numbers out of range.
        """
        sizes = _checked_sizes(sizes)
        choice("feedback_init", feedback_init, FEEDBACK_INITS)
        if number("feedback_noise", feedback_noise, InitialNoise) > 0 and feedback_init != "weight_product":
            raise ValueError(
                f"feedback_noise = {feedback_noise:g} goes with feedback_init='weight_product', not {feedback_init!r}"
            )
        number("init_range", init_range, InitialRange)
        rng = np.random.default_rng(whole_number("seed", seed, Seed))
        shapes = list(zip(sizes[1:], sizes[:-1], strict=True))
        weights = [initial_matrix(init, n, m, rng, init_range) for n, m in shapes]
        outputs = sizes[-1]
        if feedback_init == "weight_product":
            feedback = [q + feedback_noise * rng.standard_normal(q.shape) for q in weight_product(weights)]
        else:
            feedback = [initial_matrix(feedback_init, n, outputs, rng) for n in sizes[1:]]
        feedback[-1] = np.eye(outputs)
        biases = [np.zeros(n) for n in sizes[1:]] if flag("bias", bias) else None
        return cls(
            weights=weights, biases=biases, feedback=feedback, hidden_activation=hidden_activation,
            output_activation=output_activation, dtype=dtype,
        )  # fmt: skip

    def _allocate(self, bias):
        """Allocate one block of memory for all parameters, and create the views into it."""
        shapes = list(zip(self.sizes[1:], self.sizes[:-1], strict=True))
        shapes += [(n, self.sizes[-1]) for n in self.sizes[1:]]
        shapes += [(n,) for n in self.sizes[1:]] if bias else []
        ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
        block = np.zeros(ends[-1], self.dtype)
        views = [part.reshape(shape) for part, shape in zip(np.split(block, ends[:-1]), shapes, strict=True)]
        depth = len(self.sizes) - 1
        self._weights = Parameters("weights", views[:depth])
        self._feedback = Parameters("feedback", views[depth : 2 * depth])
        self._biases = Parameters("biases", views[2 * depth :]) if bias else None

    @property
    def activations(self) -> tuple[str, ...]:
        """Names of phi_1 .. phi_L."""
        return (*self.hidden_activations, self.output_activation)

    @property
    def n_parameters(self) -> int:
        """Number of weights, biases and feedback weights."""
        groups = (self.weights, self.feedback, self.biases or [], self.backward or [])
        return sum(array.size for group in groups for array in group)

    def __repr__(self) -> str:
        sizes = "-".join(map(str, self.sizes))
        return f"Network({sizes}, {'/'.join(self.activations)}, bias={self.biases is not None}, {self.dtype.name})"

    def _repr_html_(self) -> str:
        columns = (range(1, len(self.sizes)), self.sizes[1:], self.activations, self.weights, self.feedback)
        rows = [(*facts, str(w.shape), str(q.shape)) for *facts, w, q in zip(*columns, strict=True)]
        title = f"Network: {self.sizes[0]} inputs, {self.n_parameters:,} parameters, {self.dtype.name}"
        return html_table(title, ("layer", "units", "activation", "weights", "feedback"), rows)

    def copy(self, *, dtype: DTypeLike | None = None) -> Network:
        """Return an independent copy, in another dtype if one is named."""
        return Network(
            weights=self.weights, biases=self.biases, feedback=self.feedback, hidden_activation=self.hidden_activations,
            output_activation=self.output_activation, dtype=self.dtype if dtype is None else dtype, backward=self.backward,
        )  # fmt: skip

    def sharing(self, **parameters: Sequence[Array] | None) -> Network:
        """Return a network of this kind that has the given arrays themselves as parameters, not copies of them.

        Args:
            parameters: lists of arrays of the right shapes and dtype, by kind ("weights", ...); the others are shared.
        """
        other = copy(self)
        for kind, arrays in parameters.items():
            setattr(other, f"_{kind}", None if arrays is None else Parameters(kind, arrays))
        return other

    def forward(self, x: ArrayLike, *, dtype: DTypeLike | None = None) -> Activity:
        """Compute the feedforward pass.

        Args:
            x: inputs (B, n_0).
            dtype: of the computation and its result; None means the network's.

        Returns:
            `Activity` with .v[i] and .r[i], (B, n_{i+1}) each. A sample's numbers do not depend on the others.
        """
        dtype = self.dtype if dtype is None else dtype_of(dtype)
        x = samples("x", x, self.sizes[0], dtype=dtype)
        places = layout(self.sizes, dtype)
        count = len(x)
        activations = addresses(self, rate_loop, dtype)
        packed = memory.in_large_pages(int(places.weights[-1]), dtype)
        weights = pack(self.weights, places.stride[1:], dtype, out=packed)
        biases = (
            np.zeros(places.dense[-1], dtype)
            if self.biases is None
            else np.concatenate(self.biases).astype(dtype)
        )
        v, r = (np.zeros(count * places.dense[-1], dtype) for _ in range(2))
        padded = padded_rows(x, places.stride[0], dtype)
        shards = threads.shards(count, sum(w.nbytes for w in self.weights))

        def run(shard):
            first, rows = shards[shard]
            feedforward(places, activations, weights, biases, padded, first, rows, count, v, r)

        threads.run(len(shards), run, work=2.0 * count * sum(w.size for w in self.weights))
        return Activity(dense_views(v, count, self.sizes), dense_views(r, count, self.sizes))

    def predict(self, x: ArrayLike, *, dtype: DTypeLike | None = None) -> Array:
        """Return the output rates (B, n_L) for inputs (B, n_0); a ValueError where they are not finite."""
        remedy = "the weights have diverged, or they or x are too large"
        return finite_result("the output", self.forward(x, dtype=dtype).r[-1], remedy)

    def set_feedback(self, kind: FeedbackKind, x: ArrayLike | None = None, *, damping: float = 0.0) -> None:
        """Replace the feedback weights by a function of the forward weights.

        "weight_product": Q_i = W_{i+1}^T ... W_L^T. The others take the mean over the samples x (B, n_0) of the
        Jacobian J = d r_L / d v (n_L, sum n_i): "jacobian_transpose" J^T, "jacobian_pinv" J^+ and
        "jacobian_damped_pinv" J^T (J J^T + damping I)^{-1}
        (the feedback weights that DFC's theorems speak of, Meulemans et al. 2021).

        Raises:
            ValueError, TypeError: if x is missing for a Jacobian (a weight product needs none), or damping does not go
                with the kind.
        """
        choice("kind", kind, FEEDBACK_KINDS)
        if (number("damping", damping, Damping) > 0) != (kind == "jacobian_damped_pinv"):
            raise ValueError(
                f"damping = {damping:g} with {kind!r}; a positive one goes with 'jacobian_damped_pinv', 0 with the others"
            )
        if kind == "weight_product":
            self.feedback.fill(weight_product(self.weights))
            return
        if x is None:
            raise ValueError(
                f"set_feedback({kind!r}) averages a Jacobian over samples; pass them as x, (B, {self.sizes[0]})"
            )
        _, activity = feedforward_state(self, x)
        feedback = jacobian.mean_feedback(self, activity.v, kind, damping)
        self.feedback.fill(np.split(feedback, np.cumsum(self.sizes[1:])[:-1]))

    def save(self, path: PathLike) -> None:
        """Write the network to an HDF5 file; an older file of that name is replaced as a whole."""
        filing.save("network", self, path)

    @classmethod
    def load(cls, path: PathLike) -> Network:
        """Read a network that `save` wrote.

        Raises:
            OSError: if the file cannot be read. ValueError: if it is not a network file of this project.
        """
        try:
            return cls(**filing.load("network", path))
        except ValueError as error:
            if str(path) in str(error):
                raise
            raise ValueError(f"{path}: {error}") from None


def _common_dtype(weights):
    return "float32" if all(np.asarray(w).dtype == np.float32 for w in weights) else "float64"


def _check_length(name, values, count=None):
    if not hasattr(values, "__len__") or isinstance(values, str):
        raise TypeError(f"{name} must be a list with one entry per layer, not {values!r}")
    if count is not None and len(values) != count:
        raise ValueError(f"{name} has {len(values)} entries for {count} layers")


def _sizes(weights):
    """Return (n_0, ..., n_L) of a chain of weight matrices."""
    _check_length("weights", weights)
    shapes = [as_array(f"weights[{i}]", w).shape for i, w in enumerate(weights)]
    if not shapes:
        raise ValueError("weights is empty; a network has at least one layer")
    for i, shape in enumerate(shapes):
        if len(shape) != 2 or 0 in shape:
            raise ValueError(
                f"weights[{i}] has shape {shape}; expected (n_{i + 1}, n_{i}), neither of them 0"
            )
        if i and shape[1] != shapes[i - 1][0]:
            raise ValueError(
                f"weights[{i}] has shape {shape}, but the layer below has {shapes[i - 1][0]} units"
            )
    return (int(shapes[0][1]), *(int(shape[0]) for shape in shapes))


def _backward_shapes(sizes, matrices):
    """Return the shapes of the feedback matrices of dynamic inversion: layer to layer, or output to first layer."""
    _check_length("backward", matrices)
    chain = list(pairwise(sizes[1:]))
    single = len(matrices) == 1 and np.shape(matrices[0]) == (sizes[1], sizes[-1])
    if not single:
        _check_length("backward", matrices, len(chain))
    return [(sizes[1], sizes[-1])] if single else chain


def _checked_sizes(sizes):
    if not hasattr(sizes, "__len__") or len(sizes) < 2:
        raise ValueError(f"sizes is {sizes!r}; expected [n_0, ..., n_L], at least two positive whole numbers")
    return [whole_number(f"sizes[{i}]", n, Count) for i, n in enumerate(sizes)]


def exact_forward(network, x):
    """Return (x, `Activity`) in float64, of a network and inputs that are checked to fit; numbers may not be finite."""

    def compute():
        inputs = samples("x", x, instance("network", network, Network).sizes[0])
        return inputs, network.forward(inputs, dtype="float64")

    return shared_pass(compute, "feedforward", network, x)


def feedforward_state(network, x):
    """Return (x, `Activity`) in float64, checked: the feedforward state that a feedback phase starts from.

    Raises:
        ValueError, TypeError: for a network that is none, inputs that do not fit, or voltages that are not finite.
    """
    x, activity = exact_forward(network, x)
    if network.dtype == np.float32:
        with np.errstate(over="ignore"):
            finite("x", x.astype(np.float32))
    for i, v in enumerate(activity.v):
        finite(f"feedforward voltage of layer {i + 1}, ", v)
    return x, activity
