"""Processes of this machine, named so that another one can tell that they are gone.

A name is ``boot-id pid-namespace pid start-time``; what a holder adds behind it is its own.  Only a
process of the same boot and namespace is judged: of any other nothing is known, and its lease alone
tells.  The start time (clock ticks since boot, proc_pid_stat(5), field 22) tells a process from a
later one with its number.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_PROC = Path("/proc")
_ENDED = frozenset({"Z", "X", "x"})
_STATE, _START_TIME = 0, 19  # among the fields behind the command's name, which is in brackets


@dataclass(frozen=True, slots=True)
class ProcessName:
    """What `os.getpid` leaves out: where and when the number was given."""

    boot_id: str
    namespace: str
    pid: int
    start_time: str

    @classmethod
    def of_this_process(cls) -> Self | None:
        """Return the name, or None where the kernel does not tell (it is not Linux)."""
        try:
            boot_id = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
            namespace = str((_PROC / "self/ns/pid").readlink())
            return cls(boot_id, namespace, os.getpid(), _stat(os.getpid())[_START_TIME])
        except OSError:
            return None

    @classmethod
    def parse(cls, name: str) -> Self | None:
        """Return whose name the text begins with, as `str` wrote it, or None for anything else."""
        match name.split(" "):
            case [boot_id, namespace, pid, start_time, *_] if pid.isascii() and pid.isdigit():
                return cls(boot_id, namespace, int(pid), start_time)
        return None

    def __str__(self) -> str:
        return f"{self.boot_id} {self.namespace} {self.pid} {self.start_time}"

    def knows_gone(self, other: "ProcessName") -> bool:
        """Whether this process can tell that the other one has ended; False where it cannot."""
        if (self.boot_id, self.namespace) != (other.boot_id, other.namespace):
            return False
        try:
            os.kill(other.pid, 0)
            fields = _stat(other.pid)
        except (ProcessLookupError, OverflowError):
            return True
        except OSError:
            # Somebody else's, and hidden from us: it is there.
            return False
        return fields[_STATE] in _ENDED or fields[_START_TIME] != other.start_time


def _stat(pid: int) -> list[str]:
    return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
