"""An MP4 as HLS: a master with an audio rendition and a video variant, in TS or fMP4, plain or
encrypted.
"""

import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

_SEGMENT_SECONDS = 6
_AUDIO_CODEC, _VIDEO_CODEC = "mp4a.40.2", "avc1.42c00c"
_HEADERS = (
    "#EXTM3U",
    "#EXT-X-VERSION",
    "#EXT-X-TARGETDURATION",
    "#EXT-X-MEDIA-SEQUENCE",
    "#EXT-X-PLAYLIST-TYPE",
    "#EXT-X-INDEPENDENT-SEGMENTS",
    "#EXT-X-ENDLIST",
)


@dataclass(frozen=True, slots=True)
class Shape:
    """What the HLS looks like.

    ``discontinuity`` is the number of the segment with which a second run of the encoder begins:
    its timestamps start anew, in fMP4 it has an initialisation section of its own, and where it is
    encrypted another key.  ``gap`` is the number of a segment that is marked as missing.  In a
    ``single_file`` the segments of a run are byte ranges.
    """

    audio_rendition: bool = True
    fragmented_mp4: bool = False
    encrypted: bool = False
    discontinuity: int | None = None
    gap: int | None = None
    single_file: bool = False


def package(source: Path, folder: Path, shape: Shape) -> Path:
    """Write ``master.m3u8`` and all that it names into the folder, and return the master's path.

    Atomic: the folder appears whole.  Where it exists already, it is left as it is.
    """
    if not folder.exists():
        unfinished = folder.with_name(f"{folder.name}.{os.getpid()}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        with av.open(str(source)) as container:
            kinds = {kind for kind in ("audio", "video") if getattr(container.streams, kind)}
        if shape.audio_rendition and "audio" in kinds:
            outputs = {"audio": {"audio"}, **({"high": {"video"}} if "video" in kinds else {})}
        else:
            outputs = {"low": kinds, "high": kinds}
        for name, wanted in outputs.items():
            playlist = _Rendition(source, unfinished, name, wanted, shape).written()
            _mark(playlist, shape.gap, "#EXT-X-GAP")
        (unfinished / "master.m3u8").write_text(_master(kinds, shape.audio_rendition))
        unfinished.rename(folder)
    return folder / "master.m3u8"


@dataclass(frozen=True, slots=True)
class _Rendition:
    """One media playlist and its segments, made run by run."""

    source: Path
    folder: Path
    name: str
    kinds: set[str]
    shape: Shape

    def written(self) -> Path:
        """Write all of it, and return the playlist's path."""
        lines = self._run(0, 0.0, self._cut_seconds)
        if self._cut_seconds < math.inf:
            number = len(_files(lines))
            lines = [*lines[:-1], "#EXT-X-DISCONTINUITY"]
            # A key tag holds for the initialisation sections behind it as well.
            lines += ["#EXT-X-KEY:METHOD=NONE"] if self.shape.encrypted else []
            more = self._run(number, self._cut_seconds, math.inf)
            lines += [line for line in more if not line.startswith(_HEADERS)] + more[-1:]
        playlist = self.folder / f"{self.name}.m3u8"
        playlist.write_text("\n".join(lines) + "\n")
        return playlist

    @property
    def _cut_seconds(self) -> float:
        cut = self.shape.discontinuity
        return math.inf if cut is None else float(cut * _SEGMENT_SECONDS)

    def _run(self, first: int, start: float, stop: float) -> list[str]:
        """Write one run of the encoder, its segments from ``first`` on; return the playlist."""
        suffix = "m4s" if self.shape.fragmented_mp4 else "ts"
        single = self.shape.single_file
        name = f"{self.name}-all-{first}.{suffix}" if single else f"{self.name}-%05d.{suffix}"
        options = {
            "hls_time": str(_SEGMENT_SECONDS),
            "hls_playlist_type": "vod",
            "hls_segment_filename": str(self.folder / name),
            "hls_segment_type": "fmp4" if self.shape.fragmented_mp4 else "mpegts",
            "hls_fmp4_init_filename": f"{self.name}-init-{first}.mp4",
            "start_number": str(first),
            **({"hls_flags": "single_file"} if single else {}),
        }
        playlist = self.folder / f"{self.name}-run-{first}.m3u8"
        _remux(self.source, playlist, self.kinds, (start, stop), options)
        lines = playlist.read_text().splitlines()
        playlist.unlink()
        return self._encrypted(lines, first) if self.shape.encrypted else lines

    def _encrypted(self, lines: list[str], first: int) -> list[str]:
        """Encrypt a run's segments with AES-128-CBC.

        The IV of the first run is each segment's number, as is the default; later ones name it.
        """
        key, initial = os.urandom(16), os.urandom(16)
        name = f"{self.name}-{first}.key"
        (self.folder / name).write_bytes(key)
        for number, file in enumerate(_files(lines), first):
            segment = self.folder / file
            padder = PKCS7(128).padder()
            padded = padder.update(segment.read_bytes()) + padder.finalize()
            vector = initial if first else number.to_bytes(16)
            encryptor = Cipher(algorithms.AES128(key), modes.CBC(vector)).encryptor()
            segment.write_bytes(encryptor.update(padded) + encryptor.finalize())
        iv = f",IV=0x{initial.hex()}" if first else ""
        at = next(at for at, line in enumerate(lines) if line.startswith("#EXTINF"))
        return [*lines[:at], f'#EXT-X-KEY:METHOD=AES-128,URI="{name}"{iv}', *lines[at:]]


def _remux(
    source: Path,
    playlist: Path,
    kinds: set[str],
    span: tuple[float, float],
    options: dict[str, str],
) -> None:
    """Write the packets of that span of seconds as HLS; their clock starts at 0."""
    start, stop = span
    with av.open(str(source)) as given, av.open(str(playlist), "w", "hls", options) as target:
        wanted = [stream for stream in given.streams if stream.type in kinds]
        streams: dict[int, Any] = {
            stream.index: target.add_stream_from_template(stream) for stream in wanted
        }
        for packet in given.demux(wanted):
            if packet.dts is None or packet.pts is None:
                continue
            # What comes before 0 is the encoder's priming.
            if not start <= max(0.0, float(packet.pts * packet.time_base)) < stop:
                continue
            shift = round(start / packet.time_base)
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            packet.stream = streams[packet.stream.index]
            target.mux(packet)


def _files(lines: list[str]) -> list[str]:
    """Return the names of a playlist's segments."""
    return [line for line in lines if line and not line.startswith("#")]


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
