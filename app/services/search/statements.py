"""The statements of search.  Each names the viewer: what they are not linked to, it never reads.

They are text, since they are held to a plan (decision 0013): a parameter is cast or parsed once, in
a MATERIALIZED part of its own, and a viewer's chunks are looked through parent by parent.
"""

from sqlalchemy import TextClause, text

from app.db.vectors import PRESENT

SCOPE = """
    seen AS MATERIALIZED (SELECT coalesce(CAST(:as_of AS timestamptz), now()) AS at),
    lectures_in AS MATERIALIZED (
        SELECT lectures.id AS lecture_id, best.*
        FROM user_lectures
        JOIN lectures ON lectures.id = user_lectures.lecture_id
        CROSS JOIN LATERAL (
            SELECT id AS transcription_id, embedder, text_config, chunk_count FROM transcriptions
            WHERE transcriptions.lecture_id = lectures.id AND status = 'completed'
              AND indexed_at <= (SELECT at FROM seen)
            ORDER BY source = 'speech_recognition' DESC, completed_at DESC, id LIMIT 1
        ) AS best
        WHERE user_lectures.user_id = :viewer_id
          AND user_lectures.created_at <= (SELECT at FROM seen)
          AND CAST(:document_id AS uuid) IS NULL
          AND (CAST(:course_id AS uuid) IS NULL OR lectures.course_id = :course_id)
          AND (CAST(:lecture_id AS uuid) IS NULL OR lectures.id = coalesce(
              (SELECT lecture_id FROM lecture_aliases WHERE id = :lecture_id), :lecture_id))
          AND (CAST(:topic_id AS uuid) IS NULL OR lectures.id IN (
              SELECT transcriptions.lecture_id FROM topics
              JOIN transcription_topics ON topic_id = topics.id
              JOIN transcriptions ON transcriptions.id = transcription_id
              WHERE topics.id = :topic_id AND topics.user_id = :viewer_id
                AND review <> 'rejected'))
          AND (CAST(:collection_id AS uuid) IS NULL OR lectures.id IN (
              SELECT collection_items.lecture_id FROM collections
              JOIN collection_items ON collection_id = collections.id
              WHERE collections.id = :collection_id AND collections.user_id = :viewer_id))
    ),
    documents_in AS MATERIALIZED (
        SELECT documents.id AS document_id, embedder, text_config, chunk_count
        FROM user_documents
        JOIN documents ON documents.id = user_documents.document_id
        WHERE user_documents.user_id = :viewer_id
          AND user_documents.created_at <= (SELECT at FROM seen)
          AND indexed_at <= (SELECT at FROM seen)
          AND CAST(:lecture_id AS uuid) IS NULL
          AND (CAST(:course_id AS uuid) IS NULL OR documents.course_id = :course_id)
          AND (CAST(:document_id AS uuid) IS NULL OR documents.id = :document_id)
          AND CAST(:topic_id AS uuid) IS NULL
          AND (CAST(:collection_id AS uuid) IS NULL OR documents.id IN (
              SELECT collection_items.document_id FROM collections
              JOIN collection_items ON collection_id = collections.id
              WHERE collections.id = :collection_id AND collections.user_id = :viewer_id))
    )
"""
"""What is looked through: the viewer's, as it was at ``:as_of``, so that later pages fit the first;
as it is now where that is null.

Of a lecture's transcriptions it is the current one, or while that is not indexed the one before.
"""

SIZE = text(
    f"""
    WITH {SCOPE}
    SELECT now() AS now, {PRESENT}, coalesce(sum(chunk_count), 0) AS chunks,
           coalesce(array_agg(DISTINCT text_config), '{{}}') AS configs
    FROM (SELECT chunk_count, text_config FROM lectures_in
          UNION ALL SELECT chunk_count, text_config FROM documents_in) AS parents
    """  # noqa: S608 - its parts are the module's own
)

_QUERIES = """
    typed AS MATERIALIZED (
        SELECT config, CASE WHEN cardinality(CAST(:prefixes AS text[])) = 0 THEN words
                            WHEN numnode(words) = 0 THEN beginnings
                            ELSE words && beginnings END AS query
        FROM (
            SELECT config, websearch_to_tsquery(CAST(config AS regconfig), :text) AS words,
                   to_tsquery(CAST(config AS regconfig),
                              array_to_string(CAST(:prefixes AS text[]), ' & ')) AS beginnings
            FROM unnest(CAST(:configs AS text[])) AS config
        ) AS parsed
    )
"""
"""The query as each configuration reads it."""

_BY_WORDS = """
    found_lectures AS (
        SELECT lecture_id, transcription_id AS parent_id, 0 AS page, chunk_index,
               ts_rank_cd(search, typed.query, 1) AS rank
        FROM lectures_in JOIN typed ON typed.config = text_config
        CROSS JOIN LATERAL (
            SELECT chunk_index, search FROM transcription_chunks
            WHERE transcription_chunks.transcription_id = lectures_in.transcription_id OFFSET 0
        ) AS chunks
        WHERE search @@ typed.query
    ),
    found_pages AS (
        SELECT CAST(NULL AS uuid), document_id, page, chunk_index,
               ts_rank_cd(search, typed.query, 1)
        FROM documents_in JOIN typed ON typed.config = text_config
        CROSS JOIN LATERAL (
            SELECT page, chunk_index, search FROM document_pages
            WHERE document_pages.document_id = documents_in.document_id OFFSET 0
        ) AS chunks
        WHERE search @@ typed.query
    ),
    found AS (
        SELECT *, CAST(0 AS float) AS nearness
        FROM (SELECT * FROM found_lectures UNION ALL SELECT * FROM found_pages) AS both_kinds
        ORDER BY rank DESC, parent_id, page, chunk_index LIMIT :ranked
    )
"""

_BY_MEANING = """
    meant AS MATERIALIZED (SELECT CAST(:embedding AS halfvec) AS embedding),
    near_lectures AS (
        SELECT lecture_id, transcription_id AS parent_id, 0 AS page, chunk_index,
               vectors.embedding <=> (SELECT embedding FROM meant) AS distance
        FROM lectures_in
        CROSS JOIN LATERAL (
            SELECT chunk_index, embedding FROM transcription_vectors
            WHERE transcription_vectors.transcription_id = lectures_in.transcription_id OFFSET 0
        ) AS vectors
        WHERE embedder = :embedder
    ),
    near_pages AS (
        SELECT CAST(NULL AS uuid), document_id, page, chunk_index,
               vectors.embedding <=> (SELECT embedding FROM meant)
        FROM documents_in
        CROSS JOIN LATERAL (
            SELECT page, chunk_index, embedding FROM page_vectors
            WHERE page_vectors.document_id = documents_in.document_id OFFSET 0
        ) AS vectors
        WHERE embedder = :embedder
    ),
    found AS (
        SELECT *, 1 - distance AS nearness
        FROM (SELECT * FROM near_lectures UNION ALL SELECT * FROM near_pages) AS both_kinds
        WHERE distance <= :farthest
        ORDER BY distance, parent_id, page, chunk_index LIMIT :ranked
    )
"""

# Beyond the exact limit: the indexes' nearest of everybody, of which only the viewer's are let
# through, the scan going on until there are enough.
_BY_MEANING_INDEXED = """
    meant AS MATERIALIZED (SELECT CAST(:embedding AS halfvec) AS embedding),
    near_lectures AS MATERIALIZED (
        SELECT transcription_id AS parent_id, 0 AS page, chunk_index,
               embedding <=> (SELECT embedding FROM meant) AS distance
        FROM transcription_vectors
        WHERE transcription_id = ANY (ARRAY(
            SELECT transcription_id FROM lectures_in WHERE embedder = :embedder))
        ORDER BY embedding <=> (SELECT embedding FROM meant) LIMIT :ranked
    ),
    near_pages AS MATERIALIZED (
        SELECT document_id AS parent_id, page, chunk_index,
               embedding <=> (SELECT embedding FROM meant) AS distance
        FROM page_vectors
        WHERE document_id = ANY (ARRAY(
            SELECT document_id FROM documents_in WHERE embedder = :embedder))
        ORDER BY embedding <=> (SELECT embedding FROM meant) LIMIT :ranked
    ),
    found AS (
        SELECT *, 1 - distance AS nearness
        FROM (SELECT lecture_id, near_lectures.* FROM near_lectures
              JOIN lectures_in ON transcription_id = parent_id
              UNION ALL SELECT CAST(NULL AS uuid), near_pages.* FROM near_pages) AS both_kinds
        WHERE distance <= :farthest
        ORDER BY distance, parent_id, page, chunk_index LIMIT :ranked
    )
"""
_BY_WORDS_INDEXED = _BY_WORDS.replace(
    "WHERE transcription_chunks.transcription_id = lectures_in.transcription_id OFFSET 0",
    "WHERE transcription_chunks.transcription_id = lectures_in.transcription_id"
    " AND search @@ typed.query",
).replace(
    "WHERE document_pages.document_id = documents_in.document_id OFFSET 0",
    "WHERE document_pages.document_id = documents_in.document_id AND search @@ typed.query",
)

INDEXED_SETTINGS = (
    "SET LOCAL hnsw.iterative_scan = relaxed_order",
    "SET LOCAL hnsw.ef_search = 200",
    "SET LOCAL hnsw.max_scan_tuples = 200000",
    "SET LOCAL enable_seqscan = off",
    "SET LOCAL enable_sort = off",
)


def _ranking(by: str, *parts: str) -> TextClause:
    return text(
        f"WITH {','.join((SCOPE, *parts))}"  # noqa: S608 - its parts are the module's own
        f" SELECT * FROM found ORDER BY {by} DESC, parent_id, page, chunk_index"
    )


BY_WORDS = _ranking("rank", _QUERIES, _BY_WORDS)
"""Rank the viewer's chunks that have the words, the best first: at most ``:ranked``.

A row has ``lecture_id`` (null for a page's), ``parent_id`` (a transcription, a document), ``page``,
``chunk_index`` and ``nearness``.
"""
BY_MEANING = _ranking("nearness", _BY_MEANING)
"""Likewise those whose meaning is near, by how near it is (the cosine)."""
BY_WORDS_INDEXED = _ranking("rank", _QUERIES, _BY_WORDS_INDEXED)
BY_MEANING_INDEXED = _ranking("nearness", _BY_MEANING_INDEXED)


_MARKED = (
    "ts_headline(CAST(config AS regconfig), translate(chunks.text, E'\\x02\\x03', '  '),"
    " typed.query, E'HighlightAll=true, StartSel=\\x02, StopSel=\\x03')"
)
DETAILS = text(
    f"""
    WITH {_QUERIES}
    SELECT number, chunks.text, CASE WHEN has_words THEN {_MARKED} END AS marked,
           chunks.end_time, chunks.sentences, chunks.sentence_vectors
    FROM unnest(CAST(:numbers AS int[]), CAST(:parent_ids AS uuid[]), CAST(:pages AS int[]),
                CAST(:chunk_indexes AS int[]), CAST(:has_words AS boolean[]))
        AS wanted (number, parent_id, page, chunk_index, has_words)
    CROSS JOIN LATERAL (
        SELECT text, end_time, sentences, sentence_vectors, text_config
        FROM transcription_chunks JOIN transcriptions ON transcriptions.id = transcription_id
        WHERE transcription_id = parent_id AND transcription_chunks.chunk_index = wanted.chunk_index
        UNION ALL
        SELECT text, NULL, NULL, NULL, text_config
        FROM document_pages JOIN documents ON documents.id = document_id
        WHERE document_id = parent_id AND document_pages.page = wanted.page
          AND document_pages.chunk_index = wanted.chunk_index
    ) AS chunks
    LEFT JOIN typed ON typed.config = chunks.text_config
    """  # noqa: S608 - its parts are the module's own
)
"""What is shown of chunks that were ranked; whose they are is looked at with their parents."""

RESPELLINGS = text(
    f"""
    WITH {SCOPE}, known AS MATERIALIZED (
        SELECT DISTINCT word FROM (
            SELECT unnest(words) AS word FROM transcriptions
            WHERE id IN (SELECT transcription_id FROM lectures_in)
            UNION ALL
            SELECT unnest(words) FROM documents WHERE id IN (SELECT document_id FROM documents_in)
        ) AS words
    )
    SELECT DISTINCT ON (typed) typed, word
    FROM unnest(CAST(:typed AS text[])) AS typed
    JOIN known ON length(word) BETWEEN length(typed) - 2 AND length(typed) + 2
              AND similarity(word, typed) >= 0.4
    WHERE typed NOT IN (SELECT word FROM known)
    ORDER BY typed, similarity(word, typed) DESC, word
    """  # noqa: S608 - its parts are the module's own
)
"""For each typed word that the viewer's have not got, the one of theirs that is most like it."""
