"""Work in a thread of its own: in order, in bounded memory, with errors that reach whoever orders it."""

import threading
import time

import pytest

from dfc_numba.storage import background as background_module
from dfc_numba.storage.background import Background


@pytest.fixture
def worker():
    """A worker with 100 bytes, which is ended whatever happens."""
    made = Background(100)
    yield made
    made.end(discard=True)


def stalled(worker):
    """Has the worker begun a call that lasts until the event that is returned is set."""
    begun, go_on = threading.Event(), threading.Event()
    worker.submit(lambda: begun.set() or go_on.wait())
    begun.wait()
    return go_on


def started(function, *arguments):
    """A thread that has begun to call a function."""
    thread = threading.Thread(target=function, args=arguments, daemon=True)
    thread.start()
    thread.join(0.1)
    return thread


def fail(message):
    raise ArithmeticError(message)


def test_calls_are_made_in_their_order(worker):
    found = []
    for number in range(100):
        worker.submit(found.append, number)
    worker.finish()
    assert found == list(range(100))


def test_calls_are_made_beside_the_one_who_orders(worker):
    names = []
    worker.submit(lambda: names.append(threading.current_thread().name))
    worker.finish()
    assert names == ["dfc-background"]


def test_who_needs_more_memory_waits_until_there_is_some(worker):
    go_on = stalled(worker)
    for size in (60, 40):
        worker.reserve(size)
        worker.submit(int, size=size)
    waiting = started(worker.reserve, 50)
    assert waiting.is_alive()
    go_on.set()
    waiting.join(5)
    assert not waiting.is_alive()


def test_more_memory_than_there_is_may_be_had_alone(worker):
    worker.reserve(1000)
    waiting = started(worker.reserve, 1)
    assert waiting.is_alive()
    worker.submit(int, size=1000)
    waiting.join(5)
    assert not waiting.is_alive()


def test_what_was_handed_over_is_let_go_of():
    """No call that is done keeps its arguments alive while the next one waits."""
    import weakref

    class Large:
        pass

    worker, large = Background(100), Large()
    there = weakref.ref(large)
    worker.submit(id, large)
    worker.finish()
    del large
    assert there() is None
    worker.end()


def test_an_error_ends_the_work_and_reaches_whoever_orders(worker):
    found = []
    worker.submit(fail, "first")
    worker.submit(found.append, "never")
    with pytest.raises(ArithmeticError, match="first"):
        worker.finish()
    for call in (worker.check, worker.finish, lambda: worker.reserve(1), lambda: worker.submit(int)):
        with pytest.raises(ArithmeticError, match="first"):
            call()
    assert found == [] and isinstance(worker.error, ArithmeticError)


def test_an_error_wakes_who_waits_for_memory(worker):
    go_on, told = threading.Event(), []

    def wait():
        try:
            worker.reserve(100)
        except ArithmeticError as error:
            told.append(str(error))

    worker.reserve(100)
    worker.submit(lambda: go_on.wait() and fail("no disk"))
    waiting = started(wait)
    go_on.set()
    waiting.join(5)
    assert told == ["no disk"]


def test_the_end_comes_after_what_was_ordered():
    worker, found = Background(100), []
    for number in range(10):
        worker.submit(time.sleep, 0.001)
        worker.submit(found.append, number)
    worker.end(last=lambda: found.append("last"))
    assert found == [*range(10), "last"]


def test_an_end_at_once_leaves_out_what_waits(monkeypatch):
    worker, found = Background(100), []
    go_on = stalled(worker)
    worker.submit(found.append, "never")
    monkeypatch.setattr(background_module, "PATIENCE", 0.05)
    worker.end(discard=True, last=lambda: found.append("last"))
    assert found == []  # the call under way takes longer than that
    go_on.set()
    worker.end(last=lambda: found.append("last"))
    assert found == ["last"]


def test_the_last_call_is_made_after_an_error_too(worker):
    found = []
    worker.submit(fail, "first")
    with pytest.raises(ArithmeticError):
        worker.finish()
    worker.end(last=lambda: found.append("last") or fail("not told"))
    assert found == ["last"]
