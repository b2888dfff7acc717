"""The child's task that asks yt-dlp for a recording, where nothing but a question leads out.

Before yt-dlp is imported, the libraries that would give it connections of their own are put out of
reach; before it runs, `seal` takes sockets, programs and writing from the whole process.
"""

import os
import sys
from typing import Any

_NOT_NEEDED = (
    *("curl_cffi", "requests", "urllib3", "websockets"),
    *("mutagen", "secretstorage", "sqlite3", "xattr"),
)
_REFUSED = frozenset(
    {"ctypes", "ftplib", "pty", "shutil", "smtplib", "socket", "sqlite3", "subprocess", "tempfile"}
)
_READING = frozenset({"os.fwalk", "os.listdir", "os.scandir", "os.walk"})
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def run(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the recording at ``arguments["url"]``, in the shape of `ytdlp_source`, or refuse.

    ``extractors`` are the globs of those allowed, ``channel`` is the descriptor for questions,
    ``captions`` whether to look for those as well.
    Codes of refusals: those of `ytdlp_extraction`.
    """
    extraction = load()
    seal()
    recording: dict[str, Any] = extraction.extract(
        arguments["url"],
        arguments["extractors"],
        arguments["channel"],
        captions=arguments.get("captions", False),
    )
    return recording


def load() -> Any:
    """Import yt-dlp with no plugins and nothing that could connect; return our side of it."""
    sys.dont_write_bytecode = True
    for name in _NOT_NEEDED:
        sys.modules[name] = None  # type: ignore[assignment]  # An import of it fails.
    import yt_dlp.globals

    yt_dlp.globals.plugin_dirs.value = []
    import app.ingest.sources.ytdlp.extraction as extraction

    return extraction


def seal() -> None:
    """Refuse, for the rest of the process, what an extraction needs not; it cannot be undone.

    Modules are still read, the inherited descriptors still work.  A `PermissionError` is raised
    in place of the call.
    """
    sys.addaudithook(_judge)


def _judge(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open":
        if arguments[2] & _WRITING:
            raise PermissionError("writing is not allowed here")
        return
    module = event.partition(".")[0]
    if module in _REFUSED or (module == "os" and event not in _READING):
        raise PermissionError("this is not allowed here")
