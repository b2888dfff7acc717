"""Who has written a lecture's summary, and a document's description.

Why: a transcription has a summary of its own, so that the lecture's is always that of the current
one.  ``..._by`` names the model and the version of the prompts: what is to be written anew when one
of them changes is what another one has written.
"""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

COLUMNS = {
    "transcriptions": ("summary text", "summary_source summary_source", "summary_by text"),
    "documents": ("description_source summary_source", "description_by text"),
}
CHECK = "ck_transcriptions_summary CHECK ((summary IS NULL) = (summary_source IS NULL))"


def upgrade() -> None:
    op.execute("CREATE TYPE summary_source AS ENUM ('model', 'extract')")
    for table, columns in COLUMNS.items():
        op.execute(f"ALTER TABLE {table} ADD {', ADD '.join(columns)}")
    op.execute(f"ALTER TABLE transcriptions ADD CONSTRAINT {CHECK}")


def downgrade() -> None:
    op.execute("DELETE FROM jobs WHERE kind = 'summarize'")
    for table, columns in COLUMNS.items():
        for column in columns:
            op.execute(f"ALTER TABLE {table} DROP {column.split()[0]}")
    op.execute("DROP TYPE summary_source")
