"""The catalogue from a file: what a university's list of courses says, by code."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.engine import make_engine, make_sessions
from app.db.models import Course
from app.services.kernel.text import is_storable

MAX_CODE_CHARACTERS = 40
MAX_TITLE_CHARACTERS = 300
MAX_INSTRUCTOR_CHARACTERS = 300

_DELIMITERS = ",;\t"


class CannotRead(Exception):
    """The file is no list of courses; the message is one line that says where."""


@dataclass(frozen=True, slots=True)
class ListedCourse:
    """A course as the list has it."""

    code: str
    title: str
    instructor: str | None

    @property
    def key(self) -> str:
        """What the code is known by: "csc171" is "CSC 171"."""
        return _key(self.code)


@dataclass(slots=True)
class Counts:
    """What became of the listed courses."""

    added: int = 0
    changed: int = 0
    kept: int = 0


def read_courses(path: Path) -> list[ListedCourse]:
    """Read a CSV file as spreadsheets write it, or raise `CannotRead`.

    UTF-8, with a byte order mark or without; separated by commas, semicolons or tabs.  The first
    line names the columns, in any order: ``code``, ``title`` and, where there is one,
    ``instructor``.  Of lines with one code, as sections have it, the first counts.
    """
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise CannotRead(f"{path.name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise CannotRead(f"{path.name}, line {line}: it is not UTF-8") from error
    header = content.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=header.count)
    rows = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    courses: dict[str, ListedCourse] = {}
    try:
        names = [name.strip().lower() for name in next(rows, [])]
        if not {"code", "title"} <= set(names):
            raise CannotRead("the first line must name the columns code, title and instructor")
        for row in filter(any, rows):
            if any(row[len(names) :]):
                raise CannotRead("it has more columns than the first line names")
            course = _listed(dict(zip(names, row, strict=False)))
            courses.setdefault(course.key, course)
    except (csv.Error, CannotRead) as error:
        raise CannotRead(f"{path.name}, line {max(rows.line_num, 1)}: {error}") from error
    return list(courses.values())


async def change_catalogue(database_url: str, courses: Sequence[ListedCourse]) -> Counts:
    """Add the courses to the catalogue, or change those that it has under their code.

    All of them or, where something fails, none.  Courses that are not listed stay as they are, and
    so do users' own.
    """
    engine = make_engine(database_url, pool_size=1)
    try:
        async with make_sessions(engine).begin() as session:
            return await _apply(session, courses)
    finally:
        await engine.dispose()


async def _apply(session: AsyncSession, courses: Sequence[ListedCourse]) -> Counts:
    # Of two imports at once the second one sees what the first one added.
    await session.execute(text("LOCK TABLE courses IN SHARE ROW EXCLUSIVE MODE"))
    catalogue = await session.scalars(select(Course).where(Course.owner_id.is_(None)))
    stored = {_key(course.code): course for course in catalogue}
    counts = Counts()
    for listed in courses:
        course = stored.get(listed.key)
        wanted = (listed.code, listed.title, listed.instructor, True)
        if course is None:
            course = Course()
            session.add(course)
            counts.added += 1
        elif (course.code, course.title, course.instructor, course.is_official) == wanted:
            counts.kept += 1
        else:
            counts.changed += 1
        course.code, course.title, course.instructor, course.is_official = wanted
    await session.flush()
    return counts


def _listed(row: dict[str, str]) -> ListedCourse:
    code = _text(row, "code", MAX_CODE_CHARACTERS)
    title = _text(row, "title", MAX_TITLE_CHARACTERS)
    for name, value in (("code", code), ("title", title)):
        if not value:
            raise CannotRead(f"there is no {name}")
    return ListedCourse(code, title, _text(row, "instructor", MAX_INSTRUCTOR_CHARACTERS) or None)


def _text(row: dict[str, str], name: str, max_characters: int) -> str:
    value = " ".join(row.get(name, "").split())
    if len(value) > max_characters:
        raise CannotRead(f"the {name} has more than {max_characters} characters")
    if not is_storable(value):
        raise CannotRead(f"the {name} has characters that cannot be stored")
    return value


def _key(code: str) -> str:
    return "".join(code.split()).casefold()
