"""The blocking half of local storage: what is done to the disk, one call at a time.

No link below the root is followed: every folder is opened from its parent with ``O_NOFOLLOW``, and
what is reached over a link, or is no regular file, is no object.
"""

import contextlib
import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from app.errors import ObjectNotFound, StorageError, StorageFull
from app.storage.protocol import ObjectInfo, StoredFileMeta

_READ_BYTES = 1024 * 1024
_PARTIAL_FOLDER = ".partial"
"""Begins with a dot, as no key can."""

_READING = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_MISSING = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR}


class PartialFile:
    """One file on its way to be an object.  Not for use by two threads at once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._name = secrets.token_hex(16)
        self._file: int | None = None
        self._digest = hashlib.sha256()
        self._size_bytes = 0

    def create(self) -> None:
        """Create the hidden file."""
        with errors_of_writing(), _partial_folder(self._root) as folder:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            self._file = os.open(self._name, flags, 0o600, dir_fd=folder)

    def append(self, batch: list[bytes]) -> None:
        """Write and hash the chunks, at most `batches.MAX_BATCH_CHUNKS` of them."""
        with errors_of_writing():
            _write_whole(self._descriptor, batch)
        for chunk in batch:
            self._digest.update(chunk)
            self._size_bytes += len(chunk)

    def sync(self) -> None:
        """Wait until the bytes are on the disk."""
        with errors_of_writing():
            os.fsync(self._descriptor)

    def publish(self, key: str) -> StoredFileMeta:
        """Make the synced file the object."""
        with (
            errors_of_writing(),
            _partial_folder(self._root) as source,
            folder_of(self._root, key, create=True) as target,
        ):
            os.replace(self._name, _name_of(key), src_dir_fd=source, dst_dir_fd=target)
            self._close()
            os.fsync(target)
        return StoredFileMeta(key, self._size_bytes, self._digest.hexdigest())

    def discard(self) -> None:
        """Remove the file where it was not published; one that will not go is the sweep's."""
        if self._file is not None:
            self._close()
            with contextlib.suppress(StorageError):
                delete_partial(self._root, self._name)

    @property
    def _descriptor(self) -> int:
        if self._file is None:
            raise ValueError("the partial file is not open")
        return self._file

    def _close(self) -> None:
        os.close(self._descriptor)
        self._file = None


class Reader:
    """The bytes ``start`` to ``end`` of an object, cut to what it has."""

    def __init__(self, root: Path, key: str, start: int, end: int | None) -> None:
        self._root, self._key, self._offset, self._end = root, key, start, end
        self._file: int | None = None

    def open(self) -> ObjectInfo:
        """Open the object and return what it is."""
        with errors_of_reading(), folder_of(self._root, self._key) as folder:
            # Without O_NONBLOCK the open of a pipe put there would never return.
            self._file = os.open(_name_of(self._key), _READING, dir_fd=folder)
            found = _info(self._key, os.fstat(self._file))
        size_bytes = found.size_bytes
        self._end = size_bytes if self._end is None else min(self._end, size_bytes)
        return found

    def read(self) -> bytes:
        """Return the next bytes, or none at the end."""
        if self._file is None or self._end is None:
            raise ValueError("the object is not open")
        wanted = min(_READ_BYTES, self._end - self._offset)
        if wanted <= 0:
            return b""
        with errors_of_reading():
            chunk = os.pread(self._file, wanted, self._offset)
        if not chunk:
            raise StorageError("The stored object is shorter than it was.")
        self._offset += len(chunk)
        return chunk

    def close(self) -> None:
        """Close what `open` opened, if it did."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


@contextlib.contextmanager
def errors_of_writing() -> Iterator[None]:
    """Turn the system's errors into `StorageFull` or `StorageError`."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFull from error
        raise StorageError("The file could not be stored.") from error


@contextlib.contextmanager
def errors_of_reading() -> Iterator[None]:
    """Turn the system's errors into `ObjectNotFound` or `StorageError`."""
    try:
        yield
    except OSError as error:
        if error.errno in _MISSING:
            raise ObjectNotFound from error
        raise StorageError("The stored object could not be read.") from error


@contextlib.contextmanager
def folder_of(root: Path, key: str, *, create: bool = False) -> Iterator[int]:
    """Open the key's folder, or raise `OSError` where a link is on the way to it."""
    if create:
        _make_root(root)
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name in key.split("/")[:-1]:
            parent, folder = folder, _enter(folder, name, create=create)
            os.close(parent)
        yield folder
    finally:
        os.close(folder)


def stat_file(root: Path, key: str) -> ObjectInfo:
    """Return the object's size and time of last write."""
    with errors_of_reading(), folder_of(root, key) as folder:
        return _info(key, os.stat(_name_of(key), dir_fd=folder, follow_symlinks=False))


def delete_file(root: Path, key: str) -> None:
    """Delete the object, if it is there."""
    with contextlib.suppress(ObjectNotFound), errors_of_reading(), folder_of(root, key) as folder:
        os.unlink(_name_of(key), dir_fd=folder)


def delete_any(root: Path, name: str) -> None:
    """Delete what lies there, if anything does, and the folders that it leaves empty.

    A link is deleted, never what it leads to.  Folders in the root stay: they are opened at any
    moment to put an object there.
    """
    delete_file(root, name)
    folder = _folder_of(name)
    while "/" in folder and _is_removed(root, folder):
        folder = _folder_of(folder)


def delete_partial(root: Path, name: str) -> None:
    """Delete a half-written file, if it is there."""
    delete_any(root, f"{_PARTIAL_FOLDER}/{name}")


def move_file(root: Path, key: str, new_key: str) -> None:
    """Rename the object; what a tool has written gets our mode, and is synced before its name."""
    with errors_of_reading(), folder_of(root, key) as source:
        content = os.open(_name_of(key), _READING, dir_fd=source)
        with os.fdopen(content, "rb", buffering=0), errors_of_writing():
            _info(key, os.fstat(content))
            os.fchmod(content, 0o600)
            os.fsync(content)
            with folder_of(root, new_key, create=True) as target:
                names = _name_of(key), _name_of(new_key)
                os.replace(*names, src_dir_fd=source, dst_dir_fd=target)
                os.fsync(target)


def walk_files(root: Path, prefix: str) -> Iterator[ObjectInfo]:
    """Yield the objects whose key starts with the prefix; what goes meanwhile is left out."""
    for folder, folders, names in os.walk(root, onerror=_raise_unless_missing):
        stem = _stem_of(root, folder)
        folders[:] = [name for name in folders if _leads_to(stem, name, prefix)]
        for key in (stem + name for name in names if not name.startswith(".")):
            if key.startswith(prefix):
                with contextlib.suppress(FileNotFoundError, ObjectNotFound):
                    yield _info(key, (root / key).lstat())


def walk_all(root: Path) -> Iterator[ObjectInfo]:
    """Yield whatever is no folder, but for what is hidden in the root itself."""
    yield from _walk_everything(root, but_hidden_at_top=True)


def walk_partials(root: Path) -> Iterator[ObjectInfo]:
    """Yield the half-written files, by the name that `delete_partial` takes."""
    folder = root / _PARTIAL_FOLDER
    if not folder.is_symlink():
        yield from _walk_everything(folder)


def _make_root(root: Path) -> None:
    if not root.is_dir():
        root.mkdir(0o700, parents=True, exist_ok=True)
        parent = os.open(root.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)


def _enter(parent: int, name: str, *, create: bool) -> int:
    if create:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=parent)
            os.fsync(parent)
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)


def _partial_folder(root: Path) -> contextlib.AbstractContextManager[int]:
    return folder_of(root, f"{_PARTIAL_FOLDER}/-", create=True)


def _name_of(key: str) -> str:
    return key.rpartition("/")[2]


def _folder_of(key: str) -> str:
    return key.rpartition("/")[0]


def _write_whole(file: int, batch: list[bytes]) -> None:
    """Write every byte; ``writev`` may take fewer than it was given."""
    views = [memoryview(chunk) for chunk in batch]
    while views:
        written = os.writev(file, views)
        while views and written >= len(views[0]):
            written -= len(views.pop(0))
        if written:
            views[0] = views[0][written:]


def _info(key: str, status: os.stat_result) -> ObjectInfo:
    if not stat.S_ISREG(status.st_mode):
        raise ObjectNotFound
    return _object_info(key, status.st_size, status)


def _object_info(name: str, size_bytes: int, status: os.stat_result) -> ObjectInfo:
    return ObjectInfo(name, size_bytes, datetime.fromtimestamp(status.st_mtime, UTC))


def _walk_everything(top: Path, *, but_hidden_at_top: bool = False) -> Iterator[ObjectInfo]:
    """Yield what is no folder by its name below the top; links are told, not followed."""
    for folder, folders, names in os.walk(top, onerror=_raise_unless_missing):
        stem = _stem_of(top, folder)
        if but_hidden_at_top and not stem:
            folders[:] = [name for name in folders if not name.startswith(".")]
            names = [name for name in names if not name.startswith(".")]
        links = [name for name in folders if Path(folder, name).is_symlink()]
        for name in (*names, *links):
            with contextlib.suppress(FileNotFoundError):
                status = Path(folder, name).lstat()
                size_bytes = status.st_size if stat.S_ISREG(status.st_mode) else 0
                yield _object_info(stem + name, size_bytes, status)


def _stem_of(root: Path, folder: str) -> str:
    """Return what the names of a folder's files begin with."""
    inside = Path(folder).relative_to(root).as_posix()
    return "" if inside == "." else f"{inside}/"


def _is_removed(root: Path, name: str) -> bool:
    """Remove the folder if it is empty; whatever keeps it is no fault."""
    try:
        with folder_of(root, name) as parent:
            os.rmdir(_name_of(name), dir_fd=parent)
    except OSError:
        return False
    return True


def _leads_to(stem: str, name: str, prefix: str) -> bool:
    """Tell whether a folder can hold keys with the prefix."""
    folder = f"{stem}{name}/"
    return not name.startswith(".") and (folder.startswith(prefix) or prefix.startswith(folder))


def _raise_unless_missing(error: OSError) -> None:
    if error.errno not in _MISSING:
        raise error
