"""Contact with the database lasts while its answers follow each other closely."""

from datetime import UTC, datetime, timedelta

import pytest

from app.db.contact import LONGEST_GAP, Contact, prolonged

START = datetime(2026, 1, 1, tzinfo=UTC)
LEASE = timedelta(seconds=6)


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def seen(*moments: float) -> Contact:
    contact = None
    for moment in moments:
        contact = prolonged(contact, START + seconds(moment))
    assert contact is not None
    return contact


def test_contact_of_a_lease_is_trusted_until_the_next_answer_is_overdue() -> None:
    assert seen(0).trusted_until(LEASE) is None
    assert seen(0, 2, 5).trusted_until(LEASE) is None
    contact = seen(0, 2, 5, 6)
    assert contact == Contact(START, START + seconds(6))
    assert contact.trusted_until(LEASE) == START + seconds(6) + LONGEST_GAP


@pytest.mark.parametrize("jump", [3.01, 3600, -0.01])
def test_a_gap_begins_anew(jump: float) -> None:
    contact = seen(0, 3, 6, 6 + jump)
    assert contact == Contact(START + seconds(6 + jump), START + seconds(6 + jump))
    assert contact.trusted_until(LEASE) is None
