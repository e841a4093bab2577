"""Seals of the texts that a run, a sweep or a comparison writes and reads back: they tell damage and edits from what was written.

run.json and sweep.json have a member "sha256", of their other members as canonical JSON, so that the layout of the text does not
matter. Their member "files" has the SHA-256 of texts beside them: config.toml, metrics.csv, sources/NAME.toml. The tables of a
comparison have theirs in SHA256SUMS, which `sha256sum -c` reads, too. Files of earlier versions, and those of one's own, have no
seal and are read as they are. A seal is no signature: whoever changes a file on purpose can renew it.
"""

import hashlib
import json
import warnings
from pathlib import Path

from dfc_numba.support import foreign
from dfc_numba.support.files import write_text

SEAL, FILES, SUMS_NAME = "sha256", "files", "SHA256SUMS"
RECORDS = {"run.json": "run", "sweep.json": "sweep"}
UNSEALED = (None, "1.0")  # versions of the schemas before there were seals
EDITED = "(without its member 'sha256', schema_version 1.0, nothing is said)"


def sealed(table):
    """Return a table that JSON can write, with its seal as the last member."""
    rest = {key: value for key, value in table.items() if key != SEAL}
    return {**rest, SEAL: _digest_of(rest)}


def is_sound(table):
    """Whether the table of a JSON file is as it was sealed; one of a version without seals is."""
    if SEAL not in table:
        return table.get("schema_version") in UNSEALED
    try:
        return table[SEAL] == sealed(table)[SEAL]
    except RecursionError:
        return False


def seal_of(text, *, growing=False):
    """Return what "files" has of a text; of one that grows by lines, those are sealed that it has now."""
    lines = {"lines": text.count("\n")} if growing else {}
    return {**lines, SEAL: _digest(text)}


def warn_if_changed(path, text):
    """Warn where a text is not what the run or the sweep that the file belongs to has written."""
    path = Path(path)
    for record in (folder / name for folder in path.absolute().parents[:2] for name in RECORDS):
        entry, ended = _entry(record, path.absolute().relative_to(record.parent).as_posix())
        if entry is not None and not _fits(text, entry, ended):
            warnings.warn(
                f"{path} is not as the {RECORDS[record.name]} wrote it: it is damaged, or was edited (its SHA-256 is not the "
                f"one in {record.name}); it is read as it is",
                stacklevel=3,
            )


def write_sums(folder, names):
    """Write SHA256SUMS for files of a folder."""
    sums = [f"{hashlib.sha256((Path(folder) / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    write_text(Path(folder) / SUMS_NAME, "".join(sums))


def warn_of_sums(path, text):
    """Warn where a text is not what SHA256SUMS beside its file says."""
    path = Path(path)
    try:
        sums = foreign.read_text(path.with_name(SUMS_NAME))
    except (OSError, ValueError):
        return
    wanted = dict(line.split("  ", 1)[::-1] for line in sums.splitlines() if "  " in line)
    if _digest(text) != wanted.get(path.name, _digest(text)):
        warnings.warn(
            f"{path} is damaged, or was edited (its SHA-256 is not the one in {SUMS_NAME}); it is read as it is",
            stacklevel=3,
        )


def _entry(record, name):
    """(seal of a file in a record, whether the run has ended); (None, False) where there is none that can be read."""
    try:
        table = json.loads(foreign.read_text(record))
        entry = table[FILES][name] if is_sound(table) else None
        return (entry, table.get("status") != "running") if isinstance(entry, dict) else (None, False)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None, False  # reading the record itself says what is wrong with it


def _fits(text, entry, ended):
    """Whether a text has its seal; a file that grows may have more lines than were sealed, until its run has ended."""
    text = text.replace("\r\n", "\n")
    if "lines" in entry and not ended:
        text = "".join(text.splitlines(keepends=True)[: entry["lines"]])
    return _digest(text) == entry.get(SEAL)


def _digest_of(table):
    return _digest(json.dumps(table, sort_keys=True, separators=(",", ":")))


def _digest(text):
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()
