"""What is taken for speech that was understood, and what for an engine's invention."""

import pytest

from app.speech.gate import is_loop, is_no_text, is_silence, is_unsure


@pytest.mark.parametrize("text", ["", " ", "!!!!!!!!", "... ... ...", "♪♪♪", "aaaaaaaa", "- - -"])
def test_what_is_no_text(text: str) -> None:
    assert is_no_text(text)


@pytest.mark.parametrize("text", ["No.", "1", "Aha", "我们", "نعم", "I... I... I am."])
def test_what_is_text(text: str) -> None:
    assert not is_no_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "and " * 8,
        "thank you. Thank you! thank you, thank you",
        "so " + "the mean of the sample is, " * 4,
        "Then " + "one two three four five six seven eight " * 4 + "end",
    ],
)
def test_what_loops(text: str) -> None:
    assert is_loop(text)


@pytest.mark.parametrize(
    "text",
    [
        "no no no no no",
        "It was the best of times, it was the worst of times, it was the age of wisdom",
        "again and again and again we tried",
        "",
    ],
)
def test_what_is_said_with_emphasis_does_not_loop(text: str) -> None:
    assert not is_loop(text)


def test_sureness() -> None:
    assert is_silence(-0.9, 0.8)
    assert not is_silence(-0.2, 0.8)
    assert not is_silence(-0.9, 0.1)
    assert not is_unsure(-0.2, 1.5, 0.9)
    assert is_unsure(-1.2, 1.5, 0.9)
    assert is_unsure(-0.2, 2.6, 0.9)
    assert is_unsure(-0.2, 1.5, 0.2)
