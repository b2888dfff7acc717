"""Who keeps the processes of `studybuddy run` alive: when it goes on, and when it gives up."""

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import pytest

from app.errors import ConfigurationError
from app.supervisor import Address, CannotRun, Child, Supervisor, free_address, pause_after

STARTED = "from app.started import announce_start; announce_start(); "


@contextmanager
def child_that(code: str) -> Iterator[Child]:
    """A child whose processes run the Python code."""

    def start(
        name: str, environment: Mapping[str, str], keep: Iterable[int]
    ) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", code]
        return subprocess.Popen(command, env=os.environ | dict(environment), pass_fds=tuple(keep))

    child = Child(code, {}, start)
    try:
        yield child
    finally:
        child.kill()


def live_and_die(child: Child, now: float) -> float:
    """Start the child's process and see it end, all at ``now``; return when the next one is due."""
    child.tend(now)
    assert child.process is not None
    child.process.wait(30)
    child.tend(now)
    assert child.process is None
    return child.start_after


def test_what_has_started_once_is_started_again_for_ever() -> None:
    with child_that(STARTED + "raise SystemExit(1)") as child:
        now, pauses = 0.0, []
        for _ in range(7):
            due = live_and_die(child, now)
            pauses.append(due - now)
            now = due
    assert pauses == [0.5, 1, 2, 4, 8, 8, 8]


def test_the_pauses_have_a_cap_however_long_it_goes_on() -> None:
    assert pause_after(10_000) == 8


def test_a_steady_life_is_forgiven_its_end() -> None:
    with child_that(STARTED + "raise SystemExit(1)") as child:
        for _ in range(3):
            live_and_die(child, child.start_after)
        child.tend(child.start_after)
        assert child.process is not None
        child.process.wait(30)
        ended_at = child.started_at + 60
        child.tend(ended_at)
        assert child.start_after == ended_at + 0.5


def test_even_a_wrong_setting_ends_nothing_that_has_run_with_it() -> None:
    with child_that(STARTED + "raise SystemExit(2)") as child:
        assert live_and_die(child, 0.0) == 0.5


def test_a_machine_that_starts_no_process_for_a_while_is_waited_for() -> None:
    with child_that(STARTED + "raise SystemExit(1)") as child:
        due = live_and_die(child, 0.0)
        start = child.start

        def refuse(*_: object) -> subprocess.Popen[bytes]:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

        child.start = refuse
        child.tend(due)
        assert child.process is None
        assert child.start_after == due + 1
        child.start = start
        assert live_and_die(child, child.start_after) == due + 3


def test_what_never_starts_is_given_up() -> None:
    with child_that("raise SystemExit(1)") as child:
        for _ in range(3):
            live_and_die(child, child.start_after)
        with pytest.raises(CannotRun, match="ended 4 times before it had started") as refused:
            live_and_die(child, child.start_after)
    assert refused.value.exit_code == 1


def test_a_wrong_setting_is_given_up_at_once() -> None:
    with (
        child_that("raise SystemExit(2)") as child,
        pytest.raises(CannotRun, match="cannot run with these settings") as refused,
    ):
        live_and_die(child, 0.0)
    assert refused.value.exit_code == 2


def test_a_server_that_cannot_be_had_again_is_tried_again_later() -> None:
    tries: list[float] = []

    def tend_servers() -> None:
        tries.append(time.monotonic())
        raise ConfigurationError("DATA_DIR: the embedded postgres server does not start")

    supervisor = Supervisor([], free_address("127.0.0.1", 0), lambda: None, tend_servers)
    supervisor._tick()
    supervisor._tick()
    assert len(tries) == 1, "there is a pause"
    while len(tries) < 2:
        supervisor._tick()
    assert tries[1] - tries[0] >= 0.5


def test_an_address_is_told_as_others_reach_it() -> None:
    assert Address("0.0.0.0", 80).url == "http://127.0.0.1:80"
