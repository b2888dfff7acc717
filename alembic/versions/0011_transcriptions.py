"""Transcriptions of lectures, and the windows of those that are under way.

Why: a lecture's words, by its source's captions or by a model, are rows of their own: each model
and each language that is forced has one, and it never changes the lecture's own status.  The unique
index takes no model (captions), and a language that nobody forced, for values like any other.  A
window is what a worker has heard: its successor goes on behind the last one, and the end deletes
them.
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

ENUMS = {
    "transcription_status": "'pending', 'processing', 'completed', 'failed'",
    "transcription_source": "'captions', 'speech_recognition'",
    "transcription_failure": "'no_audio', 'bad_model', 'timeout', 'cancelled', 'internal'",
}

# A progress update must be heap-only, as a lecture's: no index may name progress or revision.
TRANSCRIPTIONS = """
CREATE TABLE transcriptions (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    lecture_id uuid NOT NULL,
    requested_by uuid,
    source transcription_source NOT NULL,
    model_name text,
    model_version text,
    forced_language text,
    is_language_forced boolean NOT NULL DEFAULT false,
    language text,
    status transcription_status NOT NULL DEFAULT 'pending',
    failure transcription_failure,
    error_message text,
    warnings text[] NOT NULL DEFAULT '{}',
    avg_confidence double precision,
    processing_seconds double precision,
    progress double precision,
    duration_seconds double precision,
    storage_key text,
    text_length integer,
    revision integer NOT NULL DEFAULT 1,
    started_at timestamptz,
    completed_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_transcriptions PRIMARY KEY (id),
    CONSTRAINT fk_transcriptions_lecture_id_lectures
        FOREIGN KEY (lecture_id) REFERENCES lectures ON DELETE CASCADE,
    CONSTRAINT fk_transcriptions_requested_by_users
        FOREIGN KEY (requested_by) REFERENCES users ON DELETE SET NULL,
    CONSTRAINT ck_transcriptions_failure CHECK ((status = 'failed') = (failure IS NOT NULL)),
    CONSTRAINT ck_transcriptions_payload
        CHECK ((status = 'completed') = (storage_key IS NOT NULL)),
    CONSTRAINT ck_transcriptions_forced
        CHECK (is_language_forced = (forced_language IS NOT NULL)),
    CONSTRAINT ck_transcriptions_progress CHECK (progress BETWEEN 0 AND 100)
) WITH (fillfactor = 80)
"""

ONE_OF_A_KIND = """
CREATE UNIQUE INDEX uq_transcriptions_of_a_kind ON transcriptions
(lecture_id, source, coalesce(model_name, ''), coalesce(forced_language, ''))
"""

WINDOWS = """
CREATE TABLE transcription_windows (
    transcription_id uuid NOT NULL,
    number integer NOT NULL,
    content jsonb NOT NULL,
    CONSTRAINT pk_transcription_windows PRIMARY KEY (transcription_id, number),
    CONSTRAINT fk_transcription_windows_transcription_id_transcriptions
        FOREIGN KEY (transcription_id) REFERENCES transcriptions ON DELETE CASCADE
)
"""

TRIGGERS = """
CREATE TRIGGER transcriptions_set_updated_at BEFORE UPDATE ON transcriptions
FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*)
EXECUTE FUNCTION set_updated_at('progress', 'revision');
CREATE TRIGGER transcriptions_set_revision BEFORE UPDATE ON transcriptions
FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION set_revision();
"""


def upgrade() -> None:
    for name, values in ENUMS.items():
        op.execute(f"CREATE TYPE {name} AS ENUM ({values})")
    op.execute(TRANSCRIPTIONS)
    op.execute(ONE_OF_A_KIND)
    op.execute("CREATE INDEX idx_transcriptions_requested_by ON transcriptions (requested_by)")
    op.execute(WINDOWS)
    for statement in TRIGGERS.split(";\n"):
        if statement:
            op.execute(statement)


def downgrade() -> None:
    op.execute("DELETE FROM jobs WHERE kind = 'transcribe'")
    op.execute("DROP TABLE transcription_windows")
    op.execute("DROP TABLE transcriptions")
    for name in ENUMS:
        op.execute(f"DROP TYPE {name}")
