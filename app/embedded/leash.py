"""Exec a program that cannot outlive its parent.

``python leash.py PARENT_PID DEATH_SIGNAL ACCOUNT program arguments…``, where ACCOUNT is ``uid:gid``
or ``-`` to stay who we are.  The kernel (Linux) then sends DEATH_SIGNAL to the program when its
parent ends, however it ends, SIGKILL included.  On other systems the program runs without that.

It is a script of its own and not a ``preexec_fn``: that would run Python between fork and exec,
which may deadlock in a parent with threads, and setting it before a change of user would lose it.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent: str, death_signal: str, account: str, *command: str) -> None:
    """Replace this process by the command."""
    if account != "-":
        uid, gid = map(int, account.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(death_signal))
    if os.getppid() != int(parent):  # it ended before we could ask
        sys.exit(1)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores, and exec would keep so
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.execv(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main(*sys.argv[1:])
