"""Observers of a training: the events that it reports while it runs, and two built-in observers.

    class Losses(dfc.Observer):
        def on_epoch(self, row):
            print(row["epoch"], row["val_loss"])

    dfc.train("digits", observers=[Losses(), dfc.EarlyStopping(patience=3)])

A registered observer is also chosen by its name: `training.observers = { early_stopping = { patience = 3 } }`.
"""

from math import isnan
from pathlib import Path
from typing import Any

from dfc_numba.errors import MissingExtra
from dfc_numba.registry import OBSERVERS, Extension, Option, register_built_ins
from dfc_numba.support import ranks
from dfc_numba.support.fingerprint import fingerprint
from dfc_numba.support.wording import nearest


class Observer(Extension):
    """Base of observers: derive from it, and define the events that matter; the others do nothing.

    An observer may read everything and ask the trainer to stop; it must not change what is learned. Events in their order:

        on_start(trainer)             before the first minibatch, also of a resumed run; keeps the `Trainer` as `self.trainer`
        on_phase(current)             a pass over the data begins: `.phase` ("pretraining", "feedback", "forward",
                                      "extra feedback"), `.epoch`
        on_minibatch(progress)        a minibatch was learned, see `Progress`: `.loss`, `.accuracy`, `.seconds_left`, ...
        on_checkpoint(path)           a checkpoint was written; only where a run directory is
        on_epoch(row)                 an epoch is complete: a dict with the columns of metrics.csv; its files are written
        on_divergence(epoch, tally)   after an epoch in which more than a few feedback phases diverged: `.diverged` of `.samples`
        on_end(outcome)               the end, see `Outcome`: `.status`, `.message`
        on_error(error)               in its place, where an error or a second Ctrl-C ends the run

    `self.trainer` has `.network`, `.rows`, `.counters`, `.config`, `.directory` (None in memory), and
    `.request_stop(reason, done=False)`.

    Args:
        values: of the options that the class declares as `options = (dfc.Option(...), ...)`; they become attributes.

    Raises:
        TypeError: for an option that there is not. ValueError: for a value that is not allowed.
    """

    registry = OBSERVERS
    name = ""
    trainer: Any = None

    def __init__(self, **values: Any) -> None:
        owner, names = self.name or type(self).__name__, [option.name for option in self.options]
        for unknown in values.keys() - {*names}:
            known = f"its options are {', '.join(names)}" if names else "it has none"
            raise TypeError(f"{owner} has no option {unknown!r}{nearest(unknown, names)}; {known}")
        for option in self.options:
            setattr(self, option.name, option.checked_or_default(values, owner))

    def check(self) -> None:
        """Raise a ValueError for misspelt events, or options that the constructor does not take."""
        check_observers([self])
        type(self)(**{option.name: getattr(self, option.name) for option in self.options})

    def identity(self) -> Any:
        """Return what is equal for the same code with the same options."""
        return type(self).__qualname__, fingerprint([type(self), self._values()])

    def prepare(self) -> Any:
        """Raise what keeps the observer from working, before a run that names it has begun."""

    def _values(self):
        return {option.name: getattr(self, option.name) for option in self.options}

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({', '.join(f'{key}={value!r}' for key, value in self._values().items())})"
        )

    def on_start(self, trainer: Any) -> None:
        """Keep the trainer."""
        self.trainer = trainer

    def on_phase(self, current: Any) -> None:
        """Handle the beginning of a pass over the data."""

    def on_minibatch(self, progress: Any) -> None:
        """Handle the end of a minibatch."""

    def on_checkpoint(self, path: Path) -> None:
        """Handle a checkpoint that was written."""

    def on_epoch(self, row: dict[str, Any]) -> None:
        """Handle the end of an epoch."""

    def on_divergence(self, epoch: int, tally: Any) -> None:
        """Handle an epoch in which more than a few feedback phases diverged."""

    def on_end(self, outcome: Any) -> None:
        """Handle the end of the training."""

    def on_error(self, error: BaseException) -> None:
        """Handle an error that has ended the training."""


EVENTS = tuple(name for name in vars(Observer) if name.startswith("on_"))


def hears(observer, event):
    """Return whether an observer handles an event."""
    return getattr(type(observer), event, None) not in (None, getattr(Observer, event))


def check_observers(observers):
    """Return observers as a tuple.

    Raises:
        TypeError: for something else than a list of objects with events. ValueError: for an event that there is not.
    """
    if not isinstance(observers, list | tuple):
        raise TypeError(
            f"observers is {type(observers).__name__}; must be a list of observers, such as [dfc.EarlyStopping()]"
        )
    for observer in observers:
        if isinstance(observer, type):
            raise TypeError(
                f"observers has the class {observer.__name__}; call it to make an observer: {observer.__name__}()"
            )
        events = [
            name for name in dir(observer) if name.startswith("on_") and callable(getattr(observer, name))
        ]
        if not events:
            raise TypeError(f"observers has {observer!r}, which has none of the events {', '.join(EVENTS)}")
        for event in events:
            if event not in EVENTS:
                raise ValueError(
                    f"{type(observer).__name__}.{event} would never be called{nearest(event, EVENTS)}; events are "
                    f"{', '.join(EVENTS)}"
                )
    return tuple(observers)


def configured(config):
    """Return the observers that `training.observers` names; none on ranks other than the root."""
    chosen = config.training.observers.items() if ranks.is_root() else ()
    observers = [type(OBSERVERS.find(name, "training.observers"))(**values) for name, values in chosen]
    for observer in observers:
        observer.prepare()
    return observers


# --- those that are built in ---------------------------------------------------------------------------------


class EarlyStopping(Observer):
    """Stop a training that no longer improves; it counts as done.

    Which epoch was the best is seen from the rows of metrics.csv alone, so that a resumed run stops after the same epoch.

    Args:
        patience: epochs without improvement after which the training stops.
        min_delta: an epoch is better by more than this only; in the units of the column.
        column: of metrics.csv: the larger the better for an accuracy, the smaller for anything else; None for the one
            that the best weights go by: accuracy (regression: loss) of the validation set, without it of the training set.
    """

    name = "early_stopping"
    summary = "stop a training that no longer improves"
    patience: int
    min_delta: float
    column: str | None
    options = (
        Option("patience", 5, "epochs without improvement after which the training stops", least=1),
        Option("min_delta", 0.0, "smallest difference that counts as an improvement", least=0),
        Option("column", None, "column of metrics.csv; none: what the best weights go by"),
    )

    def on_start(self, trainer: Any) -> None:
        """Keep the trainer, and judge what a resumed run has done."""
        super().on_start(trainer)
        dataset = trainer.dataset
        split = "train" if dataset.validation is None else "val"
        self._column = self.column or f"{split}_{'accuracy' if dataset.task == 'classification' else 'loss'}"
        self._judge()

    def on_epoch(self, row: dict[str, Any]) -> None:
        """Stop where the last epochs were no better than the best one before them."""
        if isnan(row.get(self._column, float("nan"))):
            known = [name for name, value in row.items() if name != "epoch" and not isnan(value)]
            raise ValueError(
                f"early_stopping.column = {self._column!r}: this run does not measure it{nearest(self._column, known)}; "
                f"columns are {', '.join(known)}"
            )
        self._judge()

    def _judge(self):
        best = since = None
        for row in self.trainer.rows:
            score = row.get(self._column, float("nan")) * (1 if self._column.endswith("accuracy") else -1)
            if best is None or score > best + self.min_delta:
                best, since = score, row["epoch"]
        if best is not None and self.trainer.rows[-1]["epoch"] - since >= self.patience:
            self.trainer.request_stop(
                f"stopped early: {self._column} has not improved since epoch {since}", done=True
            )


class TensorBoard(Observer):
    """Write the course of a training for TensorBoard: `tensorboard --logdir FOLDER`. Needs the extra `tensorboard`.

    Scalars are loss/train, loss/val, loss/test, accuracy/... and other columns of metrics.csv per epoch, and minibatch/loss and
    minibatch/accuracy, the means over the epoch so far, per minibatch of the run.

    Args:
        folder: where to write; None for `tensorboard` in the run directory.
        every: minibatches between two points of minibatch/...; 0 for none.

    Raises:
        MissingExtra: TensorBoard is not installed.
    """

    name = "tensorboard"
    summary = "write scalars for TensorBoard"
    options = (
        Option("folder", None, "where to write; none: tensorboard in the run directory"),
        Option("every", 1, "minibatches between two points; 0: epochs only", least=0),
    )

    folder: str | None
    every: int
    _writer: Any = None

    def prepare(self) -> Any:
        """Import TensorBoard."""
        try:
            from tensorboard.summary import Writer
        except ImportError:
            raise MissingExtra(
                "TensorBoard is not installed; the extra tensorboard installs it: pip install 'dfc-numba[tensorboard]'"
            ) from None
        return Writer

    def on_start(self, trainer: Any) -> None:
        """Open the file of events."""
        super().on_start(trainer)
        if self.folder is None and trainer.directory is None:
            raise ValueError(
                "the observer tensorboard has no folder to write to; state folder, as in TensorBoard(folder='logs'), or train "
                "into a run directory"
            )
        folder = Path(trainer.directory) / "tensorboard" if self.folder is None else Path(self.folder)
        self._writer = self.prepare()(str(folder.expanduser()))

    def on_minibatch(self, progress: Any) -> None:
        """Add loss and accuracy of a forward minibatch."""
        number = self.trainer.counters.minibatches
        if not self.every or number % self.every:
            return
        for name in ("loss", "accuracy"):
            self._add(f"minibatch/{name}", getattr(progress, name), number)

    def on_epoch(self, row: dict[str, Any]) -> None:
        """Add the columns of an epoch."""
        for column, value in row.items():
            split, _, score = column.partition("_")
            tag = f"{score}/{split}" if score in ("loss", "accuracy") else f"epoch/{column}"
            if column != "epoch":
                self._add(tag, value, row["epoch"])
        self._writer.flush()

    def on_end(self, outcome: Any) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def on_error(self, error: BaseException) -> None:
        """Close the file."""
        self.on_end(None)

    def _add(self, tag, value, step):
        if value is not None and not isnan(value):
            self._writer.add_scalar(tag, value, step)


register_built_ins(EarlyStopping(), TensorBoard())
