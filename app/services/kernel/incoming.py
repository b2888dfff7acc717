"""A file on its way in, as services see it: independent of HTTP, GraphQL and storage."""

from collections.abc import AsyncIterator
from typing import Protocol

from app.domain import FieldErrorCode
from app.errors import InvalidInput
from app.services.kernel.text import is_storable

MAX_FILENAME_CHARACTERS = 255


class IncomingFile(Protocol):
    """One uploaded file whose bytes are still arriving.

    ``filename`` is the last part of the name that the client gave, without control characters;
    ``content_type`` is what it declared.  Neither is to be trusted.
    """

    @property
    def filename(self) -> str:
        """The name under which it was uploaded; never empty."""
        ...

    @property
    def content_type(self) -> str:
        """The declared media type, such as ``application/pdf``; may be empty."""
        ...

    @property
    def chunks(self) -> AsyncIterator[bytes]:
        """The bytes as they arrive, once, in pieces of at most a few hundred KiB.

        It ends only when the whole upload was seen to be well-formed.  Otherwise it raises
        `MalformedRequest` (cut off, followed by something else) or `PayloadTooLarge`, and whatever
        was stored of it must go.
        """
        ...


def checked_filename(file: IncomingFile) -> str:
    """Return the name as it can be stored, or raise `InvalidInput`."""
    name = file.filename.strip()
    if len(name) > MAX_FILENAME_CHARACTERS:
        message = f"The file's name is longer than {MAX_FILENAME_CHARACTERS} characters."
        raise InvalidInput.at("file", message, FieldErrorCode.TOO_LONG)
    if not is_storable(name):
        raise InvalidInput.at(
            "file", "The file's name has characters that are not text.", FieldErrorCode.MALFORMED
        )
    return name
