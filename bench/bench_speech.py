"""Speech recognition: our time against faster-whisper's alone on the same sound, and the memory.

Both hear the same recording with the same model, settings and one thread, one after the other in
one run; ours includes the child's start, decoding, the search for silence and the language.  The
peer hears the file whole, as its README shows, with its own search for silence.
"""

import asyncio
import multiprocessing
import os
import resource
import tempfile
import time
import wave
from pathlib import Path

import av
import numpy as np

from app.demo.wording import SAID, word_error_rate, words_of
from app.settings import load_settings
from app.speech.assets import MODEL_DIRECTORY, speech_sample
from app.speech.transcriber import Heard, Window
from app.speech.whisper import make_transcriber

RATE = 16_000
MINUTES = tuple(map(int, os.environ.get("SPEECH_MINUTES", "1,5,20").split(",")))


def main() -> None:
    """Print the table."""
    print("## Speech recognition (base, int8, one thread)")
    columns = "minutes", "ours s", "faster-whisper s", "ratio", "real-time factor", "WER"
    columns = *columns, "child MiB", "peer MiB"
    print(f"| {' | '.join(columns)} |")
    print("| --- " * len(columns) + "|")
    with tempfile.TemporaryDirectory() as folder:
        for minutes in MINUTES:
            path = Path(folder) / f"{minutes}.wav"
            repeats = _write(path, minutes)
            peer_seconds, peer_mib, _ = _measured(_peer, path)
            seconds, mib, text = _measured(_ours, path)
            said = words_of(SAID) * repeats
            wrong = word_error_rate(said, words_of(text)) if minutes <= 5 else float("nan")
            print(
                f"| {minutes} | {seconds:.1f} | {peer_seconds:.1f} | {seconds / peer_seconds:.2f}"
                f" | {seconds / 60 / minutes:.3f} | {100 * wrong:.1f} % | {mib:.0f}"
                f" | {peer_mib:.0f} |"
            )


def _write(path: Path, minutes: int) -> int:
    """Write the sample again and again, with pauses of three seconds; return how often."""
    with av.open(str(speech_sample("two_cities.wav"))) as source:
        resampler = av.AudioResampler("s16", "mono", RATE)
        frames = [out for frame in source.decode(audio=0) for out in resampler.resample(frame)]
    once = np.concatenate([frame.to_ndarray()[0] for frame in frames])
    once = np.concatenate([once, np.zeros(3 * RATE, np.int16)])
    repeats = max(1, minutes * 60 * RATE // len(once))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        for _ in range(repeats):
            file.writeframes(once.tobytes())
    return repeats


def _peer(path: Path) -> str:
    from faster_whisper import WhisperModel

    model = WhisperModel(str(MODEL_DIRECTORY), device="cpu", compute_type="int8", cpu_threads=1)
    found, _ = model.transcribe(
        str(path), vad_filter=True, word_timestamps=True, condition_on_previous_text=False
    )
    return " ".join(each.text for each in found)


def _ours(path: Path) -> str:
    async def hear() -> str:
        transcriber = make_transcriber(load_settings(whisper_models=None))

        async def report(_seconds: float) -> None:
            pass

        hearing = transcriber.transcribe(
            path, model="base", language=None, heard=Heard(), report=report
        )
        windows = [each async for each in hearing if isinstance(each, Window)]
        return " ".join(segment.text for window in windows for segment in window.segments)

    return asyncio.run(hear())


def _measured(work, path: Path):  # type: ignore[no-untyped-def]
    """Return the seconds, the peak of memory in MiB (a child's, where there is one), the text."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_run, args=(work, path, queue))
    process.start()
    measured = queue.get()
    process.join()
    return measured


def _run(work, path: Path, queue) -> None:  # type: ignore[no-untyped-def]
    os.environ["OMP_NUM_THREADS"] = "1"
    started = time.perf_counter()
    text = work(path)
    seconds = time.perf_counter() - started
    whose = resource.RUSAGE_CHILDREN if work is _ours else resource.RUSAGE_SELF
    queue.put((seconds, resource.getrusage(whose).ru_maxrss / 1024, text))


if __name__ == "__main__":
    main()
