"""The tables of users, courses, lectures, documents and links.

Why: everything that the API shows.  A recording is one row per course, found again by its Panopto
session or, where that is not known, by its canonical URL; a document by the SHA-256 of its bytes.
The unique constraints are what makes concurrent requests agree, so they are all here from the
start.  ``course_id`` has no foreign key: clients may name courses that no catalogue has.
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ENUMS = {
    "lecture_status": "'pending', 'downloading', 'completed', 'failed'",
    "lecture_failure": (
        "'login_required', 'source_not_found', 'no_audio', 'blocked_url', 'too_large',"
        " 'truncated', 'timeout', 'network', 'cancelled', 'internal'"
    ),
    "download_stage": "'resolving', 'fetching', 'extracting'",
    "document_status": "'uploaded', 'failed'",
}

USERS = """
CREATE TABLE users (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    issuer text NOT NULL,
    subject text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_users PRIMARY KEY (id),
    CONSTRAINT uq_users_issuer_subject UNIQUE (issuer, subject)
)
"""

COURSES = """
CREATE TABLE courses (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    code text NOT NULL,
    title text NOT NULL,
    instructor text,
    is_official boolean NOT NULL DEFAULT false,
    owner_id uuid,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_courses PRIMARY KEY (id),
    CONSTRAINT uq_courses_code UNIQUE (code),
    CONSTRAINT fk_courses_owner_id_users FOREIGN KEY (owner_id) REFERENCES users ON DELETE CASCADE
)
"""

# A progress update must be heap-only: the fill factor leaves it room in the row's own page, and no
# index may name stage, downloaded_bytes, total_bytes, revision or updated_at.
LECTURES = """
CREATE TABLE lectures (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    course_id uuid NOT NULL,
    panopto_session_id text,
    panopto_url text NOT NULL,
    canonical_url text NOT NULL,
    stream_url text,
    title text,
    audio_storage_key text,
    transcript_storage_key text,
    duration_seconds integer,
    status lecture_status NOT NULL DEFAULT 'pending',
    failure lecture_failure,
    error_message text,
    stage download_stage,
    downloaded_bytes bigint NOT NULL DEFAULT 0,
    total_bytes bigint,
    revision integer NOT NULL DEFAULT 1,
    attempt integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz,
    started_at timestamptz,
    completed_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_lectures PRIMARY KEY (id),
    CONSTRAINT uq_lectures_course_id_panopto_session_id UNIQUE (course_id, panopto_session_id),
    CONSTRAINT ck_lectures_session_id CHECK (panopto_session_id = lower(panopto_session_id)),
    CONSTRAINT ck_lectures_urls
        CHECK (char_length(panopto_url) <= 2048 AND char_length(stream_url) <= 2048),
    CONSTRAINT ck_lectures_canonical_url CHECK (octet_length(canonical_url) <= 2600),
    CONSTRAINT ck_lectures_failure CHECK ((status = 'failed') = (failure IS NOT NULL)),
    CONSTRAINT ck_lectures_counts CHECK (
        downloaded_bytes >= 0 AND total_bytes >= 0 AND duration_seconds >= 0 AND attempt >= 0
    )
) WITH (fillfactor = 80)
"""

LECTURE_ALIASES = """
CREATE TABLE lecture_aliases (
    id uuid NOT NULL,
    lecture_id uuid NOT NULL,
    course_id uuid NOT NULL,
    canonical_url text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_lecture_aliases PRIMARY KEY (id),
    CONSTRAINT uq_lecture_aliases_course_id_canonical_url UNIQUE (course_id, canonical_url),
    CONSTRAINT fk_lecture_aliases_lecture_id_lectures
        FOREIGN KEY (lecture_id) REFERENCES lectures ON DELETE CASCADE,
    CONSTRAINT ck_lecture_aliases_other CHECK (id <> lecture_id),
    CONSTRAINT ck_lecture_aliases_canonical_url CHECK (octet_length(canonical_url) <= 2600)
)
"""

DOCUMENTS = """
CREATE TABLE documents (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    course_id uuid NOT NULL,
    filename text NOT NULL,
    storage_key text NOT NULL,
    checksum text NOT NULL,
    mime_type text NOT NULL,
    size_bytes bigint NOT NULL,
    page_count integer,
    description text,
    status document_status NOT NULL DEFAULT 'uploaded',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_documents PRIMARY KEY (id),
    CONSTRAINT uq_documents_course_id_checksum UNIQUE (course_id, checksum),
    CONSTRAINT ck_documents_checksum CHECK (checksum ~ '^[0-9a-f]{64}$'),
    CONSTRAINT ck_documents_counts CHECK (size_bytes >= 0 AND page_count >= 0)
)
"""

USER_LECTURES = """
CREATE TABLE user_lectures (
    user_id uuid NOT NULL,
    lecture_id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_user_lectures PRIMARY KEY (user_id, lecture_id),
    CONSTRAINT fk_user_lectures_user_id_users
        FOREIGN KEY (user_id) REFERENCES users ON DELETE CASCADE,
    CONSTRAINT fk_user_lectures_lecture_id_lectures
        FOREIGN KEY (lecture_id) REFERENCES lectures ON DELETE CASCADE
)
"""

USER_DOCUMENTS = """
CREATE TABLE user_documents (
    user_id uuid NOT NULL,
    document_id uuid NOT NULL,
    filename text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_user_documents PRIMARY KEY (user_id, document_id),
    CONSTRAINT fk_user_documents_user_id_users
        FOREIGN KEY (user_id) REFERENCES users ON DELETE CASCADE,
    CONSTRAINT fk_user_documents_document_id_documents
        FOREIGN KEY (document_id) REFERENCES documents ON DELETE CASCADE
)
"""

INDEXES = (
    "CREATE INDEX idx_lectures_course_id ON lectures (course_id)",
    # The identity where the session is not known (yet).
    "CREATE UNIQUE INDEX uq_lectures_course_id_canonical_url ON lectures (course_id, canonical_url)"
    " WHERE panopto_session_id IS NULL",
    # Everyone's lectures, newest first, for administrators.
    "CREATE INDEX idx_lectures_created_at ON lectures (created_at DESC, id)",
    "CREATE INDEX idx_lecture_aliases_lecture_id ON lecture_aliases (lecture_id)",
    "CREATE INDEX idx_documents_course_id ON documents (course_id)",
    "CREATE INDEX idx_documents_checksum ON documents (checksum)",
    # A user's own, newest link first: a page is one range of the index, whoever else there is.
    "CREATE INDEX idx_user_lectures_user_id_created_at"
    " ON user_lectures (user_id, created_at DESC, lecture_id)",
    "CREATE INDEX idx_user_documents_user_id_created_at"
    " ON user_documents (user_id, created_at DESC, document_id)",
    # Who is linked to it: for the last unlink, for wake-ups, and for the cascade.
    "CREATE INDEX idx_user_lectures_lecture_id ON user_lectures (lecture_id)",
    "CREATE INDEX idx_user_documents_document_id ON user_documents (document_id)",
)


def upgrade() -> None:
    for name, labels in ENUMS.items():
        op.execute(f"CREATE TYPE {name} AS ENUM ({labels})")
    for table in (USERS, COURSES, LECTURES, LECTURE_ALIASES, DOCUMENTS):
        op.execute(table)
    for table in (USER_LECTURES, USER_DOCUMENTS):
        op.execute(table)
    for index in INDEXES:
        op.execute(index)


def downgrade() -> None:
    links = "user_lectures, user_documents, lecture_aliases"
    op.execute(f"DROP TABLE {links}, lectures, documents, courses, users")
    op.execute(f"DROP TYPE {', '.join(ENUMS)}")
