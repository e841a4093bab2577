"""Downloads, from servers on this machine only: checksums, mirrors, failures that leave nothing behind."""

import contextlib
import functools
import gzip
import hashlib
import http.server
import io
import socket
import threading
from dataclasses import replace

import pytest
from idx_files import NAMES, small_set, write_set
from rich.console import Console

from dfc_numba import data
from dfc_numba.data import download, images

CONTENT = b"what was published" * 5000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; `cut` promises more bytes than it sends."""

    cut = False

    def log_message(self, *_):
        pass

    def send_header(self, keyword, value):
        promised = keyword.lower() == "content-length" and self.cut
        super().send_header(keyword, str(int(value) + 1000) if promised else value)


@contextlib.contextmanager
def mirror_of(folder, handler=QuietHandler):
    """The address of a server of that folder."""
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=str(folder))
    ) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def this_machine_only(monkeypatch):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.delenv("DFC_DATA_DIR", raising=False)


@pytest.fixture
def published(tmp_path):
    """A folder with the file as it should be."""
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "file.gz").write_bytes(CONTENT)
    return folder


@pytest.fixture
def altered(tmp_path):
    """A folder with another file of that name."""
    folder = tmp_path / "altered"
    folder.mkdir()
    (folder / "file.gz").write_bytes(b"<html>please log in</html>")
    return folder


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def dead_mirror():
    """An address at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/"


def test_a_file_is_downloaded_once(published, cache):
    with mirror_of(published) as mirror:
        path = download.fetch("file.gz", SHA256, (mirror,), cache)
    assert path.read_bytes() == CONTENT
    assert download.fetch("file.gz", SHA256, (dead_mirror(),), cache) == path


@pytest.mark.parametrize("kind", ["dead", "missing", "altered", "cut"])
def test_the_second_mirror_is_tried(published, altered, cache, tmp_path, kind):
    class Cut(QuietHandler):
        cut = True

    folder, handler = {
        "dead": (published, QuietHandler),
        "missing": (tmp_path, QuietHandler),
        "altered": (altered, QuietHandler),
        "cut": (published, Cut),
    }[kind]
    with mirror_of(folder, handler) as first, mirror_of(published) as second:
        first = dead_mirror() if kind == "dead" else first
        path = download.fetch("file.gz", SHA256, (first, second), cache)
    assert path.read_bytes() == CONTENT
    assert [item.name for item in cache.iterdir()] == ["file.gz"]


@pytest.mark.parametrize("kind", ["missing", "altered", "cut"])
def test_a_failed_download_leaves_nothing_and_gives_the_reasons(published, altered, cache, tmp_path, kind):
    class Cut(QuietHandler):
        cut = True

    folder, handler = {
        "missing": (tmp_path, QuietHandler),
        "altered": (altered, QuietHandler),
        "cut": (published, Cut),
    }[kind]
    reason = {"missing": "404", "altered": "hash", "cut": "incomplete"}[kind]
    with (
        mirror_of(folder, handler) as mirror,
        pytest.raises(data.DataUnavailableError, match=f"(?s)file.gz.*{mirror}.*({reason})"),
    ):
        download.fetch("file.gz", SHA256, (mirror, mirror), cache)
    assert list(cache.iterdir()) == []


def test_an_interruption_leaves_nothing(published, cache, monkeypatch):
    def interrupted(answer, file, name):
        file.write(answer.read(1000))
        raise KeyboardInterrupt

    monkeypatch.setattr(download, "_copy", interrupted)
    with mirror_of(published) as mirror, pytest.raises(KeyboardInterrupt):
        download.fetch("file.gz", SHA256, (mirror,), cache)
    assert list(cache.iterdir()) == []


def test_a_damaged_file_in_the_cache_is_replaced(published, cache):
    cache.mkdir()
    (cache / "file.gz").write_bytes(CONTENT[:100])
    with pytest.raises(data.DataUnavailableError, match="the file there has the wrong checksum"):
        download.fetch("file.gz", SHA256, (dead_mirror(),), cache)
    with mirror_of(published) as mirror:
        assert download.fetch("file.gz", SHA256, (mirror,), cache).read_bytes() == CONTENT


def test_a_cache_that_cannot_be_written_is_named(published, tmp_path):
    (tmp_path / "in-the-way").write_text("a file")
    with (
        mirror_of(published) as mirror,
        pytest.raises(data.DataUnavailableError, match="in-the-way"),
    ):
        download.fetch("file.gz", SHA256, (mirror,), tmp_path / "in-the-way")


# --- the whole way


def served_set(base, folder):
    """The set `base` as if `folder` were the published one."""
    sha256 = tuple(hashlib.sha256((folder / f"{name}.gz").read_bytes()).hexdigest() for name in NAMES)
    return replace(base, sha256=sha256)


@pytest.fixture
def in_cache(monkeypatch, cache):
    monkeypatch.setattr(images, "cache_directory", lambda: cache)
    return cache


def test_fashion_mnist_is_downloaded_to_the_cache(tmp_path, in_cache, monkeypatch):
    write_set(tmp_path / "server", small_set())
    fashion = served_set(images.FASHION_MNIST, tmp_path / "server")
    with mirror_of(tmp_path / "server") as mirror:
        monkeypatch.setattr(images, "FASHION_MNIST", replace(fashion, mirrors=(dead_mirror(), mirror)))
        dataset = data.load("fashion_mnist", validation_size=10)
    assert len(dataset.train) == 30
    assert sorted(item.name for item in (in_cache / "fashion_mnist").iterdir()) == sorted(
        f"{n}.gz" for n in NAMES
    )


@pytest.mark.parametrize(
    ("name", "attribute", "place"),
    [("mnist", "MNIST", "into it:"), ("fashion_mnist", "FASHION_MNIST", "into its subfolder fashion_mnist:")],
)
def test_without_a_network_the_error_says_where_to_put_the_files(
    in_cache, monkeypatch, name, attribute, place
):
    unreachable = replace(getattr(images, attribute), mirrors=(dead_mirror(), dead_mirror()))
    monkeypatch.setattr(images, attribute, unreachable)
    with pytest.raises(ValueError, match="DFC_DATA_DIR") as caught:
        data.load(name)
    assert isinstance(caught.value, OSError)
    message = str(caught.value)
    assert place in message
    assert all(file in message for file in NAMES)
    assert all(mirror in message for mirror in unreachable.mirrors)
    assert list((in_cache / name).iterdir()) == []


def test_the_cache_is_a_folder_of_the_user(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert images.cache_directory().name == "dfc-numba"


@pytest.mark.parametrize("file_set", [images.MNIST, images.FASHION_MNIST])
def test_both_sets_have_two_mirrors_and_four_checksums(file_set):
    assert len(set(file_set.mirrors)) == 2
    assert all(mirror.startswith("https://") and mirror.endswith("/") for mirror in file_set.mirrors)
    assert len(set(file_set.sha256)) == 4
    assert all(len(sha256) == 64 for sha256 in file_set.sha256)


# --- the progress bar


def terminal():
    return Console(file=io.StringIO(), force_terminal=True, width=100)


def test_a_download_is_drawn_on_a_terminal(published, cache, monkeypatch):
    console = terminal()
    monkeypatch.setattr("rich.console.Console", lambda **_: console)
    with mirror_of(published) as mirror:
        download.fetch("file.gz", SHA256, (mirror,), cache)
    drawn = console.file.getvalue()
    assert "file.gz" in drawn
    assert "100%" in drawn


def test_a_file_in_the_cache_draws_no_bar(cache, monkeypatch):
    console = terminal()
    monkeypatch.setattr("rich.console.Console", lambda **_: console)
    cache.mkdir()
    (cache / "file.gz").write_bytes(CONTENT)
    download.fetch("file.gz", SHA256, (dead_mirror(),), cache)
    assert console.file.getvalue() == ""


def test_the_small_files_of_these_tests_are_like_the_real_ones():
    content = small_set()["train-images-idx3-ubyte"]
    assert gzip.decompress(gzip.compress(content))[:8] == b"\x00\x00\x08\x03\x00\x00\x00\x28"
