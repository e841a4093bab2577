"""Feedback mappings of target propagation: their options, their parameters, and how noise teaches them.

    dtp, dtpdrl     g_i(h) = g(Q_i h + d_i) from each layer to the one below
    ddtp_linear, ddtp_control    g_i(a_L) = Q_i a_L + d_i from the output to each layer
    ddtp_rhl        g_i(a_L) = g(Q_i tanh(R a_L + c) + d_i), with a fixed random layer R; the last hidden layer reads a_L

They learn by the difference reconstruction loss (`dtp`, `ddtp_control`: by plain reconstruction), Meulemans et al. 2020,
arXiv:2006.14331, section 4.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from dfc_numba.kernels.layer_passes import LayerChain, Noise, propagate
from dfc_numba.kernels.layout import dense_views, layout, pack
from dfc_numba.kernels.units import rate_loop
from dfc_numba.model.activations import addresses, phi, phi_prime
from dfc_numba.model.initialization import initial_matrix
from dfc_numba.model.network import Network, exact_forward
from dfc_numba.model.noise_key import as_key, given_draws
from dfc_numba.model.products import row_products
from dfc_numba.registry import ACTIVATIONS
from dfc_numba.relatives.finiteness import Flagged
from dfc_numba.support import memory, threads
from dfc_numba.support.options import options
from dfc_numba.support.ranges import Count, Positive, PositiveSigma, Sigma
from dfc_numba.support.validation import (
    as_array,
    choice,
    floats,
    instance,
    samples,
    seeds,
    silent,
    whole_number,
)

RULES = ("dtp", "dtpdrl", "ddtp_linear", "ddtp_rhl", "ddtp_control")
LAYERWISE = ("dtp", "dtpdrl")
LINEAR = ("ddtp_linear", "ddtp_control")
INVERTIBLE = ("linear", "sigmoid")


@options
class TargetPropagation:
    """Options of target propagation.

    Args:
        rule: how targets are sent back and how the feedback mappings learn, see the module.
        step: eta of the output target a_L* = a_L - eta d(mean loss)/d a_L (sigmoid output: of h_L).
        sigma: standard deviation of the noise by which the feedback mappings learn, in the rates of one layer.
        sigma_floor: "dtp" divides its loss by max(sigma, sigma_floor)^2; the other rules by sigma^2, "ddtp_control" by 1.
        loss: "mse" (mean over samples and outputs) or "cross_entropy" (of softmax; a linear output).
        feedback_activation: nonlinearity g of the mappings; None for linear ("ddtp_linear", "ddtp_control") or tanh.

    Raises:
        ValueError: for an unknown option, a value out of range, or a nonlinearity that the rule does not have.
    """

    rule: Literal["dtp", "dtpdrl", "ddtp_linear", "ddtp_rhl", "ddtp_control"] = "ddtp_linear"
    step: Positive = 0.1
    sigma: PositiveSigma = 0.1
    sigma_floor: Sigma = 0.02
    loss: Literal["mse", "cross_entropy"] = "mse"
    feedback_activation: Literal["linear", "tanh", "relu", "leakyrelu", "sigmoid"] | None = None

    def __post_init__(self):
        if self.rule in LINEAR and self.feedback_activation not in (None, "linear"):
            raise ValueError(
                f"feedback_activation = {self.feedback_activation!r} with rule = {self.rule!r}, whose feedback is linear; "
                "leave it out, or choose 'ddtp_rhl', 'dtpdrl' or 'dtp'"
            )

    @property
    def activation(self):
        """Name of g."""
        return self.feedback_activation or ("linear" if self.rule in LINEAR else "tanh")

    @property
    def loss_scale(self):
        """The factor 1 / sigma^2 of the reconstruction loss, as far as the rule has it."""
        if self.rule == "ddtp_control":
            return 1.0
        return 1.0 / (max(self.sigma, self.sigma_floor) if self.rule == "dtp" else self.sigma) ** 2


class FeedbackMappings:
    """The parameters of the feedback mappings g_1 .. g_{L-1}, C-ordered arrays that an optimiser may change in place.

    Attributes:
        weights: list of L - 1 arrays; `weights[i]` leads to hidden layer i + 1: (n_{i+1}, n_{i+2}) for "dtp" and
            "dtpdrl", (n_{i+1}, n_L) for the direct rules, (n_{i+1}, units) for "ddtp_rhl" below the last hidden layer.
        biases: list of (n_i,), or None.
        random_weights, random_biases: R (units, n_L) and c (units,) of the fixed random layer; None without.
    """

    def __init__(self, network, options, *, weights, biases=None, random_weights=None, random_biases=None):
        """Create mappings with the given parameters (copied).

        Raises:
            ValueError, TypeError: for shapes that do not fit the network and the rule, or numbers that are not finite.
        """
        instance("network", network, Network)
        instance("options", options, TargetPropagation)
        hidden, dtype = len(network.sizes) - 2, network.dtype
        if (random_weights is not None) != (options.rule == "ddtp_rhl"):
            raise ValueError(
                f"rule = {options.rule!r} {'needs' if options.rule == 'ddtp_rhl' else 'has no'} random_weights"
            )
        units = None if random_weights is None else len(as_array("random_weights", random_weights))
        shapes = mapping_shapes(network.sizes, options.rule, units)
        for name, arrays in (("weights", weights), ("biases", biases)):
            if arrays is not None and not isinstance(arrays, list | tuple):
                raise TypeError(f"{name} must be a list of {hidden} arrays, not {type(arrays).__name__}")
            if arrays is not None and len(arrays) != hidden:
                raise ValueError(f"{name} has {len(arrays)} entries for {hidden} hidden layers")
        self.weights = [
            floats(f"weights[{i}]", w, shape, dtype=dtype).copy()
            for i, (w, shape) in enumerate(zip(weights, shapes, strict=True))
        ]
        self.biases = biases and [
            floats(f"biases[{i}]", b, (shape[0],), dtype=dtype).copy()
            for i, (b, shape) in enumerate(zip(biases, shapes, strict=True))
        ]
        self.random_weights = self.random_biases = None
        if units is not None:
            shape = (units, network.sizes[-1])
            given = np.zeros(units) if random_biases is None else random_biases
            self.random_weights = floats("random_weights", random_weights, shape, dtype=dtype).copy()
            self.random_biases = floats("random_biases", given, (units,), dtype=dtype).copy()

    @classmethod
    def sharing(cls, weights, biases=None, random_weights=None, random_biases=None):
        """Return mappings that have the given arrays themselves as parameters, not copies, unchecked."""
        mappings = object.__new__(cls)
        mappings.weights, mappings.biases = weights, biases
        mappings.random_weights, mappings.random_biases = random_weights, random_biases
        return mappings

    @classmethod
    def create(cls, network, options, *, units=1024, bias=True, init="xavier_normal", seed=0):
        """Return random mappings for a network, with zero biases.

        Args:
            units: of the random layer of "ddtp_rhl". init: as in `Network.create`. seed: a whole number, or a list of them.
        """
        rng = np.random.default_rng(seeds("seed", seed))
        instance("network", network, Network)
        rhl = instance("options", options, TargetPropagation).rule == "ddtp_rhl"
        units = whole_number("units", units, Count) if rhl else None
        shapes = mapping_shapes(network.sizes, options.rule, units)
        return cls(
            network,
            options,
            weights=[initial_matrix(init, *shape, rng) for shape in shapes],
            biases=[np.zeros(rows) for rows, _ in shapes] if bias else None,
            random_weights=initial_matrix(init, units, network.sizes[-1], rng) if rhl else None,
        )


def mapping_shapes(sizes, rule, units=None):
    """Return the shapes of the weights of the feedback mappings to the hidden layers 1 .. L-1."""
    hidden, outputs = sizes[1:-1], sizes[-1]
    if not hidden:
        raise ValueError("target propagation needs a network with at least one hidden layer")
    if choice("rule", rule, RULES) in LAYERWISE:
        return list(zip(hidden, sizes[2:], strict=True))
    below = [outputs if units is None else units] * (len(hidden) - 1) + [outputs]
    return list(zip(hidden, below, strict=True))


# --- learning from noise ---


@dataclass(frozen=True)
class ReconstructionUpdate(Flagged):
    """The change of the feedback mappings from noise, per unit learning rate; lists over the hidden layers 1 .. L-1.

    Attributes:
        weights, biases: shaped as in `FeedbackMappings`; biases None without.
        losses: the reconstruction loss of each layer.
        corrupted, reconstructed: (B, n_i): h_i + sigma xi_i, and what came back.
        upper: what g_i read in the end: a_L (direct rules), or the rates that came back to layer i + 1.
        output_voltage, output: of the perturbed pass, (B, n_L); None for "dtp", whose pass ends one layer up.
        diverged: whether some number of it is not finite.
    """

    weights: list
    biases: list | None
    losses: list
    corrupted: list
    reconstructed: list
    upper: list
    output_voltage: list | None
    output: list | None


@silent()
def reconstruction_update(network, mappings, x, options, *, noise, activity=None):
    """Return the update of the feedback mappings: minus the gradient of the difference reconstruction loss.

        h~_i = h_i + sigma xi_i  ->  a~_L  ->  h_i^rec, as targets are sent back with a~_L as the output's
        loss_i = 1/(sigma^2 B n_i) sum |h_i^rec - h~_i|^2                     (Meulemans et al. 2020, eq. 12)

    of which "dtpdrl" takes the gradient with respect to its lowest mapping, g_i, alone; weight decay is the optimiser's.

    Args:
        x: inputs (B, n_0).
        noise: an int seed, a `NoiseKey`, or a list of L - 1 arrays (B, n_i) of standard normal draws.
        activity: what `network.forward(x)` returned, to save computing it again.

    Returns:
        a `ReconstructionUpdate`, in the network's dtype.

    Raises:
        ValueError, TypeError: for arguments that do not fit.
    """
    if activity is None:
        activity = instance("network", network, Network).forward(x)
    x, activity = checked_arguments(network, mappings, x, options, activity)
    scale = options.loss_scale
    draws = _draws(noise, network, len(x), options.sigma)
    found = ReconstructionUpdate([], [], [], [], [], [], [], [])
    with threads.one_thread():
        passes = _Passes(network, mappings, activity, options)
        for i in range(len(mappings.weights)):
            voltage, rates, corrupted = passes.up(i, draws(i))
            upper, raised, returned = passes.down(i, voltage, rates)
            error = returned - corrupted
            found.losses.append(float(scale * np.mean(np.square(error, dtype=np.float64))))
            error *= -2.0 * scale / error.size
            weights, biases = passes.gradient(i, error, raised, upper)
            found.weights.append(weights)
            found.biases.append(biases)
            found.corrupted.append(corrupted)
            found.reconstructed.append(returned)
            found.upper.append(upper)
            if options.rule != "dtp":
                found.output_voltage.append(voltage)
                found.output.append(rates)
    if options.rule == "dtp":
        found = replace(found, output_voltage=None, output=None)
    return found if mappings.biases is not None else replace(found, biases=None)


class _Passes:
    """The passes of one minibatch: up with noise, back down through the mappings, and the gradient that follows.

    The difference correction of layer i is what g_i makes of the unperturbed state: of voltage `lowered[i]`, read from `base[i]`.
    A linear g_i needs neither, but Q_i (a~_L - a_L), which keeps the digits of a small difference.
    """

    def __init__(self, network, mappings, activity, options):
        self.mappings, self.activity, self.options = mappings, activity, options
        self.depth, self.rates = len(network.weights), activity.r
        self.forward = _forward_chain(network)
        self.corrects = options.rule not in ("dtp", "ddtp_control")
        self.differs = self.corrects and options.rule in LINEAR
        hidden = range(len(mappings.weights))
        if options.rule in LAYERWISE:
            self.backward = feedback_chain(network, mappings, options, network.dtype)
            self.base = activity.r[1:]
        else:
            self.base = sources(mappings, activity.v[-1], options)
        if self.corrects and not self.differs:
            self.lowered = [mapped_voltage(mappings, i, self.base[i]) for i in hidden]
            self.corrections = [activity.r[i] - phi(options.activation, self.lowered[i]) for i in hidden]

    def up(self, i, noise):
        """Return (voltages, rates) where the perturbed pass from hidden layer i + 1 ends, and the perturbed rates."""
        last = i + 2 if self.options.rule == "dtp" else self.depth
        voltages, rates, corrupted = run_chain(self.forward, i + 1, last, self.rates[i], noise=noise)
        return voltages, rates[-1], corrupted

    def down(self, i, voltage, rates):
        """Return (what g_i reads, its voltage, the reconstructed rates) of hidden layer i + 1."""
        end = self.depth - i - 1  # of the chain that begins with the output
        if self.options.rule == "dtpdrl":
            shifts = np.concatenate([part.ravel() for part in self.corrections[::-1]])
            voltages, returned, _ = run_chain(self.backward, 0, end, rates, shifts=shifts)
            return (returned[-2] if end > 1 else rates), voltages, returned[-1]
        if self.options.rule == "dtp":
            voltages, returned, _ = run_chain(self.backward, end - 1, end, rates)
            return rates, voltages, returned[-1]
        upper = sources(self.mappings, voltage, self.options, i)[0]
        if self.differs:
            returned = row_products(upper - self.base[i], np.asarray(self.mappings.weights[i], upper.dtype))
            returned += self.rates[i]
            return upper, None, returned
        raised = mapped_voltage(self.mappings, i, upper)
        returned = phi(self.options.activation, raised)
        return upper, raised, returned + self.corrections[i] if self.corrects else returned

    def gradient(self, i, factor, raised, upper):
        """Return the gradient of the loss in weights and biases of g_i; factor: that for the reconstruction."""
        if self.differs:
            return factor.T @ (upper - self.base[i]), np.zeros_like(factor[0])
        post = factor * phi_prime(self.options.activation, raised)
        if not self.corrects:
            return post.T @ upper, post.sum(axis=0)
        still = factor * phi_prime(self.options.activation, self.lowered[i])
        return post.T @ upper - still.T @ self.base[i], post.sum(axis=0) - still.sum(axis=0)


# --- what targets need as well ---


def checked_arguments(network, mappings, x, options, activity):
    instance("network", network, Network)
    instance("mappings", mappings, FeedbackMappings)
    instance("options", options, TargetPropagation)
    if network.output_activation not in INVERTIBLE:
        raise ValueError(
            f"the output activation is {network.output_activation!r}; target propagation inverts the output, so it has to be "
            "'linear' (with target.loss 'mse' or 'cross_entropy') or 'sigmoid'"
        )
    if options.loss == "cross_entropy" and network.output_activation != "linear":
        raise ValueError(
            f"loss = 'cross_entropy' (of softmax) with output activation {network.output_activation!r}; it needs 'linear'"
        )
    if activity is None:
        return exact_forward(network, x)
    return samples("x", x, network.sizes[0]), activity


def read_output(mappings, voltage, options):
    """Return g_i of the voltages of the output, for all mappings of a direct rule: list of (B, n_i)."""
    read = sources(mappings, voltage, options)
    return [phi(options.activation, mapped_voltage(mappings, i, source)) for i, source in enumerate(read)]


def sources(mappings, voltage, options, begin=0):
    """Return what mappings from `begin` on read of an output voltage: itself, or r(a) = tanh(R a + c) of "ddtp_rhl"."""
    count = len(mappings.weights) - begin
    if options.rule != "ddtp_rhl" or count == 1:
        return [voltage] * count
    dtype = voltage.dtype
    weights, biases = (np.asarray(a, dtype) for a in (mappings.random_weights, mappings.random_biases))
    return [np.tanh(voltage @ weights.T + biases)] * (count - 1) + [voltage]


def mapped_voltage(mappings, i, source):
    """Return Q_i source + d_i, in the precision of the source."""
    out = row_products(source, np.asarray(mappings.weights[i], source.dtype))
    return out if mappings.biases is None else out + np.asarray(mappings.biases[i], source.dtype)


# --- chains of the compiled layer ---------------------------------------------------------------------------------------


def _forward_chain(network):
    places = layout(network.sizes, network.dtype)
    biases = np.zeros(places.dense[-1], network.dtype)
    if network.biases is not None:
        biases = np.concatenate(network.biases)
    activations = addresses(network, rate_loop, network.dtype)
    packed = memory.in_large_pages(int(places.weights[-1]), network.dtype)  # no pass starts below layer 1
    pack(network.weights[1:], places.stride[2:], network.dtype, out=packed[places.weights[2] :])
    return LayerChain(places, activations, packed, biases)


def feedback_chain(network, mappings, options, dtype):
    """Return the mappings of the layerwise rules as a chain from the output down; layer j of it is layer L - j of the network."""
    sizes = network.sizes[:0:-1]
    places = layout(sizes, dtype)
    activations = np.full(len(sizes), rate_loop(ACTIVATIONS[options.activation].form, np.dtype(dtype)))
    biases = np.zeros(places.dense[-1], dtype)
    if mappings.biases is not None:
        biases = np.concatenate(mappings.biases[::-1]).astype(dtype)
    return LayerChain(places, activations, pack(mappings.weights[::-1], places.stride[1:], dtype), biases)


def run_chain(chain, begin, end, x, *, shifts=None, noise=None):
    """Return (voltages of layer `end`, rates of layers begin + 1 .. end) of a chain, and the rates that the pass started from.

    Args:
        x: (B, n) rates of layer `begin`. shifts: flat, over all layers. noise: a `Noise`, or draws (B, n) times sigma.
    """
    dtype = chain.weights.dtype
    places, count = chain.layout, len(x)
    given = isinstance(noise, np.ndarray)
    x = np.ascontiguousarray(x + noise if given else x, dtype)
    noise = Noise(0.0, np.uint64(0), np.zeros(count, np.uint64), 0) if given or noise is None else noise
    shifts = np.zeros(0, dtype) if shifts is None else np.ascontiguousarray(shifts, dtype)
    r = np.empty(count * places.dense[end + 1], dtype)
    v = np.empty((count, places.sizes[end]), dtype)
    start = np.empty(x.size, dtype)
    shards = threads.shards(count)

    def run(shard):
        first, rows = shards[shard]
        propagate(chain, noise, begin, end, x.ravel(), shifts, start, v.ravel(), r, first, rows, count)

    work = 2.0 * count * sum(places.sizes[i] * places.sizes[i - 1] for i in range(begin + 1, end + 1))
    threads.run(len(shards), run, work=work)
    sizes = places.sizes[: end + 1]
    return v, dense_views(r, count, sizes)[begin:], start.reshape(x.shape)


def _draws(noise, network, count, sigma):
    """Return a function from the number of a mapping to its layer's noise: a `Noise`, or given draws times sigma."""
    key = as_key(noise)
    if key is not None:
        word, numbers = key.word(), key.numbers(count)
        return lambda i: Noise(sigma, word, numbers, i + 1)
    draws = given_draws(noise, (count,), network.sizes[:-1])
    return lambda i: sigma * draws[i]
