"""Documents count their changes, and a lecture can fail for what it holds.

Why: an old answer can overtake a newer event, and a cache tells them apart by ``revision``, which
documents had not.  A user's own name for a document is part of what that user sees of it, so a
change of the name counts as well; ``updated_at`` is the document's own and leaves it out.
``blocked_content`` comes ahead of the scanner that will set it, since the version before this one
must be able to run beside the one after it.
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# Whoever renames holds the document's row lock already, or takes it here, after the link's.
COUNT_RENAMES = """
CREATE FUNCTION count_rename() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- Any change will do: set_revision() makes it one more than it was.
    UPDATE documents SET revision = 0 WHERE id = NEW.document_id;
    RETURN NULL;
END
$$
"""

RENAMED = """
CREATE TRIGGER user_documents_count_rename AFTER UPDATE ON user_documents
FOR EACH ROW WHEN (OLD.filename IS DISTINCT FROM NEW.filename) EXECUTE FUNCTION count_rename()
"""

REVISED = """
CREATE TRIGGER documents_set_revision BEFORE UPDATE ON documents
FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION set_revision()
"""

UPDATED = """
CREATE TRIGGER documents_set_updated_at BEFORE UPDATE ON documents
FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION set_updated_at({ignored})
"""

FAILURES = (
    "'login_required', 'source_not_found', 'no_audio', 'blocked_url', 'too_large',"
    " 'truncated', 'timeout', 'network', 'cancelled', 'internal'"
)


def upgrade() -> None:
    op.execute("ALTER TABLE documents ADD revision integer NOT NULL DEFAULT 1")
    op.execute("DROP TRIGGER documents_set_updated_at ON documents")
    op.execute(UPDATED.format(ignored="'revision'"))
    op.execute(REVISED)
    op.execute(COUNT_RENAMES)
    op.execute(RENAMED)
    op.execute("ALTER TYPE lecture_failure ADD VALUE 'blocked_content' BEFORE 'cancelled'")


def downgrade() -> None:
    op.execute("DROP TRIGGER user_documents_count_rename ON user_documents")
    op.execute("DROP FUNCTION count_rename()")
    op.execute("DROP TRIGGER documents_set_revision ON documents")
    op.execute("DROP TRIGGER documents_set_updated_at ON documents")
    op.execute(UPDATED.format(ignored=""))
    op.execute("ALTER TABLE documents DROP revision")
    # A label cannot be dropped: another type takes the place of this one.
    op.execute("ALTER TYPE lecture_failure RENAME TO lecture_failure_before")
    op.execute(f"CREATE TYPE lecture_failure AS ENUM ({FAILURES})")
    op.execute(
        "ALTER TABLE lectures ALTER failure TYPE lecture_failure USING"
        " replace(failure::text, 'blocked_content', 'internal')::lecture_failure"
    )
    op.execute("DROP TYPE lecture_failure_before")
