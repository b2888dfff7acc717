"""A program that asks the guard for a name whose answer changes, in a network of its own.

It unshares user, mount and network namespaces, brings up a loopback with one public address, and
answers DNS itself on port 53.  Prints one JSON line; exit code 77 where the kernel does not allow
it.  What it finds: which addresses were connected to, and how each fetch ended.
"""

import asyncio
import ctypes
import fcntl
import json
import os
import socket
import struct
import sys
import tempfile
from collections import Counter
from pathlib import Path

PUBLIC = "93.184.216.34"
_CLONE = 0x10000000 | 0x00020000 | 0x40000000  # user, mount, network
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18
_SIOCSIFADDR, _SIOCSIFFLAGS = 0x8916, 0x8914


def enter() -> None:
    """Leave the machine's network behind."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(_CLONE) != 0:
        sys.exit(77)
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    except OSError:
        sys.exit(77)
    libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None)
    with tempfile.TemporaryDirectory() as directory:
        for name, text in (
            ("resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n"),
            ("nsswitch.conf", "hosts: files dns\n"),
        ):
            draft = Path(directory, name)
            draft.write_text(text)
            target = Path("/etc", name)
            if target.exists():
                real = str(target.resolve()).encode()
                if libc.mount(str(draft).encode(), real, None, _MS_BIND, None) != 0:
                    sys.exit(77)
        up()


def up() -> None:
    """Bring up ``lo`` with 127.0.0.1 and the public address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for name, address in ((b"lo", "127.0.0.1"), (b"lo:1", PUBLIC)):
            place = struct.pack("16sHH4s8x", name, socket.AF_INET, 0, socket.inet_aton(address))
            try:
                fcntl.ioctl(control, _SIOCSIFADDR, place)
                fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", name, 0x1 | 0x40))
            except OSError:
                sys.exit(77)


class Names(asyncio.DatagramProtocol):
    """A name server: ``rebind`` is public once and inward ever after; ``mixed`` is both."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        name, end = [], 12
        while data[end]:
            name.append(data[end + 1 : end + 1 + data[end]].decode())
            end += 1 + data[end]
        question, kind = data[12 : end + 5], struct.unpack("!H", data[end + 1 : end + 3])[0]
        answers = self.addresses(name[0].lower()) if kind == 1 else []
        head = data[:2] + struct.pack("!HHHHH", 0x8580, 1, len(answers), 0, 0)
        records = b"".join(
            b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 0, 4) + socket.inet_aton(found)
            for found in answers
        )
        self.transport.sendto(head + question + records, address)  # type: ignore[attr-defined]

    def addresses(self, name: str) -> list[str]:
        self.asked[name] += 1
        if name == "rebind":
            return [PUBLIC if self.asked[name] == 1 else "127.0.0.1"]
        return {
            "public": [PUBLIC],
            "inward": ["127.0.0.1"],
            "mixed": [PUBLIC, "127.0.0.1"],
            "metadata": ["169.254.169.254"],
        }.get(name, [])


async def main() -> None:
    """Serve on both addresses, fetch, and tell what happened."""
    from app.errors import IngestFailed
    from app.ingest.net.guard import GuardedClient

    reached: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.append(writer.get_extra_info("sockname")[0])
        path = (await reader.readline()).split()[1]
        head = b"HTTP/1.1 200 OK\r\n"
        if path == b"/hop":
            head = b"HTTP/1.1 302 Found\r\nLocation: http://inward.test/secret\r\n"
        writer.write(head + b"Content-Length: 2\r\nConnection: close\r\n\r\nok")
        await writer.drain()
        writer.close()

    loop = asyncio.get_running_loop()
    names = Names()
    await loop.create_datagram_endpoint(lambda: names, local_addr=("127.0.0.1", 53))
    for address in (PUBLIC, "127.0.0.1"):
        await asyncio.start_server(serve, address, 80)
    client = GuardedClient(connect_timeout_seconds=5)
    ends = {}
    for name in ("public", "rebind", "rebind", "rebind", "inward", "mixed", "metadata", "hop"):
        url = "http://public.test/hop" if name == "hop" else f"http://{name}.test/"
        try:
            end = (await client.read("GET", url, max_bytes=10)).body.decode()
        except IngestFailed as failure:
            end = failure.failure.value
        ends[name] = [*ends.get(name, []), end]
    await client.close()
    print(json.dumps({"ends": ends, "reached": reached, "asked": names.asked}))


if __name__ == "__main__":
    enter()
    asyncio.run(main())
