"""Going on with a run: which run directory is meant, what it was configured with, and whether anything is left to do."""

from pathlib import Path

from dfc_numba.configuration.config_file import load_config, used_values
from dfc_numba.errors import ConfigurationError
from dfc_numba.extensions import differences, explained, used_extensions
from dfc_numba.runs.checkpoint import allowed_changes, contradictions
from dfc_numba.runs.run_directory import CONFIG_NAME, DEFAULT_PARENT, OWN, holds_run, last_of, read_record
from dfc_numba.support.files import refuse_links


def find(out, name, required):
    """Return the directory of the run to resume, or None where there is none.

    Args:
        out: the run directory; None for the last runs/<name>-NNN.
        name: name of the run.
        required: whether to raise a ConfigurationError instead of returning None.
    """
    path = last_of(name) if out is None else Path(out).expanduser()
    if path is not None and holds_run(path):
        refuse_links(path, OWN)
        return path
    if required:
        raise ConfigurationError(
            f"{path or Path(DEFAULT_PARENT) / f'{name}-NNN'} holds no run to resume; name a preset or file to start one"
        )
    return None


def configuration(path, source=None, overrides=()):
    """Return what `load_config` returns for a resumed run, whose configuration may only differ in more epochs.

    Args:
        path: the run directory.
        source: preset or file; None for the run's own config.toml.
        overrides: texts `section.key=value`.

    Raises:
        ConfigurationError: for what `load_config` refuses, or a contradiction.
    """
    own = path / CONFIG_NAME
    if source is None and not own.exists():
        raise ConfigurationError(
            f"{own} is missing; name the preset or file that the run started with, and what was changed with --set, to "
            "resume it"
        )
    before = (read_record(path) or {}).get("extensions", [])
    with explained(before):
        config, left_out = load_config(source or str(own), overrides)
    refuse_other_extensions(path, config)
    changed = contradictions(*_values(path, config))
    if changed:
        raise ConfigurationError(
            f"{path} holds a run of another configuration ({changed}); leave that out to resume the run as it is, "
            "or choose another directory with --out"
        )
    return config, left_out


def refuse_other_extensions(path, config):
    """Raise a ConfigurationError unless the extensions that a run depends on are loaded, by their SHA-256."""
    record = read_record(path)
    if record is None:
        return
    changed = differences(record.get("extensions", []), used_extensions(used_values(config)))
    if changed:
        raise ConfigurationError(f"{path} holds a run with other extensions: {changed}")


def changes(path, config):
    """Return a sentence about a resumed run's changes from its own config.toml; None where there are none.

    Args:
        path: the run directory.
        config: the `Config` to resume with, from `configuration`.
    """
    changed = allowed_changes(*_values(path, config))
    return f"the run in {path} resumes with changes: {changed}" if changed else None


def _values(path, config):
    """Return `used_values` of a run's own config.toml (the configuration where that is missing), and of the configuration."""
    own = path / CONFIG_NAME
    there, _ = load_config(str(own)) if own.exists() else (config, [])
    return used_values(there), used_values(config)


def ended(path, config):
    """Return (status, sentence) of a run that has nothing left to do; None of any other.

    Args:
        path: the run directory.
        config: the `Config` to resume with.
    """
    record = read_record(path) or {}
    epochs = record.get("results", {}).get("epochs", 0)
    if record.get("status") == "done" and epochs >= config.training.epochs:
        return "done", f"{path} is finished, with {epochs} epochs; to continue it, raise --epochs"
    early = record.get("results", {}).get("stopped_early")
    if record.get("status") == "done" and early and _same_observers(path, config):
        return (
            "done",
            f"{path} was {record.get('stop_reason')}; to continue the run, change training.observers",
        )
    if record.get("status") == "diverged":
        reason = record.get("stop_reason") or "it is not known why"
        return "diverged", f"{path} holds a run that diverged, and would again: {reason}"
    return None


def _same_observers(path, config):
    before, now = _values(path, config)
    return before["training.observers"] == now["training.observers"]
