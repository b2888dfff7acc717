"""Whose job is next: the SQL of a claim.

Turns go over users: a job's turn is its place among its user's waiting jobs, after those of that
user that run, so a user's first link goes before another's second.  Up to ``:users`` users with
waiting work are compared, from a random one on, and ``:jobs`` jobs of each: the cost does not grow
with the queue, and among more users than that the lot decides.  Jobs that were put off are in an
index of their own, by time, so that whoever waits for later hides nobody; of those whose time has
come, the first ``:put_off`` take part.

No user has more than ``:most_per_user`` of a claim's kinds run at once, by what this claim sees;
nobody's own work (`NOBODY`) has no such bound.

What an ended worker left behind goes first: a job whose lease was ended (`ledger.end_leases`), once
its time has come.
"""

from app.db.models import NOBODY

NEVER_PUT_OFF = "state = 'queued' AND run_at <= created_at"
_PUT_OFF = "state = 'queued' AND run_at > created_at"


def _next_user(kind: str, after: str) -> str:
    """Return SQL for the next user with waiting work, going round: one probe of the index."""
    waiting = f"SELECT user_id FROM jobs WHERE {NEVER_PUT_OFF} AND kind = {kind}"  # noqa: S608
    first = "ORDER BY user_id LIMIT 1"
    return f"coalesce(({waiting} AND user_id > {after} {first}), ({waiting} {first}))"


CLAIM = f"""
WITH RECURSIVE waiting AS (
    SELECT wanted.kind, first.user_id AS first, first.user_id, 1 AS looked_at
    FROM unnest(CAST(:kinds AS text[])) AS wanted (kind),
         LATERAL (SELECT {_next_user("wanted.kind", ":from_user")} AS user_id) AS first
    WHERE first.user_id IS NOT NULL
    UNION ALL
    SELECT kind, first, next.user_id, looked_at + 1
    FROM waiting,
         LATERAL (SELECT {_next_user("waiting.kind", "waiting.user_id")} AS user_id) AS next
    WHERE next.user_id <> first AND looked_at < :users
), found AS (
    SELECT job.* FROM waiting CROSS JOIN LATERAL (
        SELECT kind, user_id, id, run_at FROM jobs
        WHERE {NEVER_PUT_OFF} AND kind = waiting.kind AND user_id = waiting.user_id
          AND run_at <= now()
        ORDER BY run_at, id LIMIT :jobs
    ) AS job
    UNION ALL
    SELECT job.* FROM unnest(CAST(:kinds AS text[])) AS wanted (kind) CROSS JOIN LATERAL (
        SELECT kind, user_id, id, run_at FROM jobs
        WHERE {_PUT_OFF} AND kind = wanted.kind AND run_at <= now()
        ORDER BY run_at, id LIMIT :put_off
    ) AS job
), busy AS (
    SELECT kind, user_id, count(*) AS jobs FROM jobs
    WHERE state = 'running' AND kind = ANY(:kinds) AND lease_until >= now()
    GROUP BY kind, user_id
), due AS (
    SELECT id, user_id, run_at AS since, false AS left_behind, coalesce(busy.jobs, 0)
           + row_number() OVER (PARTITION BY kind, user_id ORDER BY run_at, id) AS turn
    FROM found LEFT JOIN busy USING (kind, user_id)
    UNION ALL
    SELECT id, user_id, updated_at, true, 0 FROM jobs
    WHERE state = 'running' AND kind = ANY(:kinds) AND lease_until = to_timestamp(0)
      AND run_at <= now()
), candidates AS (
    SELECT * FROM due WHERE turn <= :most_per_user OR user_id = '{NOBODY}'
    ORDER BY turn, since LIMIT :jobs
), recovered AS (
    SELECT jobs.id FROM jobs JOIN candidates USING (id)
    WHERE left_behind AND jobs.state = 'running' AND jobs.lease_until = to_timestamp(0)
    ORDER BY turn, since, id LIMIT :recovery_limit
    FOR UPDATE OF jobs SKIP LOCKED
), taken AS (
    SELECT jobs.id FROM jobs JOIN candidates USING (id)
    WHERE NOT left_behind AND jobs.state = 'queued' AND jobs.run_at <= now()
    ORDER BY turn, since, id LIMIT greatest(:limit - (SELECT count(*) FROM recovered), 0)
    FOR UPDATE OF jobs SKIP LOCKED
)
UPDATE jobs
SET state = 'running', lease_token = gen_random_uuid(), holder = :holder,
    lease_until = now() + make_interval(secs => :lease_seconds)
WHERE id IN (SELECT id FROM recovered UNION ALL SELECT id FROM taken)
RETURNING id, kind, subject_id, lease_token, attempt, crashes
"""  # noqa: S608 - its parts are the module's own
