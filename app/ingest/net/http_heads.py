"""The heads of HTTP/1.1 answers, mended to what a strict parser reads (RFC 9112).

Servers write heads that curl and browsers read all the same.  What is badly written and not needed
is passed over; where a message ends must be beyond doubt, so that a bad Content-Length or
Transfer-Encoding stays bad, and two that differ stay two.
"""

import re
import ssl
from collections.abc import Iterable, Iterator
from typing import Any

import httpcore

MAX_HEAD_BYTES = 96 * 1024
MAX_INTERIM_HEADS = 20

_END = re.compile(rb"\n\r?\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.([0-9])[ \t]+([1-9][0-9]{2})(?:[ \t].*)?", re.DOTALL)
_TOKEN = re.compile(rb"[-!#$%&'*+.^_`|~0-9a-zA-Z]+")
_NO_TEXT = re.compile(rb"[\x00\n-\r]+")
_NO_LETTERS = re.compile(rb"[^a-z]+")
_FRAMING = (b"contentlength", b"transferencoding")


class BadHead(ValueError):
    """Nobody can tell what the head says, or where its message ends."""


def parse_head(head: bytes) -> tuple[bytes, int, list[tuple[bytes, bytes]]]:
    """Return minor version, status and headers, their names in lower case, or raise `BadHead`.

    No header occurs twice with one value.  Lines that are no headers are left out, unless they look
    like one of the two that say where the message ends.
    """
    first, *lines = head.strip(b"\r\n").split(b"\n")
    match = _STATUS_LINE.fullmatch(first.rstrip(b"\r"))
    if match is None:
        raise BadHead("no HTTP/1.x")
    headers = dict.fromkeys(_headers(_unfolded(lines)))
    return b"0" if match[1] == b"0" else b"1", int(match[2]), list(_with_one_coding(headers))


def mended(head: bytes) -> bytes:
    """Write the head as RFC 9112 has it, or raise `BadHead`."""
    minor, status, headers = parse_head(head)
    lines = [b"HTTP/1.%b %d " % (minor, status), *(b"%b: %b" % each for each in headers)]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _unfolded(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines, those that go on on the next one (RFC 9112, section 5.2) as one."""
    whole = b""
    for line in lines:
        if line[:1] in (b" ", b"\t") and whole:
            whole = whole.rstrip() + b" " + line.strip()
        else:
            yield whole
            whole = line
    yield whole


def _headers(lines: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    for line in lines:
        name, colon, value = line.partition(b":")
        name = name.rstrip(b" \t").lower()
        if colon and _TOKEN.fullmatch(name):
            yield name, _NO_TEXT.sub(b" ", value).strip()
        elif _NO_LETTERS.sub(b"", line.lower()).startswith(_FRAMING):
            raise BadHead("no line that tells the end")


def _with_one_coding(headers: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the headers with their Transfer-Encodings as one; ``identity`` is none.

    A message that is chunked ends as its chunks tell, whatever its Content-Length (section 6.3).
    A header that is there twice says the same thing twice; one that has a coding twice does not.
    """
    codings: dict[bytes, None] = {}
    for name, value in headers:
        if name != b"transfer-encoding":
            yield name, value
            continue
        named = (coding.strip().lower() for coding in value.split(b","))
        codings[b", ".join(coding for coding in named if coding not in (b"", b"identity"))] = None
    codings.pop(b"", None)
    if codings:
        yield b"transfer-encoding", b", ".join(codings)


class MendingStream(httpcore.AsyncNetworkStream):
    """A connection whose answers' heads are mended before anybody reads them."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self._awaits_head = True
        self._interim_heads = 0

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return the next bytes: a head whole and mended, and a body as it comes.

        Heads of interim answers (1xx) are left out; nobody here waits for one.
        """
        if not self._awaits_head:
            return await self._stream.read(max_bytes, timeout)
        head, received, received_bytes = b"", b"", 0
        while self._awaits_head:
            more = await self._stream.read(max_bytes, timeout)
            received = (received + more).lstrip(b"\r\n")
            received_bytes += len(more)
            if not more or received_bytes > MAX_HEAD_BYTES + max_bytes:
                raise httpcore.RemoteProtocolError("no whole head")
            while self._awaits_head and (end := _END.search(received)):
                head = self._mended(received[: end.end()])
                received = received[end.end() :]
        return head + received

    def _mended(self, head: bytes) -> bytes:
        """Mend a head; one of an interim answer is not the last."""
        try:
            whole = mended(head)
        except BadHead as error:
            raise httpcore.RemoteProtocolError(str(error)) from error
        self._awaits_head = whole[9:10] == b"1"
        self._interim_heads += self._awaits_head
        if self._interim_heads > MAX_INTERIM_HEADS:
            raise httpcore.RemoteProtocolError("interim answers without end")
        return whole

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send a request, or more of it; an answer's head comes next."""
        self._awaits_head, self._interim_heads = True, 0
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Go on by TLS, mending still."""
        return MendingStream(await self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        """Return what the connection tells of itself."""
        return self._stream.get_extra_info(info)
