"""Configurations as text: TOML files, presets, `section.key=value` on the command line, and readable errors.

TOML has no word for "nothing", so the string "none" stands for it (`clip_norm = "none"`).
"""

import ast
import inspect
import itertools
import json
import re
import sys
import textwrap
import warnings
from collections.abc import Mapping
from functools import partial
from importlib import resources
from pathlib import Path
from typing import get_args, get_type_hints

from pydantic import ValidationError

from dfc_numba import data
from dfc_numba.configuration.config import Config, key_paths, section_keys
from dfc_numba.data.own_file import SUFFIXES as DATA_SUFFIXES
from dfc_numba.errors import ConfigurationError, UnusableFileError
from dfc_numba.extensions import load_extension
from dfc_numba.model.controller import Controller
from dfc_numba.registry import METHODS
from dfc_numba.support import foreign, seals
from dfc_numba.support.wording import allowed, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NONE = "none"
EXTENSIONS, RUN_NAME, BASE = "extensions", "run.json", "base"
COMMENT_COLUMN, LINE_LENGTH = 40, 120


def load_config(source=None, overrides=()):
    """Return the configuration of a preset or TOML file and `section.key=value` texts.

    Args:
        source: name of a preset, path of a TOML file, a `Config`, or None for the defaults.
        overrides: texts `section.key=value` that replace what the source states; the value is written as in
            TOML, quotes around strings may be left out. Or a dict of values by `section.key`.

    Returns:
        (`Config`, what of the source is left out because the overrides made it meaningless)

    Raises:
        ConfigurationError: an unknown preset, a file that cannot be read, an unknown key, a value that is not
            allowed, a contradiction, or a key that this configuration does not use.
    """
    base = read_table(source) if source else {}
    table = _override_table(overrides)
    _load_extensions(base.pop(EXTENSIONS, {}), None if isinstance(source, Config) else source)
    _load_extensions(table.pop(EXTENSIONS, {}))
    validated(base, where=f"{source}: " if isinstance(source, str | Path) else "")
    return _overridden(base, table)


def validated(table, where="", refuse_unused=True):
    """Return the `Config` of a table of sections; the lines of a ConfigurationError start with `where`."""
    try:
        return Config.model_validate(_with_none(table), context={"refuse_unused": refuse_unused})
    except ValidationError as error:
        raise ConfigurationError("\n".join(where + line for line in error_lines(error))) from None


def preset_names():
    """Return the names of the presets that are shipped with the package."""
    files = resources.files("dfc_numba.presets").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def preset_source(name):
    """Return the text of a preset's file, which states what differs from its base; ConfigurationError if there is none."""
    if name not in preset_names():
        raise ConfigurationError(
            f"unknown preset {name!r}{nearest(name, preset_names())}; presets: {', '.join(preset_names())}"
        )
    return (resources.files("dfc_numba.presets") / f"{name}.toml").read_text(encoding="utf-8")


def preset_text(name):
    """Return a preset as TOML text with every key that it uses, resolved; ConfigurationError where there is none."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), preset_source(name).splitlines())
    heading = "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines)
    return to_toml(load_config(name)[0], heading)


def preset_title(name):
    """Return the first line of a preset's leading comment."""
    return preset_source(name).splitlines()[0].lstrip("# ")


def to_toml(config, heading=""):
    """Return a configuration as TOML text with a comment per key, without the keys that it does not use."""
    unused = config.unused_keys()
    lines = [f"# {line}" for line in heading.splitlines()]
    for section, field in Config.model_fields.items():
        keys = [key for key in section_keys(section, config) if f"{section}.{key}" not in unused]
        if keys:
            lines += ["", f"# {field.description}", f"[{section}]"]
            values = getattr(config, section)
            values = values if isinstance(values, dict) else vars(values)
            told = descriptions(section, config)
            lines += [_toml_line(key, values[key], told.get(key)) for key in keys]
    return "\n".join(lines).lstrip("\n") + "\n"


def used_values(config):
    """Return the values of the keys that a run with this configuration uses, by `section.key`, as plain values."""
    table, unused = config.model_dump(mode="json"), config.unused_keys()
    return {
        f"{section}.{key}": value
        for section, keys in table.items()
        for key, value in keys.items()
        if f"{section}.{key}" not in unused
    }


def differences(there, now):
    """Return the differences of two `used_values`, by `section.key` a text "VALUE in the run, VALUE requested"."""
    texts = [{key: value_text(value) for key, value in values.items()} for values in (there, now)]
    values = {key: [text.get(key, "unused") for text in texts] for key in {**there, **now}}
    return {key: f"{old} in the run, {new} requested" for key, (old, new) in values.items() if old != new}


def _toml_line(key, value, description):
    """Return a key with its description, behind it or, where that gets long, above it."""
    line = f"{key} = {value_text(value)}"
    comment = "# " + (description or "").replace("None", f'"{NONE}"')
    if len(comment) > LINE_LENGTH - COMMENT_COLUMN or len(line) >= COMMENT_COLUMN:
        return "\n".join(textwrap.wrap(comment, LINE_LENGTH, subsequent_indent="# ")) + "\n" + line
    return f"{line:<{COMMENT_COLUMN}}{comment}"


def descriptions(section, config):
    """Return the description of each key of a section; those of the controller stand in its docstring."""
    if section == "method":
        return {option.name: option.description for option in METHODS[config.training.method].options}
    kind = Config.model_fields[section].annotation
    if kind is not Controller:
        return {key: field.description for key, field in kind.model_fields.items()}
    arguments = inspect.cleandoc(kind.__doc__ or "").partition("Raises:")[0]
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}\S.*)*)", arguments, flags=re.MULTILINE)
    known = section_keys(section)
    return {key: " ".join(text.split()).rstrip(".") for key, text in entries if key in known}


def value_text(value, *, bare_keys=True):
    """Return a plain value as TOML states it on one line, "none" for None; with `bare_keys`, keys without needless quotes."""
    inner = partial(value_text, bare_keys=bare_keys)
    if value is None:
        return f'"{NONE}"'
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(inner, value))}]"
    if isinstance(value, dict):
        name = _toml_key if bare_keys else _toml_text
        pairs = [f"{name(key)} = {inner(entry)}" for key, entry in value.items()]
        return f"{{ {', '.join(pairs)} }}" if pairs else "{}"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(int(value) if isinstance(value, int) else float(value))
    return _toml_text(str(value))


def _toml_key(key):
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _toml_text(key)


def _toml_text(text):
    """Return a basic string of TOML: as in JSON, except that the delete character has to be escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def read_table(source):
    """Return the table of sections of a preset or TOML file, over that of the preset that it names as its `base`.

    Keys of the base that the table makes meaningless are left out.

    Raises:
        ConfigurationError: an unknown preset, a file that cannot be read, or a base that is none.
    """
    if isinstance(source, Config):
        return tomllib.loads(to_toml(source))
    table = _stated_table(source)
    name = table.pop(BASE, None)
    if name is None:
        return table
    if not isinstance(name, str) or name not in preset_names():
        hint = nearest(name, preset_names()) if isinstance(name, str) else ""
        raise ConfigurationError(
            f"{source}: base = {name!r}: must be the name of a preset{hint}; see `dfc presets`"
        )
    extensions = table.pop(EXTENSIONS, {})
    _load_extensions(extensions, source)
    merged, _ = _merged_over(read_table(name), table, where=f"{source}: ")
    return merged


def _stated_table(source):
    """Return what a preset or a TOML file states."""
    path = expanded(source)
    if path.suffix.lower() in DATA_SUFFIXES:
        raise ConfigurationError(
            f"{source}: is not a TOML file; to train on data of your own: --set data.name={source}"
        )
    is_preset = str(source) in preset_names()
    if is_preset and path.exists():
        warnings.warn(
            f"{source} is taken for the preset; for the file of this name write ./{source}", stacklevel=3
        )
    if path.suffix == ".toml" or (path.exists() and not is_preset):
        return _read_file(path)
    return tomllib.loads(preset_source(str(source)))


def _read_file(path):
    table = read_toml(path)
    if not table:
        raise ConfigurationError(
            f"{path}: is empty; state what differs from the defaults, such as [training] with epochs = 5, or name a preset"
        )
    return table


def read_toml(path):
    """Return the table of a TOML file, as a dict; warn where it is that of a run or a sweep, and not as that wrote it.

    Raises:
        ConfigurationError: it cannot be read, or is not TOML.
    """
    try:
        text = foreign.read_text(path, most=2**22)
        seals.warn_if_changed(path, text)
        return tomllib.loads(text)
    except FileNotFoundError:
        raise ConfigurationError(
            f"{path}: cannot be read (No such file or directory); it was looked for in {Path.cwd()}"
        ) from None
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (tomllib.TOMLDecodeError, UnusableFileError) as error:
        raise ConfigurationError(f"{path}: is not a TOML file ({error})") from None
    except RecursionError:
        raise ConfigurationError(
            f"{path}: is not a TOML file that can be read (it is nested too deeply)"
        ) from None


def expanded(path):
    """Return a path with `~` as the home folder, where there is one."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def _load_extensions(section, source=None):
    """Load what `[extensions] modules` lists; paths are relative to the folder of the TOML file.

    Raises:
        ConfigurationError: for another content, an extension that cannot be loaded, or the config.toml of a run, which is data.
    """
    if not section:
        return
    modules = section.get("modules") if isinstance(section, dict) else None
    if (
        not isinstance(modules, list)
        or not all(isinstance(text, str) for text in modules)
        or len(section) > 1
    ):
        raise ConfigurationError(
            f"[extensions] = {section!r}: must have the key modules alone, a list of Python files or names of modules"
        )
    folder = Path(source).parent if source else Path()
    if source and (folder / RUN_NAME).exists():
        raise ConfigurationError(
            f"{source} belongs to a run, and the files of a run load no extensions; leave out [extensions], and add "
            + " ".join(f"--extension {text}" for text in modules)
        )
    for text in modules:
        load_extension(folder / Path(text).expanduser() if text.endswith(".py") else text)


def override_values(overrides):
    """Return what `section.key=value` texts state, as a dict of sections; "none" is None where a key may have no value.

    Raises:
        ConfigurationError: for a text that is not of this form.
    """
    return _with_none(_override_table(overrides))


def _override_table(overrides):
    """Return the nested table of `section.key=value` texts, or of a dict of values by `section.key`."""
    table = {}
    if isinstance(overrides, Mapping):
        for path, value in overrides.items():
            keys = str(path).split(".")
            if len(keys) < 2 or not all(keys):
                examples = _everywhere(str(path)) or ["training.epochs"]
                raise ConfigurationError(f"{path!r}: write the key as 'section.key', such as {examples[0]!r}")
            _put(table, keys, _plain_value(value), path)
        return table
    if isinstance(overrides, str):
        raise TypeError(
            f"changes are {overrides!r}; must be a dict such as {{'training.epochs': 2}}, or a list of texts"
        )
    for text in overrides:
        path, equals, value = text.partition("=")
        keys = [key.strip() for key in path.split(".")]
        if not equals or len(keys) < 2 or not all(keys):
            examples = _everywhere(path.strip()) or ["training.epochs"]
            raise ConfigurationError(
                f"--set {text}: write it as section.key=value, such as {examples[0]}=..."
            )
        _put(table, keys, parsed_value(value.strip()), text)
    return table


def as_texts(changes):
    """Return the texts `section.key=value` that a dict of values by `section.key` stands for."""
    return [f"{key}={value_text(_plain_value(value))}" for key, value in changes.items()]


def _plain_value(value):
    """Return a value of Python or NumPy as TOML would state it."""
    if value is None:
        return NONE
    if isinstance(value, Mapping):
        return {str(key): _plain_value(entry) for key, entry in value.items()}
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, list | tuple):
        return [_plain_value(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value


def _put(table, keys, value, text):
    place = ".".join(keys)
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise ConfigurationError(f"--set {text}: {key} was set to a value before, and has no keys")
    if isinstance(value, str) and not _is_unicode(value):
        raise ConfigurationError(
            f"{place} = {value!r}: holds bytes that are not valid UTF-8, which config.toml cannot state; give the file or "
            "folder another name, or a link with another name"
        )
    table[keys[-1]] = value


def _is_unicode(text):
    """Return whether a text can be written in UTF-8; arguments of the command line keep other bytes as half characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def parsed_value(text):
    """Return the value of a text: as in TOML (quotes may be left out), else as in Python, else the text itself."""
    bare_words = r"\b(?!(?:true|false|inf|nan)\b)[A-Za-z_][\w.-]*"
    for candidate in (text, re.sub(bare_words, r'"\g<0>"', text) if text.startswith("[") else text):
        try:
            table = tomllib.loads(f"value = {candidate}")
        except (tomllib.TOMLDecodeError, RecursionError):
            continue
        if len(table) == 1:  # no line break has begun another key
            return table["value"]
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
    return NONE if value is None else value


def _overridden(base, table):
    """Return the configuration of a table over a base, without the keys of the base that this made meaningless."""
    merged, left_out = _merged_over(base, table)
    return validated(merged), _by_section(left_out, base)


def _merged_over(base, table, where=""):
    """Return (table over a base without the keys of the base that this made meaningless, those keys)."""
    for section in ("data", "optimizer", "feedback_optimizer"):
        if "name" in table.get(section, {}):
            base.get(section, {}).pop("options", None)
    for section in ("controller", "feedback_controller"):
        for key, other in (("duration", "steps"), ("steps", "duration")):
            if key in table.get(section, {}) and other not in table[section]:
                base.get(section, {}).pop(other, None)
    merged = _merged(base, table)
    unused = validated(merged, where, refuse_unused=False).unused_keys()
    left_out = [path for path in key_paths(base) if path in unused and path not in key_paths(table)]
    for section, key in (path.split(".") for path in left_out):
        del merged[section][key]
    return merged, left_out


def _by_section(paths, base):
    """Return the paths, with the name of a section in place of all the keys that the base states of it."""
    whole = [section for section in base if set(key_paths({section: base[section]})) <= set(paths)]
    return [*whole, *(path for path in paths if path.split(".")[0] not in whole)]


def _merged(base, table):
    """Return a nested table with the entries of `table` over those of `base`."""
    if not (isinstance(base, dict) and isinstance(table, dict)):
        return table
    return {**base, **{key: _merged(base.get(key), value) for key, value in table.items()}}


def _with_none(table):
    """Return the table with "none" read as None where a key may have no value."""
    return {
        section: {
            key: None if value == NONE and _may_be_none(section, key) else value
            for key, value in keys.items()
        }
        if isinstance(keys, dict)
        else keys
        for section, keys in table.items()
    }


def _may_be_none(section, key):
    if section not in Config.model_fields or section == "method" or key not in section_keys(section):
        return False
    return type(None) in get_args(get_type_hints(Config.model_fields[section].annotation)[key])


def error_lines(error):
    """Return one short line per error of a pydantic.ValidationError: the key, the value received, what is allowed."""
    entries = error.errors(include_url=False)
    return [_error_line(entry) for entry in entries if not _follows(entry, entries)]


def _follows(entry, entries):
    """Return whether a list is called too short because entries of it are wrong, which other errors report."""
    place = entry["loc"]
    inside = (other["loc"][: len(place)] == place and other is not entry for other in entries)
    return entry["type"] == "too_short" and any(inside)


def _error_line(entry):
    location, value, kind = entry["loc"], entry.get("input"), entry["type"]
    path = ".".join(part for part in location if isinstance(part, str))
    path += "".join(f"[{part}]" for part in location if isinstance(part, int))
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return _unknown_line(location)
    if kind in ("model_type", "dataclass_type"):
        return f"{path} = {value!r}: must be a section with keys, [{path}]"
    if kind == "value_error" and len(location) < 2:
        return ": ".join(filter(None, [path, str(entry["ctx"]["error"])]))
    return f"{path} = {value_text(value)}: {allowed(entry)}"


def _unknown_line(location):
    """Return the line for a key or section that does not exist, with the nearest one that does."""
    section, *keys = location
    if not keys:
        hint = nearest(section, Config.model_fields) or "".join(
            f"; did you mean {path}?" for path in _everywhere(section)
        )
        return f"[{section}]: no such section{hint}; sections: {', '.join(Config.model_fields)}"
    elsewhere = "".join(f" ({path} exists)" for path in _everywhere(keys[0]))
    hint = nearest(keys[0], section_keys(section)) or elsewhere
    known = ", ".join(section_keys(section))
    return f"{section}.{keys[0]}: no such key{hint}; keys of [{section}]: {known}"


def _everywhere(key):
    """Return every `section.key` of this name; the options of the data sets, too, are `data.options.key`."""
    options = {option for name in data.names() for option in data.options(name)}
    return [
        *(f"{section}.{key}" for section in Config.model_fields if key in section_keys(section)),
        *([f"data.options.{key}"] if key in options else []),
    ]
