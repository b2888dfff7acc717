"""What an HTTP failure means for a lecture: which ones pass by themselves, and which do not."""

import re
import ssl
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from socket import EAI_NODATA, EAI_NONAME, gaierror
from urllib.parse import urlsplit

import httpcore
import httpx

from app.domain import LectureFailure
from app.errors import IngestFailed
from app.ingest.net.encodings import TooLarge, UnknownEncoding, plain

LOGIN_ADVICE = (
    "The recording needs a login. Open it in a signed-in browser, copy the address of its video"
    " stream, and request the lecture again with that stream URL."
)
_TRANSIENT_STATUSES = frozenset({408, 425, 429})
_OVERLOAD_STATUSES = frozenset({429, 503})
_LOGIN_STATUSES = frozenset({401, 403, 407})
_NO_SUCH_HOST = frozenset({EAI_NONAME, EAI_NODATA})
_WORD = re.compile("[a-z0-9]+")
_LOGIN_WORDS = frozenset(
    {
        "login",
        "logon",
        "signin",
        "sso",
        "saml",
        "saml2",
        "adfs",
        "cas",
        "oauth2",
        "authorize",
        "idp",
    }
)
_MAX_RETRY_AFTER_SECONDS = 24 * 3600.0


class Refused(IngestFailed):
    """The source answered, and with a status of 400 or more.

    A connection that drops says nothing of the kind.
    """

    def __init__(
        self,
        status: int,
        failure: LectureFailure,
        message: str,
        *,
        transient: bool = False,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(
            failure, message, transient=transient, retry_after_seconds=retry_after_seconds
        )
        self.status = status

    @property
    def is_overload(self) -> bool:
        """Whether the source has too much to do, whatever it is asked for."""
        return self.status in _OVERLOAD_STATUSES or self.retry_after_seconds is not None


class SourceBusy(Refused):
    """The answer is that the source is busy or out of order: it passes."""

    def __init__(self, retry_after_seconds: float | None = None, status: int = 503) -> None:
        super().__init__(
            status,
            LectureFailure.NETWORK,
            "The source is busy or out of order.",
            transient=True,
            retry_after_seconds=retry_after_seconds,
        )


def blocked() -> IngestFailed:
    """Return the failure for a URL that may not be fetched; it does not say why, on purpose."""
    return IngestFailed(
        LectureFailure.BLOCKED_URL, "The link leads to a place that is not allowed."
    )


def login_required() -> IngestFailed:
    """Return the failure that tells the user what helps."""
    return IngestFailed(LectureFailure.LOGIN_REQUIRED, LOGIN_ADVICE)


def no_recording() -> IngestFailed:
    """Return the failure of a link that leads to nothing that can be fetched."""
    return IngestFailed(LectureFailure.SOURCE_NOT_FOUND, "No recording was found at the link.")


def too_large() -> IngestFailed:
    """Return the failure for an answer that is larger than such answers are."""
    return IngestFailed(LectureFailure.TOO_LARGE, "The source's answer is too large.")


def unknown_form() -> IngestFailed:
    """Return the failure for an answer whose encoding we cannot undo."""
    message = "The source sends its files in an unknown form."
    return IngestFailed(LectureFailure.SOURCE_NOT_FOUND, message)


def timed_out() -> IngestFailed:
    """Return the failure of a source that does not answer."""
    message = "The source did not answer in time."
    return IngestFailed(LectureFailure.TIMEOUT, message, transient=True)


def closed_meanwhile() -> IngestFailed:
    """Return the failure of a source that asks for a login where it was open a moment ago.

    A signed URL has run out, as a rule: the job will ask for another.
    """
    message = "The source closed while it was read."
    return IngestFailed(LectureFailure.NETWORK, message, transient=True)


def plain_body(response: httpx.Response, content: bytes, max_bytes: int) -> bytes:
    """Return the answer's content as it is meant, compressed though that was not asked for."""
    try:
        return plain(content, response.headers.get("content-encoding"), max_bytes)
    except TooLarge:
        raise too_large() from None
    except UnknownEncoding:
        raise unknown_form() from None


def failure_of_status(response: httpx.Response) -> Refused:
    """Return what a status of 400 or more means."""
    status = response.status_code
    if status in _LOGIN_STATUSES:
        return Refused(status, LectureFailure.LOGIN_REQUIRED, LOGIN_ADVICE)
    if status in _TRANSIENT_STATUSES or status >= 500:
        return SourceBusy(retry_after_seconds(response.headers.get("retry-after")), status)
    message = "The source does not have the recording."
    return Refused(status, LectureFailure.SOURCE_NOT_FOUND, message)


def failure_of_error(error: Exception) -> IngestFailed:
    """Return what an error of the connection means; the cause itself is for the log alone."""
    if isinstance(error, httpx.TimeoutException | httpcore.TimeoutException):
        return timed_out()
    causes = list(_causes(error))
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        return IngestFailed(LectureFailure.NETWORK, "The source's certificate is not valid.")
    if any(isinstance(cause, gaierror) and cause.errno in _NO_SUCH_HOST for cause in causes):
        return IngestFailed(LectureFailure.SOURCE_NOT_FOUND, "The link's host does not exist.")
    return IngestFailed(
        LectureFailure.NETWORK, "The connection to the source failed.", transient=True
    )


def retry_after_seconds(header: str | None) -> float | None:
    """Return the wait that a Retry-After header names, as seconds or as a date; else None.

    A date that is past is no wait; no wait is longer than a day.
    """
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), _MAX_RETRY_AFTER_SECONDS)
    try:
        date = parsedate_to_datetime(text)
        aware = date if date.tzinfo else date.replace(tzinfo=UTC)
        wait = (aware - datetime.now(UTC)).total_seconds()
    except (ValueError, OverflowError):  # No date, or one of a year that no calendar has.
        return None
    return min(max(wait, 0.0), _MAX_RETRY_AFTER_SECONDS)


def _causes(error: BaseException | None) -> list[BaseException]:
    causes = []
    while error is not None and error not in causes:
        causes.append(error)
        error = error.__cause__ or error.__context__
    return causes


def looks_like_login(url: str) -> bool:
    """Whether a URL that answered with a page is one where people sign in."""
    parts = urlsplit(url.lower())
    words = set(_WORD.findall(f"{parts.hostname} {parts.path}"))
    return bool(words & _LOGIN_WORDS)
