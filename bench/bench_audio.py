"""What fetching the audio alone saves, as ratios: ``python bench/bench_audio.py [--quick]``.

A tenant in a process of its own serves an hour of 200 MB over a line of 20 MB/s with 30 ms round
trips.  The whole download is measured once; then the downloader's own choice for each layout.
"""

import argparse
import asyncio
import multiprocessing
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from rich.console import Console
from rich.table import Table

from app.embedded.panopto import Link, PanoptoSimulator, Recording
from app.embedded.sample_media import AUDIO_BIT_RATE, make_lecture
from app.ingest.extract import PyAvAudioExtractor
from app.ingest.fetch.file import fetch_file
from app.ingest.fetch.ranges.audio import AudioOptions, fetch_audio
from app.ingest.fetch.ranges.source import RangeSource, RangesRefused
from app.ingest.model import Attempt, MediaLocation, Progress
from app.ingest.net.guard import GuardedClient
from app.storage.local import LocalStorage

LINE_BYTES_PER_SECOND = 20_000_000
ROUND_TRIP_SECONDS = 0.03
MAX_BYTES = 2**40
STEM = "audio/bench"
LAYOUTS = [
    (bit_rate, turn_seconds)
    for bit_rate in (AUDIO_BIT_RATE, 2 * AUDIO_BIT_RATE)
    for turn_seconds in (5.0, 2.0, 1.0, 0.5, 0.2)
]
"""Bits of sound per second, and how long sound and pictures take turns, in seconds."""


@dataclass(frozen=True)
class Run:
    """One download: how it was done, seconds, bytes that the tenant sent."""

    way: str
    seconds: float
    sent_bytes: int


def serve(line: Connection, media: Path, link: Link) -> None:
    """Be the tenant until told to stop; each word in between is answered with the bytes sent."""
    with_media = Recording(media, link=link)
    simulator = PanoptoSimulator([with_media])
    simulator.start()
    line.send((simulator.host_port, simulator.media_url(with_media)))
    while line.recv() != "stop":
        line.send(sum(each.sent_bytes for each in simulator.requests))
        simulator.requests.clear()
    simulator.stop()


async def unheard(progress: Progress) -> None:
    """Hear of progress, and do nothing."""


async def measure(media: Path, link: Link, folder: Path, *, whole: bool) -> Run:
    """Download once, whole or by choice."""
    ours, theirs = multiprocessing.Pipe()
    tenant = multiprocessing.Process(target=serve, args=(theirs, media, link))
    tenant.start()
    host_port, url = ours.recv()
    client, scratch = GuardedClient([host_port]), LocalStorage(folder / "scratch")
    began = time.monotonic()
    way = await fetch(client, MediaLocation("mp4", url), scratch, whole)
    seconds = time.monotonic() - began
    ours.send("count")
    run = Run(way, seconds, ours.recv())
    ours.send("stop")
    tenant.join()
    await scratch.delete_file(f"{STEM}.mp4")
    await client.close()
    await scratch.close()
    return run


async def fetch(
    client: GuardedClient, location: MediaLocation, scratch: LocalStorage, whole: bool
) -> str:
    source = RangeSource(client, location)
    if not whole:
        try:
            await fetch_audio(source, Attempt(scratch, STEM, unheard), AudioOptions(MAX_BYTES))
            return "ranges"
        except RangesRefused as refusal:
            reason = refusal.reason
    await fetch_file(
        client, location, Attempt(scratch, STEM, unheard), max_bytes=MAX_BYTES, begun=source.begun
    )
    return "whole" if whole else f"whole ({reason})"


async def extraction_ratio(media: Path, folder: Path) -> float:
    """Return the time of a local extraction over that of one read of the file."""
    target = folder / "audio.m4a"
    began = time.monotonic()
    await PyAvAudioExtractor().extract(media, target, timeout_seconds=300)
    extracted = time.monotonic()
    with media.open("rb", buffering=0) as content:
        while content.read(1024 * 1024):
            pass
    return (extracted - began) / (time.monotonic() - extracted)


async def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="six minutes of 20 MB")
    quick = parser.parse_args().quick
    seconds, size_bytes = (360, 20_000_000) if quick else (3600, 200_000_000)
    table = Table(
        "sound of", "turns of", "way", "bytes", "of the audio's", "seconds", "of the whole file's"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole: Run | None = None
        for bit_rate, turn_seconds in LAYOUTS:
            alone = make_lecture(
                folder / "b.mp4", seconds, video=False, audio_bit_rate=bit_rate
            ).stat()
            media = make_lecture(
                folder / "a.mp4",
                seconds,
                size_bytes=size_bytes - alone.st_size,
                chunk_seconds=turn_seconds,
                audio_bit_rate=bit_rate,
            )
            link = Link(LINE_BYTES_PER_SECOND, ROUND_TRIP_SECONDS)
            whole = whole or await measure(media, link, folder, whole=True)
            run = await measure(media, link, folder, whole=False)
            table.add_row(
                f"{alone.st_size * 8 / seconds / 1000:.0f} kbit/s",
                f"{turn_seconds} s",
                run.way,
                f"{run.sent_bytes / 1e6:.1f} MB",
                f"{run.sent_bytes / alone.st_size:.2f}",
                f"{run.seconds:.1f}",
                f"{run.seconds / whole.seconds:.2f}",
            )
        ratio = await extraction_ratio(media, folder)
    console = Console()
    console.print(table)
    if whole:
        console.print(f"whole file: {whole.seconds:.1f} s, {whole.sent_bytes / 1e6:.1f} MB")
    console.print(f"local extraction: {ratio:.1f} x one read of the file")


if __name__ == "__main__":
    asyncio.run(main())
