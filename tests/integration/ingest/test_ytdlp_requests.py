"""yt-dlp's requests on their way to the parent: redirects, secrets, bodies, and a parent gone."""

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import Any

import pytest
from yt_dlp.networking.common import Request
from yt_dlp.networking.exceptions import HTTPError, IncompleteRead, TransportError

from app.ingest.sandbox.channel import Message, answering
from app.ingest.sandbox.questions import Questions
from app.ingest.sources.ytdlp.requests import ParentRH

HERE, THERE = "https://a.example.org", "https://b.example.org"
SECRETS = {"Authorization": "Bearer b", "Cookie": "c=1"}


class Parent:
    """Answers by URL with a status, a target and a body, and remembers what was asked."""

    def __init__(self, answers: Mapping[str, tuple[int, str, bytes]], *, cut: bool = False) -> None:
        self.answers, self.cut = answers, cut
        self.asked: list[dict[str, Any]] = []

    async def answer(self, head: bytes, body: bytes) -> Message:
        question = json.loads(head)
        self.asked.append({**question, "body": body})
        if question["url"] not in self.answers:
            return b"{}", b""
        status, target, content = self.answers[question["url"]]
        headers = [["Location", target]] if target else []
        told = {"status": status, "headers": headers, "cut": self.cut}
        return json.dumps(told).encode(), content

    async def send(self, request: Request) -> Any:
        """Send the request as yt-dlp does, from a thread."""
        async with answering(self.answer) as channel:
            handler = ParentRH(Questions(channel), logger=logging.getLogger("test"))
            return await asyncio.to_thread(handler.send, request)


@pytest.mark.parametrize(
    ("target", "keeps"), [(HERE, True), (THERE, False), ("http://a.example.org", False)]
)
async def test_secrets_stay_with_their_origin(target: str, keeps: bool) -> None:
    parent = Parent({f"{HERE}/x": (302, f"{target}/y", b""), f"{target}/y": (200, "", b"ok")})
    answer = await parent.send(Request(f"{HERE}/x", headers=SECRETS))
    assert (answer.status, answer.url, answer.read()) == (200, f"{target}/y", b"ok")
    first, second = (each["headers"] for each in parent.asked)
    assert SECRETS.items() <= first.items()
    assert (SECRETS.items() <= second.items()) is keeps
    assert (SECRETS.keys() & second.keys() != set()) is keeps


@pytest.mark.parametrize(("status", "method", "body"), [(302, "GET", b""), (307, "POST", b"a=1")])
async def test_a_posted_form(status: int, method: str, body: bytes) -> None:
    parent = Parent({f"{HERE}/x": (status, "/y", b""), f"{HERE}/y": (200, "", b"")})
    await parent.send(Request(f"{HERE}/x", data=b"a=1"))
    assert [(each["method"], each["body"]) for each in parent.asked] == [
        ("POST", b"a=1"),
        (method, body),
    ]


@pytest.mark.parametrize("data", [b"ab", [b"a", b"b"]])
async def test_bodies_come_in_several_forms(data: Any) -> None:
    parent = Parent({f"{HERE}/x": (200, "", b"")})
    await parent.send(Request(f"{HERE}/x", data=data))
    assert parent.asked[0]["body"] == b"ab"


@pytest.mark.parametrize("status", [304, 404, 500])
async def test_what_is_no_success_is_an_http_error(status: int) -> None:
    with pytest.raises(HTTPError) as raised:
        await Parent({f"{HERE}/x": (status, "", b"why")}).send(Request(f"{HERE}/x"))
    assert raised.value.status == status
    assert raised.value.response.read() == b"why"


async def test_a_body_that_was_cut_can_be_read_up_to_there() -> None:
    parent = Parent({f"{HERE}/x": (200, "", b"abcdef")}, cut=True)
    answer = await parent.send(Request(f"{HERE}/x"))
    assert answer.read(4) == b"abcd"
    with pytest.raises(IncompleteRead):
        answer.read(4)
    with pytest.raises(IncompleteRead):
        (await parent.send(Request(f"{HERE}/x"))).read()


async def test_a_refusal_is_an_error_of_the_network() -> None:
    with pytest.raises(TransportError):
        await Parent({}).send(Request(f"{HERE}/x"))


async def test_a_question_that_is_too_long_closes_the_channel() -> None:
    parent = Parent({f"{HERE}/x": (200, "", b"")})
    with pytest.raises(TransportError):
        await parent.send(Request(f"{HERE}/x", data=bytes(2 * 1024 * 1024)))
    assert parent.asked == []


async def test_a_fault_of_the_parent_is_not_hidden() -> None:
    async def answer(_: bytes, __: bytes) -> Message:
        raise KeyError("a fault")

    async def ask() -> None:
        async with answering(answer) as channel:
            with pytest.raises(EOFError):
                await asyncio.to_thread(Questions(channel).ask, {"a": 1})

    with pytest.raises(KeyError):
        await ask()
