"""Estimators for scikit-learn over every learning method, preset and setting: `DFCClassifier`, `DFCRegressor`.

    from dfc_numba.sklearn import DFCClassifier
    GridSearchCV(DFCClassifier(epochs=5), {"method": ["dfc", "bp"], "controller__k_p": [0.5, 1.0]}, n_jobs=2).fit(x, labels)

Needs the extra `sklearn`. A setting of the configuration is a parameter: `controller__k_p` or `controller.k_p`; a bare name means
the first section that has it, in the order of `SECTIONS`.
"""

from collections.abc import Mapping
from numbers import Integral

import numpy as np

from dfc_numba.errors import DivergenceError, MissingExtra

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets, unique_labels
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise MissingExtra(
        f'the estimators need scikit-learn 1.6 or newer ({error}): pip install "dfc-numba[sklearn]"'
    ) from None

from scipy.special import softmax

from dfc_numba.analysis.monitor import Monitor
from dfc_numba.configuration.config import section_keys
from dfc_numba.data.dataset import DataSet, Split
from dfc_numba.display.progress import choose_display
from dfc_numba.errors import ConfigurationError
from dfc_numba.learning import methods
from dfc_numba.learning.evaluation import CHUNK, predicted_classes
from dfc_numba.learning.observers import configured
from dfc_numba.learning.phases import logs
from dfc_numba.learning.training import Trainer
from dfc_numba.runs.experiment import create_network, suited_data
from dfc_numba.session import load_config
from dfc_numba.support.wording import nearest

__all__ = ["DFCClassifier", "DFCRegressor"]

SECTIONS = (
    "training", "network", "target", "optimizer", "controller", "feedback", "feedback_controller", "feedback_optimizer",
    "inversion", "analysis",
)  # fmt: skip
SHORTHANDS = {
    "method": "training.method",
    "hidden": "network.hidden",
    "epochs": "training.epochs",
    "batch_size": "training.batch_size",
    "learning_rate": "optimizer.learning_rate",
    "dtype": "training.dtype",
}
ELSEWHERE = ("data", "log", "extensions")  # sections that have no meaning for arrays in memory
PARAMETERS = """
    Args:
        preset: name of a preset or path of a TOML file, whose data section is not used; None for the defaults, which are those
            of the preset `digits`.
        method: "dfc", "dfc-ss", "dfc-ss-newton", "bp", ...; as `training.method`. None here and below: as the preset says.
        hidden: units of each hidden layer.
        epochs, batch_size, learning_rate, dtype: as in the configuration; learning_rate is that of the forward weights.
        random_state: seed of weights, order of samples and noise; an int, a RandomState, or None for `training.seed`.
        threads: number of threads; the results do not depend on it.
        verbose: whether to show the progress.
        settings: any other key of the configuration: `controller__k_p=1.0`, or `settings={"controller.k_p": 1.0}`; a bare name
            such as `k_p` means the first section that has it: training, network, target, optimizer, controller, feedback, ...
"""
ATTRIBUTES = """
    Attributes:
        network_: the trained `Network`, `weights[i]` (n_i, n_{i-1}).
        config_: the `Config`.
        metrics_: list of one dict per epoch with the columns of metrics.csv.
        n_iter_: epochs done. n_features_in_: number of inputs.
"""


class _Estimator(BaseEstimator):
    """Base of both estimators: parameters, training, outputs."""

    def __init__(
        self, *, preset=None, method=None, hidden=None, epochs=None, batch_size=None, learning_rate=None, dtype=None,
        random_state=None, threads=None, verbose=False, **settings,
    ):  # fmt: skip
        self.preset = preset
        self.method = method
        self.hidden = hidden
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.dtype = dtype
        self.random_state = random_state
        self.threads = threads
        self.verbose = verbose
        for name, value in settings.items():
            self._check_name(name)
            setattr(self, name, value)

    def get_params(self, deep=True):
        """Return the parameters, those of `settings` among them, as a dict."""
        return {**super().get_params(deep=deep), **{name: getattr(self, name) for name in self._settings()}}

    def set_params(self, **parameters):
        """Set parameters, any key of the configuration among them; return the estimator."""
        known = self._get_param_names()
        for name in parameters:
            if name not in known:
                self._check_name(name)
        for name, value in parameters.items():
            setattr(self, name, value)
        return self

    def fit(self, X, y, **unsupported):
        """Train from scratch.

        Args:
            X: inputs (N, n_0). y: class labels (N,), or targets (N,) or (N, n_L) of a regression.

        Raises:
            ValueError, TypeError: for data or parameters that cannot be used.
            DivergenceError: if the training diverges.
        """
        self._refuse(unsupported)
        X, y = self._validated(X, y, reset=True)
        return self._train(self._dataset(X, y, first=True), state=None)

    def partial_fit(self, X, y, classes=None, **unsupported):
        """Train for one more epoch; on the same data, n calls give the bits of `fit` with n epochs.

        Args:
            X: inputs (N, n_0). y: labels or targets, as for `fit`.
            classes: all class labels, at the first call of a classifier.

        Raises:
            ValueError, TypeError, DivergenceError: as for `fit`, and for a class that is not among `classes`.
        """
        self._refuse(unsupported)
        first = not hasattr(self, "network_")
        X, y = self._validated(X, y, reset=first)
        self._note_classes(classes, y, first)
        dataset = self._dataset(X, y, first=False)
        return self._train(dataset, state=None if first else self._state, more=True)

    def __sklearn_is_fitted__(self):
        return hasattr(self, "network_")

    def _settings(self):
        """Return the names of the parameters besides those of the signature."""
        names = set(self._get_param_names())
        return [
            name
            for name in vars(self)
            if name not in names and not name.startswith("_") and not name.endswith("_")
        ]

    def _check_name(self, name):
        if name != "settings":  # a dict of keys, which is checked when it is used
            self._resolved(name)

    @staticmethod
    def _resolved(name):
        """Return the key `section.key` that a parameter stands for; TypeError where there is none."""
        path = name.replace("__", ".", 1)
        section, dot, key = path.partition(".")
        if section in ELSEWHERE and dot:
            raise TypeError(f"{name}: [{section}] has no meaning for arrays in memory; leave it out")
        if dot and section in SECTIONS and key in section_keys(section):
            return path
        if not dot:
            for section in SECTIONS:
                if name in section_keys(section):
                    return f"{section}.{name}"
        known = [*SHORTHANDS, *(f"{section}__{key}" for section in SECTIONS for key in section_keys(section))]
        raise TypeError(
            f"unknown parameter {name!r}{nearest(name, known)}; any key of the configuration is one, such as "
            "controller__k_p"
        )

    def _configuration(self):
        """Return the `Config` that the parameters stand for."""
        changes = {
            key: getattr(self, name) for name, key in SHORTHANDS.items() if getattr(self, name) is not None
        }
        for name in self._settings():
            value = getattr(self, name)
            if name != "settings":
                changes[self._resolved(name)] = value
            elif not isinstance(value, Mapping):
                raise TypeError(f"settings = {value!r}: must be a dict such as {{'controller.k_p': 1.0}}")
            else:
                changes |= {self._resolved(str(key)): entry for key, entry in value.items()}
        if self.random_state is not None:
            changes["training.seed"] = self._seed()
        config = load_config(self.preset, self._suited(changes))
        if logs(config):
            raise ConfigurationError(
                "the estimators write no trajectories; set log.on = false in the preset, or use dfc.train"
            )
        return config

    def _seed(self):
        if isinstance(self.random_state, Integral):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _refuse(self, unsupported):
        if unsupported:
            raise TypeError(
                f"{type(self).__name__} takes X and y only, not {', '.join(unsupported)}: every sample counts alike; repeat "
                "samples, or leave it out"
            )

    def _train(self, dataset, state, more=False):
        config = self._configuration() if state is None else self.config_
        if more:
            done = 0 if state is None else len(state.rows)
            config = load_config(config, {"training.epochs": done + 1})
        dataset = suited_data(config, dataset).astype(config.training.dtype)
        network = create_network(config, dataset) if state is None else state.network
        watch = [*configured(config), *([choose_display()] if self.verbose else [])]
        analysis = Monitor(config, dataset) if config.analysis.every else None
        trainer = Trainer(network, dataset, config, threads=self.threads, observers=watch, analysis=analysis)
        if state is not None:
            trainer.restore(state)
        outcome = trainer.run()
        if outcome.status != "done":
            raise DivergenceError(outcome.message)
        self.config_, self.network_, self._state = config, trainer.network, trainer.state()
        self.metrics_, self.n_iter_ = [dict(row) for row in trainer.rows], len(trainer.rows)
        return self

    def _outputs(self, X):
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=np.dtype(self.config_.training.dtype), order="C")
        predict = methods.find(self.config_.training.method).predictor(
            self.network_, self.config_, self._state.method
        )
        return np.concatenate([predict(X[i : i + CHUNK]) for i in range(0, len(X), CHUNK)]).astype(np.float64)


class DFCClassifier(ClassifierMixin, _Estimator):
    __doc__ = f"""Classify with a network that Deep Feedback Control, or another method, trains.
{PARAMETERS}{ATTRIBUTES}        classes_: (C,) class labels, of any type.
    """

    def predict(self, X):
        """Return the predicted class labels (N,) of inputs X (N, n_0)."""
        outputs = self._outputs(X)
        return self.classes_[predicted_classes(outputs)]

    def predict_proba(self, X):
        """Return class probabilities (N, C) of inputs X (N, n_0).

        The softmax of the outputs, of one output ("binary_cross_entropy") its sigmoid; with target.loss = "mse"
        the outputs, negative ones as 0, divided by their sum.
        """
        outputs = self._outputs(X)
        if outputs.shape[1] == 1:
            outputs = np.hstack([np.zeros_like(outputs), outputs])
        probabilities = softmax(outputs, axis=1)
        if self.config_.target.loss != "mse":
            return probabilities
        clipped = np.maximum(outputs, 0)
        sums = clipped.sum(axis=1, keepdims=True)
        return np.where(sums > 0, clipped / np.where(sums > 0, sums, 1), probabilities)

    def _validated(self, X, y, reset):
        X, y = validate_data(self, X, y, reset=reset, dtype=(np.float64, np.float32))
        check_classification_targets(y)
        return X, y

    def _suited(self, changes):
        return changes

    def _note_classes(self, classes, y, first):
        if not first:
            if classes is not None and not np.array_equal(unique_labels(classes), self.classes_):
                raise ValueError(
                    f"classes = {list(classes)} are not those of the first call, {list(self.classes_)}"
                )
        elif classes is None:
            raise ValueError("classes must be passed on the first call to partial_fit")
        else:
            self.classes_ = unique_labels(classes)

    def _dataset(self, X, y, first):
        if first:
            self.classes_ = np.unique(y)
        if len(self.classes_) < 2:
            raise ValueError(
                f"{type(self).__name__} needs at least 2 classes; the data have 1 class, {self.classes_[0]!r}"
            )
        unseen = np.setdiff1d(y, self.classes_)
        if unseen.size:
            raise ValueError(
                f"y has the class {unseen[0]!r}, which is not among the classes {list(self.classes_)}; name all of them in the "
                "first call of partial_fit"
            )
        labels = np.searchsorted(self.classes_, y).astype(np.int64)
        names = tuple(map(str, self.classes_))
        return DataSet(
            "arrays", "classification", Split(_rows(X), labels), None, None, len(names), "in memory", names
        )


class DFCRegressor(RegressorMixin, _Estimator):
    __doc__ = f"""Regress with a network that Deep Feedback Control, or another method, trains; the loss is "mse".
{PARAMETERS}{ATTRIBUTES}    """

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def predict(self, X):
        """Return the outputs (N, n_L) of inputs X (N, n_0); (N,) where y had one axis."""
        outputs = self._outputs(X)
        return outputs[:, 0] if self._one_axis else outputs

    def _validated(self, X, y, reset):
        X, y = validate_data(
            self, X, y, reset=reset, dtype=(np.float64, np.float32), multi_output=True, y_numeric=True
        )
        columns = 1 if y.ndim == 1 else y.shape[1]
        if reset:
            self._one_axis = y.ndim == 1
        elif columns != self.network_.sizes[-1]:
            raise ValueError(
                f"y has {columns} targets per sample, but the network was trained on {self.network_.sizes[-1]}"
            )
        return X, y

    def _suited(self, changes):
        if "target.loss" in changes:
            return changes
        base = load_config(self.preset)
        suited = {"target.loss": "mse"} if base.target.loss != "mse" else {}
        suited |= {"target.class_value": 1.0} if base.target.class_value != 1 else {}
        return {**suited, **changes}

    def _note_classes(self, classes, y, first):
        if classes is not None:
            raise TypeError("a regression has no classes; leave out classes")

    def _dataset(self, X, y, first):
        X, y = _rows(X), np.ascontiguousarray(y.reshape(len(y), -1), X.dtype)
        return DataSet("arrays", "regression", Split(X, y), None, None, y.shape[1], "in memory")


def _rows(X):
    return np.ascontiguousarray(X)
