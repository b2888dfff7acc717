"""A process's name tells whether it is gone, and says nothing of processes elsewhere."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from app.jobs.processes import ProcessName

SAY_NAME = """
import sys
from app.jobs.processes import ProcessName
print(ProcessName.of_this_process(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def me() -> ProcessName:
    name = ProcessName.of_this_process()
    assert name is not None
    return name


@pytest.fixture
def child() -> Iterator[subprocess.Popen[str]]:
    """Start a process that says its name and waits."""
    command = [sys.executable, "-c", SAY_NAME]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        yield child
        child.kill()


def name_of(child: "subprocess.Popen[str]") -> ProcessName:
    assert child.stdout is not None
    name = ProcessName.parse(child.stdout.readline().strip())
    assert name is not None
    return name


def test_a_name_survives_the_way_through_text(me: ProcessName) -> None:
    assert ProcessName.parse(str(me)) == me
    assert me.pid == os.getpid()


@pytest.mark.parametrize("text", ["", "boot ns pid 1", "boot ns 1", "boot ns -1 1", "a b ² 1"])
def test_what_is_no_name_is_none(text: str) -> None:
    assert ProcessName.parse(text) is None


def test_who_lives_is_not_gone(me: ProcessName, child: "subprocess.Popen[str]") -> None:
    other = name_of(child)
    assert other.pid == child.pid
    assert not me.knows_gone(other)
    assert not me.knows_gone(me)


def test_who_was_killed_is_gone_buried_or_not(
    me: ProcessName, child: "subprocess.Popen[str]"
) -> None:
    other = name_of(child)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is a zombie
    assert me.knows_gone(other)
    child.wait()
    assert me.knows_gone(other)


def test_a_later_process_with_the_number_is_another(me: ProcessName) -> None:
    assert me.knows_gone(dataclasses.replace(me, start_time=f"{int(me.start_time) - 1}"))


@pytest.mark.parametrize("elsewhere", [{"boot_id": "another"}, {"namespace": "pid:[1]"}])
def test_nothing_is_known_of_processes_elsewhere(
    me: ProcessName, elsewhere: dict[str, str]
) -> None:
    gone = dataclasses.replace(me, start_time="1")
    assert me.knows_gone(gone)
    assert not me.knows_gone(dataclasses.replace(gone, **elsewhere))


@pytest.mark.parametrize("pid", [2**22 + 1, 2**64])
def test_a_number_that_nobody_can_have_is_gone(me: ProcessName, pid: int) -> None:
    assert me.knows_gone(dataclasses.replace(me, pid=pid))
