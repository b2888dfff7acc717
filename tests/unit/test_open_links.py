"""Links into a recording, whatever link it was asked for by."""

import pytest

from app.services.lectures.open_links import link_at

GUID = "0f0e0d0c-0b0a-4908-8706-050403020100"
TENANT = "https://uni.panopto.com/Panopto"


@pytest.mark.parametrize(
    ("platform", "url", "session_id", "expected"),
    [
        (
            "panopto",
            f"{TENANT}/Pages/Viewer.aspx?id={GUID}&amp;start=5",
            GUID,
            f"{TENANT}/Pages/Viewer.aspx?id={GUID}&start=61",
        ),
        (
            "panopto",
            f"{TENANT}/Podcast/Download/{GUID}.mp4?mediaTargetType=audioPodcast",
            GUID,
            f"{TENANT}/Pages/Viewer.aspx?id={GUID}&start=61",
        ),
        (
            "panopto",
            f"{TENANT}/Pages/Viewer.aspx?tid=7&Start=5",
            None,
            f"{TENANT}/Pages/Viewer.aspx?tid=7&start=61",
        ),
        (
            "youtube",
            "https://www.youtube.com/watch?v=abc&t=5s#x",
            None,
            "https://www.youtube.com/watch?v=abc&t=61",
        ),
        ("vimeo", "https://vimeo.com/76979871#t=5s", None, "https://vimeo.com/76979871#t=61s"),
        ("direct", "https://example.org/a.mp4", None, None),
        (None, f"{TENANT}/Pages/Viewer.aspx?id={GUID}", GUID, None),
    ],
)
def test_a_link_opens_the_page_at_the_second(
    platform: str | None, url: str, session_id: str | None, expected: str | None
) -> None:
    assert link_at(url, platform, session_id, 61.9) == expected


@pytest.mark.parametrize(("seconds", "at"), [(-1.0, "0"), (float("inf"), "1000000000")])
def test_seconds_are_kept_within_reason(seconds: float, at: str) -> None:
    url = link_at("https://youtu.be/abc", "youtube", None, seconds)
    assert url == f"https://youtu.be/abc?t={at}"
