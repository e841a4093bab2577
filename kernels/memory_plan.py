"""Where everything of a simulation lies: one plan for the feedback phase and for online plasticity.

What evolves in the network's dtype lies in one array `work`, the controller in another, `signals`, in float64, so that a step
needs no other address than an offset. `LAYER` has the offsets of a layer, a record that kernels read by name; `Places` has
those of what belongs to no layer. Rows of units are padded as in `layout`. What keeps several time points has that many
slots, `[layer][slot][sample][unit]`; scratch that lives within one layer's step is shared by all layers, for the sake of the
cache. In the feedback phase the samples are those of a shard, in `online` the whole minibatch.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from dfc_numba.kernels.layout import layout as layout_of

BLOCK_ROWS = 64  # samples x steps that one product for the updates takes together
PAIR_LENGTH = 16  # numbers that a formula of u and u_slow takes at a time
TERM_PLANES = 11  # of `units.CONTROL`

# a layer i = 1..L, and the input as row 0 where it is kept; starts of what has slots are those of the first
LAYER_NAMES = (
    # numbers
    "number", "units", "stride", "inputs",  # i, n_i, n_i with padding, n_{i-1}
    "dense",  # units per sample of the layers before it, without padding
    "slot",  # distance of slots: samples x stride
    # W_i, b_i, Q_i, and W_{i+1}^T if the feedback is the Jacobian's: in `work` where they learn, else in `PackedNetwork`
    "weights", "biases", "feedback", "transposed",
    "outer", "outer_feedback",  # sums for their updates, in `Results`
    # the state in the feedback phase, as deviations from the feedforward pass: v_i, v_ff_i
    "v", "basal",
    # the state where weights learn: v_i - v_ff_i, v_ff_i
    "difference", "v_ff",
    # of either: v_fb_i, Q_i u (or J_i^T u), the noise's filter
    "apical", "drive", "noise",
    # with slots: r_i (deviation or not, as the voltages), presynaptic factors (r_i or a formula of it), postsynaptic ones
    "rate", "seen", "factor",
    "factor_of_feedback",  # postsynaptic factors of Q_i, with slots in the feedback phase
    "constants",  # three planes [sample][unit] that activation differences are made with
    "reference",  # likewise v, r, phi'(v) of the feedforward pass, where formulas need it
    # the layer below: its rates, presynaptic factors, stride and slots
    "below", "seen_below", "below_stride", "below_slot",
)  # fmt: skip
LAYER = np.dtype([(name, np.int64) for name in LAYER_NAMES])


class Places(NamedTuple):
    """Sizes of the whole, and where things lie that belong to no layer; 0 for what a simulation does without."""

    count: int  # samples
    depth: int  # L
    outputs: int  # n_L
    stride: int  # of control signals in `work`
    # in `work`
    sent: int  # [sample][output] control signal that the layers receive
    signal: int  # [slot][sample][output] what the feedback weights learn from
    draw: int  # noise of one layer
    scratch: int  # a formula of one layer
    # in `signals`, [sample][output]
    u: int
    u_int: int
    u_filtered: int
    u_slow: int
    error: int
    output: int  # r_L, or log softmax(r_L)
    pair: int  # `PAIR_LENGTH` numbers each of u, u_slow and a formula of them
    terms: int  # planes of `units.CONTROL`, where the controller has further terms
    # in `work`, where weights learn
    inputs: int = 0  # n_0
    held: int = 0  # W_1 x + b_1 at the start of a segment with a held input
    last_factor: int = 0  # of the first layer, while its input is held
    total: int = 0  # new basal voltage of a layer
    watch: int = 0  # zeros, NaN once a voltage was not finite
    widest: int = 0  # its length


class ShardPlan(NamedTuple):
    """The plan of a shard of the feedback phase."""

    places: Places
    layers: np.ndarray  # of `LAYER`
    slots: int  # of rates and factors
    block: int  # steps whose products for the updates are taken together; slots of what feedback weights learn from
    length: int  # of `work`
    signals: int  # length


class Needs(NamedTuple):
    """What a feedback phase keeps; SHARED: scratch that the layers share. Without a drive, v_fb_i is Q_i u itself."""

    average: bool  # factors of a block of steps; else of the last two
    basal: int
    apical: int
    drive: int
    noise: int
    draws: bool
    reference: bool
    presynaptic: bool
    feedback: bool  # what feedback weights learn from
    scratch: bool
    terms: bool
    pair: bool


NOTHING, SHARED, EACH = 0, 1, 2


class _Pieces:
    """Hands out consecutive pieces of an array."""

    def __init__(self):
        self.size = 0

    def __call__(self, length):
        start, self.size = self.size, self.size + int(length)
        return start


def _table(layout, count):
    """Return the records of the layers with their numbers, index 0 for the input."""
    table = np.zeros(len(layout.sizes), LAYER)
    table["number"], table["units"], table["stride"] = np.arange(len(table)), layout.sizes, layout.stride
    table["inputs"][1:], table["dense"], table["slot"] = (
        layout.sizes[:-1],
        layout.dense[:-1],
        count * layout.stride,
    )
    return table


def _place(table, work, **lengths):
    """Give each layer a piece of `work` for every variable: lengths of the layers 1..L, or one length that they share."""
    for name, length in lengths.items():
        table[name][1:] = work(length) if np.ndim(length) == 0 else [work(each) for each in length]


def _join(table):
    """Tell every layer where the one below is."""
    for name, below in (
        ("rate", "below"),
        ("seen", "seen_below"),
        ("stride", "below_stride"),
        ("slot", "below_slot"),
    ):
        table[below][1:] = table[name][:-1]


def _place_signals(signals, count, outputs, pair=3 * PAIR_LENGTH, terms=0):
    """Return the places of the controller."""
    names = ("u", "u_int", "u_filtered", "u_slow", "error", "output")
    return {name: signals(count * outputs) for name in names} | {
        "pair": signals(pair),
        "terms": signals(terms),
    }


@lru_cache(maxsize=256)
def plan_of_shard(sizes, dtype, needs, count):
    """Return the `ShardPlan` of `count` samples of a network with sizes (n_0, ..., n_L); cached: treat it as read-only."""
    layout, work, signals = layout_of(sizes, dtype), _Pieces(), _Pieces()
    table, outputs, block = _table(layout, count), int(layout.sizes[-1]), max(2, BLOCK_ROWS // count)
    rows, widest, slots = table["slot"][1:], count * layout.widest, block if needs.average else 2
    kept = {NOTHING: 0, SHARED: widest, EACH: rows}
    for name in ("weights", "feedback", "transposed"):
        table[name] = getattr(layout, name)[:-1]
    table["outer"], table["outer_feedback"] = layout.outer_shard[:-1], layout.outer_feedback[:-1]
    _place(
        table, work, v=rows, basal=kept[needs.basal], apical=kept[needs.apical], drive=kept[needs.drive],
        noise=kept[needs.noise], constants=3 * rows, reference=3 * rows * needs.reference,
        rate=slots * rows, factor=slots * rows, seen=slots * rows * needs.presynaptic,
        factor_of_feedback=block * rows * needs.feedback,
    )  # fmt: skip
    if needs.drive == NOTHING:
        table["drive"] = table["apical"]
    if not needs.presynaptic:
        table["seen"] = table["rate"]
    _join(table)
    stride = int(layout.stride[-1])
    padded = -(-count * outputs // PAIR_LENGTH) * PAIR_LENGTH
    places = Places(
        count, len(sizes) - 1, outputs, stride,
        signal=work(block * count * stride * needs.feedback), sent=work(count * stride),
        draw=work(widest * needs.draws), scratch=work(widest * needs.scratch),
        **_place_signals(signals, count, outputs, 3 * PAIR_LENGTH * needs.pair, TERM_PLANES * padded * needs.terms),
    )  # fmt: skip
    return ShardPlan(places, table.view(np.recarray), slots, block, work.size, signals.size)


def plan_online(layout, count, jacobian_feedback, presynaptic):
    """Return (records of the layers, Places, length of `work`, length of `signals`) of an online simulation of `count` samples.

    Args:
        presynaptic: whether formulas of the rates are kept beside them.
    """
    work, signals = _Pieces(), _Pieces()
    table, sizes, stride = _table(layout, count), layout.sizes, layout.stride[1:]
    rows, widest, outputs = table["slot"][1:], count * layout.widest, int(sizes[-1])
    above = np.append(sizes[2:], 0) * jacobian_feedback
    table["stride"][0], table["slot"][0] = sizes[0], count * sizes[0]  # inputs are not padded
    shared = {name: work(widest) for name in ("total", "scratch", "draw")}
    _place(
        table, work, drive=rows if jacobian_feedback else widest, weights=stride * sizes[:-1], biases=stride,
        feedback=stride * outputs, transposed=stride * above, v_ff=rows, difference=rows, apical=rows, noise=rows,
        rate=2 * rows, seen=2 * rows * presynaptic, factor=rows, factor_of_feedback=rows,
    )  # fmt: skip
    row, places = int(stride[-1]), _place_signals(signals, count, outputs)
    places |= {"signal": work(2 * count * row), "sent": work(count * row), "watch": work(layout.widest)}
    places |= {name: work(rows[0]) for name in ("held", "last_factor")}
    for name in ("rate", "seen")[: 1 + presynaptic]:
        table[name][0] = work(2 * count * sizes[0])
    if not presynaptic:
        table["seen"] = table["rate"]
    _join(table)
    whole = Places(
        count, len(sizes) - 1, outputs, row, inputs=int(sizes[0]), widest=layout.widest, **shared, **places
    )
    return table.view(np.recarray), whole, work.size, signals.size
