"""A file that is being fetched, kept where a killed worker's successor can go on with it.

Beside the part lies a note: which source it is, which version of it, and the part's inode.  One
inode holds bytes of one version alone, each written at its own place: a worker that lost its lease
and writes on can only write what is there already, and whoever begins anew begins a new inode.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from app.storage.disk import errors_of_writing
from app.storage.protocol import LocalFiles

_PART = ".mp4.part"
_NOTE = ".mp4.note"


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a source: ``identity`` names the source, the rest tells it from others."""

    identity: str
    size_bytes: int
    validator: str


def identity_of(url: str) -> str:
    """Return what names a source; signatures in the query change from answer to answer."""
    parts = urlsplit(url)
    return hashlib.sha256(f"{parts.netloc.lower()}{parts.path}".encode()).hexdigest()


class PartFile:
    """The part of one attempt, named by the stem of its key.  Every call blocks."""

    def __init__(self, scratch: LocalFiles, stem: str) -> None:
        self._part = scratch.path_of(f"{stem}{_PART}")
        self._note = scratch.path_of(f"{stem}{_NOTE}")
        self._file: int | None = None
        self.size_bytes = 0

    def go_on(self, identity: str) -> Version | None:
        """Open what an attempt before left of the source; else leave nothing and return None."""
        with errors_of_writing():
            version = self._noted(identity)
            if version is None:
                self.discard()
            return version

    def belongs_to(self, identity: str) -> bool:
        """Whether an attempt before left something of the source."""
        try:
            return self._noted(identity) is not None
        finally:
            self._close()

    def begin(self, version: Version | None) -> None:
        """Open an empty part.  Without a version, nobody can go on with it."""
        with errors_of_writing():
            self.discard()
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            self._file = os.open(self._part, flags, 0o600)
            self.size_bytes = 0
            if version is not None:
                note = {"inode": os.fstat(self._file).st_ino, **asdict(version)}
                self._note.write_text(json.dumps(note))

    def append(self, batch: Sequence[bytes]) -> None:
        """Write the bytes that come next, each at its own place."""
        if self._file is None:
            raise ValueError("the part is not open")
        with errors_of_writing():
            for chunk in batch:
                rest = memoryview(chunk)
                while rest:
                    written = os.pwrite(self._file, rest, self.size_bytes)
                    self.size_bytes += written
                    rest = rest[written:]

    def publish(self, path: Path) -> None:
        """Make the part the file at the path."""
        with errors_of_writing():
            self._part.replace(path)
            self.discard()

    def discard(self) -> None:
        """Close and remove what is there."""
        self._close()
        self._part.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _noted(self, identity: str) -> Version | None:
        """Open the part where its note tells that it is one of this source."""
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            note = json.loads(self._note.read_text())
            inode = note.pop("inode")
            version = Version(**note)
            self._file = os.open(self._part, os.O_WRONLY | os.O_NOFOLLOW)
            found = os.fstat(self._file)
            self.size_bytes = found.st_size
            same = (found.st_ino, version.identity) == (inode, identity)
            if same and 0 < found.st_size <= version.size_bytes:
                return version
        return None


def is_part(key: str) -> bool:
    """Whether a key is one of a part's two files."""
    return key.endswith((_PART, _NOTE))


def hand_over(scratch: LocalFiles, key: str, stem: str) -> None:
    """Take a part's file over from an attempt that is gone, by renaming it.

    Part and note may be taken by different attempts: the note names the part's inode.
    """
    suffix = _PART if key.endswith(_PART) else _NOTE
    with contextlib.suppress(FileNotFoundError), errors_of_writing():
        scratch.path_of(key).replace(scratch.path_of(f"{stem}{suffix}"))
