"""Whole training runs of the published code, step by step through the trainer.

`test_reference_arrays` compares all arrays of each; here are the order of the steps, and how sharp the comparison is.
"""

import pytest
import training_cases
from reference_files import family, label, more_files, shipped_files

FILES = [path for path in shipped_files() + more_files() if family(path) == "train"]
SHIPPED = {path.stem: path for path in shipped_files()}


@pytest.mark.parametrize("path", FILES, ids=label)
def test_the_optimisers_step_in_the_published_order(path):
    run = training_cases.Run(path)
    _, recorder = run.train(slips=False)
    assert recorder.events == run.events


@pytest.mark.parametrize("path", FILES, ids=label)
def test_without_the_slips_only_the_runs_that_contain_one_differ(path):
    run = training_cases.Run(path)
    _, recorder = run.train(slips=False)
    has_slip = run.config.training.method in ("dfa", "dfc-single-phase")
    deviation, name = recorder.worst()
    assert deviation > 1e-3 if has_slip else deviation < 1e-12, name


def changed_options(run):
    controller = {**vars(run.config.controller), "alpha": 0.02}
    run.config = run.config.model_copy(update={"controller": type(run.config.controller)(**controller)})


def changed_minibatches(run):
    run.minibatches = run.minibatches[::-1]


def changed_noise(run):
    noise = run.noise[::-1]
    run.noise = run.noise[:1] + [draws or run.noise[0] for draws in noise[1:]]


@pytest.mark.parametrize("change", [changed_options, changed_minibatches, changed_noise])
@pytest.mark.parametrize("name", ["train_2p_weak_mse_cont_adam", "train_sp_strong_ce_adam"])
def test_a_wrong_option_is_noticed(name, change):
    """The comparison is sharp: other minibatches, draws or options do not pass."""
    run = training_cases.Run(SHIPPED[name])
    change(run)
    _, recorder = run.train()
    assert recorder.worst()[0] > 1e-9
