"""Lectures that a stream was given for go by a name of their own, and have no session.

Why: they were found by the link alone, and what anybody's stream brought was served to everybody
(docs/decisions/0008).  Nobody can tell which of them are what their link names: each stays with
whoever is linked to it, and is found by its link and stream together.
"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        UPDATE lectures
        SET canonical_url = coalesce('panopto:' || panopto_session_id, canonical_url)
                || '#stream=' || encode(sha256(convert_to(stream_url, 'UTF8')), 'hex'),
            panopto_session_id = NULL
        WHERE stream_url IS NOT NULL
        """
    )


def downgrade() -> None:
    """Leave the names: the version before takes them for links like any other."""
