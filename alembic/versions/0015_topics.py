"""Topics: what a user learns about, and which transcriptions are about it.

Why: names are unique without case as Unicode has it, and `lower` knows only the server's locale: so
the service writes ``folded_name``.  A topic's own vector is kept, as plain numbers, since each new
transcript is compared with all of a user's topics.  ``assigned_by`` is null where a model has
assigned it, and then there is a confidence.
"""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

TOPICS = """
CREATE TABLE topics (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL,
    name text NOT NULL,
    folded_name text NOT NULL,
    description text,
    embedding real[],
    embedding_model text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_topics PRIMARY KEY (id),
    CONSTRAINT fk_topics_user_id_users FOREIGN KEY (user_id) REFERENCES users ON DELETE CASCADE,
    CONSTRAINT uq_topics_user_id_folded_name UNIQUE (user_id, folded_name),
    CONSTRAINT ck_topics_embedding CHECK ((embedding IS NULL) = (embedding_model IS NULL))
)
"""

ASSIGNMENTS = """
CREATE TABLE transcription_topics (
    transcription_id uuid NOT NULL,
    topic_id uuid NOT NULL,
    ai_confidence double precision,
    ai_reasoning text,
    assigned_by uuid,
    review topic_review NOT NULL DEFAULT 'unreviewed',
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_transcription_topics PRIMARY KEY (transcription_id, topic_id),
    CONSTRAINT fk_transcription_topics_transcription_id_transcriptions
        FOREIGN KEY (transcription_id) REFERENCES transcriptions ON DELETE CASCADE,
    CONSTRAINT fk_transcription_topics_topic_id_topics
        FOREIGN KEY (topic_id) REFERENCES topics ON DELETE CASCADE,
    CONSTRAINT fk_transcription_topics_assigned_by_users
        FOREIGN KEY (assigned_by) REFERENCES users ON DELETE CASCADE,
    CONSTRAINT ck_transcription_topics_author
        CHECK ((assigned_by IS NULL) = (ai_confidence IS NOT NULL)),
    CONSTRAINT ck_transcription_topics_confidence CHECK (ai_confidence BETWEEN 0 AND 1)
)
"""


def upgrade() -> None:
    op.execute("CREATE TYPE topic_review AS ENUM ('unreviewed', 'accepted', 'rejected')")
    op.execute(TOPICS)
    op.execute(ASSIGNMENTS)
    op.execute("CREATE INDEX idx_transcription_topics_topic_id ON transcription_topics (topic_id)")
    op.execute(
        "CREATE INDEX idx_transcription_topics_assigned_by ON transcription_topics (assigned_by)"
    )
    op.execute(
        "CREATE TRIGGER topics_set_updated_at BEFORE UPDATE ON topics"
        " FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*)"
        " EXECUTE FUNCTION set_updated_at('embedding', 'embedding_model')"
    )


def downgrade() -> None:
    op.execute("DROP TABLE transcription_topics")
    op.execute("DROP TABLE topics")
    op.execute("DROP TYPE topic_review")
