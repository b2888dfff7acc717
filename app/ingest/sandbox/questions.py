"""The child's end of `child_channel`: asks the parent and waits.  Opens no socket of its own."""

import json
import os
import struct
import threading
from typing import Any

LENGTHS = struct.Struct("!II")


class Questions:
    """Asks over an inherited descriptor; safe for use by any number of threads."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def ask(self, head: dict[str, Any], body: bytes = b"") -> tuple[dict[str, Any], bytes]:
        """Return the answer's head and body; `EOFError` where the parent answers no more."""
        text = json.dumps(head).encode()
        with self._lock:
            left = memoryview(LENGTHS.pack(len(text), len(body)) + text + body)
            while left:
                left = left[os.write(self._descriptor, left) :]
            head_bytes, body_bytes = LENGTHS.unpack(self._read(LENGTHS.size))
            answer: dict[str, Any] = json.loads(self._read(head_bytes))
            return answer, self._read(body_bytes)

    def _read(self, count: int) -> bytes:
        message = bytearray()
        while len(message) < count:
            chunk = os.read(self._descriptor, count - len(message))
            if not chunk:
                raise EOFError
            message += chunk
        return bytes(message)
