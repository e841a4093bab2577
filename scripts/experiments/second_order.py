#!/usr/bin/env python
"""Measure how near dynamic inversion and DFC come to Gauss-Newton, on the same network.

    python scripts/experiments/second_order.py [--mnist] [--out DIR] [--seed N] [--quick]

Dynamic inversion (Podlaski & Machens 2020, arXiv:2007.05112) and Deep Feedback Control (Meulemans et al. 2021,
arXiv:2106.07887) both invert the network to find what its layers should do. Here both make updates of one network, before
and after it has learned by backpropagation: tanh 30-20-10-10 on the strong nonlinear teacher, with --mnist 784-256-256-10.
Angles are measured for a minibatch, and for samples alone.

What theory expects. Of a sample every method makes Delta W_i = p_i r_{i-1}^T. Let d be the output's error, J_i =
d r_L / d v_i, G_i = J_i J_i^T, and s_i^2 = |r_{i-1}|^2 + 1 (of the bias), so that |Delta (W, b)_i| = s_i |p_i|. With
p_i = J_i^T M_i d,

    BP      M_i = I
    GN      M_i = (sum_j s_j^2 G_j)^{-1}    Gauss-Newton: least change of the parameters with sum_j s_j^2 J_j p_j = d
    MN      M_i = (sum_j G_j)^{-1}          minimum norm: least change of the voltages with sum_j J_j p_j = d
    alone   M_i = G_i^{-1}                  least change with J_i p_i = d: each layer as if no other learned
    DFC     p_i = Q_i (J Q + alpha I)^{-1} d, linearised: MN where Q = J^T K for any K (condition 2), and alpha is small

GN and MN have one M for all layers, which share the change of the output. NDI with B = -W^T has, for two layers, linear
output and D = diag(phi'(v_1)), J_2 = I, J_1 = W_2 D and

    NDI     M_1 = (W_2 W_2^T + alpha I)^{-1},  M_2 = I

With alpha = 0 (PBP) W_2^+ d is the least change of r_1 that brings d alone. Without saturation, D = I, this is "alone":
Gauss-Newton layer by layer, of which L layers together move the output by L d. GN's M ~ (G_1 + (s_2/s_1)^2 I)^{-1}: in the
hidden layer NDI agrees with it for alpha = (s_2/s_1)^2, or where G_1 is far above that, and in the output layer it agrees
with BP always. Where weights are small GN comes close to BP, and NDI with alpha = 0 is far from both. With more layers,
p_i = D_i W_{i+1}^+ p_{i+1} also multiplies by slopes phi' on the way down where J_i^+ divides by them, and a product of
pseudo-inverses is not the pseudo-inverse of the product.

Methods: DI takes 999 steps of 0.5 from zero, without leak. SLDI is at rest, without leak, "linearized" so that it has phi'
once. DFC is nudged weakly and read out by voltages, as the theory has it. GN of a minibatch is the one change J_W^+ d that
moves all its outputs as asked; damped GN adds the mean eigenvalue of J_W J_W^T to all of them; mean GN, like MN and
"alone", is the mean over its samples. The files of MNIST are looked for in DFC_DATA_DIR.
"""

import sys
from dataclasses import dataclass

import numpy as np
from learning import FEEDBACK_ONLY, preset, train

import dfc_numba as dfc
from dfc_numba.analysis.alignment import alignment
from dfc_numba.analysis.directions import reference_update
from dfc_numba.analysis.least_norm import outer_sums
from dfc_numba.analysis.linear_response import LinearResponse, by_layer
from dfc_numba.dynamics.plasticity import ForwardUpdate
from dfc_numba.inversion.dynamic_inversion import driven
from dfc_numba.inversion.feedback import initial_feedback
from dfc_numba.inversion.rules import backward_errors
from dfc_numba.runs.experiment import create_network, load_data
from dfc_numba.support import figures
from results import Results, panel, parser, say

BATCH, SINGLE = 32, 16  # samples of the minibatch, and how many of them are measured alone, too
NUDGE = 1e-3
CONTROLLER = dfc.Controller(alpha=0.0014, k_p=2.0, dt=0.02, steps=999)
DAMPED_INVERSE = 0.1  # gamma of Q = mean of J^T (J J^T + gamma I)^{-1}
BAND = (10, 90)  # percentiles of single samples

LEARNED, INVERSE, PRODUCT = "learned", "damped inverse", "weight product"  # feedback weights Q
RULES = {
    "BP": {"rule": "bp"},
    "FA": {"rule": "fa"},
    "PBP": {"rule": "pbp"},
    "NDI, alpha 0": {"rule": "ndi"},
    "NDI, alpha 0.01": {"rule": "ndi", "alpha": 0.01},
    "NDI, alpha 1": {"rule": "ndi", "alpha": 1.0},
    "DI": {"rule": "di"},
    "SLDI": {"rule": "sldi", "nonlinearity": "linearized", "steps": None},
}
CONTROLLED = {
    "DFC, Q learned": (LEARNED, "average"),
    "DFC-SS, Q learned": (LEARNED, "newton"),
    "DFC-SSA, Q learned": (LEARNED, "analytic"),
    "DFC-SSA, Q damped inverse": (INVERSE, "analytic"),
    "DFC-SSA, Q weight product": (PRODUCT, "analytic"),
}
REFERENCES = ("GN", "damped GN", "mean GN", "MN", "alone", "BP")
MARKERS = {"GN": "o", "damped GN": "v", "MN": "D", "alone": "^", "BP": "s"}  # of those that are drawn

FORWARD = {"training.batch_size": 20, "optimizer.learning_rate": 0.5, "training.epochs": 1}
MNIST = {
    "network.hidden": [256, 256],
    "data.options.train_size": 5500,
    "training.epochs": 10,
    "training.batch_size": 128,
}
TASKS = {  # presets of forward and feedback learning, what to change in the former, epochs of the latter
    "second-order": ("regression-strong-bp", "student-teacher", FORWARD, 8),
    "second-order-mnist": ("mnist-bp", "mnist-dfc", MNIST, 10),
}


def main(arguments=None):
    """Learn, measure, print, draw."""
    options = parser(__doc__)
    options.add_argument("--mnist", action="store_true", help="on MNIST, 784-256-256-10")
    options = options.parse_args(arguments)
    name = "second-order-mnist" if options.mnist else "second-order"
    results, rows = Results(name, options), []
    for state in states(*TASKS[name], options):
        say(f"updates of the {state.name} network")
        rows += list(measured(state, 2 if options.quick else SINGLE))
    print_angles(results, rows)
    results.save(draw(rows), rows)


# --- networks --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class State:
    """A network at some time, and a minibatch.

    Attributes:
        networks: the network with each of the feedback weights Q. random: B of feedback alignment, list of (n_i, n_{i+1}).
        x, y, loss: the minibatch, as for `reference_update`.
    """

    name: str
    networks: dict
    random: list
    x: np.ndarray
    y: np.ndarray
    loss: str

    @property
    def network(self):
        return self.networks[LEARNED]

    def sample(self, i):
        """Return (x, y) of one sample."""
        return self.x[i : i + 1], self.y[i : i + 1]


def states(forward, feedback, changes, epochs, options):
    """Yield the `State` before and after learning by backpropagation; Q is learned from noise at either time."""
    seed = {"training.seed": options.seed}
    quick = {"data.options.train_size": 256, "training.epochs": 1} if options.quick else {}
    config = preset(forward, seed | changes | quick)
    pretraining = {"feedback.pretraining_epochs": 1 if options.quick else epochs}
    learning = preset(feedback, seed | FEEDBACK_ONLY | pretraining)
    dataset = load_data(config)
    network = create_network(config, dataset)
    say("learning")
    learned = train(config, dataset, network=network.copy()).network
    for name, one in (("initial", network), ("trained", learned)):
        one = train(learning, dataset, network=one).network
        x, y = dataset.train.x[:BATCH], dataset.train.y[:BATCH]
        random = initial_feedback(one.weights, "random", seed=options.seed)
        yield State(name, with_feedback(one, x), random, x, y, config.target.loss)


def with_feedback(network, x):
    """Return copies of a network with learned feedback weights, and with others."""
    networks = {LEARNED: network, INVERSE: network.copy(), PRODUCT: network.copy()}
    networks[INVERSE].set_feedback("jacobian_damped_pinv", x, damping=DAMPED_INVERSE)
    networks[PRODUCT].set_feedback("weight_product")
    return networks


# --- updates ---------------------------------------------------------------------------------------------------------


def updates(state, x, y):
    """Return the `ForwardUpdate` by each method."""
    made = {name: by_errors(state, x, y, **rule) for name, rule in RULES.items()}
    return made | {name: by_control(state, x, y, *how) for name, how in CONTROLLED.items()}


def by_errors(state, x, y, *, rule, **options):
    """Return the update by `backward_errors`; the loops have B = -W^T, and one from the output -(W_L .. W_2)^T."""
    network = state.network
    slopes, error = driven(network, network.forward(x), y, state.loss)
    loop = "single" if rule == "sldi" else "sequential"
    feedback = state.random if rule == "fa" else initial_feedback(network.weights, "transpose", loop=loop)
    hidden = backward_errors(network.weights, feedback, slopes, error, rule=rule, **options)
    return of_factors(network, x, [*hidden, error])


def by_control(state, x, y, feedback, readout):
    """Return the update by DFC, towards a weak output target."""
    network = state.networks[feedback]
    target = dfc.output_target(network, x, y, loss=state.loss, step=NUDGE)
    return dfc.forward_update(network, x, target, CONTROLLER, readout=readout, rule="voltage_difference")


def references(state, x, y):
    """Return the `ForwardUpdate` of each theory; see the top."""
    network, options = state.network, {"loss": state.loss}
    newton = {"per": "minibatch", **options}
    return {
        "GN": reference_update(network, x, y, "gn", **newton),
        "damped GN": reference_update(network, x, y, "gn", damping=mean_eigenvalue(network, x), **newton),
        "mean GN": reference_update(network, x, y, "gn", **options),
        "MN": reference_update(network, x, y, "mn", **options),
        "alone": alone(network, x, y, state.loss),
        "BP": reference_update(network, x, y, "bp", **options),
    }


def alone(network, x, y, loss):
    """Return the update with p_i = J_i^+ d: each layer brings the change of the output without the other layers."""
    _, error = driven(network, network.forward(x), y, loss)
    jacobians = by_layer(network, dfc.output_jacobian(network, x))
    return of_factors(network, x, [np.einsum("bnk,bk->bn", np.linalg.pinv(j), error) for j in jacobians])


def of_factors(network, x, factors):
    """Return the update with these p_i, list of (B, n_i)."""
    below = LinearResponse(network, x).below
    return ForwardUpdate(*outer_sums(network, [factor / len(x) for factor in factors], below))


def mean_eigenvalue(network, x):
    """Return the mean eigenvalue of J_W J_W^T, where J_W = d r_L / d(W, b) of all samples."""
    response = LinearResponse(network, x)
    norms = [np.sum(j**2, axis=(1, 2)) for j in by_layer(network, response.jacobians())]
    inputs = [np.sum(r**2, axis=1) + (network.biases is not None) for r in response.below]
    return float(sum(a @ b for a, b in zip(norms, inputs, strict=True)) / (len(x) * network.sizes[-1]))


# --- angles ----------------------------------------------------------------------------------------------------------


def measured(state, singles):
    """Yield one row per batch, method and reference: degrees of all parameters and of each layer."""
    batches = {"minibatch": (state.x, state.y)} | {f"sample {i}": state.sample(i) for i in range(singles)}
    for batch, (x, y) in batches.items():
        compared = references(state, x, y)
        for method, update in updates(state, x, y).items():
            for reference, other in compared.items():
                angles = alignment(update, other)
                layers = {f"layer_{i}": float(angle) for i, angle in enumerate(angles.layers, 1)}
                where = {"network": state.name, "batch": batch, "method": method, "reference": reference}
                yield where | {"total": angles.total} | layers


def selected(rows, network, single, method, reference, column="total"):
    """Return the angles of a minibatch (one), or of single samples."""
    where = {"network": network, "method": method, "reference": reference}
    return [
        row[column]
        for row in rows
        if all(row[key] == value for key, value in where.items()) and (row["batch"] != "minibatch") == single
    ]


PANELS = [(network, single) for single in (False, True) for network in ("initial", "trained")]


def titled(network, single):
    return f"{network}, {'single samples' if single else 'minibatch'}"


def print_angles(results, rows):
    """Print four tables: angles with all references, and layer by layer with GN; medians over single samples."""
    layers = [column for column in rows[0] if column.startswith("layer")]
    measures = [(reference, "total") for reference in REFERENCES] + [("GN", layer) for layer in layers]
    names = [*REFERENCES, *(f"GN, {layer.replace('_', ' ')}" for layer in layers)]
    for where in PANELS:
        lines = [
            (method, *(float(np.median(selected(rows, *where, method, *measure))) for measure in measures))
            for method in (*RULES, *CONTROLLED)
        ]
        results.table((f"{titled(*where)}: degrees to", *names), lines)


def draw(rows):
    """Draw four panels: a line per method, a marker per reference; bands of single samples."""
    figure = figures.new_figure(9.5, 7.4)
    grid = figure.subplots(2, 2, sharex=True, sharey=True)
    for letter, axes, where in zip("abcd", grid.flat, PANELS, strict=True):
        for (reference, marker), colour in zip(MARKERS.items(), figures.COLOURS, strict=False):
            draw_reference(axes, rows, where, reference, marker, colour)
        panel(axes, letter, xlabel="angle (deg)", ylabel="", title=titled(*where))
    methods = [*RULES, *CONTROLLED]
    grid[0, 0].set(xlim=(-3, 123), xticks=range(0, 121, 15), yticks=range(len(methods)), yticklabels=methods)
    grid[0, 0].invert_yaxis()
    figure.legend(
        *grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(MARKERS), frameon=False
    )
    return figure


def draw_reference(axes, rows, where, reference, marker, colour):
    """Draw the angles of all methods with a reference."""
    shift = 0.16 * (list(MARKERS).index(reference) - 2)
    for line, method in enumerate((*RULES, *CONTROLLED)):
        low, median, high = np.percentile(selected(rows, *where, method, reference), (BAND[0], 50, BAND[1]))
        label = f"with {reference}" if line == 0 else None
        axes.plot([low, high], 2 * [line + shift], color=colour, linewidth=1)
        axes.scatter(median, line + shift, s=18, marker=marker, color=colour, label=label, zorder=3)


if __name__ == "__main__":
    sys.exit(main())
