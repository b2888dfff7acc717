"""What a response tells of the quotas that its operation used.

https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-ratelimit-headers-07
"""

from collections.abc import Collection

from app.services.kernel.quotas import Usage

QUOTA_HEADERS = ("RateLimit-Limit", "RateLimit-Policy", "RateLimit-Remaining", "RateLimit-Reset")


def quota_headers(usages: Collection[Usage]) -> list[tuple[bytes, bytes]]:
    """Return the headers of the quota that has the least left; none where none was used."""
    if not usages:
        return []
    usage = min(usages, key=lambda usage: (not usage.refused, usage.remaining))
    policy = f"{usage.limit};w={usage.window_seconds}"
    values = (usage.limit, policy, usage.remaining, usage.reset_seconds)
    headers = dict(zip(QUOTA_HEADERS, values, strict=True))
    if usage.refused:
        headers["Retry-After"] = usage.reset_seconds
    return [(name.lower().encode(), str(value).encode()) for name, value in headers.items()]
