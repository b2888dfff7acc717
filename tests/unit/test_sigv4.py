"""Presigned URLs, letter for letter as botocore makes them."""

from datetime import UTC, datetime
from unittest.mock import patch
from urllib.parse import quote, urlencode

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotocoreCredentials

from app.storage.sigv4 import Credentials, presign

NOW = datetime(2026, 11, 21, 10, 17, 15, tzinfo=UTC)
KEYS = Credentials("AKIA/EXAMPLE", "secret+/=", "fra1")


def by_botocore(method: str, url: str, parameters: dict[str, str]) -> str:
    full = quote(url, safe=":/~") + "?" + urlencode(parameters, quote_via=quote)
    request = AWSRequest(method=method, url=full.rstrip("?"))
    signer = botocore.auth.S3SigV4QueryAuth(
        BotocoreCredentials(KEYS.access_key_id, KEYS.secret_access_key), "s3", "fra1", expires=60
    )
    with patch("botocore.auth.get_current_datetime", return_value=NOW.replace(tzinfo=None)):
        signer.add_auth(request)
    return request.url.rpartition("=")[2]


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
@pytest.mark.parametrize(
    ("url", "parameters"),
    [
        ("https://bucket.fra1.example.org/documents/a.pdf", {}),
        ("https://bucket.fra1.example.org:443/documents/a.pdf", {}),
        ("http://127.0.0.1:9000/bucket/prefix/a.pdf", {"response-content-type": "application/pdf"}),
        ("http://Example.org:80/bucket", {"uploads": "", "prefix": "a b/~+&=é"}),
        (
            "https://s3.example.org/b/k",
            {
                "response-content-disposition": "inline; filename=\"U b\"; filename*=UTF-8''%C3",
                "Z": "upper sorts first",
                "a": "",
            },
        ),
        ("https://s3.example.org/b/a key with spaces~", {}),
    ],
)
def test_the_signature_is_botocores(method: str, url: str, parameters: dict[str, str]) -> None:
    ours = presign(KEYS, method, url, parameters, 60, NOW)
    assert ours.rpartition("X-Amz-Signature=")[2] == by_botocore(method, url, parameters)
    assert ours.isascii()
    assert " " not in ours


def test_all_of_it_is_signed() -> None:
    url = "https://s3.example.org/b/k"
    signatures = {
        presign(KEYS, "GET", url, {}, 60, NOW),
        presign(KEYS, "HEAD", url, {}, 60, NOW),
        presign(KEYS, "GET", url, {"response-content-type": "text/html"}, 60, NOW),
        presign(KEYS, "GET", url, {}, 61, NOW),
        presign(KEYS, "GET", f"{url}2", {}, 60, NOW),
        presign(Credentials("AKIA/EXAMPLE", "other", "fra1"), "GET", url, {}, 60, NOW),
    }
    assert len({url.rpartition("=")[2] for url in signatures}) == 6
    assert "secret" not in str(KEYS) + str(signatures)
