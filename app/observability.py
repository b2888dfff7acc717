"""Structured logs without secrets, and the metrics that every part counts into."""

import functools
import logging
import re
import sys
from collections.abc import Callable
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from structlog.typing import EventDict, Processor, WrappedLogger

from app.settings import Settings

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

REQUESTS = Counter(
    "studybuddy_http_requests", "HTTP requests.", ["method", "route", "status"], registry=REGISTRY
)
REQUEST_SECONDS = Histogram(
    "studybuddy_http_request_seconds",
    "Time from a request's head to the end of its answer.",
    ["route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60),
    registry=REGISTRY,
)
OPERATIONS = Counter(
    "studybuddy_graphql_operations",
    "GraphQL operations that ran, by kind (query, mutation, subscription) and outcome (ok, error).",
    ["kind", "outcome"],
    registry=REGISTRY,
)
SUBSCRIPTIONS = Gauge(
    "studybuddy_graphql_subscriptions", "Subscriptions that are open.", registry=REGISTRY
)
OPEN_JOBS = Gauge(
    "studybuddy_open_jobs",
    "Jobs that wait (queued) or are worked on (running), anywhere: the same in every process.",
    ["kind", "state"],
    registry=REGISTRY,
)

_REDACTED = "[redacted]"
_SECRET_NAMES = re.compile(
    r"authorization|cookie|token|secret|password|signature|api_?key|access_key", re.IGNORECASE
)
# What names a route, not a file of this machine.
_ROUTE_NAMES = frozenset({"path", "route"})
_MIN_SECRET_CHARACTERS = 8

# Without one of these none of the next five patterns matches.
_SUSPECT = re.compile(r"eyJ|://|[?#]|__session|bearer|basic", re.IGNORECASE)
# Each pattern can start at few places, so that hostile text costs no more than its length.
_JWT = re.compile(r"(?<![\w-])eyJ[\w-]+\.[\w-]+(?:\.[\w-]*)*")
_CREDENTIALS = re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]+", re.IGNORECASE)
_SESSION = re.compile(r"(__session\s*[=:]\s*)[^\s;,'\"]+")
_USERINFO = re.compile(r"(://)[^\s/@'\"]+@")
_QUERY = re.compile(r"[?#][\w.~%+-]{1,64}=[^\s'\"<>)\]]*")
# An absolute path of at least two parts that is no part of a URL; its last part may stay.
# A traceback's line: the part that tells which module it was may stay.
_FRAME = re.compile(r'(?<=File ")/[^"\n]*/(?=app/[^"\n]+\.py"|site-packages/)')
_FILE_PATH = re.compile(r"(?<![\w:/.…-])/(?:[^\s/'\"<>:,;()\[\]]+/)+")


def configure_logging(settings: Settings) -> None:
    """Send everything, the standard library's loggers included, to stderr.

    JSON lines in production, ``key=value`` ones in development.  Values that look like tokens,
    cookies, query strings, credentials or absolute paths are taken out, as are the settings' own
    secrets.
    """
    values = (
        settings.secret_key,
        settings.metrics_token,
        settings.s3_secret_access_key,
        settings.llm_api_key,
    )
    secrets = frozenset(v for v in values if v and len(v) >= _MIN_SECRET_CHARACTERS)

    def redact_event(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        return {name: _redact_value(name, value, secrets) for name, value in event.items()}

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        redact_event,
    ]
    renderer: Processor = _render_line
    if settings.production:
        renderer = structlog.processors.JSONRenderer(ensure_ascii=False, default=str)
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level),
        # Straight to the stream: the way through the standard library takes ten times as long.
        logger_factory=_StderrLogger,
        cache_logger_on_first_use=False,
    )
    _route_standard_library(settings, shared, renderer)


class _StderrLogger:
    """Where structlog's lines end: whatever stderr is at that moment."""

    def __init__(self, name: str = "") -> None:
        self.name = name

    def msg(self, line: str) -> None:
        sys.stderr.write(line + "\n")

    debug = info = warning = error = critical = exception = log = msg


def _route_standard_library(
    settings: Settings, shared: list[Processor], renderer: Processor
) -> None:
    """Give the lines of libraries the same form, and drop what they say of every request."""
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.asgi"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    # Its lines carry query strings; the request log takes its place.
    logging.getLogger("uvicorn.access").disabled = True
    for name in ("httpx", "httpcore", "asyncio", "arq.worker"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _add_logger_name(logger: Any, method: str, event: EventDict) -> EventDict:
    record = event.get("_record")
    event["logger"] = record.name if record else getattr(logger, "name", "")
    return event


def _render_line(logger: WrappedLogger, method: str, event: EventDict) -> str:
    """Return ``time level event key=value …``, an exception's lines below it."""
    exception = event.pop("exception", None)
    head = f"{event.pop('timestamp')} {event.pop('level'):<8}{event.pop('event')}"
    line = " ".join([head, *(f"{name}={value}" for name, value in event.items())])
    return f"{line}\n{exception}" if exception else line


def redact(text: str, secrets: frozenset[str] = frozenset()) -> str:
    """Return the text without tokens, cookies, query strings, credentials and absolute paths."""
    clean = _redact_secrets(text, secrets)
    return _FILE_PATH.sub("…/", _FRAME.sub("", clean)) if "/" in clean else clean


def _redact_value(name: str, value: Any, secrets: frozenset[str]) -> Any:
    if value is None or isinstance(value, bool | int | float) or name.startswith("_"):
        return value
    if _names_secret(name):
        return _REDACTED
    if isinstance(value, str):
        clean: Callable[[str, frozenset[str]], str]
        clean = _redact_secrets if name in _ROUTE_NAMES else redact
        return clean(value, secrets)
    if isinstance(value, dict):
        return {key: _redact_value(str(key), item, secrets) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redact_value(name, item, secrets) for item in value]
    return redact(str(value), secrets)


@functools.lru_cache(maxsize=1024)
def _names_secret(name: str) -> bool:
    return bool(_SECRET_NAMES.search(name))


def _redact_secrets(text: str, secrets: frozenset[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, _REDACTED)
    if not _SUSPECT.search(text):
        return text
    text = _JWT.sub(_REDACTED, text)
    text = _CREDENTIALS.sub(rf"\1 {_REDACTED}", text)
    text = _SESSION.sub(rf"\1{_REDACTED}", text)
    text = _USERINFO.sub(rf"\1{_REDACTED}@", text)
    return _QUERY.sub(f"?{_REDACTED}", text)
