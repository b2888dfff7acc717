"""An MP4 as HLS: a master with an audio rendition and a video variant, in TS or fMP4, plain or
encrypted.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import av
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

_SEGMENT_SECONDS = 6
_AUDIO_CODEC, _VIDEO_CODEC = "mp4a.40.2", "avc1.42c00c"


def package(
    source: Path,
    folder: Path,
    *,
    audio_rendition: bool = True,
    fragmented_mp4: bool = False,
    encrypted: bool = False,
    discontinuity: int | None = None,
    gap: int | None = None,
) -> Path:
    """Write ``master.m3u8`` and all that it names into the folder, and return the master's path.

    Atomic: the folder appears whole.  Where it exists already, it is left as it is.
    """
    if not folder.exists():
        unfinished = folder.with_name(f"{folder.name}.{os.getpid()}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        kinds = _kinds(source)
        for name, wanted in _outputs(kinds, audio_rendition).items():
            _segment(source, unfinished, name, wanted, fragmented_mp4)
            if encrypted:
                _encrypt(unfinished, name)
            _mark(unfinished / f"{name}.m3u8", discontinuity, "#EXT-X-DISCONTINUITY")
            _mark(unfinished / f"{name}.m3u8", gap, "#EXT-X-GAP")
        (unfinished / "master.m3u8").write_text(_master(kinds, audio_rendition))
        unfinished.rename(folder)
    return folder / "master.m3u8"


def _kinds(source: Path) -> set[str]:
    with av.open(str(source)) as container:
        return {kind for kind in ("audio", "video") if getattr(container.streams, kind)}


def _outputs(kinds: set[str], audio_rendition: bool) -> dict[str, set[str]]:
    """Return the tracks of each media playlist."""
    if not audio_rendition or "audio" not in kinds:
        return {"low": kinds, "high": kinds}
    return {"audio": {"audio"}, **({"high": {"video"}} if "video" in kinds else {})}


def _segment(source: Path, folder: Path, name: str, kinds: set[str], fragmented_mp4: bool) -> None:
    suffix = "m4s" if fragmented_mp4 else "ts"
    options = {
        "hls_time": str(_SEGMENT_SECONDS),
        "hls_playlist_type": "vod",
        "hls_segment_filename": str(folder / f"{name}-%05d.{suffix}"),
        "hls_segment_type": "fmp4" if fragmented_mp4 else "mpegts",
        "hls_fmp4_init_filename": f"{name}-init.mp4",
    }
    playlist = str(folder / f"{name}.m3u8")
    with av.open(str(source)) as given, av.open(playlist, "w", "hls", options) as target:
        wanted = [stream for stream in given.streams if stream.type in kinds]
        streams: dict[int, Any] = {
            stream.index: target.add_stream_from_template(stream) for stream in wanted
        }
        for packet in given.demux(wanted):
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                target.mux(packet)


def _encrypt(folder: Path, name: str) -> None:
    """Encrypt the segments with AES-128-CBC; the IV is the segment's number, as is the default."""
    key = os.urandom(16)
    (folder / f"{name}.key").write_bytes(key)
    for number, segment in enumerate(sorted(folder.glob(f"{name}-[0-9]*"))):
        padder = PKCS7(128).padder()
        padded = padder.update(segment.read_bytes()) + padder.finalize()
        encryptor = Cipher(algorithms.AES128(key), modes.CBC(number.to_bytes(16))).encryptor()
        segment.write_bytes(encryptor.update(padded) + encryptor.finalize())
    playlist = folder / f"{name}.m3u8"
    lines = playlist.read_text().splitlines()
    first = next(at for at, line in enumerate(lines) if line.startswith("#EXTINF"))
    lines.insert(first, f'#EXT-X-KEY:METHOD=AES-128,URI="{name}.key"')
    playlist.write_text("\n".join(lines) + "\n")


def _mark(playlist: Path, segment: int | None, tag: str) -> None:
    """Put the tag before the segment of that number, where there is one."""
    lines = playlist.read_text().splitlines()
    starts = [at for at, line in enumerate(lines) if line.startswith("#EXTINF")]
    if segment is None or segment >= len(starts):
        return
    lines.insert(starts[segment], tag)
    playlist.write_text("\n".join(lines) + "\n")


def audio_alone(source: Path, target: Path) -> Path:
    """Write the source's sound as an MP4 of its own, unless it is there, and return its path."""
    if not target.exists():
        with av.open(str(source)) as given, av.open(str(target), "w", format="mp4") as output:
            stream = output.add_stream_from_template(given.streams.audio[0])
            for packet in given.demux(given.streams.audio[0]):
                if packet.dts is not None:
                    packet.stream = stream
                    output.mux(packet)
    return target


def _master(kinds: set[str], audio_rendition: bool) -> str:
    lines = ["#EXTM3U", "#EXT-X-VERSION:7"]
    codecs = ",".join(
        codec for kind, codec in (("video", _VIDEO_CODEC), ("audio", _AUDIO_CODEC)) if kind in kinds
    )
    if audio_rendition and "audio" in kinds:
        lines.append(
            '#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="sound",NAME="English",DEFAULT=YES,URI="audio.m3u8"'
        )
        group = ',AUDIO="sound"'
    else:
        group = ""
        lines.append(f'#EXT-X-STREAM-INF:BANDWIDTH=200000,CODECS="{codecs}"')
        lines.append("low.m3u8")
    if "video" in kinds or not group:
        lines.append(f'#EXT-X-STREAM-INF:BANDWIDTH=900000,CODECS="{codecs}"{group}')
        lines.append("high.m3u8")
    return "\n".join(lines) + "\n"
