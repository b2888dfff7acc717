"""The lectures of Panopto tenants."""

import dataclasses
from urllib.parse import urlsplit

import structlog

from app.errors import IngestFailed, InvalidInput
from app.ingest.failures import no_recording
from app.ingest.model import LectureRequest, ResolvedLecture
from app.ingest.net.guard import GuardedClient
from app.ingest.sources.direct import location_of
from app.ingest.sources.panopto.delivery import Delivery, ask_delivery
from app.ingest.sources.panopto.links import recording_link

log = structlog.get_logger(__name__)


class PanoptoSource:
    """`LectureSource` for the links of Panopto tenants.

    Where the user gave a stream URL, DeliveryInfo adds title, duration and edit to it where it
    answers, and its failure changes nothing.  Such a stream is taken for the recording only where
    DeliveryInfo names it, or tells the duration that it must have.
    """

    def __init__(self, client: GuardedClient, panopto_hosts: tuple[str, ...] = ()) -> None:
        self._client = client
        self._panopto_hosts = panopto_hosts

    async def resolve(self, request: LectureRequest) -> ResolvedLecture | None:
        """Ask the link's tenant; None where the link is not a tenant's."""
        if request.stream_url is None:
            delivery = await self._delivery(request)
            return _resolved(request.session_id, delivery) if delivery else None
        try:
            delivery = await self._delivery(request)
        except IngestFailed as error:
            log.info("delivery_info_failed", failure=error.failure.value)
            return None
        if delivery is None:
            return None
        stream = await location_of(self._client, request.stream_url)
        is_named = any(each.url == stream.url and not each.then for each in delivery.media)
        if not is_named and delivery.duration_seconds is None:
            delivery = dataclasses.replace(delivery, session_id=None, captions=())
        # The tenant's cuts are those of the very stream that the user named, and of no other.
        same = (each.edits for each in delivery.media if _bare(each.url) == _bare(stream.url))
        edited = dataclasses.replace(stream, edits=next(same, ()))
        return _resolved(None, dataclasses.replace(delivery, media=(edited,)))

    async def _delivery(self, request: LectureRequest) -> Delivery | None:
        try:
            link = recording_link(request.panopto_url, self._panopto_hosts)
        except InvalidInput:
            raise no_recording() from None
        return await ask_delivery(self._client, link) if link else None


def _resolved(session_id: str | None, delivery: Delivery) -> ResolvedLecture:
    return ResolvedLecture(
        session_id or delivery.session_id,
        delivery.title,
        delivery.duration_seconds,
        delivery.media,
        captions=delivery.captions,
        platform="panopto",
    )


def _bare(url: str) -> tuple[str, str]:
    """Leave out the query: it carries signatures, which differ from answer to answer."""
    parts = urlsplit(url)
    return parts.netloc.lower(), parts.path
