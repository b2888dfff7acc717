"""The ledger of background work.

Why: what is to be done is written in the transaction of the thing that needs it, so it can be
neither lost nor doubled, whatever happens to the queue that rings for it.  A migration of its own,
since it depends on no other table and none depends on it.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# A heartbeat must be heap-only as well: no index may name lease_until, and the fill factor leaves
# room for the new version of the row.
JOBS = """
CREATE TABLE jobs (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    kind text NOT NULL,
    subject_id uuid NOT NULL,
    user_id uuid,
    state job_state NOT NULL DEFAULT 'queued',
    run_at timestamptz NOT NULL DEFAULT now(),
    attempt integer NOT NULL DEFAULT 0,
    crashes integer NOT NULL DEFAULT 0,
    lease_token uuid,
    lease_until timestamptz,
    last_error text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_jobs PRIMARY KEY (id),
    CONSTRAINT ck_jobs_lease CHECK (
        (state = 'running') = (lease_token IS NOT NULL)
        AND (lease_token IS NULL) = (lease_until IS NULL)
    ),
    CONSTRAINT ck_jobs_counts CHECK (attempt >= 0 AND crashes >= 0)
) WITH (fillfactor = 70)
"""

INDEXES = (
    # One open job per thing: a second request for it finds the first.
    "CREATE UNIQUE INDEX uq_jobs_kind_subject_id_open ON jobs (kind, subject_id)"
    " WHERE state IN ('queued', 'running')",
    # The claim: what is due, and what a lost worker left.
    "CREATE INDEX idx_jobs_queued ON jobs (kind, run_at) WHERE state = 'queued'",
    "CREATE INDEX idx_jobs_running ON jobs (kind) WHERE state = 'running'",
    # Pruning.
    "CREATE INDEX idx_jobs_finished ON jobs (updated_at)"
    " WHERE state IN ('done', 'failed', 'cancelled')",
)


def upgrade() -> None:
    op.execute("CREATE TYPE job_state AS ENUM ('queued', 'running', 'done', 'failed', 'cancelled')")
    op.execute(JOBS)
    for index in INDEXES:
        op.execute(index)


def downgrade() -> None:
    op.execute("DROP TABLE jobs")
    op.execute("DROP TYPE job_state")
