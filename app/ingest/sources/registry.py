"""Where recordings come from: the sources, in the order in which they are asked.

A further one is a class with the `resolve` of `LectureSource`, and a line in `sources_of`.
"""

from collections.abc import Sequence

from app.ingest.failures import no_recording
from app.ingest.model import LectureRequest, LectureSource, ResolvedLecture
from app.ingest.net.guard import GuardedClient
from app.ingest.sources.direct import DirectSource
from app.ingest.sources.panopto.source import PanoptoSource
from app.ingest.sources.ytdlp.source import YtDlpSource


def sources_of(
    client: GuardedClient,
    *,
    panopto_hosts: tuple[str, ...] = (),
    extractors: tuple[str, ...] = (),
    captions: bool = True,
) -> tuple[LectureSource, ...]:
    """Return every source; the last takes whatever link the others leave.

    ``extractors`` are those of yt-dlp that are allowed; with none, no child is ever started.
    Without ``captions`` yt-dlp asks for none.
    """
    ytdlp = (YtDlpSource(client, extractors, captions=captions),) if extractors else ()
    return (PanoptoSource(client, panopto_hosts), *ytdlp, DirectSource(client))


async def resolve_by(sources: Sequence[LectureSource], request: LectureRequest) -> ResolvedLecture:
    """Return what the first source says that knows the link."""
    for source in sources:
        if lecture := await source.resolve(request):
            return lecture
    raise no_recording()
