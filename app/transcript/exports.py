"""The files that are made of a transcript: WebVTT, SubRip (SRT) and plain text.

WebVTT is as the W3C's grammar has it; SRT has none, so it is written the way all players read.
"""

from app.transcript.cues import clean, cues_of
from app.transcript.model import Transcript

_PARAGRAPH_SECONDS = 2.0


def to_vtt(transcript: Transcript) -> str:
    """Return WebVTT; with nothing said it is its header alone."""
    blocks = ["WEBVTT\n"]
    for cue in cues_of(transcript):
        text = "\n".join(map(_escaped, cue.lines))
        blocks.append(f"{_stamp(cue.start_ms, '.')} --> {_stamp(cue.end_ms, '.')}\n{text}\n")
    return "\n".join(blocks)


def to_srt(transcript: Transcript) -> str:
    """Return SRT; with nothing said it is empty.  An arrow in the text becomes ``→``."""
    blocks = []
    for number, cue in enumerate(cues_of(transcript), start=1):
        text = "\n".join(cue.lines).replace("-->", "→")
        times = f"{_stamp(cue.start_ms, ',')} --> {_stamp(cue.end_ms, ',')}"
        blocks.append(f"{number}\n{times}\n{text}\n")
    return "\n".join(blocks)


def to_txt(transcript: Transcript) -> str:
    """Return what was said, a paragraph ending at each pause of two seconds."""
    paragraphs: list[list[str]] = []
    end = float("-inf")
    for segment in sorted(transcript.segments, key=lambda each: (each.start, each.end)):
        text = clean(segment.text)
        if not text:
            continue
        if segment.start - end >= _PARAGRAPH_SECONDS:
            paragraphs.append([])
        paragraphs[-1].append(text)
        end = segment.end
    return "\n".join(" ".join(paragraph) + "\n" for paragraph in paragraphs)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _stamp(milliseconds: int, point: str) -> str:
    """Return ``hh:mm:ss.mmm``, with more digits of hours where they are needed."""
    seconds, rest = divmod(milliseconds, 1000)
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours:02}:{minute:02}:{second:02}{point}{rest:03}"
