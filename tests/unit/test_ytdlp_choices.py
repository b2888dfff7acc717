"""What is decided about yt-dlp without running it: formats, words, what one may name."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from app.domain import LectureFailure
from app.errors import ConfigurationError, IngestFailed, NotReadyYet
from app.ingest.sources.ytdlp import source as ytdlp_source
from app.ingest.sources.ytdlp.formats import media_of
from app.settings import load_settings

MUXED = {"vcodec": "avc1", "acodec": "mp4a.40.2", "ext": "mp4", "protocol": "https"}
SOUND = {"vcodec": "none", "acodec": "mp4a.40.2", "ext": "m4a", "protocol": "https"}
OPUS = {**SOUND, "acodec": "opus", "ext": "webm"}


def chosen(*formats: dict[str, object], seconds: float | None = None) -> list[str]:
    """Return the URLs that are worth fetching; a format's URL is its place in the list."""
    placed = [{**each, "url": f"{place}"} for place, each in enumerate(formats)]
    return [medium["url"] for medium in media_of(placed, seconds, lambda _: None)]


@pytest.mark.parametrize(
    ("formats", "expected"),
    [
        ((SOUND, MUXED), ["0", "1"]),
        ((SOUND, SOUND), ["1"]),
        ((SOUND, OPUS), ["0"]),
        ((OPUS, {**SOUND, "protocol": "m3u8_native"}), ["0", "1"]),
        (({**SOUND, "language_preference": -1}, {**OPUS, "language_preference": 10}), ["1"]),
        (({**SOUND, "protocol": "m3u8"}, MUXED), ["0", "1"]),
        (({**SOUND, "protocol": "http_dash_segments"}, MUXED), ["1"]),
        (({**SOUND, "fragments": [{}]}, MUXED), ["1"]),
        (({**SOUND, "has_drm": True}, {**MUXED, "has_drm": "maybe"}), []),
        (({**MUXED, "acodec": "none"},), []),
        (({**MUXED, "protocol": "rtmp"}, {**MUXED, "protocol": "mhtml"}), []),
        (({**MUXED, "filesize": 3}, {**MUXED, "filesize": 2}), ["1", "0"]),
        (({**MUXED}, {**MUXED, "tbr": 900}, {**MUXED, "filesize_approx": 2**40}), ["1", "2", "0"]),
        (({"ext": "mp3", "protocol": "http"},), ["0"]),
        ((MUXED,) * 9, ["0", "1", "2", "3"]),
        ((), []),
    ],
)
def test_sound_alone_comes_first_then_what_is_smallest(
    formats: tuple[dict[str, object], ...], expected: list[str]
) -> None:
    assert chosen(*formats) == expected


def test_sizes_and_bit_rates_are_compared_as_bytes() -> None:
    big = {**MUXED, "filesize": 60_000_000}
    small = {**MUXED, "tbr": 100}
    assert chosen(big, small, seconds=1000) == ["1", "0"]
    assert chosen(big, small, seconds=10_000) == ["0", "1"]


def test_a_medium_carries_what_it_needs() -> None:
    each = {**SOUND, "url": "https://media.example.org/a", "http_headers": {"Referer": "r"}}
    (medium,) = media_of([each], None, lambda url: f"a={url[-1]}")
    assert medium == {
        "kind": "podcast",
        "url": "https://media.example.org/a",
        "headers": {"Referer": "r"},
        "cookie_header": "a=a",
    }
    kinds = [{**each, "vcodec": "avc1"}, {**each, "protocol": "m3u8"}]
    assert [m["kind"] for m in media_of(kinds, None, lambda _: None)] == ["hls", "mp4"]


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        ("login", LectureFailure.LOGIN_REQUIRED),
        ("silent", LectureFailure.NO_AUDIO),
        ("not_one", LectureFailure.SOURCE_NOT_FOUND),
        ("protected", LectureFailure.SOURCE_NOT_FOUND),
        ("elsewhere", LectureFailure.SOURCE_NOT_FOUND),
        ("unavailable", LectureFailure.SOURCE_NOT_FOUND),
        ("broken", LectureFailure.SOURCE_NOT_FOUND),
        ("request", LectureFailure.SOURCE_NOT_FOUND),
        ("out_of_memory", LectureFailure.SOURCE_NOT_FOUND),
    ],
)
def test_every_refusal_has_a_failure_and_words(code: str, failure: LectureFailure) -> None:
    found = ytdlp_source._failure_of(code, None)
    assert isinstance(found, IngestFailed)
    assert (found.failure, found.transient) == (failure, False)
    assert found.message.endswith(".")


def test_what_is_not_ready_is_waited_for() -> None:
    assert isinstance(ytdlp_source._failure_of("not_ready", None), NotReadyYet)


def test_a_failed_request_says_why_itself() -> None:
    cause = IngestFailed(LectureFailure.NETWORK, "The line is cut.", transient=True)
    assert ytdlp_source._failure_of("request", cause) is cause
    assert ytdlp_source._failure_of("unavailable", cause) is not cause


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", ("youtube", "vimeo", "googledrive")),
        ("none", ()),
        ("NONE", ()),
        ("*", ("*",)),
        ("YouTube, generic,youtube", ("youtube", "generic")),
        ("vimeo*,archive.org,BBC.co.uk:article", ("vimeo*", "archive.org", "bbc.co.uk:article")),
    ],
)
def test_the_setting(
    monkeypatch: pytest.MonkeyPatch, value: str, expected: tuple[str, ...]
) -> None:
    monkeypatch.setenv("SOURCES", value)
    assert load_settings().sources == expected


@pytest.mark.parametrize("value", ["none,youtube", "you/tube", "-generic", "(a)", "a\nb", ".*"])
def test_a_wrong_setting_is_one_line(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("SOURCES", value)
    with pytest.raises(ConfigurationError) as raised:
        load_settings()
    assert raised.value.message.startswith("SOURCES: ")
    assert "\n" not in raised.value.message


@pytest.mark.parametrize("module", ["app.settings", "app.main", "app.worker"])
def test_yt_dlp_is_imported_by_its_child_alone(module: str) -> None:
    program = f"import sys, {module}; print([each for each in sys.modules if 'yt_dlp' in each])"
    found = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert found.stdout.strip() == "[]"


ATTEMPTS: dict[str, str] = {
    "a socket": "import socket; socket.socket()",
    "a unix socket": "import socket; socket.socket(socket.AF_UNIX)",
    "a pair": "import socket; socket.socketpair()",
    "a connection": "import socket; socket.create_connection(('127.0.0.1', 9))",
    "a name": "import socket; socket.getaddrinfo('localhost', 80)",
    "a name of old": "import socket; socket.gethostbyname('localhost')",
    "a page": "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9/')",
    "a raw page": "import http.client; http.client.HTTPConnection('127.0.0.1', 9).connect()",
    "a socket by its C module": "import _socket; _socket.socket()",
    "a loop": "import asyncio; asyncio.new_event_loop()",
    "a program": "import subprocess; subprocess.run(['true'])",
    "a shell": "import os; os.system('true')",
    "another program": "import os; os.execv('/bin/true', ['true'])",
    "a spawned program": "import os; os.posix_spawn('/bin/true', ['true'], {})",
    "a fork": "import os; os.fork()",
    "a library": "import ctypes; ctypes.CDLL(None)",
    "a symbol": "libc.socket",
    "a file": "open('made', 'w')",
    "a file to append to": "open('made', 'ab')",
    "an empty file": "import os; os.open('made', os.O_CREAT)",
    "a directory": "import os; os.mkdir('made')",
    "a link": "import os; os.symlink('/', 'made')",
    "a temporary file": "import tempfile; tempfile.TemporaryFile(dir='.')",
    "a removal": "import os; os.remove('/dev/null')",
    "a signal": "import os; os.kill(os.getppid(), 0)",
}


SEALED = """
import asyncio, ctypes, http.client, json, socket, subprocess, sys, tempfile, urllib.request
from app.ingest.sandbox.tasks.ytdlp import seal
libc = ctypes.CDLL(None)
attempts = json.load(sys.stdin)
seal()
ends = {}
for name, attempt in attempts.items():
    try:
        exec(attempt)
        ends[name] = "done"
    except Exception as error:
        ends[name] = str(getattr(error, "reason", error))
print(json.dumps(ends))
"""


def test_a_sealed_process_opens_nothing(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-I", "-c", SEALED],
        cwd=tmp_path,
        input=json.dumps(ATTEMPTS),
        capture_output=True,
        check=True,
        text=True,
    )
    ends = json.loads(ended.stdout)
    assert list(ends) == list(ATTEMPTS)
    assert {name: end for name, end in ends.items() if "not allowed here" not in end} == {}
    assert list(tmp_path.iterdir()) == []


def test_the_task_seals_its_process_before_it_asks() -> None:
    program = (
        "import socket\n"
        "from app.ingest.sandbox.child import Refused\n"
        "from app.ingest.sandbox.tasks.ytdlp import run\n"
        "try:\n"
        "    run({'url': 'https://example.org/', 'extractors': ['youtube'], 'channel': -1})\n"
        "except Refused as refusal:\n"
        "    print(refusal.code)\n"
        "try:\n"
        "    socket.socket()\n"
        "except PermissionError:\n"
        "    print('sealed')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True
    )
    assert ended.stdout.split() == ["unsupported", "sealed"]


def test_every_extractor_loads_in_a_sealed_process() -> None:
    program = (
        "from app.ingest.sandbox.tasks.ytdlp import load, seal\n"
        "load(), seal()\n"
        "from yt_dlp.extractor import gen_extractor_classes, get_info_extractor\n"
        "loaded = [get_info_extractor(each.ie_key())() for each in gen_extractor_classes()]\n"
        "print(len(loaded) > 1000)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True
    )
    assert ended.stdout == "True\n"


def test_a_sealed_process_still_reads() -> None:
    program = (
        "from app.ingest.sandbox.tasks.ytdlp import seal; seal();"
        "import colorsys, os; os.listdir('/');"
        "print(open('/dev/null').read() == '')"
    )
    ended = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True
    )
    assert ended.stdout == "True\n"
