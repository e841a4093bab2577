"""The table of what agrees with the published code: what every array of every reference file is, and how ours relates.

`TABLE` is data. The first row that fits a file and an array counts; `reference_cases.comparisons` takes the factor
between theirs and ours from it, and `markdown` writes it for docs/reference-agreement.md, which explains the slips that
the rows name by number.
"""

import re
from functools import cache
from typing import NamedTuple

from reference_files import family

INPUT = "input"
COMPARED = "compared"
SLIP = "slip"
DIAGNOSTIC = "diagnostic without counterpart"

# ours = factor x theirs, with T time points
FACTORS = {
    "1": lambda points: 1.0,
    "-1": lambda points: -1.0,
    "-1/2": lambda points: -0.5,
    "-(T - 1) / 2T": lambda points: -(points - 1) / (2 * points),
}
CONDITIONS = {
    "": lambda options: True,
    "white noise": lambda options: not options.get("low_pass_filter_noise"),
    "only converged samples": lambda options: not options.get("include_non_converged_samples", True),
    "direct feedback alignment": lambda options: options["network_type"] == "DFA",
    "single phase": lambda options: options["network_type"] == "DFC_single_phase",
}


class Row(NamedTuple):
    """What some arrays of some families are.

    Attributes:
        families: names of families, or "all".
        arrays: names of arrays, where {i} is a digit, {k} are two, {a,b} one of several, and * is anything.
        status: one of the constants above.
        remark: which call of ours it is compared with, or what it is.
        factor: a key of `FACTORS`; with a slip there is none.
        slip: number of the slip of the published code that the values contain, 0 for none.
        when: a key of `CONDITIONS`: the files for which the row holds.
    """

    families: str
    arrays: str
    status: str
    remark: str
    factor: str = "1"
    slip: int = 0
    when: str = ""

    def fits(self, name, array, options):
        """Whether the row holds for an array of a file of the family `name`."""
        if self.families != "all" and name not in self.families.split():
            return False
        return CONDITIONS[self.when](options) and any(
            _pattern(t).fullmatch(array) for t in self.arrays.split()
        )

    @property
    def compared(self):
        """Whether the value is computed and compared, be it with or without the slip."""
        return self.status in (COMPARED, SLIP)

    def ours_per_theirs(self, options):
        """The factor that brings the published value to our sign and scale."""
        return FACTORS[self.factor](options.get("tmax_di", 0))

    def verdict(self):
        """The status as the document words it."""
        if self.status == SLIP:
            return f"reference slip {self.slip}"
        if self.status == COMPARED:
            return "matched" if self.factor == "1" else f"factor {self.factor}"
        return self.status


SIMULATED = "ctrl opt conv noisyfwd fb2p sp_train sp_pre sp_extra"
FORWARD = "ctrl opt conv noisyfwd sp_train"

TABLE = (
    Row("init", "Q{i}", COMPARED, '`set_feedback("weight_product")`'),
    Row("init", "homeostatic_const", COMPARED, "squared norm of all initial feedback weights"),
    Row("all", "W{i} b{i} Q{i} x y labels params_json", INPUT, "network, data, options"),
    Row("all", "xi{i} xi{i}_{normal_controller,special_controller,old_learning_rule}", INPUT, "standard normal draws"),
    Row(SIMULATED, "a{i} h{i}", COMPARED, "`Network.forward`: voltages and rates"),
    Row("all", "y_ff y_ff_{relu,intlabels}", COMPARED, "`Network.predict`"),
    Row("all", "loss loss_{relu,intlabels}", COMPARED, "`targets.mean_loss`"),
    Row(
        "all", "r_target", COMPARED,
        "`output_target` (weak: of one sample; the older code's nudge is divided by the batch), the output (two-phase "
        "feedback learning, pre-training without controller), the target itself (strong)",
    ),
    Row(SIMULATED, "v_ff{i} v_fb{i} v{i} r{i} u u_int sample_error", COMPARED, "`simulate`, every time point"),
    Row("all", "n_{converged,diverged,not_converged}", COMPARED, "`Trajectory.converged`, `.diverged`, counted"),
    Row("all", "J", COMPARED, "`output_jacobian`"),
    Row("ctrl opt", "ssa_{u,dv{i},v{i},r{i}}", COMPARED, '`steady_state(method="linear")`'),
    Row(
        "conv", "g{W,b}{i}_{cont,ss}_nl g{W,b}{i}_cont_vd", COMPARED,
        '`forward_update(samples="converged")`: discarded samples count as 0 in the mean (10)', "-1/2",
        when="only converged samples",
    ),
    Row(FORWARD, "g{W,b}{i}_{cont,ss,ssa}_nl g{W,b}{i}_cont_vd", COMPARED,
        "`forward_update`: readouts average, final, analytic", "-1/2"),
    Row(FORWARD, "g{W,b}{i}_{ss,ssa}_vd", SLIP, "`forward_update`; theirs is 4 x ours where -2 x is meant", slip=1),
    Row("fb2p sp_train sp_extra", "gQ{i}", COMPARED,
        "`feedback_update`, single phase with `high_pass`; sp_extra with `normalise` (8)", "-1"),
    Row("fb2p", "gQ{i}_scaled", SLIP, "`feedback_update` without scaling, which ours refuses here", slip=11,
        when="white noise"),
    Row("fb2p sp_train sp_extra", "gQ{i}_scaled", COMPARED, "`feedback_update(scaling=True)`", "-1"),
    Row("sp_pre", "gQ{i} gQ{i}_scaled", SLIP, "`feedback_update` with filter and scaling of the simulated phase", slip=8),
    Row("fb2p", "u_mean_last_quarter", SLIP, "mean of `Trajectory.u` over the last quarter", slip=9),
    Row(SIMULATED, "noise_lp{i}", DIAGNOSTIC, "state of the noise filter; it acts within v_fb"),
    Row(SIMULATED, "u_{lp,aux,hp}", DIAGNOSTIC, "filtered control; it acts within v_fb and gQ"),
    Row("sp_train", "r_lp{i}", DIAGNOSTIC, "low-passed rates, which the published code only logs"),
    Row("opt", "J_time", DIAGNOSTIC, "Jacobian at every step; it acts within v_fb"),
    Row("bp_dfa", "g{W,b}{i}_bp*", COMPARED, "`baselines.backpropagation`"),
    Row("bp_dfa", "g{W,b}{i}_dfa*", SLIP, "`baselines.direct_feedback_alignment`; the output layer agrees", slip=2),
    Row("student_teacher", "seeds_test_train_val x_* teacher_*", INPUT, "inputs and the teacher of each part"),
    Row("student_teacher", "y_{train,val,test}", SLIP,
        "outputs of each part's teacher; ours has one, as data set `student_teacher`", slip=3),
    Row("old_forward", "g{W,b}{i}_{cont,ss,ndi}_{nl,vd,dm}", COMPARED,
        "`forward_update`: readouts average, final, analytic; dm: `derivative_matrix`", "-1/2"),
    Row("old_forward", "g{W,b}{i}_conteff_pro{i}_{nl,vd,dm}", COMPARED,
        "`forward_update` with `proactive` true or false: the sum over the T - 1 steps is divided by T - 1 there, by T here",
        "-(T - 1) / 2T"),
    Row("old_clip", "g{W,b}{i}_clip", COMPARED,
        '-2 x `forward_update`, times `optimizers.clip_factors(scope="tensor")`'),
    Row("old_feedback", "gQ{i}_normal_controller", COMPARED,
        "`feedback_update`, never proactive, `normalise` by sigma_fb in every layer", "-1"),
    Row("old_feedback", "gQ{i}_special_controller", COMPARED, "`one_shot_feedback_update`", "-1"),
    Row("old_feedback", "gQ{i}_old_learning_rule", COMPARED,
        '-mean delta_v u^T / sigma^2 of `steady_state(method="linear")`, whose target is the output of a noisy pass; no '
        "function of its own", "-1"),
    Row("old_feedback", "gQ{i}_{normal_controller,special_controller,old_learning_rule}_homeo", COMPARED,
        "what an `Optimizer` with `keep_norm` takes from Q at learning rate 1"),
    Row("train", "mb{i}_{x,y} e{k}_xi{i}", INPUT, "minibatches; draws of each simulation"),
    Row("train", "events", COMPARED, "`Trainer`: the order of the optimisers' steps"),
    Row("train", "e{k}_* {train,test}_{loss,acc}_per_epoch", SLIP,
        "`Trainer`; as below with the activation derivative left out", slip=2, when="direct feedback alignment"),
    Row("train", "e{k}_* {train,test}_{loss,acc}_per_epoch", SLIP,
        "`Trainer`; as below with filter and scaling of the other phase in pre-training", slip=8, when="single phase"),
    Row("train", "e{k}_{graw,g}{W,b,Q}{i}", COMPARED, "`Trainer`: gradients of every step, before and after clipping"),
    Row("train", "e{k}_{W,b,Q}{i}", COMPARED, "`Trainer`: parameters after every step of an optimiser"),
    Row("train", "{train,test}_{loss,acc}_per_epoch", COMPARED, "`Trainer.rows`"),
    Row("metrics_new old_metrics", "g{W,b}{i}", COMPARED, "`forward_update`", "-1/2"),
    Row("metrics_new", "u_used", COMPARED, "`simulate`: u at the last time point"),
    Row("old_metrics", "v_ss{i} r_ss{i}", COMPARED, "`simulate`: state at the last time point"),
    Row("metrics_new old_metrics", "bp_angle_{W,b}", COMPARED, '`alignment` with `reference_update("bp")`'),
    Row("metrics_new old_metrics", "ndi_g{W,b}{i} ndi_angle_{W,b,total}", SLIP,
        '`forward_update(readout="analytic")`, and `alignment` with it', slip=14),
    Row("metrics_new", "H_g{W,b}{i}", COMPARED, '`effort_update(at="feedforward")`', "-1"),
    Row("metrics_new", "H_angle_W H_angle_total_W", COMPARED, "`alignment` with it"),
    Row("metrics_new", "H_loss", COMPARED, "2 x mean `control_effort` / number of neurons"),
    Row("metrics_new", "ratio_ff_fb", SLIP, "mean over samples of `feedback_ratio`", slip=16),
    Row("old_metrics", "gn_{W,b}{i}_*", COMPARED, '`reference_update("gn")`, of a step of 1 / B', "-1"),
    Row("old_metrics", "gnt_{W,b}{i}_damp*_ss{i}_nl0", COMPARED,
        '`reference_update("mn")`, of a step of 1 / B; ss1: `presynaptic` rates of the last time point', "-1"),
    Row("old_metrics", "gn_angle_{W,total}_damp* gnt_angle_{W,total}_damp*_nl0", COMPARED, "`alignment` with these"),
    Row("old_metrics", "gnt_{W,b}{i}_damp*_ss{i}_nl1 gnt_angle_{W,total}_damp*_nl1", SLIP,
        '`reference_update("mn", nonlinear=True)`, and `alignment` with it', slip=17),
    Row("old_metrics", "jac_pinv_angle_damp* jac_transpose_angle", COMPARED,
        "means over samples of `Conditions.angle_damped`, `.angle_transpose`"),
    Row("old_metrics", "A_*", COMPARED, "`published_systems`, at the voltages of the last time point"),
    Row("old_metrics", "max_eig_*", COMPARED,
        '`stability(at="simulation")`: integral (A_tildeI and A_I), instantaneous, proportional (A_PI)'),
    Row("old_metrics", "nullspace_rel_norm", COMPARED, "`null_space_fraction`"),
    Row("old_metrics", "norm_r_*", COMPARED, "`Conditions.input_norms`: mean over layers, relative deviations from it"),
    Row("old_metrics", "dev_r", SLIP, "`Conditions.dev_r`", slip=15),
    Row("metrics_new old_metrics", "condition_two", COMPARED, "mean over samples of `Conditions.condition_2`"),
    Row("metrics_new old_metrics", "rel_dist_to_{ndi,NDI}", COMPARED, "mean over samples of `distance_to_linear`"),
)  # fmt: skip


def find_row(path, array, options):
    """The first row that fits an array of a file, or None."""
    name = family(path)
    return next((row for row in TABLE if row.fits(name, array, options)), None)


def markdown():
    """The table as the document has it."""
    lines = ["| files | arrays | ours and theirs | with what |", "|---|---|---|---|"]
    for row in TABLE:
        families = ", ".join(row.families.split()) + (f" ({row.when})" if row.when else "")
        arrays = " ".join(f"`{array}`" for array in row.arrays.split())
        lines.append(f"| {families} | {arrays} | {row.verdict()} | {row.remark} |")
    return "\n".join(lines) + "\n"


@cache
def _pattern(template):
    """A name with {i}, {k}, {a,b} and * as a regular expression."""
    plain = template.replace("{i}", r"\d").replace("{k}", r"\d\d").replace("*", ".*")
    while nested := re.search(r"\{([^{}]*)\}", plain):
        plain = plain.replace(nested[0], f"(?:{nested[1].replace(',', '|')})")
    return re.compile(plain)
