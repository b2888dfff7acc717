"""Lectures that were uploaded, and what is known of the media of all.

Why: an upload is a lecture like any other once its audio is there, so it is a row of the same
table: ``canonical_url`` is a URN of its content, by which the index over canonical URLs finds the
same bytes again.  ``upload_storage_key`` names the file until its audio is made; its size counts
for whoever uploaded it, so it outlives the file.  A user's own name for a file is on the link.
"""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

COLUMNS = {
    "lectures": (
        "source lecture_source NOT NULL DEFAULT 'link'",
        "platform text",
        "checksum text CONSTRAINT ck_lectures_checksum CHECK (checksum ~ '^[0-9a-f]{64}$')",
        "upload_storage_key text",
        "upload_bytes bigint",
        "audio_bytes bigint",
    ),
    "user_lectures": ("filename text",),
}


def upgrade() -> None:
    op.execute("CREATE TYPE lecture_source AS ENUM ('link', 'upload')")
    for table, columns in COLUMNS.items():
        for column in columns:
            op.execute(f"ALTER TABLE {table} ADD {column}")


def downgrade() -> None:
    """Uploads go: the version before takes them for links that lead nowhere."""
    op.execute("DELETE FROM lectures WHERE source = 'upload'")
    for table, columns in COLUMNS.items():
        for column in columns:
            op.execute(f"ALTER TABLE {table} DROP {column.split()[0]}")
    op.execute("DROP TYPE lecture_source")
