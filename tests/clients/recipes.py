"""The recipes of docs/clients.md."""

import re
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "clients.md"

_BLOCK = re.compile(r"^```\w+\n(?://|#) (\S+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def recipes() -> dict[str, str]:
    """Return the document's blocks of code, by the file names that they begin with."""
    return dict(_BLOCK.findall(DOCUMENT.read_text()))
