"""Text from strangers: what PostgreSQL can hold."""


def is_storable(value: str) -> bool:
    """Return whether the text is Unicode that PostgreSQL stores: no NUL, no lone surrogate."""
    if "\x00" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
