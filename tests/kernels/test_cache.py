"""Compiled kernels on disk: stale or damaged machine code never runs; folders that cannot be written; cold starts at once."""

import os
import subprocess
import sys
from pathlib import Path

import numba
import pytest

from dfc_numba.kernels import cache, numba_internals
from dfc_numba.kernels.jit import JIT_DISABLED, jit

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="the compiler is switched off")

KERNEL = """
from dfc_numba.kernels.jit import jit

@jit
def scaled(x):
    return {factor} * x
"""
USE = """
import sys; sys.path.insert(0, {folder!r})
from own_kernel import scaled
print(scaled(2.0), dict(hits=sum(scaled.stats.cache_hits.values()), misses=sum(scaled.stats.cache_misses.values())))
"""
COMPILED, READ = "{'hits': 0, 'misses': 1}", "{'hits': 1, 'misses': 0}"
ANNOUNCED = "dfc-numba: compiling kernels, the first time on this machine ..."


def process(code, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip


def output(started):
    out, err = started.communicate(timeout=120)
    assert started.returncode == 0, err
    return out.strip(), err.strip()


@pytest.fixture
def own(tmp_path):
    """Runs a kernel of one's own in another process: (what it prints, standard error)."""

    class Own:
        folder, cached = tmp_path / "sources", tmp_path / "cache"

        def write(self, factor):
            (self.folder / "own_kernel.py").write_text(KERNEL.format(factor=factor))

        def start(self, **environment):
            return process(
                USE.format(folder=str(self.folder)), **{"NUMBA_CACHE_DIR": str(self.cached), **environment}
            )

        def run(self, **environment):
            return output(self.start(**environment))

        @property
        def entries(self):
            return sorted(self.cached.rglob("*.nbc"))

    Own.folder.mkdir()
    own = Own()
    own.write(3.0)
    return own


def test_a_second_process_reads_what_the_first_has_compiled(own):
    assert own.run() == (f"6.0 {COMPILED}", ANNOUNCED)
    assert own.run() == (f"6.0 {READ}", "")
    own.write(5.0)
    assert own.run() == (f"10.0 {COMPILED}", ANNOUNCED), "another source"
    assert len(own.entries) == 2 and not list(own.cached.rglob("*.tmp"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What is compiled goes to this folder."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    return tmp_path


def _doubled(x):
    return 2 * x


def compiled_anew():
    """Whether a process that starts now would compile this function."""
    function = jit(_doubled)
    assert function(2.0) == 4.0
    return not function.stats.cache_hits


@pytest.mark.parametrize("setting", ["BOUNDSCHECK", "DEBUGINFO_DEFAULT"])
def test_other_settings_of_the_compiler_have_entries_of_their_own(folder, monkeypatch, setting):
    assert compiled_anew() and not compiled_anew()
    before = getattr(numba.config, setting)
    monkeypatch.setattr(numba.config, setting, 1)
    assert compiled_anew() and not compiled_anew()
    monkeypatch.setattr(numba.config, setting, before)
    assert not compiled_anew()


@pytest.mark.parametrize("what", ["sources_digest", "versions"])
def test_other_sources_or_versions_are_compiled_anew(folder, monkeypatch, what):
    assert compiled_anew() and not compiled_anew()
    monkeypatch.setattr(cache, what, lambda: "something else")
    assert compiled_anew() and not compiled_anew()


def damaged_in_the_middle(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def unpickled_to_nothing_known(content):
    payload = b"cno_such_module\nname\n."
    return cache.MAGIC + cache.CHECKSUM(payload).digest() + payload


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-1],
        damaged_in_the_middle,
        lambda content: b"other" + content,
        unpickled_to_nothing_known,
    ],
    ids=["empty", "cut off", "one bit", "foreign", "of a module that is gone"],
)
def test_a_damaged_entry_is_compiled_anew_and_replaced(folder, damage):
    assert compiled_anew()
    (entry,) = folder.rglob("*.nbc")
    entry.write_bytes(damage(entry.read_bytes()))
    assert compiled_anew() and not compiled_anew()


def test_an_entry_under_the_name_of_another_is_compiled_anew(folder, monkeypatch):
    assert compiled_anew()
    (first,) = folder.rglob("*.nbc")
    monkeypatch.setattr(cache, "versions", lambda: "others")
    assert compiled_anew()
    (second,) = (entry for entry in folder.rglob("*.nbc") if entry != first)
    second.write_bytes(first.read_bytes())
    assert compiled_anew()


def test_a_folder_that_cannot_be_written_is_told_once(own):
    """A file stands where the folder would be made."""
    own.cached.write_text("no folder")
    out, err = own.run()
    assert out == f"6.0 {COMPILED}"
    assert (
        err.count("compiled kernels cannot be kept") == 1
        and "set NUMBA_CACHE_DIR to a folder that can be written" in err
    )


def test_a_folder_that_cannot_be_written_is_read(own):
    own.run()
    (entry,) = own.entries
    entry.parent.chmod(0o500)
    try:
        assert own.run() == (f"6.0 {READ}", "")
    finally:
        entry.parent.chmod(0o700)


@pytest.mark.slow
def test_eight_processes_that_start_cold_all_run(own):
    started = [own.start() for _ in range(8)]
    assert {output(one)[0].split()[0] for one in started} == {"6.0"}
    assert own.run() == (f"6.0 {READ}", "")
    assert len(own.entries) == 1 and not list(own.cached.rglob("*.tmp"))


def test_a_kernel_that_another_one_calls_is_part_of_the_key(tmp_path, monkeypatch):
    """The sources of all kernels are: an edit of one of them leaves no entry valid."""
    before = cache.sources_digest()
    folder = tmp_path / "kernels"
    folder.mkdir()
    for path in cache.KERNELS.glob("*.py"):
        (folder / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(cache, "KERNELS", folder)
    assert cache.sources_digest.__wrapped__() == before
    changed = folder / "rows.py"
    changed.write_text(changed.read_text() + "\nLATER = 1\n")
    cache._digest.cache_clear()
    assert cache.sources_digest.__wrapped__() != before


def test_entries_of_other_sources_are_removed(folder):
    """Of the same function; others stay."""
    function = jit(_doubled)
    function(1.0)
    (entry,) = folder.rglob("*.nbc")
    names = "test_cache._doubled-0123456789ab-0.nbc", "test_cache.other-0-0.nbc"
    old, other = (entry.with_name(name) for name in names)
    for path in (old, other):
        path.touch()
    function(1)
    assert not old.exists() and other.exists() and len(list(folder.rglob("test_cache._doubled*"))) == 2


def test_flushing_removes_the_entries(folder):
    function = jit(_doubled)
    function(1.0)
    assert list(folder.rglob("*.nbc")) and function.stats.cache_path.startswith(str(folder))
    function._cache.flush()
    assert not list(folder.rglob("*.nbc"))


def test_a_numba_without_the_interfaces_is_told_with_the_remedy(monkeypatch):
    monkeypatch.setattr(numba_internals, "CACHING", ["CompileResult._rebuild"])
    monkeypatch.setattr(cache, "_said", set())
    with pytest.warns(
        RuntimeWarning,
        match=r"lacks what keeps compiled kernels on disk \(CompileResult._rebuild\).*pip install",
    ):
        function = jit(_doubled)
    assert function(4) == 8


def test_folders(monkeypatch):
    """Below NUMBA_CACHE_DIR alone where it is set, else beside the sources, then the user's cache."""
    source = cache.KERNELS / "multiply.py"
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    beside, users = cache.folders(source)
    assert beside == cache.KERNELS.resolve() / "__pycache__" and users.parent.name == "numba"
    monkeypatch.setattr(numba.config, "CACHE_DIR", "/somewhere")
    (chosen,) = cache.folders(source)
    assert chosen.parent == Path("/somewhere")
