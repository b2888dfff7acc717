"""Exports of transcripts, read back by webvtt-py's strict parser and by grammars of our own."""

import io
import re
from html import unescape

import pytest
import webvtt
from hypothesis import given
from hypothesis import strategies as st

from app.domain import TranscriptionSource
from app.transcript.cues import LINE_CHARACTERS, clean, cues_of
from app.transcript.exports import to_srt, to_txt, to_vtt
from app.transcript.model import Segment, Transcript, Word
from app.transcript.payload import UnreadablePayload, from_json, to_json

_VTT_TIME = r"((?:\d{2,}):[0-5]\d:[0-5]\d\.\d{3})"
_SRT_TIME = r"((?:\d{2,}):[0-5]\d:[0-5]\d,\d{3})"
# The W3C's cue text: no newline twice, no arrow, `<` and `&` in tags and references alone.
_VTT_TEXT = re.compile(r"(?:[^&<\n\r\0]|&(?:amp|lt|gt);)+")
_EDGES = (
    "-->",
    "<b>&amp;</b>",
    "a\n\n1\n00:00:01,000 --> 2",
    "\u0645\u0631\u062d\u0628\u0627 x",
    "\u4eca\u65e5\u306f\u3001\u30c6\u30b9\u30c8\u3002" * 9,
    "NOTE",
    "x" * 99,
    "\u2028\x85\0",
)


def transcript(*segments: Segment, seconds: float = 1000) -> Transcript:
    source = TranscriptionSource.SPEECH_RECOGNITION
    return Transcript(source, "en", "base", seconds, segments)


def said(text: str, start: float = 0, end: float = 5) -> Transcript:
    return transcript(Segment(start, end, text, None))


def milliseconds(stamp: str) -> int:
    hours, minutes, rest = stamp.split(":")
    seconds, fraction = re.split("[.,]", rest)
    return ((int(hours) * 60 + int(minutes)) * 60 + int(seconds)) * 1000 + int(fraction)


def strict_vtt(text: str) -> list[tuple[int, int, list[str]]]:
    """Read by the W3C's grammar of what authors may write; anything else fails."""
    head, *blocks = text.removesuffix("\n").split("\n\n")
    assert head == "WEBVTT"
    cues = []
    for block in blocks:
        times, *lines = block.split("\n")
        found = re.fullmatch(f"{_VTT_TIME} --> {_VTT_TIME}", times)
        assert found
        assert lines
        for line in lines:
            assert _VTT_TEXT.fullmatch(line)
            assert "-->" not in line
        cues.append((milliseconds(found[1]), milliseconds(found[2]), [*map(unescape, lines)]))
    return cues


def strict_srt(text: str) -> list[tuple[int, int, list[str]]]:
    cues = []
    for number, block in enumerate(text.removesuffix("\n").split("\n\n") if text else [], 1):
        index, times, *lines = block.split("\n")
        found = re.fullmatch(f"{_SRT_TIME} --> {_SRT_TIME}", times)
        assert (index, bool(found)) == (str(number), True)
        assert found
        assert lines
        assert all(line.strip() and "-->" not in line for line in lines)
        cues.append((milliseconds(found[1]), milliseconds(found[2]), lines))
    return cues


_texts = st.one_of(st.sampled_from(_EDGES), st.text(max_size=120)) | st.lists(
    st.sampled_from(["one", "two,", "three.", *_EDGES]), max_size=40
).map(" ".join)
_times = st.floats(0, 500_000, allow_nan=False) | st.integers(0, 20).map(float)


@st.composite
def _segments(draw: st.DrawFn) -> Segment:
    start, text = draw(_times), draw(_texts)
    end = start + draw(st.sampled_from([0.0, 0.0001, 1.0, 30.0]))
    words = tuple(
        Word(start, draw(_times), word, 0.5) for word in text.split() if draw(st.booleans())
    )
    return Segment(start, end, text, 0.5, words)


_transcripts = st.builds(
    lambda segments, seconds: transcript(*segments, seconds=seconds),
    st.lists(_segments(), max_size=6),
    _times,
)


@given(_transcripts)
def test_cues_are_in_order_within_the_audio_and_say_everything(given_one: Transcript) -> None:
    cues = cues_of(given_one)
    times = [time for cue in cues for time in (cue.start_ms, cue.end_ms)]
    assert times == sorted(times)
    assert all(0 <= cue.start_ms < cue.end_ms <= cue.start_ms + 7000 for cue in cues)
    assert all(
        cue.end_ms <= max(given_one.duration_seconds * 1000 + 0.5, len(cues)) for cue in cues
    )
    assert all(len(line) <= LINE_CHARACTERS for cue in cues for line in cue.lines)
    assert all(1 <= len(cue.lines) <= 2 for cue in cues)
    letters = sorted("".join("".join(cue.lines) for cue in cues).replace(" ", ""))
    assert letters == sorted(
        clean("".join(each.text for each in given_one.segments)).replace(" ", "")
    )


@given(_transcripts)
def test_strict_parsers_read_every_export(given_one: Transcript) -> None:
    expected = [(cue.start_ms, cue.end_ms, list(cue.lines)) for cue in cues_of(given_one)]
    text = to_vtt(given_one)
    assert strict_vtt(text) == expected
    read = webvtt.WebVTT.from_string(text, strict=True).captions
    assert [unescape(each.raw_text).split("\n") for each in read] == [c[2] for c in expected]
    srt = to_srt(given_one)
    assert strict_srt(srt) == [
        (start, end, [line.replace("-->", "\u2192") for line in lines])
        for start, end, lines in expected
    ]
    if expected:
        captions = webvtt.WebVTT.from_buffer(io.StringIO(srt), format="srt").captions
        assert len(captions) == len(expected)
    assert from_json(to_json(given_one)) == given_one
    assert not re.search(r"\n\n\n|^\n", to_txt(given_one))


def test_a_long_segment_is_cut_at_the_times_of_its_words() -> None:
    words = tuple(Word(10 + n, 10.5 + n, f"word{n}", 0.9) for n in range(20))
    text = " ".join(word.text for word in words)
    cues = cues_of(transcript(Segment(10, 29.5, text, 0.9, words)))
    assert [(cue.start_ms, cue.end_ms) for cue in cues] == [
        (10_000, 16_500),
        (17_000, 23_500),
        (24_000, 29_500),
    ]


def test_a_pause_inside_a_segment_belongs_to_no_cue() -> None:
    words = Word(0, 1, "Before", None), Word(60, 61, "after.", None)
    cues = cues_of(transcript(Segment(0, 61, "Before after.", None, words)))
    assert [(cue.start_ms, cue.end_ms) for cue in cues] == [(0, 1000), (60_000, 61_000)]


def test_without_words_times_are_in_proportion_to_the_characters() -> None:
    cues = cues_of(said("aaaa bbbb " * 2, end=19))
    assert [(cue.start_ms, cue.end_ms, cue.lines) for cue in cues] == [
        (0, 4000, ("aaaa",)),
        (5000, 9000, ("bbbb",)),
        (10_000, 14_000, ("aaaa",)),
        (15_000, 19_000, ("bbbb",)),
    ]


def test_writing_without_spaces_is_cut_between_characters() -> None:
    text = "\u4eca\u65e5\u306f" * 40
    cues = cues_of(said(text, end=12))
    assert "".join(line for cue in cues for line in cue.lines) == text
    assert len(cues) == 2


def test_korean_has_spaces_and_is_cut_there() -> None:
    words = ["\uac00\ub098\ub2e4\ub77c"] * 9
    (cue,) = cues_of(said(" ".join(words)))
    assert [word for line in cue.lines for word in line.split()] == words


def test_hours_have_as_many_digits_as_they_need() -> None:
    late = transcript(Segment(400_000, 400_001, "Late", None), seconds=500_000)
    assert "111:06:40.000 --> 111:06:41.000" in to_vtt(late)
    assert "111:06:40,000 --> 111:06:41,000" in to_srt(late)


def test_vtt_escapes_and_srt_does_not() -> None:
    assert "a &lt;b&gt; &amp; --&gt; c" in to_vtt(said("a <b> & --> c"))
    assert "a <b> & \u2192 c" in to_srt(said("a <b> & --> c"))


def test_silence_makes_no_cue() -> None:
    assert (to_vtt(transcript()), to_srt(transcript()), to_txt(transcript())) == (
        "WEBVTT\n",
        "",
        "",
    )


def test_paragraphs_end_at_pauses() -> None:
    text = to_txt(
        transcript(
            Segment(0, 1, "One.", None), Segment(1.5, 2, "Two.", None), Segment(4, 5, "New.", None)
        )
    )
    assert text == "One. Two.\n\nNew.\n"


@pytest.mark.parametrize(
    ("written", "instead"),
    [
        (b'"version":1', b'"version":2'),
        (b'"version":1', b'"version":1,"more":0'),
        (b'"text":"Hello"', b'"text":"Other"'),
        (b'"start":0.5', b'"start":"0.5"'),
        (b'"durationSeconds"', b'"duration"'),
        (b"}", b""),
    ],
)
def test_a_payload_of_another_shape_is_refused(written: bytes, instead: bytes) -> None:
    content = to_json(said("Hello", start=0.5))
    assert written in content
    with pytest.raises(UnreadablePayload):
        from_json(content.replace(written, instead, 1))


def test_the_payload_is_as_documented() -> None:
    word = Word(0.5, 1, "Hello", 0.75)
    content = to_json(transcript(Segment(0.5, 1, "Hello", 0.75, (word,)), seconds=2))
    assert content == (
        b'{"version":1,"language":"en","model":"base","source":"SPEECH_RECOGNITION",'
        b'"durationSeconds":2,"text":"Hello","segments":[{"start":0.5,"end":1,"text":"Hello",'
        b'"confidence":0.75,"words":[{"start":0.5,"end":1,"word":"Hello","confidence":0.75}]}]}'
    )
