"""Extensions: files and modules outside the package that register what they add, loaded only where the user asks for it.

An extension is a Python file, a module, or an entry point of the group `dfc_numba.extensions`. A file is imported by its path
under a name that is the same in every process. No data file causes an import: a stored file says which extension it needs.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from dfc_numba.errors import ConfigurationError
from dfc_numba.registry import REGISTRIES, registered_from, registering_from
from dfc_numba.support.array_types import PathLike

GROUP = "dfc_numba.extensions"
_loaded = {}


@dataclass(frozen=True)
class LoadedExtension:
    """An extension that was loaded.

    Attributes:
        name: what the registries call it: the path of a file, or the module's name.
        path: its file. sha256: of the file when it was loaded.
        module: the module object.
        installed: whether an entry point of an installed package brought it, not the user's word.
    """

    name: str
    path: str
    sha256: str
    module: ModuleType = field(repr=False, compare=False)
    installed: bool = False

    @property
    def registered(self) -> list[tuple[str, str]]:
        """The objects that the extension has registered, as a list of (kind, name)."""
        return registered_from(self.name)

    def facts(self) -> dict[str, str]:
        """Return what files and run.json store of the extension."""
        return {"name": self.name, "path": self.path, "sha256": self.sha256}


def load_extension(extension: PathLike) -> LoadedExtension:
    """Import a Python file or module that registers extensions, and return the `LoadedExtension`.

    The same file again is not run again; a file that was changed since is, and replaces what it registered before.

    Args:
        extension: path of a Python file (it ends in .py), or the name of a module.

    Raises:
        ConfigurationError: if there is none, or it cannot be imported; what it had registered is taken back.
    """
    text = str(extension)
    if text.endswith(".py") or "/" in text:
        return _load_file(text)
    return _load_module(text, text)


def loaded_extensions():
    """Return the extensions that are loaded, in their order."""
    return list(_loaded.values())


def used_extensions(values):
    """Return facts of the extensions that a run with these plain values of its configuration depends on.

    Those that were loaded on request count always, those of installed packages where a value is a name of theirs.
    """
    words = set(_words(values))
    return [
        extension.facts()
        for extension in _loaded.values()
        if not extension.installed or any(name in words for _, name in extension.registered)
    ]


def extensions_of(*items):
    """Return facts of the extensions that registered these objects; nothing for built-ins."""
    origins = {item.origin for item in items}
    return [extension.facts() for name, extension in _loaded.items() if name in origins]


def command_line():
    """Return the options that load the same extensions in another process: ["--extension", PATH, ...]."""
    asked_for = [extension for extension in _loaded.values() if not extension.installed]
    return [
        text
        for extension in asked_for
        for text in ("--extension", _reference(extension.name, extension.path))
    ]


def differences(before, now):
    """Return a sentence on differences between extensions (lists of facts) of a run and of now; None without."""
    then = {facts["sha256"]: facts for facts in before}
    these = {facts["sha256"]: facts for facts in now}
    problems = [missing(facts, now) for key, facts in then.items() if key not in these]
    replaced = {facts["name"] for facts in before} | {facts["path"] for facts in before}
    problems += [
        f"the extension {facts['name']} is loaded now, which the run started without; leave it out"
        for key, facts in these.items()
        if key not in then and not {facts["name"], facts["path"]} & replaced
    ]
    return "; ".join(problems) or None


def missing(facts, now=None):
    """Return a sentence about an extension that a file or run needs and that is not loaded as it was then."""
    loaded = [extension.facts() for extension in _loaded.values()] if now is None else now
    for other in loaded:
        if other["path"] == facts["path"] or other["name"] == facts["name"]:
            return (
                f"the extension {facts['name']} has changed: its SHA-256 was {facts['sha256'][:12]}..., now it is "
                f"{other['sha256'][:12]}...; use the file as it was"
            )
    return (
        f"it needs the extension {facts['name']} (SHA-256 {facts['sha256'][:12]}...), which is not loaded; add "
        f"--extension {_reference(facts['name'], facts['path'])}, or call dfc.load_extension"
    )


@contextmanager
def explained(facts):
    """Add to a ValueError inside the context which of these extensions are missing, by whose names it may have failed."""
    try:
        yield
    except ValueError as error:
        hashes = {extension.sha256 for extension in _loaded.values()}
        needed = [missing(entry) for entry in facts if entry["sha256"] not in hashes]
        if not needed:
            raise
        kind = ConfigurationError if isinstance(error, ConfigurationError) else ValueError
        raise kind("; ".join([str(error), *needed])) from None


def load_entry_points():
    """Load what installed packages bring as entry points of the group `dfc_numba.extensions`; a failure is a warning."""
    for point in entry_points(group=GROUP):
        try:
            _load_module(point.module, point.name, installed=True)
        except ConfigurationError as error:
            warnings.warn(f"{error} (an entry point of an installed package)", stacklevel=2)


# --- loading -------------------------------------------------------------------------------------------------------------


def _load_file(text):
    path = Path(text).expanduser().resolve()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"the extension {text} cannot be read ({error.strerror})") from None
    sha256 = hashlib.sha256(content).hexdigest()
    before = next((extension for extension in _loaded.values() if extension.path == str(path)), None)
    if before is not None and before.sha256 == sha256:
        return before
    name = str(path)
    module_name = f"dfc_extension_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    module = importlib.util.module_from_spec(spec)
    with _registering(name):
        sys.modules[module_name] = module
        try:
            exec(compile(content, str(path), "exec"), module.__dict__)  # noqa: S102 (as an import would)
        except BaseException:
            del sys.modules[module_name]
            raise
    return _note(LoadedExtension(name, str(path), sha256, module))


def _load_module(module_name, name, installed=False):
    if name in _loaded:
        return _loaded[name]
    with _registering(name):
        module = import_module(module_name)
    file = getattr(module, "__file__", None)
    sha256 = hashlib.sha256(Path(file).read_bytes() if file else module_name.encode()).hexdigest()
    return _note(LoadedExtension(name, str(file or module_name), sha256, module, installed))


@contextmanager
def _registering(name):
    """Register from this extension, replacing what it registered before; leave nothing behind after a failure."""
    before = [(registry, dict(registry._items)) for registry in REGISTRIES]
    for registry, items in before:
        for own in [key for key, item in items.items() if item.origin == name]:
            registry.remove(own)
    try:
        with registering_from(name):
            yield
    except Exception as error:
        for registry, items in before:
            registry._items.update(items)
            for new in [
                key for key, item in registry._items.items() if key not in items and item.origin == name
            ]:
                registry.remove(new)
        raise ConfigurationError(f"the extension {name} cannot be loaded: {_told(error)}") from error


def _note(extension):
    _loaded[extension.name] = extension
    if not extension.registered:
        warnings.warn(
            f"the extension {extension.name} registers nothing; call dfc.register in it", stacklevel=4
        )
    return extension


def _told(error):
    """Return the error, and the line of the extension that it comes from."""
    text = str(error) if isinstance(error, ValueError | TypeError) else f"{type(error).__name__}: {error}"
    if isinstance(error, ModuleNotFoundError | SyntaxError):
        return text
    frames = traceback.extract_tb(error.__traceback__)
    outside = [frame for frame in frames if not frame.filename.startswith((str(Path(__file__).parent), "<"))]
    return f"{text} ({outside[-1].filename}, line {outside[-1].lineno})" if outside else text


def _reference(name, path):
    """Return what to write behind --extension: the path of a file, the name of a module."""
    return path if "/" in name else name


def _words(values):
    """Yield all texts in nested lists and dicts."""
    if isinstance(values, str):
        yield values
    elif isinstance(values, dict):
        for key, value in values.items():
            yield from _words(key)
            yield from _words(value)
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _words(value)
