from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.errors import InvalidInput
from app.ingest.sources.panopto.links import identify, recording_link

GUID = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"
OTHER = "ffffffff-4e5f-6071-8293-a4b5c6d7e8f9"
HOST = "uni.hosted.panopto.com"
HOSTS = ("lectures.example.edu", "127.0.0.1:8123")
VIEWER = f"https://{HOST}/Panopto/Pages/Viewer.aspx?id={GUID}"

SPELLINGS = [
    VIEWER,
    f"http://{HOST}/Panopto/Pages/Viewer.aspx?id={GUID}",
    f"https://{HOST.upper()}:443/PANOPTO/pages/viewer.ASPX?ID={GUID.upper()}",
    f"https://{HOST}./Panopto/Pages/Viewer.aspx?id={GUID}",
    f"https://{HOST}/Panopto/Pages/Embed.aspx?autoplay=false&amp;id={GUID}&amp;offerviewer=true",
    f"https://{HOST}/Panopto/Pages/Viewer/Default.aspx?id={{{GUID}}}",
    f"https://{HOST}/Panopto/Pages/Viewer.aspx?id=%7B{GUID}%7d&start=12.5",
    f"https://{HOST}/Panopto/Pages/Viewer.aspx?pid={OTHER}&id={GUID}&instance=blackboard",
    f"https://{HOST}/Panopto/Pages/Viewer.aspx?tid={OTHER}&id={GUID}",
    f"https://{HOST}//Panopto/./Pages/Viewer.aspx/?id={GUID}#start",
    f"https://{HOST}/Panopto/Podcast/Download/{GUID}.mp4",
    f"https://{HOST}/Panopto/Podcast/Syndication/{GUID.upper()}.mp4?mediaTargetType=audioPodcast",
    f"https://{HOST}/panopto/podcast/social/{GUID}.mp4?mediaTargetType=videoPodcast",
    f"https://{HOST}/Panopto/Podcast/Stream/{GUID}.mp4",
    f"https://{HOST}/Panopto/Pages/Auth/Login.aspx?instance=x&ReturnUrl={quote(VIEWER, safe='')}",
    f"https://{HOST}/Panopto/Pages/Auth/Login.aspx?returnurl="
    + quote(f"/Panopto/Pages/Viewer.aspx?start=3&amp;id={GUID.upper()}", safe=""),
    f"  {VIEWER}\n",
    f"https://{HOST}/Panopto%2FPages%2fViewer%2Easpx?%69D={GUID[:8]}%2D{GUID[9:]}",
    f"https://{HOST}/Panopto/Pages/Viewer.aspx?id=%257B{GUID}%257D",
    f"https://{HOST}/Panopto/Pages/Viewer.aspx?id={GUID}%20",
    f"https://{HOST}/Panopto/Pages/Viewer.aspx?id=%22{GUID}%22",
    f"https://{HOST}/Panopto/Pages/Viewer.aspx?id={GUID}?start=3",
    f"https://{HOST}/Panopto/Pages/Viewer.aspx?id={GUID};start=3",
    f"https://{HOST}/Panopto/Pages/Viewer.aspx?id=&ID={GUID}",
    f"https://{HOST}/Panopto/Pages/Viewer.aspx?id={GUID}&u=someone@example.org",
    f"https://{HOST}/Panopto/Pages/Viewer.aspx?id={GUID}#folderID=%22{OTHER}%22",
    f"https://{HOST}/Panopto/Podcast/Download/%7B{GUID}%7D.mp4?pid={OTHER}",
    f"https://uni\u3002hosted.panopto.com/Panopto/Pages/Viewer.aspx?id={GUID}",
    f"https://\uff35NI.hosted.panopto.com/Panopto/Pages/Viewer.aspx?id={GUID}",
    f"https://{HOST}/Panopto/Pages/Auth/Login.aspx?ReturnUrl={quote(quote(VIEWER, ''), '')}",
    f"https://{HOST}/Panopto/Pages/Auth/Login.aspx?ReturnUrl={VIEWER}&start=3",
    f"https://{HOST}/Panopto/Pages/Auth/Login.aspx?ReturnUrl=/Panopto/Pages/Viewer.aspx?pid={OTHER}"
    f"&id={GUID}",
    f"https://{HOST}/Panopto/Pages/Auth/Login.aspx?ReturnUrl=&ReturnUrl={quote(VIEWER, '')}&x=1",
]


@pytest.mark.parametrize("url", SPELLINGS)
def test_every_spelling_is_one_recording(url: str) -> None:
    identity = identify(url)
    assert identity.session_id == GUID
    assert identity.canonical_url == VIEWER
    assert identity.host == HOST


@pytest.mark.parametrize(
    "host",
    ["uni.cloud.panopto.eu", "uni.ap.panopto.com", "lectures.example.edu", "127.0.0.1:8123"],
)
def test_tenants_are_recognised(host: str) -> None:
    assert identify(f"http://{host}/Panopto/Pages/Viewer.aspx?id={GUID}", HOSTS).session_id == GUID


@pytest.mark.parametrize(
    ("entry", "authority"),
    [
        ("lectures.example.edu", "Lectures.Example.EDU."),
        ("lectures.example.edu", "lectures.example.edu:443"),
        ("lectures.example.edu", "lectures.example.edu:8443"),
        ("lectures.example.edu:443", "lectures.example.edu"),
        ("lectures.example.edu:8443", "LECTURES.example.edu:8443"),
        ("lectures.example.edu.", "lectures.example.edu"),
        ("b\u00fccher.example", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "B\u00dcCHER.example"),
        ("[::1]:8123", "[0:0::1]:8123"),
    ],
)
def test_a_custom_host_is_known_in_every_spelling(entry: str, authority: str) -> None:
    link = f"https://{authority}/Panopto/Pages/Viewer.aspx?id={GUID}"
    assert identify(link, (entry,)).session_id == GUID
    by_http = identify(link.replace("https", "http", 1).replace(":443/", "/"), (entry,))
    assert by_http.session_id == GUID


@pytest.mark.parametrize(
    ("entry", "authority"),
    [
        ("lectures.example.edu", "example.edu"),
        ("lectures.example.edu", "x.lectures.example.edu"),
        ("lectures.example.edu:8443", "lectures.example.edu"),
        ("lectures.example.edu:8443", "lectures.example.edu:8444"),
        ("a..b", "a.b"),
    ],
)
def test_a_custom_host_is_that_host_alone(entry: str, authority: str) -> None:
    link = f"https://{authority}/Panopto/Pages/Viewer.aspx?id={GUID}"
    assert identify(link, (entry,)).session_id is None


@pytest.mark.parametrize(
    "host",
    ["panopto.com", "evilpanopto.com", "uni.panopto.com.evil.org", "127.0.0.1", "127.0.0.1:8124"],
)
def test_other_hosts_are_no_tenants(host: str) -> None:
    identity = identify(f"https://{host}/Panopto/Pages/Viewer.aspx?id={GUID}", HOSTS)
    assert identity.session_id is None


def test_the_port_and_scheme_of_a_tenant_on_a_port_are_kept() -> None:
    identity = identify(f"http://127.0.0.1:8123/Panopto/Pages/Embed.aspx?id={GUID}", HOSTS)
    assert identity.canonical_url == f"http://127.0.0.1:8123/Panopto/Pages/Viewer.aspx?id={GUID}"


def test_tid_links_are_another_namespace_each_its_own() -> None:
    first = identify(f"https://{HOST}/Panopto/Pages/Viewer.aspx?TID={GUID.upper()}&start=1")
    second = identify(f"http://{HOST}/Panopto/Pages/Embed.aspx?tid={OTHER}")
    assert (first.session_id, second.session_id) == (None, None)
    assert first.canonical_url == f"https://{HOST}/Panopto/Pages/Viewer.aspx?tid={GUID}"
    assert second.canonical_url != first.canonical_url


def test_a_link_tells_where_to_ask() -> None:
    link = recording_link(f"http://{HOST}/Panopto/Pages/Viewer.aspx?tid={GUID}")
    assert link is not None
    assert (link.base_url, link.session_id, link.tid) == (f"http://{HOST}", None, GUID)
    assert recording_link("https://example.org/a.mp4") is None


@pytest.mark.parametrize(
    ("path", "word"),
    [
        (f"Viewer.aspx?pid={GUID}", "playlist"),
        (f"Sessions/List.aspx#folderID=%22{GUID}%22", "folder"),
        ("Sessions/List.aspx", "folder"),
        (f"Sessions/List.aspx?folderID={GUID}", "folder"),
        (f"Embed.aspx?folderID={GUID}", "folder"),
        (f"EmbeddedList.aspx?folderID={GUID}", "folder"),
        (f"Sessions/List.aspx?embedded=1#FOLDERID=%22{GUID}%22&maxResults=250", "folder"),
        (f"../Podcast/Podcast.ashx?courseid={GUID}&type=mp4", "folder"),
        ("Auth/Login.aspx?ReturnUrl=%2FPanopto%2FPages%2FSessions%2FList.aspx", "folder"),
        (f"Auth/Login.aspx?ReturnUrl=%2FPanopto%2FPages%2FViewer.aspx%3Fpid%3D{GUID}", "playlist"),
        (f"Viewer.aspx?PID=%7B{GUID}%7D&start=1", "playlist"),
        (f"Viewer/Default.aspx?pid={GUID}&id=", "playlist"),
        (f"Home.aspx?pid={GUID}", "playlist"),
        ("Viewer.aspx", "one recording"),
        (f"Viewer.aspx?id={GUID[:-1]}", "one recording"),
    ],
)
def test_what_is_not_one_recording_is_refused(path: str, word: str) -> None:
    with pytest.raises(InvalidInput, match=word) as refusal:
        identify(f"https://{HOST}/Panopto/Pages/{path}")
    assert refusal.value.problems[0].path == ("input", "panoptoUrl")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "   ",
        "not a url",
        "ftp://example.org/a.mp4",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "https://",
        "https:///path",
        "https://user:secret@example.org/",
        "https://example.org\\@evil.org/",
        "https://example.org:0/",
        "https://example.org:99999/",
        "https://example.org:http/",
        "https://[::1/",
        "https://[::g]/",
        "https://-/",
        "https://a..b/",
        "https://exa mple.org/",
        "https://example.org/a\x00b",
        "https://example.org/a\nb",
        "https://example.org/\ud800",
        "https://example.org/" + "a" * 2048,
        "https://example.org/" + "ä" * 700,  # fits as given, but not in canonical form
    ],
)
def test_what_is_no_link_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        identify(url)
    assert refusal.value.problems[0].path == ("input", "panoptoUrl")


@pytest.mark.parametrize(
    ("url", "canonical"),
    [
        ("HTTPS://Example.ORG:443/a/../b/./c#f", "https://example.org/b/c"),
        ("http://example.org:80", "http://example.org/"),
        ("http://example.org:8080?b=2&a=1", "http://example.org:8080/?b=2&a=1"),
        (
            "https://bücher.example/%7euser/%2fx/ä",
            "https://xn--bcher-kva.example/~user/%2Fx/%C3%A4",
        ),
        ("https://example.org/%zz?q=%41+b", "https://example.org/%25zz?q=A+b"),
        ("https://[0:0::1]/..", "https://[::1]/"),
    ],
)
def test_any_other_url_is_its_own_identity(url: str, canonical: str) -> None:
    identity = identify(url)
    assert (identity.session_id, identity.canonical_url) == (None, canonical)
    assert identify(canonical) == identity


def _any_case(text: str) -> st.SearchStrategy[str]:
    return st.tuples(*(st.sampled_from([c.lower(), c.upper()]) for c in text)).map("".join)


def _escaped(text: str, which: list[bool]) -> str:
    """Write those of the characters as escapes."""
    return "".join(
        f"%{ord(character):02X}" if chosen else character
        for character, chosen in zip(text, which, strict=False)
    )


PARAMETERS = st.lists(
    st.sampled_from(["start=1", "autoplay=true", f"pid={OTHER}", f"tid={OTHER}", "instance=", "x"]),
    max_size=4,
)


@given(
    scheme=_any_case("https"),
    host=_any_case(HOST),
    page=st.sampled_from(["viewer.aspx", "embed.aspx", "viewer/default.aspx"]).flatmap(_any_case),
    name=_any_case("id"),
    guid=_any_case(GUID),
    escapes=st.lists(st.booleans(), min_size=len(GUID), max_size=len(GUID)),
    braces=st.sampled_from([("", ""), ("{", "}"), ("%7B", "%7D"), ("%7b", "%7d")]),
    before=PARAMETERS,
    after=PARAMETERS,
    separator=st.sampled_from(["&", "&amp;", "&AMP;", "&amp;amp;"]),
    wrappings=st.lists(st.sampled_from([1, 2]), max_size=2),
)
def test_any_mix_of_spellings_is_one_identity(
    scheme: str,
    host: str,
    page: str,
    name: str,
    guid: str,
    escapes: list[bool],
    braces: tuple[str, str],
    before: list[str],
    after: list[str],
    separator: str,
    wrappings: list[int],
) -> None:
    id_ = f"{_escaped(name, escapes)}={braces[0]}{_escaped(guid, escapes)}{braces[1]}"
    query = separator.join([*before, id_, *after])
    url = f"{scheme}://{host}/Panopto/Pages/{page}?{query}"
    for times in wrappings:
        for _ in range(times):
            url = quote(url, safe="")
        url = f"https://{HOST}/Panopto/Pages/Auth/Login.aspx?ReturnUrl={url}"
    if len(url) <= 2048:
        assert identify(url) == identify(VIEWER)


PIECES = ["https://", "http://", HOST, "[", "]", ":", "//", "@", "%", "%zz", "é", "\uff11", "\\"]
PIECES += ["?", "#", "/Panopto/Pages/Viewer.aspx", "id=", GUID, "&amp;", "ReturnUrl=", "::", ".."]
PIECES += ["\u3002", "\u200d", "/Panopto/Pages/Auth/Login.aspx", "\ud800", "xn--", "0x7f", "65536"]
URL_LIKE = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


@given(st.one_of(st.text(), URL_LIKE, st.text().map("https://{}".format)))
@example("https://xn--/")
@example("http://[::1]x/")
@example("https://[v1.a]/")
@example(f"https://{HOST}/Panopto/Pages/Auth/Login.aspx?ReturnUrl=http://[")
def test_any_text_has_an_identity_or_is_invalid_input(text: str) -> None:
    try:
        identity = identify(text)
    except InvalidInput:
        return
    assert identity.canonical_url.isascii()
    assert len(identity.canonical_url) <= 2048
    assert identify(identity.canonical_url) == identity
