"""Lectures whose sound somebody brought: theirs alone until the recording's tenant confirms it.

The link says which recording it is, a `streamUrl` of anybody's brings the bytes, and nothing joins
the two.  So such a lecture goes by a name of its own, made of both, and has no session: only who
names the same link and the same stream is led to it.  Once its audio was judged against what the
tenant says of the recording it takes the session, as a ``tid`` link's lecture does
(`app.services.lectures.merging`), and everybody's requests find it.
"""

import dataclasses
import hashlib
from urllib.parse import parse_qs, urldefrag, urlencode

from app.db.models import Lecture
from app.ingest.model import SourceIdentity


def unconfirmed(identity: SourceIdentity, stream_url: str) -> SourceIdentity:
    """Return the identity of what the stream brings for the recording.

    It stands in the fragment, which no canonical URL has.
    """
    parts = {"stream": hashlib.sha256(stream_url.encode()).hexdigest()}
    if identity.session_id is not None:
        parts["session"] = identity.session_id
    name = f"{identity.canonical_url}#{urlencode(parts)}"
    return dataclasses.replace(identity, canonical_url=name, session_id=None)


def named_session_id(lecture: Lecture) -> str | None:
    """Return the session that the lecture's link names, confirmed or not."""
    if lecture.panopto_session_id is not None:
        return lecture.panopto_session_id
    named = parse_qs(urldefrag(lecture.canonical_url).fragment).get("session")
    return named[0] if named else None
