"""Sweep files: which runs a TOML file stands for, and what it asks the scheduler for.

[sweep]
presets = ["digits", "mine.toml"]
seeds = [0, 1, 2]
set."controller.k_p" = [1.0, 2.0]        # a list is an axis of the grid
set."training.epochs" = 5                # a single value holds for all runs

[[sweep.run]]                            # single runs beside the grid
preset = "digits"
seed = 7
set."network.hidden" = [32, 32]

[slurm]
time = "04:00:00"
"""

import hashlib
import re
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path

from dfc_numba.configuration.config_file import load_config, read_toml, used_values, value_text
from dfc_numba.errors import ConfigurationError
from dfc_numba.extensions import command_line, load_extension
from dfc_numba.support.wording import nearest

SECTIONS = {
    "sweep": ("presets", "seeds", "set", "run", "extensions"),
    "slurm": (
        "time",
        "cpus",
        "memory",
        "partition",
        "at_once",
        "signal_seconds",
        "setup",
        "options",
        "command",
        "scratch",
    ),
}
RUN_KEYS = ("preset", "seed", "set")
SEED = "training.seed"
LONGEST_NAME = (
    200  # bytes; file systems allow 255, and files of a run may have longer names than its directory
)
TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<first>\d+)(?::(?P<second>\d+))?(?::(?P<third>\d+))?")
MEMORY = re.compile(r"(\d+)([KMGT]?)B?", flags=re.IGNORECASE)
MOST_ERRORS = 10
toml_text = partial(value_text, bare_keys=False)  # as names of runs have it


@dataclass(frozen=True)
class SlurmOptions:
    """The resources that a job asks SLURM for.

    Attributes:
        time: limit of a job, as `sbatch --time` takes it. memory: as `sbatch --mem`. cpus: processors of a run.
        partition: where to run. at_once: how many runs at a time. options: further options of sbatch.
        signal_seconds: how long before the limit a run receives SIGUSR1; None for two minutes, or less of a short limit.
        setup: shell lines before the run. command: what to call in place of this installation's `dfc`.
        scratch: folder on a disk of the node to work in, such as "$TMPDIR".
    """

    time: str | None = None
    cpus: int = 1
    memory: str | None = None
    partition: str | None = None
    at_once: int | None = None
    signal_seconds: int | None = None
    setup: tuple = ()
    options: tuple = ()
    command: str | None = None
    scratch: str | None = None

    @property
    def seconds(self):
        """The time limit in seconds, or None."""
        return None if self.time is None else seconds_of(self.time)

    @property
    def bytes(self):
        """The memory asked for, or None."""
        if self.memory is None:
            return None
        number, unit = MEMORY.fullmatch(self.memory).groups()
        return int(number) * 1024 ** (" KMGT".index(unit.upper()) if unit else 2)  # SLURM's default is MB


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep.

    Attributes:
        name: name of its directory, from its preset, the values of the axes, and its seed.
        source: what the sweep calls its preset or file.
        seed: the random seed, or None for that of the preset.
        settings: texts `section.key=value`, with that of the seed.
        config: the resolved `Config`.
        left_out: keys of the preset or file that the settings made meaningless.
    """

    name: str
    source: str
    seed: int | None
    settings: tuple
    config: object = field(repr=False)
    left_out: tuple = ()


@dataclass(frozen=True)
class SweepFile:
    """The content of a sweep file.

    Attributes:
        path: the file. name: its name without suffix.
        sources: by the name of a preset or file in this sweep, what `load_config` takes.
        runs: the `PlannedRun`s in their order: all with the first seed, then with the next one.
        extensions: options of the command line that load the extensions that are loaded now.
        slurm: the `SlurmOptions`.
    """

    path: Path
    name: str
    sources: dict
    runs: tuple
    extensions: tuple
    slurm: SlurmOptions


def read_sweep(path):
    """Return the `SweepFile` at a path, with its extensions loaded and the configuration of every run built and checked.

    Raises:
        ConfigurationError: the file cannot be read, states something unknown, two axes set one key, or a run is refused;
            the message lists what is wrong with which runs.
    """
    path = Path(path)
    table = _table(path)
    sweep = table["sweep"]
    for extension in sweep.get("extensions", []):
        beside = path.parent / extension
        load_extension(beside if beside.is_file() else extension)
    fixed, axes = _split(_flat(sweep.get("set", {}), path), path)
    singles = [_single(entry, number, path) for number, entry in enumerate(sweep.get("run", []), start=1)]
    presets, seeds = sweep.get("presets", []), sweep.get("seeds", [None])
    _refuse_repetition("presets", presets, path)
    _refuse_repetition("seeds", seeds, path)
    _refuse_same_key({**fixed, **axes}, "seeds" in sweep, path)
    if not presets and not singles:
        raise ConfigurationError(f'{path}: no runs; state [sweep] presets = ["digits"], or [[sweep.run]]')
    if not presets and axes:
        raise ConfigurationError(
            f"{path}: the axis {next(iter(axes))} applies to no preset; state [sweep] presets, or a single value"
        )
    labels = _labels([*presets, *(single["preset"] for single in singles)], path)
    runs = [
        (preset, seed, dict(zip(axes, values, strict=True)))
        for seed in seeds
        for preset in presets
        for values in product(*axes.values())
    ]
    runs += [(single["preset"], single["seed"], single["set"]) for single in singles]
    sources = {label: _located(preset, path) for preset, label in labels.items()}
    planned = _planned(runs, labels, sources, fixed, path)
    _refuse_collisions(planned, path)
    return SweepFile(
        path, path.stem, sources, planned, tuple(command_line()), _slurm(table.get("slurm", {}), path)
    )


def seconds_of(text):
    """Return the seconds of a time limit of SLURM: MM, MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS."""
    parts = TIME.fullmatch(text)
    if parts is None:
        raise ValueError(f"{text!r} is not a time limit; write HH:MM:SS or D-HH:MM:SS")
    days, *rest = (int(part) if part is not None else None for part in parts.groups())
    given = [part for part in rest if part is not None]
    if days is not None:
        hours, minutes, seconds = (given + [0, 0])[:3]
    elif len(given) == 3:
        hours, minutes, seconds = given
    else:
        hours, (minutes, seconds) = 0, (given + [0])[:2]
    return (((days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


# --- reading -----------------------------------------------------------------------------------------------------------------


def _table(path):
    """Return the content of the file, with known sections and keys of the right kinds."""
    table = read_toml(path)
    for section, keys in table.items():
        _known(section, SECTIONS, path, "section")
        _expect(isinstance(keys, dict), path, f"[{section}]", "a section with keys")
        for key in keys:
            _known(key, SECTIONS[section], path, f"key of [{section}]")
    if "sweep" not in table:
        raise ConfigurationError(f"{path}: the section [sweep] is missing; state presets and seeds there")
    sweep = table["sweep"]
    for key in ("presets", "extensions"):
        value = sweep.get(key, [])
        _expect(
            isinstance(value, list) and all(isinstance(one, str) and one for one in value),
            path, f"sweep.{key} = {value!r}", "a list of names",
        )  # fmt: skip
    seeds = sweep.get("seeds", [0])
    _expect(
        isinstance(seeds, list) and seeds and all(_is_seed(seed) for seed in seeds),
        path, f"sweep.seeds = {seeds!r}", "a list of whole numbers from 0, such as [0, 1, 2]",
    )  # fmt: skip
    _expect(
        isinstance(sweep.get("set", {}), dict),
        path,
        "sweep.set",
        'keys, such as set."controller.k_p" = [1.0, 2.0]',
    )
    runs = sweep.get("run", [])
    _expect(
        isinstance(runs, list) and all(isinstance(run, dict) for run in runs),
        path,
        "sweep.run",
        "sections [[sweep.run]]",
    )
    return table


def _is_seed(seed):
    return isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0


def _expect(holds, path, what, allowed):
    if not holds:
        raise ConfigurationError(f"{path}: {what}: must be {allowed}")


def _known(name, names, path, kind):
    if name not in names:
        raise ConfigurationError(
            f"{path}: {name!r} is not a {kind}{nearest(name, names)}; choose from {', '.join(names)}"
        )


def _flat(table, path, prefix=""):
    """Return settings by `section.key`, whether the file quotes the key or nests tables."""
    flat = {}
    for key, value in table.items():
        name = f"{prefix}{key}"
        entries = _flat(value, path, f"{name}.") if isinstance(value, dict) and value else {name: value}
        twice = flat.keys() & entries.keys()
        if twice:
            raise ConfigurationError(f"{path}: {min(twice)} is set twice; state it once")
        flat |= entries
    return flat


def _split(settings, path):
    """Return (fixed settings, axes): a list is an axis."""
    axes = {key: value for key, value in settings.items() if isinstance(value, list)}
    for key, values in axes.items():
        _expect(bool(values), path, f'set."{key}" = []', "a list with at least one value")
        _refuse_repetition(f'set."{key}"', values, path)
    return {key: value for key, value in settings.items() if key not in axes}, axes


def _refuse_repetition(what, values, path):
    texts = Counter(map(toml_text, values)) if values != [None] else {}
    repeated = [text for text, count in texts.items() if count > 1]
    if repeated:
        raise ConfigurationError(f"{path}: {what} lists {repeated[0]} twice; list each value once")


def _refuse_same_key(settings, seeds, path):
    """Refuse two settings of one key, or of a table and of what is in it."""
    if seeds and SEED in settings:
        raise ConfigurationError(f'{path}: seeds and set."{SEED}" set the same key; state one of them')
    for key in settings:
        inside = next((other for other in settings if other.startswith(f"{key}.")), None)
        if inside:
            raise ConfigurationError(f"{path}: {key} and {inside} set the same key; state one of them")


def _single(entry, number, path):
    where = f"[[sweep.run]] number {number}"
    for key in entry:
        _known(key, RUN_KEYS, path, f"key of {where}")
    _expect(isinstance(entry.get("preset"), str), path, f"{where}: preset", "a preset or a TOML file")
    seed = entry.get("seed")
    _expect(seed is None or _is_seed(seed), path, f"{where}: seed = {seed!r}", "a whole number from 0")
    _expect(
        isinstance(entry.get("set", {}), dict),
        path,
        f"{where}: set",
        'keys, such as set."controller.k_p" = 1.0',
    )
    settings = _flat(entry.get("set", {}), path)
    _refuse_same_key(settings, seed is not None, path)
    return {"preset": entry["preset"], "seed": seed, "set": settings}


def _labels(presets, path):
    """Return the name of each preset or file in this sweep: without folder and .toml where they are not needed."""
    presets = list(dict.fromkeys(presets))
    count = Counter(Path(preset).stem for preset in presets)
    labels = {
        preset: Path(preset).stem if count[Path(preset).stem] == 1 else _plain(preset) for preset in presets
    }
    if len(set(labels.values())) < len(labels):
        raise ConfigurationError(f"{path}: {' and '.join(labels)} would have one name; rename the files")
    return labels


def _located(preset, path):
    """Return what `load_config` takes: a file beside the sweep file is found from everywhere."""
    beside = path.parent / preset
    return str(beside.resolve()) if preset.endswith(".toml") and beside.is_file() else preset


def _slurm(table, path):
    kinds = {"cpus": int, "at_once": int, "signal_seconds": int, "setup": list, "options": list}
    for key, value in table.items():
        kind = kinds.get(key, str)
        _expect(
            isinstance(value, kind) and not isinstance(value, bool), path, f"slurm.{key} = {value!r}",
            {int: "a whole number above 0", list: "a list of texts", str: "a text"}[kind],
        )  # fmt: skip
        if kind is int:
            _expect(value > 0, path, f"slurm.{key} = {value}", "a whole number above 0")
        if kind is list:
            _expect(
                all(isinstance(one, str) and "\n" not in one for one in value),
                path, f"slurm.{key} = {value!r}", "a list of texts, one a line",
            )  # fmt: skip
    if "time" in table:
        try:
            seconds = seconds_of(table["time"])
        except ValueError as error:
            raise ConfigurationError(f"{path}: slurm.time: {error}") from None
        _expect(seconds >= 60, path, f"slurm.time = {table['time']!r}", "at least one minute")
    if "memory" in table:
        _expect(
            MEMORY.fullmatch(table["memory"]) is not None, path, f"slurm.memory = {table['memory']!r}",
            'a size, such as "2G"',
        )  # fmt: skip
    bad = next((one for one in table.get("options", []) if not one.startswith("-")), None)
    _expect(bad is None, path, f"slurm.options: {bad!r}", 'an option of sbatch, such as "--account=neuro"')
    return SlurmOptions(
        **{key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
    )


# --- the runs ------------------------------------------------------------------------------------------------------------------


def _planned(runs, labels, sources, fixed, path):
    """Return the `PlannedRun`s, or raise one error with every distinct message and the first run that gives it."""
    planned, problems = [], {}
    for preset, seed, own in runs:
        label = labels[preset]
        name = run_name(label, own, seed)
        settings = [f"{key}={toml_text(value)}" for key, value in {**fixed, **own}.items()]
        settings += [f"{SEED}={seed}"] if seed is not None else []
        try:
            config, left_out = load_config(sources[label], settings)
        except ValueError as error:
            problems.setdefault(str(error), name)
            continue
        planned.append(PlannedRun(name, label, seed, tuple(settings), config, tuple(left_out)))
    if problems:
        lines = [f"{path}: {name}: {text}" for text, name in problems.items()]
        more = [f"... and {len(lines) - MOST_ERRORS} more"] if len(lines) > MOST_ERRORS else []
        raise ConfigurationError("\n".join([*lines[:MOST_ERRORS], *more]))
    return tuple(planned)


RESERVED = ("logs", "sources")  # folders of a sweep beside its runs


def run_name(label, settings, seed):
    """Return the name of a run's directory: preset, values and seed; cut where it is long, with a checksum."""
    parts = [
        label.lstrip("-.") or "run",
        *(f"{key}={_plain(toml_text(value))}" for key, value in settings.items()),
    ]
    name = "+".join(parts) + (f"-seed{seed}" if seed is not None else "")
    if len(name.encode()) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(repr((label, settings, seed)).encode()).hexdigest()[:12]
    return name.encode()[: LONGEST_NAME - 13].decode(errors="ignore") + f"-{digest}"


def _plain(text):
    """Return a text without what does not suit the name of a folder."""
    return re.sub(r"[^\w.+=,-]", "-", re.sub(r"[\[\]{}'\"\s]", "", text)) or "none"


def _refuse_collisions(planned, path):
    """Refuse two runs that would write to one directory, or are the same run."""
    by_name, by_values = {}, {}
    for run in planned:
        values = repr(used_values(run.config))
        if run.name in RESERVED:
            raise ConfigurationError(
                f"{path}: a run cannot be called {run.name!r}; rename the file, or state seeds"
            )
        if run.name in by_name:
            settings = [" ".join(one.settings) for one in (by_name[run.name], run)]
            raise ConfigurationError(
                f"{path}: two runs would write to one directory, {run.name}: {' | '.join(settings)}; state each run "
                "once, and values that differ in letters or digits"
            )
        if values in by_values:
            raise ConfigurationError(
                f"{path}: {by_values[values].name} and {run.name} are the same run; state it once"
            )
        by_name[run.name] = by_values[values] = run
