"""Lectures whose sound somebody brought: theirs alone until the recording's tenant confirms it.

The link says which recording it is, a `streamUrl` of anybody's brings the bytes, and nothing joins
the two.  So such a lecture goes by a name of its own, made of both, and has no session: only who
names the same link and the same stream is led to it.  Once its audio was judged against what the
tenant says of the recording it takes the session, as a ``tid`` link's lecture does
(`app.services.lectures.merging`), and everybody's requests find it.
"""

import dataclasses
import hashlib

from app.db.models import Lecture
from app.ingest.model import SourceIdentity

_SESSION = "panopto:"


def unconfirmed(identity: SourceIdentity, stream_url: str) -> SourceIdentity:
    """Return the identity of what the stream brings for the recording.

    The stream's digest stands in the fragment, which no canonical URL has.
    """
    digest = hashlib.sha256(stream_url.encode()).hexdigest()
    name = f"{recording_name(identity)}#stream={digest}"
    return dataclasses.replace(identity, canonical_url=name, session_id=None)


def recording_name(identity: SourceIdentity) -> str:
    """Return what the names of all streams of the recording begin with, up to the fragment.

    A session is known by its GUID alone, whatever its tenant's host is called.
    """
    if identity.session_id is not None:
        return f"{_SESSION}{identity.session_id}"
    return identity.canonical_url


def named_session_id(lecture: Lecture) -> str | None:
    """Return the session that the lecture's link names, confirmed or not."""
    name = lecture.canonical_url.partition("#")[0]
    if lecture.panopto_session_id is None and name.startswith(_SESSION):
        return name.removeprefix(_SESSION)
    return lecture.panopto_session_id
