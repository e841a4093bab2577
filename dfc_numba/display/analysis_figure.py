"""What was measured of the theory while a run learned (analysis.h5), against the number of minibatches."""

from functools import partial

from dfc_numba.display.panels import wide_scale
from dfc_numba.support.figures import colours

DEGREES = "degrees"
# title, label of the axis, and the measurements with their names in the legend
PANELS = (
    ("angles of the update", DEGREES, {
        "angle_bp": "BP", "angle_gn": "GN", "angle_gn_damped": "GN, damped", "angle_mn": "MN",
        "angle_mn_damped": "MN, damped", "angle_ssa": "SSA", "angle_effort": "effort",
    }),
    ("decrease of the loss along", "per unit of length", {
        "decrease_own": "its update", "decrease_bp": "BP", "decrease_gn": "GN", "decrease_gn_damped": "GN, damped",
        "decrease_mn": "MN", "decrease_mn_damped": "MN, damped", "decrease_ssa": "SSA", "decrease_effort": "effort",
    }),
    ("angles of the feedback weights", DEGREES, {
        "angle_q_transpose": "$J^T$", "angle_q_pinv": "$J^+$", "angle_q_damped": "damped, best γ",
    }),
    ("conditions", "", {"condition_2": "condition 2", "dev_r": "deviation of norms", "null_space": "in the null space"}),
    ("eigenvalues, the worst sample", "largest real part (1/$\\tau_u$)", {
        "eig_instantaneous": "instantaneous", "eig_integral": "$A_I$", "eig_proportional": "$A_{PI}$",
    }),
    ("Euler step, the worst sample", "", {
        "euler_radius": "spectral radius", "largest_dt": "largest stable dt", "verdict": "stable samples",
    }),
    ("control", "", {"effort": "effort", "feedback_ratio": "feedback / feedforward", "nonlinearity": "distance from SSA"}),
)  # fmt: skip


class Measured:
    """What `dfc_numba.display.panels` draws of an analysis.

    Args:
        arrays: measurements by name, each (times,), and "minibatches" (times,).
    """

    title, time_label = "measured on the probe batch", "minibatches"

    def __init__(self, arrays):
        self.arrays = arrays

    def panels(self):
        """The functions that draw the panels, those of which something was measured."""
        return [partial(_draw, panel=panel) for panel in PANELS if {*panel[2]} & {*self.arrays}]


def _draw(axes, measured, *, panel):
    title, label, names = panel
    found = {text: measured.arrays[name] for name, text in names.items() if name in measured.arrays}
    for (text, values), colour in zip(found.items(), colours(found).values(), strict=True):
        marker = "." if len(values) == 1 else None
        axes.plot(measured.arrays["minibatches"], values, label=text, marker=marker, color=colour)
    axes.set(title=title, ylabel=label, yscale=_scale(label, found.values()))


def _scale(label, curves):
    """Linear for angles, and where something is not above zero."""
    positive = label != DEGREES and not any((values <= 0).any() for values in curves)
    return wide_scale(*curves) if positive else "linear"
