"""`Content-Disposition` (RFC 6266) for filenames that strangers chose."""

import unicodedata
from pathlib import PurePosixPath
from urllib.parse import quote

_FALLBACK = "document.pdf"
_MAX_CHARACTERS = 200
# Controls, format characters (bidirectional overrides among them), surrogates, line separators.
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
# These two shape letters in Persian, the scripts of India, and emoji.
_JOINERS = "\u200c\u200d"
# Quoting, escapes and folders; percent, since some clients decode it in the plain form too.
_UNSAFE = frozenset('"\\/%')
# RFC 8187, 3.2.1: attr-char beyond letters and digits.
_ATTRIBUTE_CHARACTERS = "!#$&+-.^_`|~"


def content_disposition(filename: str, *, attachment: bool = False) -> str:
    """Return the header value: ASCII, one line, whatever the filename holds.

    The plain form stands in for clients that do not know RFC 8187; the extended form is added
    where the two differ.
    """
    visible = "".join(
        c for c in filename if c in _JOINERS or unicodedata.category(c) not in _INVISIBLE
    )
    # Neither folders nor leading dots.
    name = visible.replace("\\", "/").rpartition("/")[2].strip().lstrip(".").strip() or _FALLBACK
    if len(name) > _MAX_CHARACTERS:
        suffix = PurePosixPath(name).suffix[:16]
        name = name[: _MAX_CHARACTERS - len(suffix)] + suffix
    plain = _plain(name)
    value = f'{"attachment" if attachment else "inline"}; filename="{plain}"'
    if plain == name:
        return value
    return f"{value}; filename*=UTF-8''{quote(name, safe=_ATTRIBUTE_CHARACTERS)}"


def _plain(name: str) -> str:
    """Return the nearest name in printable ASCII that needs no escape within quotes."""
    decomposed = unicodedata.normalize("NFKD", name)
    kept = (c for c in decomposed if not unicodedata.combining(c))
    safe = (c if c.isascii() and c.isprintable() and c not in _UNSAFE else "_" for c in kept)
    return "".join(safe) or _FALLBACK  # Of combining marks alone nothing is left.
