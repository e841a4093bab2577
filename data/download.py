"""Download one file from the first mirror that delivers it intact; leave nothing else in the folder."""

import contextlib
from pathlib import Path

from dfc_numba.data.dataset import DataUnavailableError

TIMEOUT = 30
CHUNK = 1 << 16


def fetch(name, md5, mirrors, folder):
    """Path of a file in `folder`, downloaded unless it is there with the right checksum.

    pooch writes to a temporary file in the same folder, checks it, and moves it to its name only then, so
    that failures, interruptions and several processes at once leave no partial file.

    Args:
        name: file name, appended to each mirror's address.
        md5: expected MD5 checksum, hexadecimal.
        mirrors: base addresses that end in a slash, tried in turn.
        folder: `pathlib.Path` of the folder; made if it is missing.

    Raises:
        DataUnavailableError: when no mirror delivers it, with the reason for each.
    """
    import pooch

    failures = []
    for mirror in mirrors:
        try:
            with _progress_bar(name) as bar:
                downloader = pooch.HTTPDownloader(progressbar=bar, chunk_size=CHUNK, timeout=TIMEOUT)
                path = pooch.retrieve(
                    mirror + name, f"md5:{md5}", fname=name, path=folder, downloader=downloader
                )
            return Path(path)
        except (OSError, ValueError) as error:
            failures.append(f"  {mirror}: {error}")
    damaged = " (the file there has the wrong checksum)" if (folder / name).exists() else ""
    raise DataUnavailableError("\n".join([f"could not download {name} to {folder}{damaged}:", *failures]))


@contextlib.contextmanager
def _progress_bar(name):
    """A bar on standard error, or False (which is pooch's word for none) where that is no terminal."""
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        yield False
        return
    bar = _Bar(Progress(*Progress.get_default_columns(), DownloadColumn(), console=console), name)
    try:
        yield bar
    finally:
        bar.close()


class _Bar:
    """What pooch asks of a progress bar (total, update, reset, close), drawn by rich.

    It appears when pooch sets the total, so not at all for a file that need not be downloaded.
    """

    def __init__(self, progress, description):
        self._progress = progress
        self._task = progress.add_task(description, total=None)

    @property
    def total(self):
        return self._progress.tasks[0].total

    @total.setter
    def total(self, n_bytes):
        self._progress.start()
        self._progress.update(self._task, total=n_bytes or None)

    def update(self, n_bytes):
        self._progress.advance(self._task, n_bytes)

    def reset(self):
        self._progress.update(self._task, completed=0)

    def close(self):
        if self._progress.live.is_started:
            self._progress.stop()
