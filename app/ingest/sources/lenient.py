"""What a value of a stranger's JSON says where a text, a number, a flag or a list is expected.

None, or nothing, where it says none of the kind: no odd value costs what stands beside it.  The
standard library alone: children import this.
"""

import math
from typing import Any

_FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def text(value: Any) -> str | None:
    """Return a text without lone surrogates, which no UTF-8 has; a number as it is written."""
    if not isinstance(value, str) and number(value) is None:
        return None
    return str(value).encode("utf-8", "ignore").decode()


def number(value: Any) -> float | None:
    """Return a finite number, which may be written as a text."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def seconds(value: Any, *, longest: float) -> float | None:
    """Return a number that may be a duration, or a time in a recording of such a length."""
    found = number(value)
    return found if found is not None and abs(found) <= longest else None


def flag(value: Any) -> bool | None:
    """Return a truth value, which may be written as a text or a number."""
    if isinstance(value, str):
        return _FLAGS.get(value.strip().lower())
    return bool(value) if isinstance(value, bool | int | float) and value in (0, 1) else None


def members(value: Any) -> dict[str, Any]:
    """Return an object's members; of what is no object none."""
    return value if isinstance(value, dict) else {}


def objects(value: Any, *, most: int) -> list[dict[str, Any]]:
    """Return the objects of a list, or the one that stands where a list should be."""
    listed = value if isinstance(value, list) else [value]
    return [each for each in listed[:most] if isinstance(each, dict)]
