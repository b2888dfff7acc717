"""Which cookies of a chain of redirects go where."""

import pytest

from app.ingest.net.redirect_cookies import RedirectCookies
from app.ingest.net.urls import WebUrl, parse_web_url


def at(url: str) -> WebUrl:
    return parse_web_url(url, "url")


HERE = at("https://media.example.org/share")


@pytest.mark.parametrize(
    ("set_cookie", "sent"),
    [
        ("a=1; Path=/; HttpOnly; Secure; SameSite=None", "a=1"),
        ("a=1; Path=/elsewhere", "a=1"),
        ("a=x=y==", "a=x=y=="),
        ('a="1, 2"', 'a="1, 2"'),
        ("a=1; Domain=.Example.ORG", "a=1"),
        ("a=1; Domain=", "a=1"),
        ("a=1; Max-Age=60; Expires=Thu, 01 Jan 1970 00:00:00 GMT", "a=1"),
        ("a=1; Expires=never; Max-Age=soon", "a=1"),
        ("a=", "a="),
        ("a=1; Domain=other.org", None),
        ("a=1; Domain=ia.example.org", None),
        ("a=1; Max-Age=0", None),
        ("a=1; Max-Age=-5", None),
        ("a=1; expires=Thu, 01-Jan-1970 00:00:00 GMT", None),
        ("a", None),
        ("=1", None),
        ("", None),
        ("a=\x01\r\nX: y", None),
        ("a=\u00e4", None),
        ("a=" + "x" * 5000, None),
    ],
)
def test_a_cookie_goes_back_where_it_came_from(set_cookie: str, sent: str | None) -> None:
    cookies = RedirectCookies()
    cookies.take(HERE, [set_cookie])
    assert cookies.header_for(HERE, None) == sent
    assert cookies.header_for(at("https://media.example.org/other/v.mp4"), None) == sent


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/",
        "https://www.media.example.org/",
        "https://media.example.org:8443/",
        "https://evil.example.com/",
        "http://media.example.org/",
    ],
)
def test_a_cookie_goes_to_no_other_host_and_to_none_without_tls(url: str) -> None:
    cookies = RedirectCookies()
    cookies.take(HERE, ["a=1; Domain=example.org"])
    assert cookies.header_for(at(url), None) is None
    assert cookies.header_for(at(url), "own=2") == "own=2"


def test_from_http_to_https_of_one_host_it_goes_along() -> None:
    cookies = RedirectCookies()
    cookies.take(at("http://media.example.org/"), ["a=1"])
    assert cookies.header_for(HERE, None) == "a=1"


def test_the_chain_overrules_what_was_had_and_may_take_back() -> None:
    cookies = RedirectCookies()
    cookies.take(HERE, ["a=1", "b=2"])
    assert cookies.header_for(HERE, "c=3; a=0") == "c=3; a=1; b=2"
    cookies.take(HERE, ["a=; Max-Age=0"])
    assert cookies.header_for(HERE, None) == "b=2"
    cookies.take(HERE, [f"n{number}=1" for number in range(1000)])
    assert len((cookies.header_for(HERE, None) or "").split("; ")) == 50
