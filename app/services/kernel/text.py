"""Text from strangers: what PostgreSQL can hold, and what people can read."""

import re

# What breaks a line, or moves the cursor of whoever prints it.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
# They show every text that follows, whatever its script, in their own direction: a disguise.
# All other format characters stay, since they shape letters, emoji, and where words may break.
_OVERRIDES = re.compile(r"[\u202d\u202e]")
# Spaces, controls, and Unicode's Default_Ignorable_Code_Point (DerivedCoreProperties.txt), with the
# blank Braille pattern, which has no dot.
_SHOWN = re.compile(
    r"[^\s\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    r"\u2028-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\ud800-\udfff"
    r"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def is_storable(value: str) -> bool:
    """Return whether the text is Unicode that PostgreSQL stores: no NUL, no lone surrogate."""
    if "\x00" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def shows_anything(value: str) -> bool:
    """Return whether people see anything of the text."""
    return _SHOWN.search(value) is not None


def readable(value: str | None) -> str | None:
    """Return the text as written, but trimmed and on one line; None where nothing shows."""
    if value is None or not shows_anything(value):
        return None
    return _OVERRIDES.sub("", _CONTROL.sub(" ", value)).strip()
