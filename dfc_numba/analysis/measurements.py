"""The measurements of the theory by name: what each is, in which unit, along which dimension, and how a probe gives it.

A measurement is a number for the whole probe and, where it has a dimension, its parts: one number per layer or per sample.
In files and tables the parts of `angle_bp` are called `angle_bp_layer`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np

from dfc_numba.analysis.alignment import alignment, loss_decrease
from dfc_numba.analysis.conditions import null_space_fraction
from dfc_numba.analysis.control import control_effort, distance_to_linear, feedback_ratio
from dfc_numba.analysis.probe import reasons, traits_of
from dfc_numba.analysis.stability import STABLE, VERDICTS
from dfc_numba.registry import MEASURES, Extension, register_built_ins
from dfc_numba.support.threads import one_thread

# what a measure may need of a probe
PROBE_PARTS = ("update", "y", "loss", "controller", "target", "feedback")
TRAITS = ("damping", "controller", "linear control", "feedback control", "dynamics")
ALONG = ("layer", "sample")
DAMPED = "J^T (J J^T + gamma I)^-1"


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One measurement.

    Attributes:
        long_name, units: what it is.
        of: function of a `Probe` that returns the number for the whole probe and its parts.
        along: dimension of the parts, "layer" or "sample"; None: there are none.
        needs: the trait of a `Probe` without which there is no such measurement; None for all.
        parts: what the parts are, where `long_name` does not say it. codes: what they mean, where they are codes from 0.
    """

    long_name: str
    units: str
    of: Callable[[Any], Any]
    along: Literal["layer", "sample"] | None = None
    needs: str | None = None
    parts: str = ""
    codes: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class Measure(Extension):
    """Something that is measured of a network, a probe batch and an update: by `[analysis]` while training, and afterwards.

    Args:
        name: by which `analysis.what` and `dfc analyze --what` ask for it. summary: one line of documentation.
        of: function of a `Probe` (`.network`, `.x`, `.y`, `.loss`, `.update`, `.target`, `.controller`) that returns a number
            for the whole probe, and with `along` a pair: the number, and an array with one number per layer or sample.
        units: of the number, "1" for none. along: "layer" or "sample".
        needs: what of a probe it needs: any of "update", "y", "loss", "controller", "target", "feedback" (feedback weights).
            Where a run does not have them, it does not have the measure.
        columns: instead of `of`, `units` and `along`: a dict of several `Measurement`s by their names.
        damped: whether it depends on `analysis.damping`.

    Attributes:
        columns: dict of `Measurement`, by the names of their columns in metrics.csv and variables in analysis.h5; that of a
            measure with `of` has the measure's name.
    """

    name: str
    _: KW_ONLY
    summary: str = ""
    of: Callable[[Any], Any] | None = None
    units: str = "1"
    along: Literal["layer", "sample"] | None = None
    needs: Sequence[str] = ()
    columns: Mapping[str, Measurement] = field(default_factory=dict)
    damped: bool = False

    registry = MEASURES

    def __post_init__(self):
        if self.of is not None and not self.columns:
            text = self.summary or self.name
            column = Measurement(long_name=text, units=self.units, of=self.of, along=self.along)
            object.__setattr__(self, "columns", {self.name: column})

    def check(self) -> None:
        """Raise a ValueError for parts that there are not, functions that cannot be called, or a column name that is taken."""
        unknown = [name for name in self.needs if name not in PROBE_PARTS]
        if unknown:
            raise ValueError(
                f"measure {self.name!r} needs {unknown[0]!r}; a probe has {', '.join(map(repr, PROBE_PARTS))}"
            )
        if not self.columns:
            raise ValueError(f"measure {self.name!r} has neither of = a function nor columns")
        for name, column in self.columns.items():
            self._check_column(name, column)

    def _check_column(self, name, column):
        if not isinstance(name, str) or not name.isidentifier() or name.rpartition("_")[2] in ALONG:
            raise ValueError(
                f"measure {self.name!r} has a column {name!r}; letters, digits and _ are allowed, a letter first, and no "
                "ending _layer or _sample"
            )
        if (
            not callable(column.of)
            or column.along not in (None, *ALONG)
            or column.needs not in (None, *TRAITS)
        ):
            raise ValueError(
                f"measure {self.name!r}, column {name!r}: of = {column.of!r}, along = {column.along!r}, needs = "
                f"{column.needs!r}; of has to be a function, along 'layer', 'sample' or None, needs one of {TRAITS} or None"
            )
        others = [
            other for other, measure in MEASURES.items() if other != self.name and name in measure.columns
        ]
        if others or name in ROW_COLUMNS:
            where = f"measure {others[0]!r}" if others else "metrics.csv"
            raise ValueError(
                f"measure {self.name!r} has a column {name!r}, which {where} has already; choose another"
            )


# columns of metrics.csv and analysis files that no measure may have
ROW_COLUMNS = {
    "epoch", "seconds", "analysis_seconds", "minibatches", "minibatch", "record", "weights", "phase", "number",
    *(f"{split}_{score}" for split in ("train", "val", "test") for score in ("loss", "accuracy")),
}  # fmt: skip


def measurement(name):
    """Return the `Measurement` of a column."""
    return all_measurements()[name]


def all_measurements():
    """Return every `Measurement` by the name of its column, in the order of the registered measures."""
    return {name: column for measure in MEASURES.values() for name, column in measure.columns.items()}


def possible(probe):
    """Return the measures for which a probe has all that they need."""
    return [name for name, measure in MEASURES.items() if not set(measure.needs) & set(probe.missing)]


def require(probe, measures):
    """Raise a ValueError with the reason where a probe lacks something that measures need."""
    for name in measures:
        probe.need(*MEASURES[name].needs)


def possible_in(config):
    """Return the measures that are defined for a run with this configuration."""
    missing = set(reasons(config))
    return [name for name, measure in MEASURES.items() if not set(measure.needs) & missing]


def available(measures, traits):
    """Return the columns of these measures that probes with these traits have, in the order of the registry."""
    return [
        name
        for measure in MEASURES.values()
        if measure.name in measures
        for name, column in measure.columns.items()
        if column.needs is None or column.needs in traits
    ]


def configured(config):
    """Return names of the measurements that the section `[analysis]` of a configuration asks for while training."""
    analysis = config.analysis
    return available(analysis.what, traits_of(config, analysis.damping)) if analysis.every else []


def measure(probe, names):
    """Return the numbers of a probe by name: one per measurement, and arrays `name_layer` or `name_sample`.

    Args:
        probe: a `Probe`, with all that is needed. names: from `available`.
    """
    found = {}
    with one_thread(), np.errstate(all="ignore"):  # a simulation may have diverged; what it gives is NaN
        for name in names:
            found |= _measured(name, measurement(name), probe)
    return found


def _measured(name, column, probe):
    """Return what one column gives; ValueError where a function from outside returns something else than it must."""
    values = column.of(probe)
    whole, parts = values if isinstance(values, tuple) else (values, None)
    if np.ndim(whole) != 0 or (column.along and np.ndim(parts) != 1):
        wanted = "a number" + (f" and an array with one number per {column.along}" if column.along else "")
        raise ValueError(f"measurement {name!r}: its function returns {values!r}; it has to return {wanted}")
    found = {name: float(whole)}
    if column.along:
        found[parts_name(name)] = np.asarray(parts)
    return found


def parts_name(name):
    """Return the name of the parts of a measurement."""
    return f"{name}_{measurement(name).along}"


# --- what the functions of the table do ----------------------------------------------------------------------------------


def _angle(probe, *, kind, damped=False):
    """Return the angles between the update and a reference, in all and layer by layer."""
    found = alignment(probe.update, probe.reference(kind, damped=damped))
    return found.total, found.layers


def _decrease(probe, *, kind=None, damped=False):
    """Return the first-order decrease of the loss along the update, or a reference, per unit of its norm."""
    update = probe.update if kind is None else probe.reference(kind, damped=damped)
    return loss_decrease(probe.network, probe.x, probe.y, update, loss=probe.loss), None


def _null_space(probe):
    """Return the root mean square over layers, weighted with the squared norms of their updates, and each layer's value."""
    update = probe.update
    fractions = null_space_fraction(probe.network, probe.x, update)
    power = np.array([np.sum(np.square(array, dtype=np.float64)) for array in update.weights])
    return np.sqrt(np.sum(power * fractions**2) / np.sum(power)), fractions


def _of_samples(probe, *, source, name, summary):
    """Return a value per sample, and their summary."""
    values = np.asarray(getattr(getattr(probe, source), name))
    return summary(values), values


def _of_batch(probe, *, name):
    """Return a value of the batch as a whole."""
    return getattr(probe.conditions, name), None


def _gamma(probe):
    return probe.conditions.mean_damping, probe.conditions.damping


def _input_norms(probe):
    norms = probe.conditions.input_norms
    return norms.mean(), norms.mean(axis=0)


def _at_rest(probe, *, function):
    """Return the mean over the samples that have a steady state, and the value of each, NaN for the others."""
    found = probe.rest.converged
    values = np.full(len(found), np.nan)
    if found.any():
        values[found] = function(probe, found)
    return np.sum(values[found]) / np.sum(found), values


def _effort(probe, found):
    return control_effort(probe.network, probe.rest.u[found])


def _nonlinearity(probe, found):
    arguments = probe.x[found], probe.target[found], probe.quiet, probe.rest.r[-1][found]
    try:
        return distance_to_linear(probe.network, *arguments)
    except ValueError:  # J Q + alpha I is singular
        return np.nan


def _feedback_ratio(probe):
    """Return the mean over the samples that have a steady state: over all layers, and of each."""
    found = probe.rest.converged
    ratios = feedback_ratio(probe.network, probe.x, np.where(found[:, np.newaxis], probe.rest.u, 0.0))
    layers = ratios[found].sum(axis=0) / np.sum(found)
    return layers.mean(), layers


def _verdict(probe):
    """Return the fraction of stable samples, and the code of each."""
    codes = np.array([VERDICTS.index(verdict) for verdict in probe.stability.verdict], np.int8)
    return np.mean(probe.stability.verdict == STABLE), codes


# --- the table -----------------------------------------------------------------------------------------------------------


def _angles():
    """Yield (name, what it is, options of `_angle`, the trait that it needs) of each reference."""
    yield "bp", "the backpropagation update", {"kind": "bp"}, None
    for kind, text in {"gn": "Gauss-Newton", "mn": "minimum-norm target"}.items():
        yield kind, f"the {text} update", {"kind": kind}, None
        yield f"{kind}_damped", f"the damped {text} update", {"kind": kind, "damped": True}, "damping"
    yield "ssa", "the DFC-SSA update", {"kind": "ssa"}, "linear control"
    yield (
        "effort",
        "the update that lowers the control effort |Q u|^2 / 2",
        {"kind": "effort"},
        "feedback control",
    )


def _alignment():
    return {
        f"angle_{name}": Measurement(
            long_name=f"angle of the update with {text}", units="degrees",
            of=partial(_angle, **options), along="layer", needs=needs,
        )
        for name, text, options, needs in _angles()
    }  # fmt: skip


def _loss_decrease():
    directions = [("own", "the update of the method", {}, None), *_angles()]
    return {
        f"decrease_{name}": Measurement(
            long_name=f"decrease of the loss along {text}, per unit of its norm", units="1",
            of=partial(_decrease, **options), needs=needs,
        )
        for name, text, options, needs in directions
    }  # fmt: skip


def _condition(name, long_name, units="1"):
    """Return the measurement of a field of `Conditions`: the mean over the samples stands for all."""
    of = partial(_of_samples, source="conditions", name=name, summary=np.mean)
    return Measurement(long_name=long_name, units=units, of=of, along="sample")


def _mean_angle(name, long_name):
    """Return the measurement of an angle between Q and the mean of a matrix over the samples."""
    of = partial(_of_batch, name=name)
    return Measurement(long_name=long_name, units="degrees", of=of)


def _stability(name, long_name, units="1/tau_u", needs="dynamics", worst=np.fmax):
    """Return the measurement of a field of `Stability`: the worst sample with a steady state stands for all."""
    of = partial(_of_samples, source="stability", name=name, summary=worst.reduce)
    return Measurement(long_name=long_name, units=units, of=of, along="sample", needs=needs)


_NULL_SPACE = {
    "null_space": Measurement(
        long_name="fraction of the norm of the update of the weights that does not change the output of the batch",
        units="1",
        of=_null_space,
        along="layer",
    ),
}
_CONDITIONS = {
    "input_norm": Measurement(
        long_name="norm of the layers' inputs, mean over samples",
        units="1",
        of=_input_norms,
        along="layer",
    ),
    "dev_r": _condition(
        "dev_r", "standard deviation of the norms of the layers' inputs over their mean (condition 1: 0)"
    ),
    "condition_2": _condition(
        "condition_2", "part of Q in the row space of J, ||P_J Q|| / ||Q|| (condition 2: 1)"
    ),
    "angle_q_transpose": _condition("angle_transpose", "angle of Q with J^T", "degrees"),
    "angle_q_pinv": _condition("angle_pinv", "angle of Q with J^+", "degrees"),
    "angle_q_damped": _condition("angle_damped", f"angle of Q with {DAMPED}", "degrees"),
    "angle_q_mean_transpose": _mean_angle(
        "mean_angle_transpose", "angle of Q with the mean of J^T over samples"
    ),
    "angle_q_mean_pinv": _mean_angle("mean_angle_pinv", "angle of Q with the mean of J^+ over samples"),
    "angle_q_mean_damped": _mean_angle(
        "mean_angle_damped", f"angle of Q with the mean of {DAMPED} over samples"
    ),
    "gamma": Measurement(
        long_name=f"gamma for which {DAMPED}, or its mean, is nearest to Q",
        units="1",
        of=_gamma,
        along="sample",
    ),
}
_CONTROL = {
    "effort": Measurement(
        long_name="control effort |Q u|^2 / 2 in the steady state, mean over samples",
        units="1",
        of=partial(_at_rest, function=_effort),
        along="sample",
    ),
    "feedback_ratio": Measurement(
        long_name="size of feedback relative to feedforward input, |Q_i u| / |W_i r_{i-1}|, mean over samples",
        units="1",
        of=_feedback_ratio,
        along="layer",
    ),
    "nonlinearity": Measurement(
        long_name="distance of the output from that of DFC-SSA, over that of the feedforward output",
        units="1",
        of=partial(_at_rest, function=_nonlinearity),
        along="sample",
        needs="linear control",
    ),
}
_STABILITY = {
    "eig_instantaneous": _stability(
        "instantaneous", "largest real part of the eigenvalues of -(J Q + alpha I)", needs="controller"
    ),
    "eig_integral": _stability("integral", "largest real part of the eigenvalues of A_I, without proportional control"),
    "eig_proportional": _stability("proportional", "largest real part of the eigenvalues of A_PI"),
    "euler_radius": _stability("euler", "spectral radius of the Euler step that is run", "1"),
    "largest_dt": _stability("largest_dt", "largest stable Euler step", "tau_u", worst=np.fmin),
    "verdict": Measurement(
        long_name="fraction of the samples that are stable", units="1", of=_verdict, along="sample",
        needs="dynamics", parts="verdict", codes=VERDICTS,
    ),
}  # fmt: skip

register_built_ins(
    Measure(
        "alignment", summary="angles in degrees of the update of the forward weights", columns=_alignment(),
        needs=("update", "y", "loss"), damped=True,
    ),
    Measure(
        "loss_decrease", summary="of the loss, to first order, per unit of the norm of the step", columns=_loss_decrease(),
        needs=("update", "y", "loss"), damped=True,
    ),
    Measure("null_space", summary="of the update of the forward weights", columns=_NULL_SPACE, needs=("update",)),
    Measure(
        "conditions", summary="of the theorems, means over samples; angles in degrees", columns=_CONDITIONS,
        needs=("feedback",),
    ),
    Measure(
        "control", summary="in the steady state, by Newton's method", columns=_CONTROL,
        needs=("controller", "target", "feedback"),
    ),
    Measure(
        "stability", columns=_STABILITY, needs=("controller", "target"),
        summary="of the controlled network in its steady state, the worst sample; times in units of tau_u",
    ),
)  # fmt: skip
