"""Where a bucket is, and the requests to it that obstore has no call for."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit
from xml.etree import ElementTree

import httpx

from app.errors import StorageError
from app.settings import Settings
from app.storage.sigv4 import Credentials, presign

DEFAULT_REGION = "us-east-1"

_TIMEOUT_SECONDS = 10.0
_SIGNED_FOR_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket's name, its address (no slash at the end), and the prefix of our keys in it.

    The address of a path-style bucket ends in its name; that of a virtual-hosted one begins with
    it.  ``endpoint`` is as obstore wants it: None for AWS itself.
    """

    name: str
    prefix: str
    endpoint: str | None
    url: str
    credentials: Credentials | None

    @classmethod
    def from_settings(cls, settings: Settings) -> "Bucket":
        """Return the bucket that STORAGE_URL and the S3_… settings name."""
        parts = urlsplit(settings.resolved_storage_url)
        name, region = parts.netloc, settings.s3_region or DEFAULT_REGION
        endpoint = settings.s3_endpoint_url
        address = urlsplit(
            endpoint.rstrip("/") if endpoint else f"https://s3.{region}.amazonaws.com"
        )
        if settings.s3_virtual_hosted and not address.netloc.startswith(f"{name}."):
            address = address._replace(netloc=f"{name}.{address.netloc}")
        url = address.geturl()
        endpoint = endpoint and url
        if not settings.s3_virtual_hosted:
            url = f"{url}/{name}"
        credentials = None
        if settings.has_s3_keys:
            credentials = Credentials(
                settings.s3_access_key_id or "", settings.s3_secret_access_key or "", region
            )
        return cls(name, parts.path.strip("/"), endpoint, url, credentials)

    def path_of(self, key: str) -> str:
        """Return the key as it is in the bucket."""
        return f"{self.prefix}/{key}" if self.prefix else key

    def signed_url(
        self,
        credentials: Credentials,
        method: str,
        path: str,
        parameters: Mapping[str, str],
        expires_seconds: int = _SIGNED_FOR_SECONDS,
    ) -> str:
        """Return a presigned URL of an object, or of the bucket itself where the path is empty."""
        url = f"{self.url}/{path}" if path else self.url
        return presign(credentials, method, url, parameters, expires_seconds)


@dataclass(frozen=True, slots=True)
class UnfinishedUpload:
    """A multipart upload that was neither completed nor aborted: invisible, but billed."""

    path: str
    upload_id: str
    initiated_at: datetime


class MultipartUploads:
    """The unfinished multipart uploads under a bucket's prefix."""

    def __init__(self, bucket: Bucket, credentials: Credentials) -> None:
        self._bucket = bucket
        self._credentials = credentials
        self._http = httpx.AsyncClient(timeout=_TIMEOUT_SECONDS)

    async def list_all(self) -> AsyncIterator[UnfinishedUpload]:
        """Yield each (ListMultipartUploads)."""
        wanted = {"uploads": "", "prefix": self._bucket.path_of("")}
        async for page in self._pages("", wanted, ("key-marker", "upload-id-marker")):
            for upload in page.iterfind("{*}Upload"):
                initiated_at = datetime.fromisoformat(_text(upload, "Initiated"))
                yield UnfinishedUpload(
                    _text(upload, "Key"), _text(upload, "UploadId"), initiated_at
                )

    async def describe_parts(self, upload: UnfinishedUpload) -> tuple[int, datetime]:
        """Return the bytes that the upload holds, and when it was last written to (ListParts)."""
        size_bytes, modified_at = 0, upload.initiated_at
        wanted = {"uploadId": upload.upload_id}
        async for page in self._pages(upload.path, wanted, ("part-number-marker",)):
            for part in page.iterfind("{*}Part"):
                size_bytes += int(_text(part, "Size"))
                written_at = datetime.fromisoformat(_text(part, "LastModified"))
                modified_at = max(modified_at, written_at)
        return size_bytes, modified_at

    async def abort(self, path: str, upload_id: str) -> None:
        """Abort the upload; one that is completed or gone is left alone (AbortMultipartUpload)."""
        await self._ask("DELETE", path, {"uploadId": upload_id})

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _pages(
        self, path: str, wanted: Mapping[str, str], markers: tuple[str, ...]
    ) -> AsyncIterator[ElementTree.Element]:
        """Yield the pages of a listing; none where what is listed is gone."""
        position: dict[str, str] = {}
        while (answer := await self._ask("GET", path, {**wanted, **position})) is not None:
            # The bucket's own answer, and expat bounds what entities may grow to.
            page = ElementTree.fromstring(answer)  # noqa: S314
            yield page
            if page.findtext("{*}IsTruncated") != "true":
                return
            position = {name: _text(page, _next_of(name)) for name in markers}

    async def _ask(self, method: str, path: str, parameters: Mapping[str, str]) -> bytes | None:
        """Return the answer's body, or None where there is no such upload."""
        url = self._bucket.signed_url(self._credentials, method, path, parameters)
        try:
            response = await self._http.request(method, url)
        except httpx.HTTPError as error:
            raise StorageError("The object store does not answer.") from error
        if path and response.status_code == httpx.codes.NOT_FOUND:
            return None
        if not response.is_success:
            raise StorageError(f"The object store refuses ({response.status_code}).")
        return response.content


def _next_of(marker: str) -> str:
    """Return the element with the next page's marker: ``NextKeyMarker`` for ``key-marker``."""
    return "Next" + "".join(word.capitalize() for word in marker.split("-"))


def _text(element: ElementTree.Element, name: str) -> str:
    return element.findtext(f"{{*}}{name}") or ""
