"""Which media type a GraphQL answer gets, from the Accept header (RFC 9110, section 12.5.1)."""

import re
from enum import StrEnum

_QUALITY = re.compile(r";\s*q\s*=\s*([0-9.]+)", re.IGNORECASE)


class ResponseType(StrEnum):
    """The media types of answers to an operation."""

    JSON = "application/json"
    GRAPHQL = "application/graphql-response+json"
    EVENTS = "text/event-stream"


def accepted(header: str) -> dict[str, float]:
    """Return each media type or range of the header with its quality, 0 to 1.

    What cannot be read has quality 1: a sloppy header is no reason to refuse a request.
    """
    qualities: dict[str, float] = {}
    for entry in header.split(","):
        name, _, parameters = entry.partition(";")
        if media_type := name.strip().lower():
            found = _QUALITY.search(";" + parameters)
            try:
                quality = min(float(found[1]), 1.0) if found else 1.0
            except ValueError:
                quality = 1.0
            qualities[media_type] = max(quality, qualities.get(media_type, 0))
    return qualities


def accepts_html(header: str) -> bool:
    """Whether the client asks for HTML by name, as browsers do."""
    return accepted(header).get("text/html", 0) > 0


def response_type(header: str, *, subscription: bool) -> ResponseType:
    """Return the type to answer with.

    Only types asked for by name count, and where nothing fits the answer is plain JSON.  Clients
    that name both JSON and events for all their requests get events for subscriptions alone.
    """
    qualities = accepted(header)
    events = qualities.get(ResponseType.EVENTS, 0)
    graphql = qualities.get(ResponseType.GRAPHQL, 0)
    json = qualities.get(ResponseType.JSON, 0)
    if events > 0 and (subscription or events > max(graphql, json)):
        return ResponseType.EVENTS
    return ResponseType.GRAPHQL if graphql > 0 and graphql >= json else ResponseType.JSON
