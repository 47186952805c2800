"""Removals that go on while the next work is done."""

from __future__ import annotations

import threading

from pikaforge.host.removals import MOST, Removals


def test_nobody_waits_for_a_removal_but_the_run() -> None:
    removals, may_end, ended = Removals(), threading.Event(), threading.Event()

    def removal() -> None:
        may_end.wait()
        ended.set()

    removals.begin(removal)
    assert not ended.is_set()
    may_end.set()
    removals.wait()
    assert ended.is_set()
    removals.wait()  # there is nothing left


def test_all_are_waited_for() -> None:
    removals, done = Removals(), list[int]()
    for number in range(3 * MOST):
        removals.begin(lambda number=number: done.append(number))  # type: ignore[misc]
    removals.wait()
    assert sorted(done) == list(range(3 * MOST))


def test_no_more_go_on_at_once() -> None:
    removals, may_end = Removals(), threading.Event()
    lock, now, most = threading.Lock(), 0, 0

    def removal() -> None:
        nonlocal now, most
        with lock:
            now, most = now + 1, max(most, now + 1)
        may_end.wait()
        with lock:
            now -= 1

    for _ in range(MOST):
        removals.begin(removal)
    further = threading.Thread(target=removals.begin, args=(removal,))
    further.start()
    further.join(0.1)
    assert further.is_alive(), "it waits for the oldest"
    may_end.set()
    further.join()
    removals.wait()
    assert now == 0
    assert most <= MOST + 1


def test_an_interpreter_does_not_end_before_them() -> None:
    removals, may_end = Removals(), threading.Event()

    def removal() -> None:
        may_end.wait()

    removals.begin(removal)
    try:
        assert [thread.daemon for thread in threading.enumerate() if thread.name == "removal"] == [False]
    finally:
        may_end.set()
        removals.wait()
