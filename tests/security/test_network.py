"""Nothing that a stranger asks for reaches inward: spellings, redirects, playlists, names."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from app.embedded.panopto import PanoptoSimulator
from app.settings import Settings, load_settings
from tests.support.service import Client, Service, running_service

FAILED = "FAILED"
Page = Callable[[str], Awaitable[bytes]]


@dataclass
class Listener:
    """Something that listens on 127.0.0.1 and remembers who came."""

    port: int = 0
    paths: list[str] = field(default_factory=list)

    @property
    def host_port(self) -> str:
        return f"127.0.0.1:{self.port}"


@asynccontextmanager
async def listening(answer: Callable[[str], bytes]) -> AsyncIterator[Listener]:
    """Answer every request; a connection without one is remembered too."""
    listener = Listener()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        listener.paths.append("")
        request = await reader.readline()
        path = request.split()[1].decode() if len(request.split()) > 1 else "?"
        listener.paths[-1] = path
        while (await reader.readline()).strip():
            pass
        writer.write(answer(path))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        listener.port = server.sockets[0].getsockname()[1]
        yield listener


def page(body: bytes, kind: str, status: str = "200 OK", more: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}"
    return f"{head}Connection: close\r\n\r\n".encode() + body


def redirect(target: str) -> bytes:
    return page(b"", "text/html", "302 Found", f"Location: {target}\r\n")


@pytest.fixture
async def canary() -> AsyncIterator[Listener]:
    """Whoever is answered here has come too far."""
    async with listening(lambda _: page(b"secret", "video/mp4")) as canary:
        yield canary
        assert canary.paths == []


# Loopback as programs, names and Unicode write it, then other inward and odd addresses.
# fmt: off
SPELLINGS = [
    "127.0.0.1", "localhost", "LOCALHOST", "localhost.", "127.1", "127.0.1", "0", "0.0.0.0",
    "2130706433", "0x7f000001", "0x7f.1", "017700000001", "0177.0.0.1", "0x7f.0x0.0x0.0x1",
    "127.0.0.1.", "127.127.127.127", "127.255.255.254", "[::1]", "[::]", "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:127.0.0.1]", "[::127.0.0.1]",
    "[64:ff9b::127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[2001:0:7f00:1::]",
    "[::ffff:0:127.0.0.1]", "[fe80::1]", "[fe80::1%25lo]", "\uff11\uff12\uff17.0.0.1",
    "127\u30020\u30020\u30021", "\u2460\u2461\u2466.0.0.1", "\u24dbocalhost",
    "127.0.0.1%00.example.org", "user@127.0.0.1", "example.org@127.0.0.1",
    "127.0.0.1#@example.org", "127.0.0.1\\@example.org", "example.org\\@127.0.0.1",
    "%31%32%37.0.0.1", "localhost.localdomain", "ip6-localhost", "[::1%25eth0]", "[::ffff:127.1]",
    "[0000::1]", "127.0.0.01", "127.00000.1", "169.254.169.254", "10.0.0.1", "[fd00:ec2::254]",
    "100.100.100.200", "192.168.0.1", "172.16.0.1", "224.0.0.1", "255.255.255.255",
]
# fmt: on


async def test_no_spelling_of_loopback_is_reached(canary: Listener) -> None:
    from app.errors import IngestFailed, InvalidInput
    from app.ingest.net.guard import GuardedClient

    assert len(SPELLINGS) > 50
    for allowed in ((), (f"127.0.0.1:{canary.port + 1}", "example.org:80")):
        client = GuardedClient(allowed, connect_timeout_seconds=1)
        for host in SPELLINGS:
            for url in (f"http://{host}:{canary.port}/x", f"https://{host}:{canary.port}/x"):
                with pytest.raises((IngestFailed, InvalidInput)) as refused:
                    await client.read("GET", url, max_bytes=100)
                if isinstance(refused.value, IngestFailed):
                    assert refused.value.failure.name == "BLOCKED_URL", url
        await client.close()


@pytest.fixture
async def evil(canary: Listener) -> AsyncIterator[Listener]:
    """A media host that may be reached, and leads on to the canary in every way there is."""
    inward = f"http://{canary.host_port}/inward"

    def answer(path: str) -> bytes:
        hls = "application/vnd.apple.mpegurl"
        pages = {
            "/redirect.mp4": redirect(inward),
            "/twice.mp4": redirect("/redirect.mp4"),
            "/scheme.mp4": redirect("file:///etc/passwd"),
            "/gopher.mp4": redirect(f"gopher://{canary.host_port}/_x"),
            "/relative.mp4": redirect(f"//{canary.host_port}/x"),
            "/userinfo.mp4": redirect(f"http://public.example@{canary.host_port}/x"),
            "/loop.mp4": redirect("/loop.mp4"),
            "/master.m3u8": page(
                f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{inward}.m3u8\n".encode(), hls
            ),
            "/rendition.m3u8": page(
                b'#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",NAME="a",DEFAULT=YES,URI="'
                + inward.encode()
                + b'"\n#EXT-X-STREAM-INF:BANDWIDTH=1,AUDIO="a"\nv.m3u8\n',
                hls,
            ),
            "/segment.m3u8": page(media_playlist(inward), hls),
            "/hop.m3u8": page(media_playlist("/redirect.mp4"), hls),
            "/file.m3u8": page(media_playlist("file:///etc/passwd"), hls),
            "/concat.m3u8": page(media_playlist(f"concat:{inward}|/etc/passwd"), hls),
            "/key.m3u8": page(
                media_playlist("/s.ts", f'#EXT-X-KEY:METHOD=AES-128,URI="{inward}"\n'), hls
            ),
            "/map.m3u8": page(media_playlist("/s.ts", f'#EXT-X-MAP:URI="{inward}"\n'), hls),
            # Not what they say they are: FFmpeg alone would follow them.
            "/playlist.mp4": page(media_playlist(inward), "video/mp4"),
            "/concat.mp4": page(f"ffconcat version 1.0\nfile '{inward}'\n".encode(), "video/mp4"),
            "/local.mp4": page(b"ffconcat version 1.0\nfile '/etc/passwd'\n", "video/mp4"),
            "/sdp.mp4": page(f"v=0\nm=audio {canary.port} RTP/AVP 0\n".encode(), "video/mp4"),
            "/dash.mp4": page(f"<MPD><BaseURL>{inward}</BaseURL></MPD>".encode(), "video/mp4"),
            "/s.ts": page(b"G" + b"\xff" * 187, "video/mp2t"),
        }
        return pages.get(path) or page(b"", "text/html", "404 Not Found")

    async with listening(answer) as evil:
        yield evil


def media_playlist(segment: str, head: str = "") -> bytes:
    top = f"#EXTM3U\n#EXT-X-VERSION:6\n#EXT-X-TARGETDURATION:10\n{head}"
    return f"{top}#EXTINF:10,\n{segment}\n#EXT-X-ENDLIST\n".encode()


@pytest.fixture
async def exposed(
    settings: Settings, simulator: PanoptoSimulator, evil: Listener
) -> AsyncIterator[Service]:
    """A service that may reach the evil host, and nothing else inward."""
    changed = load_settings(
        **settings.model_dump(exclude_unset=True),
        fetch_allowed_private_hosts=(evil.host_port,),
        worker_concurrency=8,
    )
    async with running_service(changed, simulator) as service:
        yield service


PATHS = {
    "redirect.mp4": "BLOCKED_URL",
    "twice.mp4": "BLOCKED_URL",
    "scheme.mp4": "BLOCKED_URL",
    "gopher.mp4": "BLOCKED_URL",
    "relative.mp4": "BLOCKED_URL",
    "userinfo.mp4": "BLOCKED_URL",
    "loop.mp4": "SOURCE_NOT_FOUND",
    "master.m3u8": "BLOCKED_URL",
    "rendition.m3u8": "BLOCKED_URL",
    "segment.m3u8": "BLOCKED_URL",
    "hop.m3u8": "BLOCKED_URL",
    "file.m3u8": "BLOCKED_URL",
    "concat.m3u8": "BLOCKED_URL",
    "key.m3u8": "BLOCKED_URL",
    "map.m3u8": "BLOCKED_URL",
    "playlist.mp4": None,
    "concat.mp4": None,
    "local.mp4": None,
    "sdp.mp4": None,
    "dash.mp4": None,
}


async def test_evil_media_ends_as_a_failure_and_reaches_nothing(
    exposed: Service, evil: Listener, canary: Listener
) -> None:
    user = exposed.user("ada")

    async def outcome(path: str, via: str) -> tuple[str, str]:
        url = f"http://{evil.host_port}/{path}"
        viewer = url if via == "panoptoUrl" else f"https://example.org/{path}"
        more = {} if via == "panoptoUrl" else {"streamUrl": url}
        asked = await user.request(exposed.course, viewer, **more)
        assert asked["__typename"] == "RequestLectureDownloadPayload", (path, asked)
        lecture = await user.until(asked["lecture"]["id"], FAILED, timeout_seconds=120)
        message = lecture["errorMessage"]
        assert str(canary.port) not in message
        assert "127.0.0.1" not in message
        assert "passwd" not in message
        return path, lecture["failure"]

    found = dict(await asyncio.gather(*(outcome(path, "streamUrl") for path in PATHS)))
    for path, expected in PATHS.items():
        if expected is not None:
            assert found[path] == expected, (path, found)
    for link in (f"http://{canary.host_port}/x.mp4", f"http://localhost:{canary.port}/x.mp4"):
        asked = await user.request(exposed.course, link)
        if asked["__typename"] == "RequestLectureDownloadPayload":
            lecture = await user.until(asked["lecture"]["id"], FAILED)
            assert lecture["failure"] == "BLOCKED_URL"
    assert canary.paths == []
    assert exposed.stored() == set()


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")
def test_a_name_whose_answer_changes_gains_nothing() -> None:
    """A real name server, the system's own resolver, and a canary at 127.0.0.1:80."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.security.netns"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode == 77:
        pytest.skip("this kernel lets nobody have a network of their own")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["ends"]["public"] == ["ok"]
    assert result["ends"]["rebind"] == ["ok", "blocked_url", "blocked_url"]
    for name in ("inward", "mixed", "metadata", "hop"):
        assert result["ends"][name] == ["blocked_url"], name
    assert set(result["reached"]) == {"93.184.216.34"}
    # Asked once for a connection: there is no second answer to change.
    assert result["asked"]["rebind"] == 3


async def test_a_client_never_learns_what_is_inside(ada: Client, service: Service) -> None:
    """An open and a closed inward port, and one that filters, look the same."""
    async with listening(lambda _: page(b"", "text/html")) as open_port:
        messages = set()
        for link in (f"http://{open_port.host_port}/", "http://127.0.0.1:1/", "http://10.0.0.1/"):
            asked = await ada.request(service.course, link)
            lecture = await ada.until(asked["lecture"]["id"], FAILED)
            messages.add((lecture["failure"], lecture["errorMessage"]))
        assert len(messages) == 1
        assert open_port.paths == []
