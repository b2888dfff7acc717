"""Objects in an S3 bucket (AWS, DigitalOcean Spaces, MinIO, …), by obstore.

A process killed in the middle of a large upload leaves an unfinished multipart upload, invisible
but billed; `S3Storage.list_partials` finds it where S3_ACCESS_KEY_ID is set.  Otherwise, as with
the keys of a role, a lifecycle rule of the bucket has to do it (docs/spaces.md).
"""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import obstore
import structlog
from obstore.store import S3Store

from app.errors import InvalidKey, ObjectNotFound, StorageError
from app.settings import Settings
from app.storage.batches import batched
from app.storage.bucket import Bucket, MultipartUploads
from app.storage.protocol import (
    ObjectInfo,
    OpenedFile,
    Presentation,
    ReadMethod,
    StoredFileMeta,
    checked_key,
    checked_name,
    checked_prefix,
    checked_range,
)
from app.storage.s3_errors import errors_of_moving, errors_of_reading, errors_of_writing

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult, ObjectMeta
    from obstore.store import ClientConfig, RetryConfig, S3Config

_log = structlog.get_logger(__name__)

_PART_BYTES = 5 * 1024 * 1024
"""The least that S3 allows; its 10,000 parts are 50 GB."""
_PARTS_AT_ONCE = 4
_READ_BYTES = 1024 * 1024
_LISTED_AT_ONCE = 1000
_ABORT_SECONDS = 2.0
_CHECK_SECONDS = 5.0

_CLIENT: "ClientConfig" = {
    "connect_timeout": "5s",
    # A stream lasts as long as its reader takes; only silence is an error.
    "read_timeout": "30s",
    "timeout": "1day",
}
_RETRIES: "RetryConfig" = {"max_retries": 4, "retry_timeout": timedelta(seconds=60)}


class S3Storage:
    """`ObjectStore` on a bucket.  Holds about 30 MiB for each large upload under way."""

    def __init__(self, store: S3Store, bucket: Bucket) -> None:
        self._store = store
        self._bucket = bucket
        self._aborting: set[asyncio.Future[Any]] = set()
        self._unfinished = (
            MultipartUploads(bucket, bucket.credentials) if bucket.credentials else None
        )

    @classmethod
    def from_settings(cls, settings: Settings) -> "S3Storage":
        """Return the storage that STORAGE_URL and the S3_… settings name."""
        bucket = Bucket.from_settings(settings)
        store = S3Store(
            bucket.name,
            prefix=bucket.prefix or None,
            config=_config_of(settings, bucket),
            client_options={**_CLIENT, "allow_http": bucket.url.startswith("http://")},
            retry_config=_RETRIES,
        )
        return cls(store, bucket)

    async def store_file(self, key: str, chunks: AsyncIterator[bytes]) -> StoredFileMeta:
        """Store the stream: small ones by one request, larger ones in parts as they arrive.

        A cancellation leaves nothing, unless it comes when the upload is already being completed.
        """
        checked_key(key)
        content = _Digested(chunks)
        start = await content.take(_PART_BYTES)
        with errors_of_writing():
            if content.ended:
                await obstore.put_async(self._store, key, start, use_multipart=False)
        if not content.ended:
            await self._upload(key, start, content)
        return StoredFileMeta(key, content.size_bytes, content.checksum)

    @contextlib.asynccontextmanager
    async def open_file(
        self, key: str, start: int = 0, end: int | None = None
    ) -> AsyncIterator[OpenedFile]:
        """Open the object; the bytes read are those of one version."""
        checked_range(start, end)
        found = await self._get(checked_key(key), start, end)
        if found is None:
            info = await self.stat_file(key)
            yield OpenedFile(info.size_bytes, info.modified_at, _nothing())
        else:
            yield OpenedFile(found.meta["size"], found.meta["last_modified"], _chunks_of(found))

    async def stat_file(self, key: str) -> ObjectInfo:
        """Return the object's size and time of last write."""
        with errors_of_reading():
            return _info(await obstore.head_async(self._store, checked_key(key)))

    async def get_file_url(
        self,
        key: str,
        expires_seconds: int,
        *,
        method: ReadMethod = "GET",
        presented_as: Presentation | None = None,
    ) -> str | None:
        """Return a presigned URL; whether the object exists is not asked.

        None where a presentation must be signed but the keys are not settings: obstore, which
        then finds them, signs no parameters.
        """
        checked_key(key)
        credentials = self._bucket.credentials
        if credentials is not None:
            pinned = {}
            if presented_as is not None:
                pinned = {
                    "response-content-type": presented_as.content_type,
                    "response-content-disposition": presented_as.content_disposition,
                    "response-cache-control": presented_as.cache_control,
                }
            path = self._bucket.path_of(key)
            return self._bucket.signed_url(credentials, method, path, pinned, expires_seconds)
        if presented_as is not None:
            return None
        with errors_of_reading():
            lifetime = timedelta(seconds=expires_seconds)
            return await obstore.sign_async(self._store, method, key, lifetime)

    async def move_file(self, key: str, new_key: str) -> None:
        """Copy the object within the bucket (up to 5 GB, S3's limit for one copy); delete it."""
        paths = checked_key(key), checked_key(new_key)
        if key == new_key:
            await self.stat_file(key)
            return
        with errors_of_moving():
            await obstore.copy_async(self._store, *paths)
            await obstore.delete_async(self._store, key)

    async def delete_file(self, key: str) -> None:
        """Delete the object; deleting a missing one succeeds."""
        checked_key(key)
        with contextlib.suppress(ObjectNotFound), errors_of_reading():
            await obstore.delete_async(self._store, key)

    async def delete_files(self, keys: Sequence[str]) -> None:
        """Delete the objects, a thousand with each request."""
        paths = [checked_key(key) for key in keys]
        with errors_of_reading():
            await obstore.delete_async(self._store, paths)

    async def list_files(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        """Yield the objects whose key starts with the prefix, in the order of their keys.

        That order is promised by all but S3's directory buckets.  So what comes before is passed
        over by the bucket itself, and what comes after is not asked for.
        """
        folder, _, name = checked_prefix(prefix).rpartition("/")
        offset = (prefix[:-1] or None) if name else None
        pages = obstore.list(self._store, folder or None, offset=offset, chunk_size=_LISTED_AT_ONCE)
        with errors_of_reading():
            async for page in pages:
                for meta in page:
                    if meta["path"].startswith(prefix):
                        yield _info(meta)
                    elif meta["path"] > prefix:
                        return

    def list_all(self) -> AsyncIterator[ObjectInfo]:
        """Yield whatever lies under the prefix, by whomever it was put there."""
        return self.list_files()

    async def delete_any(self, name: str) -> None:
        """Delete one of `list_all`; one that is gone is left alone."""
        checked_name(name)
        with contextlib.suppress(ObjectNotFound), errors_of_reading():
            await obstore.delete_async(self._store, name)

    async def list_partials(self) -> AsyncIterator[ObjectInfo]:
        """Yield the unfinished uploads, with the time of their last part; for `delete_partial`.

        Where the keys may not list them, that is logged and nothing more is yielded.
        """
        if self._unfinished is None:
            return
        try:
            async for upload in self._unfinished.list_all():
                size_bytes, modified_at = await self._unfinished.describe_parts(upload)
                yield ObjectInfo(f"{upload.path}?{upload.upload_id}", size_bytes, modified_at)
        except StorageError as error:
            _log.warning("unfinished_uploads_not_listed", reason=error.message)

    async def delete_partial(self, key: str) -> None:
        """Abort one of `list_partials`; one that is gone is left alone."""
        path, _, upload_id = key.rpartition("?")
        if not path.startswith(self._bucket.path_of("")) or not path:
            raise InvalidKey
        if self._unfinished is not None:
            await self._unfinished.abort(path, upload_id)

    async def check(self) -> None:
        """Raise `StorageError` where the bucket does not answer within five seconds."""
        pages = obstore.list(self._store, "-", chunk_size=1)
        try:
            async with asyncio.timeout(_CHECK_SECONDS):
                with errors_of_reading():
                    await anext(aiter(pages), None)
        except TimeoutError as error:
            raise StorageError("The object store does not answer.") from error

    async def close(self) -> None:
        """Give uploads that are being aborted a last moment."""
        if self._aborting:
            await asyncio.wait(self._aborting, timeout=_ABORT_SECONDS)
        if self._unfinished is not None:
            await self._unfinished.close()

    async def _get(self, key: str, start: int, end: int | None) -> "GetResult | None":
        """Ask for the range; None where it holds nothing, which S3 refuses to answer."""
        if end is not None and end <= start:
            return None
        options: GetOptions = {}
        if end is not None:
            options["range"] = (start, end)
        elif start:
            options["range"] = {"offset": start}
        try:
            with errors_of_reading():
                return await obstore.get_async(self._store, key, options=options)
        except ObjectNotFound:
            raise
        except StorageError:
            if not options or start < (await self.stat_file(key)).size_bytes:
                raise
            return None

    async def _upload(self, key: str, start: bytes, content: "_Digested") -> None:
        """Feed a multipart upload; whatever goes wrong here, it is aborted and not just dropped."""
        handoff = _Handoff()
        upload = asyncio.ensure_future(
            obstore.put_async(
                self._store, key, handoff, chunk_size=_PART_BYTES, max_concurrency=_PARTS_AT_ONCE
            )
        )
        try:
            await handoff.give(start, upload)
            while batch := await content.next_batch():
                await handoff.give(batch, upload)
            await handoff.give(None, upload)
            with errors_of_writing():
                await asyncio.shield(upload)
        finally:
            await self._abort(upload, handoff)

    async def _abort(self, upload: "asyncio.Future[Any]", handoff: "_Handoff") -> None:
        """End an unfinished upload, in the background where the store is slow to answer."""
        if upload.done():
            return
        self._aborting.add(upload)
        upload.add_done_callback(self._aborted)
        handoff.abort()
        await asyncio.wait([upload], timeout=_ABORT_SECONDS)

    def _aborted(self, upload: "asyncio.Future[Any]") -> None:
        self._aborting.discard(upload)
        if not upload.cancelled():
            upload.exception()  # The upload's own error is told by whoever began the abort.


class _Digested:
    """A stream regrouped, and hashed in a thread as it passes."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._batches = batched(chunks)
        self._digest = hashlib.sha256()
        self.size_bytes = 0
        self.ended = False

    @property
    def checksum(self) -> str:
        return self._digest.hexdigest()

    async def next_batch(self) -> bytes:
        """Return the next bytes, or none at the end."""
        async for batch in self._batches:
            if joined := b"".join(batch):
                await asyncio.to_thread(self._digest.update, joined)
                self.size_bytes += len(joined)
                return joined
        self.ended = True
        return b""

    async def take(self, size_bytes: int) -> bytes:
        """Return what comes until there are at least that many bytes, or the end."""
        taken: list[bytes] = []
        while self.size_bytes < size_bytes and (batch := await self.next_batch()):
            taken.append(batch)
        return b"".join(taken)


class _Handoff:
    """Batches given one at a time to an upload that runs beside their source."""

    def __init__(self) -> None:
        self._batches: asyncio.Queue[bytes | None] = asyncio.Queue(1)
        self._aborted = False

    def __aiter__(self) -> "_Handoff":
        return self

    async def __anext__(self) -> bytes:
        batch = await self._batches.get()
        if self._aborted:
            raise _Aborted
        if batch is None:
            raise StopAsyncIteration
        return batch

    async def give(self, batch: bytes | None, upload: "asyncio.Future[Any]") -> None:
        """Wait until the upload has room (None: the end), or raise its error."""
        giving: asyncio.Future[Any] = asyncio.ensure_future(self._batches.put(batch))
        try:
            await asyncio.wait({giving, upload}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            giving.cancel()
        if upload.done():
            with errors_of_writing():
                upload.result()

    def abort(self) -> None:
        """Make the upload's next step fail, upon which obstore aborts it at the store."""
        self._aborted = True
        while not self._batches.empty():
            self._batches.get_nowait()
        self._batches.put_nowait(None)


class _Aborted(Exception):
    """The source of an upload has failed or was cancelled."""


def _config_of(settings: Settings, bucket: Bucket) -> "S3Config":
    """Return what is set; obstore takes the rest from the standard AWS variables."""
    config: S3Config = {"virtual_hosted_style_request": settings.s3_virtual_hosted}
    if bucket.endpoint:
        config["endpoint"] = bucket.endpoint
    if settings.s3_region:
        config["region"] = settings.s3_region
    if bucket.credentials:
        config["region"] = bucket.credentials.region
        config["access_key_id"] = bucket.credentials.access_key_id
        config["secret_access_key"] = bucket.credentials.secret_access_key
    return config


def _info(meta: "ObjectMeta") -> ObjectInfo:
    return ObjectInfo(meta["path"], meta["size"], meta["last_modified"])


async def _chunks_of(found: "GetResult") -> AsyncIterator[bytes]:
    chunks = aiter(found.stream(min_chunk_size=_READ_BYTES))
    while True:
        with errors_of_reading():
            chunk = await anext(chunks, None)
        if chunk is None:
            return
        yield bytes(chunk)


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""
