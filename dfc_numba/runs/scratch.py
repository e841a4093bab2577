"""Node-local scratch: a run writes to a fast disk of its node, and what it leaves at each checkpoint is copied back.

Every file is copied under another name and then renamed, so that the run directory never holds a half-written one; of the
files that belong together, the checkpoint comes after the log that it counts on.
"""

import os
import secrets
import shutil
import tempfile
from pathlib import Path

from dfc_numba.errors import ConfigurationError
from dfc_numba.support.files import publish

UNFINISHED = (".tmp", ".part")
COPY = ".copy.tmp"  # ends the name of a copy under way, which no other temporary file has: a killed one leaves it behind
LAST = (
    "checkpoint_previous.h5",
    "checkpoint.h5",
    "metrics.csv",
    "run.json",
)  # in this order, after all others


class Scratch:
    """A folder on a disk of this node in which a run works, and the run directory that it is copied back to.

    Args:
        home: the run directory. root: folder of the disk; variables such as $TMPDIR and ~ are replaced.

    Attributes:
        folder: where the run works; it has a copy of what the run directory held.

    Raises:
        ConfigurationError: the disk cannot be written to, or a variable in its name is not set.
    """

    def __init__(self, home, root):
        self._home, self._seen = Path(home), {}
        expanded = os.path.expanduser(os.path.expandvars(str(root)))
        if "$" in expanded:
            raise ConfigurationError(
                f"scratch = {root}: a variable is not set here; name a folder of a disk of this node"
            )
        try:
            self.folder = Path(tempfile.mkdtemp(prefix=f"dfc-{self._home.name[:80]}-", dir=expanded))
            for leftover in self._home.rglob(f".*{COPY}"):
                leftover.unlink(missing_ok=True)
            for file in self._files(self._home):
                target = self.folder / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(self._home / file, target)
                self._seen[file] = _state(target)
        except OSError as error:
            raise ConfigurationError(
                f"scratch = {root}: cannot write to {expanded} ({error.strerror or error}); name a folder of a disk of this node"
            ) from None

    def copy_back(self):
        """Copy what is new since the last time, and remove from the run directory what the run has removed.

        Raises:
            OSError: the run directory cannot be written to; what it has is complete.
        """
        files = self._files(self.folder)
        for file in sorted(files, key=lambda one: (LAST.index(str(one)) if str(one) in LAST else -1, one)):
            state = _state(self.folder / file)
            if self._seen.get(file) != state:
                target = self._home / file
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}{COPY}")
                try:
                    shutil.copyfile(self.folder / file, temporary)
                    publish(temporary, target)
                finally:
                    temporary.unlink(missing_ok=True)
                self._seen[file] = state
        for file in self._seen.keys() - set(files):
            (self._home / file).unlink(missing_ok=True)
            del self._seen[file]
            if file.parent != Path() and not any((self._home / file.parent).iterdir()):
                (self._home / file.parent).rmdir()

    def remove(self):
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @staticmethod
    def _files(folder):
        """Return the complete ordinary files below a folder, relative to it; links are not followed."""
        return [
            path.relative_to(folder)
            for path in Path(folder).rglob("*")
            if path.is_file()
            and not path.is_symlink()
            and not path.name.endswith(UNFINISHED)
            and path.name[:5] != ".lock"
        ]


def _state(path):
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns, facts.st_ino
