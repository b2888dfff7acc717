"""An HLS segment out of what a host answers: cut to its range, decrypted, without its tag."""

from contextlib import suppress

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

from app.ingest.fetch.hls_streams import unreadable
from app.ingest.fetch.playlist import ByteRange
from app.ingest.net.guard import FetchedBody
from app.ingest.net.sniffing import form_of

_ID3_HEADER_BYTES = 10


def is_whole(fetched: FetchedBody) -> bool:
    """Whether the answer to a range is the whole file."""
    told = fetched.content_range
    has_all = told is not None and told.start == 0 and told.size_bytes == len(fetched.body)
    return fetched.status != 206 or has_all


def piece_of(fetched: FetchedBody, wanted: ByteRange) -> bytes:
    """Return the first of the wanted bytes that the answer has; none where it has others.

    What an answer is of must be told, or be as much as was asked for.
    """
    told, size = fetched.content_range, len(fetched.body)
    if fetched.status != 206:
        first = 0
    elif told is None:
        first = wanted.start if size == wanted.length else wanted.end
    else:
        first = told.start if told.end - told.start == size else wanted.end
    skipped = wanted.start - first
    return fetched.body[skipped : skipped + wanted.length] if skipped >= 0 else b""


def decrypted(body: bytes, key: bytes, iv: bytes) -> bytes:
    """Undo AES-128-CBC with PKCS #7 padding (RFC 8216, section 4.3.2.4).

    Some do not pad, and some do not encrypt what is said to be, as an initialisation section that
    stands before its key: where the bytes are those of media, they are taken as they are.
    """
    decryptor = Cipher(algorithms.AES128(key), modes.CBC(iv)).decryptor()
    unpadder = PKCS7(algorithms.AES128.block_size).unpadder()
    forms: list[bytes] = []
    with suppress(ValueError):  # No whole blocks, or no padding.
        forms.insert(0, decryptor.update(body) + decryptor.finalize())
        forms.insert(0, unpadder.update(forms[0]) + unpadder.finalize())
    is_padded = len(forms) == 2
    for content in (*forms, body):
        if form_of(content) == "media":
            return content
    if not is_padded:
        raise unreadable()
    return forms[0]


def without_tag(body: bytes) -> bytes:
    """Drop the ID3 tag that packed audio begins with (RFC 8216, section 3.4): it parts frames."""
    if body[:3] != b"ID3" or len(body) < _ID3_HEADER_BYTES:
        return body
    size = 0
    for seven_bits in body[6:_ID3_HEADER_BYTES]:
        size = size << 7 | seven_bits & 0x7F
    return body[_ID3_HEADER_BYTES + size :] or body
