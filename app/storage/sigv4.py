"""Presigned S3 URLs: AWS Signature Version 4 in the query, for any method and parameters.

obstore signs plain URLs alone; here the parameters are signed too, so that whoever holds the URL
cannot change how the object is presented.  Format: "Authenticating Requests: Using Query
Parameters (AWS Signature Version 4)", Amazon S3 API Reference.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

_ALGORITHM = "AWS4-HMAC-SHA256"
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Credentials:
    """An access key, its secret, and the region that requests are signed for."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    region: str


def presign(
    credentials: Credentials,
    method: str,
    url: str,
    parameters: Mapping[str, str],
    expires_seconds: int,
    now: datetime | None = None,
) -> str:
    """Return the URL with the parameters and a signature over both; good for that method alone.

    ``url`` has an unencoded path and no query.  ``now`` is for tests.
    """
    time = (now or datetime.now(UTC)).astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{time[:8]}/{credentials.region}/s3/aws4_request"
    query = _canonical_query(
        {
            **parameters,
            "X-Amz-Algorithm": _ALGORITHM,
            "X-Amz-Credential": f"{credentials.access_key_id}/{scope}",
            "X-Amz-Date": time,
            "X-Amz-Expires": str(expires_seconds),
            "X-Amz-SignedHeaders": "host",
        }
    )
    parts = urlsplit(url)
    path = quote(parts.path or "/", safe="/~")
    host = _host_header(url)
    request = f"{method}\n{path}\n{query}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD"
    digest = hashlib.sha256(request.encode()).hexdigest()
    key = _signing_key(credentials, time[:8])
    signature = _hmac(key, f"{_ALGORITHM}\n{time}\n{scope}\n{digest}").hex()
    return f"{parts.scheme}://{host}{path}?{query}&X-Amz-Signature={signature}"


def _canonical_query(parameters: Mapping[str, str]) -> str:
    encoded = ((quote(name, safe="~"), quote(text, safe="~")) for name, text in parameters.items())
    return "&".join(f"{name}={text}" for name, text in sorted(encoded))


def _host_header(url: str) -> str:
    """Return what clients send as Host: no default port, no user."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2].lower()
    if parts.port == _DEFAULT_PORTS[parts.scheme]:
        return host.rpartition(":")[0]
    return host


def _signing_key(credentials: Credentials, date: str) -> bytes:
    key = f"AWS4{credentials.secret_access_key}".encode()
    for step in (date, credentials.region, "s3", "aws4_request"):
        key = _hmac(key, step)
    return key


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")
