"""Logs: what they must never hold, in which form, and from whom."""

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest
import structlog

from app.observability import configure_logging, redact
from app.settings import Settings, load_settings

TOKEN = jwt.encode({"sub": "ada"}, "k" * 32, "HS256")
SECRET = "a-very-secret-key"
KEY = "key-of-a-language-model"


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    logging.getLogger("uvicorn.access").disabled = False
    for name in ("httpx", "httpcore", "asyncio", "arq.worker"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def production(**changes: object) -> Settings:
    return load_settings(
        environment="production",
        database_url="postgresql://x/x",
        redis_url="redis://x",
        auth_issuer="https://clerk.example.org",
        secret_key=SECRET,
        **changes,
    )


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (f"bad {TOKEN}!", "bad [redacted]!"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer [redacted]"),
        ("Cookie: a=b; __session=abc; c=d", "Cookie: a=b; __session=[redacted]; c=d"),
        (
            "GET https://x.example.org/a/b?signature=abc&user=1 failed",
            "GET https://x.example.org/a/b?[redacted] failed",
        ),
        ("/api/documents/1/file?signature=abc", "…/file?[redacted]"),
        ("redis://:pa55@redis.internal:6379/0", "redis://[redacted]@redis.internal:6379/0"),
        ("postgresql://u:p@h/db", "postgresql://[redacted]@h/db"),
        ("[Errno 2] no such file: '/var/lib/data/x.pdf'", "[Errno 2] no such file: '…/x.pdf'"),
        (
            'File "/srv/x/app/http/files/routes.py", line 7',
            'File "app/http/files/routes.py", line 7',
        ),
        ('File "/srv/x/site-packages/a/b.py", line 7', 'File "site-packages/a/b.py", line 7'),
        ('File "/srv/x/other/b.py", line 7', 'File "…/b.py", line 7'),
        ("audio/1.m4a is 3/4 done", "audio/1.m4a is 3/4 done"),
        ("https://example.org/a/b/c", "https://example.org/a/b/c"),
        ("and/or", "and/or"),
        ("what? really", "what? really"),
    ],
)
def test_redact(text: str, clean: str) -> None:
    assert redact(text) == clean


def test_redact_is_quick_on_hostile_text() -> None:
    pieces = ["/a", "eyJ", "-eyJ", "bearer ", "://", "a:/", "=/a", "?a", "?a=", "__session=", "(/a"]
    started = time.process_time()
    for piece in pieces:
        redact(piece * 20_000)
    assert time.process_time() - started < 2


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_production_logs_are_json_without_secrets(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    configure_logging(production(llm_api_key=KEY))
    log = structlog.get_logger("app.test")
    with structlog.contextvars.bound_contextvars(request_id="r1"):
        log.info("one", path="/api/documents/1/file", token="abc", headers={"Cookie": "x=y"})
        log.warning("two", urls=[f"https://x/?t={TOKEN}"], where=tmp_path, said=f"{SECRET} {KEY}")
        try:
            (tmp_path / "missing").read_bytes()
        except OSError:
            log.exception("three")
        logging.getLogger("some.library").warning("four %s", TOKEN)
        log.debug("five")
    logging.getLogger("uvicorn.access").info("six")
    written = capsys.readouterr().err
    first, second, third, fourth = lines(written)
    assert first["request_id"] == fourth["request_id"] == "r1"
    assert first["path"] == "/api/documents/1/file"
    assert first["token"] == "[redacted]"
    assert first["headers"] == {"Cookie": "[redacted]"}
    assert (second["level"], second["logger"]) == ("warning", "app.test")
    assert "FileNotFoundError" in str(third["exception"])
    assert "line " in str(third["exception"])
    assert fourth["event"] == "four [redacted]"
    for secret in (TOKEN, SECRET, KEY, str(tmp_path), str(Path(__file__).parent)):
        assert secret not in written


def test_development_logs_are_readable(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(load_settings(log_level="DEBUG"))
    structlog.get_logger("app.test").debug("hello", count=7)
    written = capsys.readouterr().err
    assert "hello" in written
    assert "count=7" in written


def test_the_level_is_the_setting(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(production(log_level="ERROR"))
    structlog.get_logger("app.test").warning("quiet")
    logging.getLogger("some.library").warning("quiet")
    assert capsys.readouterr().err == ""


def test_configuring_twice_writes_once(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(production())
    configure_logging(production())
    structlog.get_logger("app.test").info("once")
    assert len(lines(capsys.readouterr().err)) == 1
