"""The triggers that keep ``updated_at`` and a lecture's ``revision``.

Why: both must be right whichever statement, tool or service writes the row, so the database keeps
them.  ``updated_at`` ignores the columns that its trigger names: a column that a later migration
adds counts as a change unless it is named too.  An update that changes nothing changes neither.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

SET_UPDATED_AT = """
CREATE FUNCTION set_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    -- The arguments are the columns that do not count; without any, TG_ARGV is null.
    ignored text[] := coalesce(TG_ARGV, '{}');
BEGIN
    IF to_jsonb(OLD) - ignored IS DISTINCT FROM to_jsonb(NEW) - ignored THEN
        NEW.updated_at := now();
    END IF;
    RETURN NEW;
END
$$
"""

SET_REVISION = """
CREATE FUNCTION set_revision() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- A statement may raise it, as a merge does that continues another lecture's count.
    NEW.revision := greatest(NEW.revision, OLD.revision) + 1;
    RETURN NEW;
END
$$
"""

IGNORED_COLUMNS = {
    "users": "",
    "courses": "",
    "lectures": "'stage', 'downloaded_bytes', 'total_bytes', 'revision'",
    "documents": "",
    "jobs": "'lease_until'",
}

TRIGGER = """
CREATE TRIGGER {table}_{function} BEFORE UPDATE ON {table}
FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION {function}({arguments})
"""


def upgrade() -> None:
    op.execute(SET_UPDATED_AT)
    op.execute(SET_REVISION)
    for table, columns in IGNORED_COLUMNS.items():
        op.execute(TRIGGER.format(table=table, function="set_updated_at", arguments=columns))
    op.execute(TRIGGER.format(table="lectures", function="set_revision", arguments=""))


def downgrade() -> None:
    op.execute("DROP TRIGGER lectures_set_revision ON lectures")
    for table in IGNORED_COLUMNS:
        op.execute(f"DROP TRIGGER {table}_set_updated_at ON {table}")
    op.execute("DROP FUNCTION set_revision()")
    op.execute("DROP FUNCTION set_updated_at()")
