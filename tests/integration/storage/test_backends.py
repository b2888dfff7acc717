"""What the start of a process insists on, and how its end is kept short."""

import asyncio
import os
import time
from pathlib import Path

import pytest

from app.backends import closing_in_time, open_backends
from app.errors import ConfigurationError
from app.settings import Settings
from app.started import VARIABLE


async def test_a_folder_that_cannot_be_one_is_named(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    wrong = settings.model_copy(update={"storage_url": f"file://{tmp_path}/file/storage"})
    with pytest.raises(
        ConfigurationError, match=r"^STORAGE_URL: the storage folder cannot be used$"
    ):
        async with open_backends(wrong):
            pass


async def test_the_start_is_announced_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ear, mouth = os.pipe()
    monkeypatch.setenv(VARIABLE, str(mouth))
    for _ in range(2):
        async with open_backends(settings):
            pass
    with os.fdopen(ear, "rb") as pipe:
        assert pipe.read() == b"\n"


async def test_a_wrong_start_is_not_announced(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"x")
    wrong = settings.model_copy(update={"storage_url": f"file://{tmp_path}/file/storage"})
    ear, mouth = os.pipe()
    monkeypatch.setenv(VARIABLE, str(mouth))
    with pytest.raises(ConfigurationError):
        async with open_backends(wrong):
            pass
    os.close(mouth)
    with os.fdopen(ear, "rb") as pipe:
        assert pipe.read() == b""


async def test_everything_is_closed_in_reverse() -> None:
    closed: list[int] = []

    async def close(number: int) -> None:
        closed.append(number)

    async with closing_in_time(5) as stack:
        for number in range(3):
            stack.push_async_callback(close, number)
    assert closed == [2, 1, 0]


async def test_what_goes_wrong_in_closing_is_raised() -> None:
    async def fail() -> None:
        raise OSError("broken")

    with pytest.raises(OSError, match=r"^broken$"):
        async with closing_in_time(5) as stack:
            stack.push_async_callback(fail)


async def test_what_hangs_is_cut_short_and_the_rest_is_closed() -> None:
    closed: list[str] = []

    async def close(name: str) -> None:
        closed.append(name)

    async with closing_in_time(0.1) as stack:
        stack.push_async_callback(close, "first")
        for _ in range(3):
            stack.push_async_callback(asyncio.Event().wait)
        stack.push_async_callback(close, "last")
        began_at = time.monotonic()
    assert time.monotonic() - began_at < 1
    assert closed == ["last", "first"]


async def test_what_cannot_even_be_cancelled_is_left_behind() -> None:
    end = asyncio.Event()

    async def deaf() -> None:
        while not end.is_set():
            try:
                await end.wait()
            except asyncio.CancelledError:
                continue

    async with closing_in_time(0.1) as stack:
        stack.push_async_callback(deaf)
        began_at = time.monotonic()
    assert time.monotonic() - began_at < 2
    end.set()
