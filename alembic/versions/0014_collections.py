"""Collections: a user's own lists of lectures and documents, in an order of their own.

Why: positions are dense, 0 to n - 1, so that a page is a range of them.  They are unique at the end
of each statement, since a move shifts many rows at once.  Who changes them holds the collection's
row.
"""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

COLLECTIONS = """
CREATE TABLE collections (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL,
    name text NOT NULL,
    description text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_collections PRIMARY KEY (id),
    CONSTRAINT fk_collections_user_id_users
        FOREIGN KEY (user_id) REFERENCES users ON DELETE CASCADE
)
"""

ITEMS = """
CREATE TABLE collection_items (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    collection_id uuid NOT NULL,
    lecture_id uuid,
    document_id uuid,
    position integer NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_collection_items PRIMARY KEY (id),
    CONSTRAINT fk_collection_items_collection_id_collections
        FOREIGN KEY (collection_id) REFERENCES collections ON DELETE CASCADE,
    CONSTRAINT fk_collection_items_lecture_id_lectures
        FOREIGN KEY (lecture_id) REFERENCES lectures ON DELETE CASCADE,
    CONSTRAINT fk_collection_items_document_id_documents
        FOREIGN KEY (document_id) REFERENCES documents ON DELETE CASCADE,
    CONSTRAINT uq_collection_items_collection_id_position
        UNIQUE (collection_id, position) DEFERRABLE,
    CONSTRAINT uq_collection_items_lecture_id_collection_id UNIQUE (lecture_id, collection_id),
    CONSTRAINT uq_collection_items_document_id_collection_id UNIQUE (document_id, collection_id),
    CONSTRAINT ck_collection_items_subject CHECK (num_nonnulls(lecture_id, document_id) = 1),
    CONSTRAINT ck_collection_items_position CHECK (position >= 0)
)
"""


def upgrade() -> None:
    op.execute(COLLECTIONS)
    op.execute(
        "CREATE INDEX idx_collections_user_id_created_at"
        " ON collections (user_id, created_at DESC, id)"
    )
    op.execute(ITEMS)
    op.execute(
        "CREATE TRIGGER collections_set_updated_at BEFORE UPDATE ON collections"
        " FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION set_updated_at()"
    )


def downgrade() -> None:
    op.execute("DROP TABLE collection_items")
    op.execute("DROP TABLE collections")
