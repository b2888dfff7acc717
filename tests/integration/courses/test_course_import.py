"""`studybuddy courses import`: the catalogue from a file, all of it or nothing."""

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import text

from app.cli import main
from app.db.engine import make_engine
from app.services.courses.catalogue_file import CannotRead, ListedCourse, read_courses

BIOLOGY = ListedCourse("BIO 101", "Introduction to Biology", "Dr. Green")

Row = tuple[str, str, str | None, bool]


@pytest.fixture(autouse=True)
def _servers(monkeypatch: pytest.MonkeyPatch, database_url: str, redis_url: str) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setattr("signal.signal", lambda *_: None)  # pytest's own stay as they are


def _import(tmp_path: Path, content: str) -> int:
    file = tmp_path / "courses.csv"
    file.write_text(content)
    return main(["courses", "import", str(file)])


def _run(database_url: str, statement: str) -> list[Row]:
    async def run() -> list[Row]:
        engine = make_engine(database_url, pool_size=1)
        async with engine.begin() as connection:
            result = await connection.execute(text(statement))
            rows = [tuple(row) for row in result] if result.returns_rows else []
        await engine.dispose()
        return rows  # type: ignore[return-value]  # SQLAlchemy does not know the columns

    return asyncio.run(run())


def _courses(database_url: str) -> list[Row]:
    columns = "code, title, instructor, is_official"
    return _run(database_url, f"SELECT {columns} FROM courses ORDER BY lower(code)")


@pytest.mark.parametrize(
    "content",
    [
        b"code,title,instructor\nBIO 101,Introduction to Biology,Dr. Green\n",
        b"\xef\xbb\xbfcode;title;instructor\r\nBIO 101;Introduction to Biology;Dr. Green\r\n",
        b"Title\tInstructor\tCode\nIntroduction to Biology\tDr. Green\tBIO 101",
        b'unit,CODE, title ,instructor\n\n4,"BIO  101","Introduction\nto Biology"," Dr. Green"\n',
        b"code,title,instructor,,\nBIO 101,Introduction to Biology,Dr. Green,,,\n,,,,\n",
        b"code,title,instructor\nBIO 101,Introduction to Biology,Dr. Green\nbio101,Twice,X\n",
    ],
    ids=["plain", "semicolons and a mark", "tabs", "more columns", "trailing commas", "sections"],
)
def test_reads_what_spreadsheets_write(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "courses.csv"
    file.write_bytes(content)
    assert read_courses(file) == [BIOLOGY]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "line 1: the first line must name the columns"),
        (b"BIO 101,Biology,Dr. Green\n", "line 1: the first line must name the columns"),
        (b"code,title\nBIO 101,Biology\n,Chemistry\n", "line 3: there is no code"),
        (b"code,title\nBIO 101, \n", "line 2: there is no title"),
        (b"code,title\nBIO 101\n", "line 2: there is no title"),
        (b"code,title\n" + b"x" * 41 + b",Biology\n", "line 2: the code has more than 40"),
        (b"code,title\nBIO 101," + b"x" * 301, "line 2: the title has more than 300"),
        (b"code,title\nBIO 101,a\x00b\n", "line 2: the title has characters"),
        (b"code,title\nBIO 101,Cells, tissues\n", "line 2: it has more columns"),
        (b'code,title\nBIO 101,"Biology\n', "line 2: unexpected end of data"),
        (b"code,title\nBIO 101,Biologie f\xfcr alle\n", "line 2: it is not UTF-8"),
    ],
)
def test_says_which_line_is_wrong(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "courses.csv"
    file.write_bytes(content)
    with pytest.raises(CannotRead) as caught:
        read_courses(file)
    assert str(caught.value).startswith(f"courses.csv, {reason}")
    assert str(tmp_path) not in str(caught.value)


def test_adds_changes_and_keeps_by_code(
    tmp_path: Path, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _run(database_url, "INSERT INTO users (issuer, subject) VALUES ('i', 'ada')")
    _run(
        database_url,
        "INSERT INTO courses (code, title, owner_id) SELECT 'MINE', 'My own', id FROM users",
    )
    assert _import(tmp_path, "code,title\nBIO 101,Biology\nMTH 161,Calculus\n") == 0
    assert capsys.readouterr().out == "2 added, 0 changed, 0 as they were\n"
    changed = "code;title;instructor\nbio101;Introduction to Biology;Dr. Green\nCSC 171;Programs;\n"
    assert _import(tmp_path, changed + "MTH 161;Calculus;\n") == 0
    assert capsys.readouterr().out == "1 added, 1 changed, 1 as they were\n"
    assert _courses(database_url) == [
        ("bio101", "Introduction to Biology", "Dr. Green", True),
        ("CSC 171", "Programs", None, True),
        ("MINE", "My own", None, False),
        ("MTH 161", "Calculus", None, True),
    ]


def test_a_bad_line_changes_nothing(
    tmp_path: Path, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _import(tmp_path, "code,title\nBIO 101,Biology\n,Nothing\n") == 1
    expected = "studybuddy: courses.csv, line 3: there is no code\n"
    assert capsys.readouterr() == ("", expected)
    assert main(["courses", "import", str(tmp_path / "missing.csv")]) == 1
    expected = "studybuddy: missing.csv: No such file or directory\n"
    assert capsys.readouterr() == ("", expected)
    assert _courses(database_url) == []


def test_a_database_of_another_version_is_left_alone(
    tmp_path: Path,
    empty_database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DATABASE_URL", empty_database_url)
    assert _import(tmp_path, "code,title\nBIO 101,Biology\n") == 1
    assert "run `studybuddy migrate` first" in capsys.readouterr().err
