"""Titles as sources write them, made fit to be stored."""

_MAX_CHARACTERS = 500


def printable_title(text: str | None) -> str | None:
    """Return the title with nothing unprintable in it, at most 500 characters; None for none."""
    printable = "".join(each if each.isprintable() else " " for each in text or "")
    return printable.strip()[:_MAX_CHARACTERS] or None
