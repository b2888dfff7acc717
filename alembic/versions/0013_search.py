"""What search looks through: chunks of transcriptions, chunks of documents' pages.

Why: a chunk is about half a minute of speech or up to 200 words of a page, with its full-text
vector in the configuration of its language.  The semantic vectors lie in tables of their own, which
exist only where the server has pgvector: `app.db.vectors` makes them.  What was indexed, when and
with which embedder is the parent's: its chunks are replaced together.
"""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

PARENTS = ("transcriptions", "documents")

INDEXED = """
ALTER TABLE {table}
    ADD COLUMN indexed_at timestamptz,
    ADD COLUMN embedder text,
    ADD COLUMN text_config text,
    ADD COLUMN chunk_count integer,
    ADD COLUMN words text[]
"""

TRANSCRIPTION_CHUNKS = """
CREATE TABLE transcription_chunks (
    transcription_id uuid NOT NULL,
    chunk_index integer NOT NULL,
    text text NOT NULL,
    start_time double precision NOT NULL,
    end_time double precision NOT NULL,
    start_char_pos integer NOT NULL,
    end_char_pos integer NOT NULL,
    confidence double precision,
    keywords text[] NOT NULL DEFAULT '{}',
    topic_summary text,
    sentences jsonb NOT NULL DEFAULT '[]',
    sentence_vectors bytea,
    search tsvector NOT NULL,
    CONSTRAINT pk_transcription_chunks PRIMARY KEY (transcription_id, chunk_index),
    CONSTRAINT fk_transcription_chunks_transcription_id_transcriptions
        FOREIGN KEY (transcription_id) REFERENCES transcriptions ON DELETE CASCADE,
    CONSTRAINT ck_transcription_chunks_times CHECK (0 <= start_time AND start_time <= end_time),
    CONSTRAINT ck_transcription_chunks_place
        CHECK (0 <= start_char_pos AND start_char_pos <= end_char_pos)
)
"""

DOCUMENT_PAGES = """
CREATE TABLE document_pages (
    document_id uuid NOT NULL,
    page integer NOT NULL,
    chunk_index integer NOT NULL,
    text text NOT NULL,
    search tsvector NOT NULL,
    CONSTRAINT pk_document_pages PRIMARY KEY (document_id, page, chunk_index),
    CONSTRAINT fk_document_pages_document_id_documents
        FOREIGN KEY (document_id) REFERENCES documents ON DELETE CASCADE,
    CONSTRAINT ck_document_pages_page CHECK (page >= 1)
)
"""

CHUNKS = ("transcription_chunks", "document_pages")


def upgrade() -> None:
    for table in PARENTS:
        op.execute(INDEXED.format(table=table))
    op.execute("ALTER TABLE documents ADD COLUMN has_text boolean")
    op.execute(TRANSCRIPTION_CHUNKS)
    op.execute(DOCUMENT_PAGES)
    for table in CHUNKS:
        # Read at once or not at all: pending entries would be searched one by one.
        op.execute(
            f"CREATE INDEX idx_{table}_search ON {table} USING gin (search) WITH (fastupdate = off)"
        )


def downgrade() -> None:
    op.execute("DELETE FROM jobs WHERE kind = 'index'")
    for table in ("transcription_vectors", "page_vectors", *CHUNKS):
        op.execute(f"DROP TABLE IF EXISTS {table}")
    op.execute("ALTER TABLE documents DROP COLUMN has_text")
    for table in PARENTS:
        for column in ("indexed_at", "embedder", "text_config", "chunk_count", "words"):
            op.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
