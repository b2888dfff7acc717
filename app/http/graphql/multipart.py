"""GraphQL multipart requests, parsed as they arrive: the file is never held whole.

https://github.com/jaydenseric/graphql-multipart-request-spec: the parts ``operations``, ``map`` and
one file, in this order.  The operation runs while the file is still arriving and reads it from the
connection itself, so the client cannot send faster than the file is stored.
"""

import logging
import re
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import unquote_to_bytes

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.errors import DomainError, MalformedRequest, PayloadTooLarge
from app.http.graphql.operations import GraphQLRequest
from app.http.graphql.request import parse_json, request_from
from app.http.graphql.request_body import RequestBody

ENVELOPE_BYTES = 128 * 1024
"""What a request may hold besides the file: the other parts, their headers, the boundaries."""

_MAX_OPERATIONS_BYTES = 64 * 1024
_MAX_MAP_BYTES = 4 * 1024
_MAX_EPILOGUE_BYTES = 4 * 1024
# Small pieces cost a round trip through the storage each; large ones cost memory.
_PIECE_BYTES = 256 * 1024

# The parser warns of every broken form; the client is told, and nobody here needs to be.
logging.getLogger(MultipartParser.__module__).setLevel(logging.ERROR)

_HEARD = (
    *("part_begin", "header_field", "header_value", "header_end", "headers_finished"),
    *("part_data", "part_end", "end"),
)
_QUOTED = re.compile(r'"(?:\\.|[^"\\])*"')
_ESCAPED_LINE_BREAKS = re.compile("(?:%0D|%0A)+")
_EXTENDED_FILENAME = re.compile(r";\s*filename\*\s*=\s*utf-8'[^']*'([^;\s]+)", re.IGNORECASE)
# C0 and C1 controls, and the marks that reorder text (as in "gpj.fdp").
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@dataclass(slots=True)
class _Part:
    """The head of one part."""

    headers: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self._option(b"name")

    @property
    def filename(self) -> str | None:
        """The last part of the client's name for the file; None where there is none.

        ``filename*`` (RFC 8187) wins over ``filename``, whose bytes are UTF-8.  Of that, browsers
        escape quotes and line breaks, and nothing else, not even ``%``
        (https://html.spec.whatwg.org/multipage/form-control-infrastructure.html#multipart-form-data).
        """
        disposition = self.headers.get("content-disposition", "")
        extended = _EXTENDED_FILENAME.search(_QUOTED.sub('""', disposition))
        if extended:
            name = unquote_to_bytes(extended[1]).decode("utf-8", "replace")
        else:
            name = self._option(b"filename").replace("%22", '"')
            name = _ESCAPED_LINE_BREAKS.sub(" ", name)
        last = _CONTROLS.sub("", name).replace("\\", "/").rpartition("/")[2].strip()
        return last if last not in {"", ".", ".."} else None

    def _option(self, key: bytes) -> str:
        _, options = parse_options_header(self.headers.get("content-disposition"))
        return options.get(key, b"").decode("utf-8", "replace")


class _End:
    """The end of a part, or of the form where ``of_form`` is true."""

    def __init__(self, *, of_form: bool) -> None:
        self.of_form = of_form


_Event = _Part | bytes | _End


class _Form:
    """The form as a series of events: a part's head, pieces of its content, its end."""

    def __init__(self, body: RequestBody, boundary: bytes) -> None:
        self._body = body
        self._events: deque[_Event] = deque()
        self._part = _Part()
        self._name = self._value = b""
        self._closing = b"\r\n--" + boundary + b"--"
        self._tail = b""
        self._ended = False
        self._epilogue = b""
        callbacks: Any = {f"on_{what}": partial(self._on, what) for what in _HEARD}
        try:
            self._parser = MultipartParser(boundary, callbacks)
        except FormParserError:
            raise MalformedRequest("The form's boundary is too long.") from None

    async def next_event(self) -> _Event:
        """Return the next event; raise `MalformedRequest` where the form is broken or cut off."""
        while not self._events:
            data = await self._body.chunk()
            if data is None:
                raise MalformedRequest("The form ends before its closing boundary.")
            try:
                self._parser.write(data)
            except FormParserError:
                raise MalformedRequest("The form is not valid multipart/form-data.") from None
            if self._ended:
                # The parser drops what follows the closing boundary, which two messages may share.
                self._epilogue = (self._tail + data).partition(self._closing)[2]
            self._tail = (self._tail + data[-len(self._closing) :])[-len(self._closing) :]
        return self._events.popleft()

    async def finish(self) -> None:
        """Read what follows the closing boundary, which must be nothing but line breaks.

        The upload counts already, so a client that goes away here has lost only its answer.
        """
        while not self._body.complete and len(self._epilogue) <= _MAX_EPILOGUE_BYTES:
            try:
                self._epilogue += await self._body.chunk() or b""
            except MalformedRequest:
                return
        if self._epilogue.strip(b"\r\n") or len(self._epilogue) > _MAX_EPILOGUE_BYTES:
            raise MalformedRequest("Something follows the form's closing boundary.")

    def _on(self, what: str, data: bytes = b"", start: int = 0, end: int = 0) -> None:
        """Take in what the parser has found, which lies in ``data`` from start to end."""
        match what:
            case "part_begin":
                self._part = _Part()
            case "header_field":
                self._name += data[start:end]
            case "header_value":
                self._value += data[start:end]
            case "header_end":
                name = self._name.decode("latin-1").lower()
                self._part.headers[name] = self._value.decode("latin-1")
                self._name = self._value = b""
            case "headers_finished":
                self._events.append(self._part)
            case "part_data":
                self._events.append(data[start:end])
            case "part_end":
                self._events.append(_End(of_form=False))
            case "end":
                self._ended = True
                self._events.append(_End(of_form=True))


class IncomingUpload:
    """The file part: an `IncomingFile` (`app.services.documents`) over a form that still arrives.

    ``failure`` is what broke the stream, if anything did: the whole request has then failed,
    whatever the resolver made of it.
    """

    def __init__(self, form: _Form, part: _Part, limit_bytes: int) -> None:
        filename = part.filename
        if filename is None:
            raise MalformedRequest("The file part has no filename.")
        self.filename = filename
        self.content_type = part.headers.get("content-type", "").strip()
        self.failure: DomainError | None = None
        self._form = form
        self._limit_bytes = limit_bytes
        self._taken = False

    def __repr__(self) -> str:
        return "the file"

    def __inspect__(self) -> str:
        """Return what graphql-core shows of it in a message."""
        return repr(self)

    @property
    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The bytes, once."""
        if self._taken:
            raise MalformedRequest("The file can be used only once in an operation.")
        self._taken = True
        held = bytearray()
        size = 0
        try:
            while isinstance(data := await self._form.next_event(), bytes):
                size += len(data)
                if size > self._limit_bytes:
                    raise PayloadTooLarge(self._limit_bytes)
                held += data
                if len(held) >= _PIECE_BYTES:
                    yield bytes(held)
                    held.clear()
            end = await self._form.next_event()
            if not isinstance(end, _End) or not end.of_form:
                raise MalformedRequest("Another part follows the file.")
            await self._form.finish()
        except DomainError as error:
            self.failure = error
            raise
        if held:
            yield bytes(held)


@dataclass(frozen=True, slots=True)
class Upload:
    """A multipart request: what to run, and the file that its variables hold, if any."""

    request: GraphQLRequest
    file: IncomingUpload | None


def boundary_of(content_type: str) -> bytes:
    """Return the boundary of a multipart Content-Type, or raise `MalformedRequest`."""
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not boundary:
        raise MalformedRequest("The Content-Type names no boundary.")
    return boundary


async def read_upload(body: RequestBody, boundary: bytes, limit_bytes: int) -> Upload:
    """Read the form up to the file's first byte, or raise `MalformedRequest`."""
    form = _Form(body, boundary)
    operations = parse_json(await _read_field(form, "operations", _MAX_OPERATIONS_BYTES))
    request_from(operations)  # the shape must be right before a file is put into it
    file_map = parse_json(await _read_field(form, "map", _MAX_MAP_BYTES))
    part = await form.next_event()
    if isinstance(part, _End) and file_map == {}:
        await form.finish()
        return Upload(request_from(operations), None)
    if not isinstance(part, _Part):
        raise MalformedRequest("The form has no file.")
    file = IncomingUpload(form, part, limit_bytes)
    _place(operations, file_map, part.name, file)
    return Upload(request_from(operations), file)


async def _read_field(form: _Form, name: str, limit_bytes: int) -> bytes:
    part = await form.next_event()
    if not isinstance(part, _Part) or part.name != name:
        raise MalformedRequest("The form's parts must be operations, map and one file.")
    content = b""
    while isinstance(data := await form.next_event(), bytes):
        content += data
        if len(content) > limit_bytes:
            raise MalformedRequest(f"The part {name} is longer than {limit_bytes} bytes.")
    return content


def _place(operations: Any, file_map: object, part_name: str, file: IncomingUpload) -> None:
    """Put the file where the map says, as in ``variables.input.file``; there must be a null."""
    if not isinstance(file_map, dict) or list(file_map) != [part_name]:
        raise MalformedRequest("The map must name the file part and nothing else.")
    places = file_map[part_name]
    if not isinstance(places, list) or len(places) != 1 or not isinstance(places[0], str):
        raise MalformedRequest("The map must name exactly one variable for the file.")
    path = places[0].split(".")
    if len(path) < 2 or path[0] != "variables":
        raise MalformedRequest("The map must name a variable for the file.")
    holder = operations
    for step in path[:-1]:
        holder = holder[_key(holder, step)]
    last = _key(holder, path[-1])
    if holder[last] is not None:
        raise MalformedRequest("The map must name a variable that is null.")
    holder[last] = file


def _key(holder: Any, step: str) -> Any:
    """Return the step as a key that the object, or an index that the list, really has."""
    if isinstance(holder, dict) and step in holder:
        return step
    if isinstance(holder, list) and step.isascii() and step.isdigit() and int(step) < len(holder):
        return int(step)
    raise MalformedRequest("The map must name a variable that is null.")
