"""Cost limits: what is refused, that fragments are no way around, and that it stays quick."""

import gc
import sys
import tracemalloc
from types import FrameType

import pytest
from graphql import GraphQLSchema, build_schema, get_introspection_query, parse

from app.schema.kernel import operations as documents
from app.schema.kernel.error_format import format_errors
from app.schema.kernel.limits import check_limits
from app.schema.kernel.operations import DocumentChecker, DocumentRefused
from app.schema.root import schema as studybuddy

SCHEMA: GraphQLSchema = build_schema(
    """
    type Query {
      id: ID name(of: String): String a: Query b: Query c: Query d: Query
      page(first: Int = 20): [Query!]!
    }
    """
)
CHECKER = DocumentChecker(SCHEMA, introspection=True)
QUICK_CALLS = 100_000  # written out, some of the documents below have 2**30 fields


def _refusal(text: str, checker: DocumentChecker = CHECKER) -> str:
    """Return the first error's message."""
    with pytest.raises(DocumentRefused) as refused:
        checker.check(text)
    errors = format_errors(refused.value.errors, "r", "GRAPHQL_VALIDATION_FAILED")
    assert errors[0]["extensions"]["code"] == "GRAPHQL_VALIDATION_FAILED"
    return str(errors[0]["message"])


def _quick_refusal(text: str) -> str:
    """Return the first error's message, which must come after little work on any machine."""
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"
        assert calls < QUICK_CALLS

    sys.setprofile(count)
    try:
        return _refusal(text)
    finally:
        sys.setprofile(None)


def _nested(levels: int) -> str:
    return "{ a " * (levels - 1) + "{ id" + " }" * levels


def test_ten_levels_pass_and_eleven_do_not() -> None:
    CHECKER.check(_nested(10))
    assert "10 levels" in _refusal(_nested(11))


def test_a_fragment_spread_is_a_level() -> None:
    CHECKER.check("{ a { ...f } } fragment f on Query " + _nested(8))
    assert "10 levels" in _refusal("{ a { ...f } } fragment f on Query " + _nested(9))


def test_an_inline_fragment_is_a_level() -> None:
    CHECKER.check("{ " + "... { " * 9 + "id" + " }" * 10)
    assert "10 levels" in _refusal("{ " + "... { " * 10 + "id" + " }" * 11)


def test_fifteen_aliases_pass_and_sixteen_do_not() -> None:
    CHECKER.check("{ " + " ".join(f"x{n}: id" for n in range(15)) + " }")
    assert "15 aliases" in _refusal("{ " + " ".join(f"x{n}: id" for n in range(16)) + " }")


def test_a_fragments_aliases_count_wherever_it_is_spread() -> None:
    fragment = "fragment f on Query { " + " ".join(f"x{n}: id" for n in range(8)) + " }"
    CHECKER.check("{ a { ...f } } " + fragment)
    assert "15 aliases" in _refusal("{ a { ...f } b { ...f } } " + fragment)


def test_a_thousand_tokens_pass_and_one_more_does_not() -> None:
    document = "{ " + "a { id } " * 90 + "id " * 638 + "}"
    CHECKER.check(document)
    assert "1000 tokens" in _refusal(document.replace("}", "id }", 1))
    assert "1000 tokens" in _refusal("{" * 2000)


def test_fields_count_with_their_fragments_written_out() -> None:
    fragments = " ".join(
        f"fragment f{n} on Query {{ {' '.join(f'{name} {{ ...f{n + 1} }}' for name in 'abcd')} }}"
        for n in range(3)
    )
    CHECKER.check("{ ...f0 } " + fragments + " fragment f3 on Query { id name }")
    many = " fragment f3 on Query { " + "id name " * 10 + "}"
    assert "1000 fields" in _refusal("{ ...f0 } " + fragments + many)


@pytest.mark.parametrize(
    "body", ["a {{ ...{next} }} b {{ ...{next} }}", "...{next} ...{next}", "a {{ ...{next} }}"]
)
def test_a_chain_of_thirty_fragments_is_refused_quickly(body: str) -> None:
    chain = " ".join(
        f"fragment f{n} on Query {{ {body.format(next=f'f{n + 1}')} }}" for n in range(30)
    )
    assert "10 levels" in _quick_refusal("{ ...f0 } " + chain + " fragment f30 on Query { id }")


@pytest.mark.parametrize(
    "document",
    [
        "{ ...a } fragment a on Query { ...a }",
        "{ ...a } fragment a on Query { a { ...b } } fragment b on Query { a { ...a } }",
        "{ id } fragment a on Query { ...b } fragment b on Query { ...a }",
    ],
)
def test_fragments_in_a_cycle_are_refused_quickly(document: str) -> None:
    assert "spreads itself" in _quick_refusal(document)


def test_deep_brackets_are_refused_and_no_crash() -> None:
    for document in ("{a" * 320, "{ name(of: " + "[" * 480, "{ name(of: " + "{a:" * 300):
        with pytest.raises(DocumentRefused):
            CHECKER.check(document)


def test_the_stock_introspection_passes_where_it_is_on() -> None:
    CHECKER.check(get_introspection_query(input_value_deprecation=True, specified_by_url=True))
    off = DocumentChecker(SCHEMA, introspection=False)
    assert "introspection" in _refusal(get_introspection_query(), off)
    off.check("{ __typename }")


def test_suggestions_are_made_where_introspection_tells_the_names_too() -> None:
    misspelt = "{ nam }"
    assert "Did you mean 'name'" in _refusal(misspelt)
    assert "Did you mean" not in _refusal(misspelt, DocumentChecker(SCHEMA, introspection=False))


def test_introspection_hides_nothing_costly() -> None:
    deep = "{ __schema { types { ...t } } a " + _nested(10) + " } fragment t on __Type { name }"
    assert "10 levels" in _refusal(deep)
    lists = "{ __schema { types { fields { type { fields { type { fields { name } } } } } } } }"
    assert "introspection depth" in _refusal(lists)
    bomb = " ".join(
        f"fragment f{n} on __Type {{ ofType {{ ...f{n + 1} }} ofType {{ ...f{n + 1} }} }}"
        for n in range(30)
    )
    whole = "{ __schema { types { ...f0 } } } " + bomb + " fragment f30 on __Type { name }"
    assert "fields" in _quick_refusal(whole)


def test_a_checked_document_is_remembered() -> None:
    for text in ("{ id }", "{ id" + " " * 9000 + "}", "{ id } #" + "x" * 100_000):
        assert CHECKER.check(text) is CHECKER.check(text)
    too_heavy = "{ id } #" + "x" * 200_000
    assert CHECKER.check(too_heavy) is not CHECKER.check(too_heavy)


def test_a_page_counts_as_often_as_it_is_long() -> None:
    CHECKER.check("{ page(first: 100) { page(first: 100) { id } } }")
    assert "20000 fields" in _refusal("{ page(first: 100) { page(first: 100) { id a { id } } } }")
    CHECKER.check("{ page(first: 20) { page(first: 20) { page(first: 20) { id } } } }")
    variable = "query ($n: Int) { page(first: $n) { page(first: $n) { id a { id } } } }"
    assert "20000 fields" in _refusal(variable)


def test_ids_count_as_often_as_there_are() -> None:
    schema = build_schema("type Query { id: ID nodes(ids: [ID!]!): [Query]! }")
    checker = DocumentChecker(schema, introspection=False)
    nested = "{ nodes(ids: [%s]) { nodes(ids: $ids) { id nodes(ids: [1]) { id } } } }"
    query = "query ($ids: [ID!]!) " + nested
    checker.check(query % ", ".join(["1"] * 50))
    assert "20000 fields" in _refusal(query % ", ".join(["1"] * 100), checker)
    assert "20000 fields" in _refusal((query % "").replace("[]", "$ids"), checker)


def test_the_services_own_lists_have_room_for_every_use() -> None:
    checker = DocumentChecker(studybuddy._schema, introspection=False)
    fields = "id title status durationSeconds createdAt course { code title } progress { percent }"
    lists = "lectures{0} {{ nodes {{ {1} }} edges {{ cursor node {{ {1} }} }} totalCount }}"
    checker.check("{ " + lists.format("(first: 100)", fields) + " }")
    many = " ".join(f"x{n}: " + lists.format("{0}", fields) for n in range(10))
    checker.check("{ " + many.replace("{0}", "") + " }")
    assert "20000 fields" in _refusal("{ " + many.replace("{0}", "(first: 100)") + " }", checker)


def test_whole_transcripts_count_as_many_fields() -> None:
    checker = DocumentChecker(studybuddy._schema, introspection=False)
    page = "{{ transcriptions(first: {0}) {{ nodes {{ id {1} }} }} }}"
    export = "export(format: VTT)"
    checker.check(page.format(50, export))
    checker.check(page.format(10, " ".join(f"x{n}: {export}" for n in range(4))))
    checker.check(page.format(100, "text"))
    spread = page.format(100, "...f") + f" fragment f on Transcription {{ {export} }}"
    for query in (page.format(100, export), spread):
        assert "20000 fields" in _refusal(query, checker)


def test_fragments_do_not_hide_a_pages_cost() -> None:
    spread = "{ page(first: 100) { ...f } } fragment f on Query { page(first: 100) { ...g } } "
    CHECKER.check(spread + "fragment g on Query { id }")
    assert "20000 fields" in _refusal(spread + "fragment g on Query { id a { id } }")
    inline = "{ page(first: 100) { ... { page(first: 100) { ... on Query { id a { id } } } } } }"
    assert "20000 fields" in _refusal(inline)


def test_root_fields_count_through_fragments() -> None:
    schema = build_schema(f"type Query {{ {' '.join(f'f{n}: ID' for n in range(30))} }}")
    checker = DocumentChecker(schema, introspection=False)
    checker.check("{ " + " ".join(f"f{n}" for n in range(20)) + " f0 }")
    hidden = "{ ...f ... { f20 } } fragment f on Query { "
    refused = _refusal(hidden + " ".join(f"f{n}" for n in range(20)) + " }", checker)
    assert "20 fields at its root" in refused


def test_directives_are_counted_with_their_fragments_written_out() -> None:
    one = "@include(if: true)"
    spreads = "{ ...f " + " ".join(f"{name} {{ ...f }}" for name in "abcd") + " } "
    fragment = "fragment f on Query {{ {} }}"
    CHECKER.check(spreads + fragment.format(" ".join(f"x{n}: id {one}" for n in range(3))))
    CHECKER.check(spreads + fragment.format(f"id {one} " * 10))
    assert "50 directives" in _refusal(spreads + fragment.format(f"id {one} " * 11))
    assert "50 directives" in _refusal("{ id " + "@unknown " * 51 + "}")


def test_one_field_again_and_again_is_not_compared_with_itself_forever() -> None:
    assert "100 times" in _quick_refusal("{ " + "a { id } " * 240 + "}")


@pytest.mark.parametrize("spreads", [1, 2, 3])
def test_the_work_grows_with_the_text_and_not_with_what_it_stands_for(spreads: int) -> None:
    def chain(levels: int) -> str:
        fragments = (
            f"fragment f{n} on Query {{ {f'...f{n + 1} ' * spreads}}}" for n in range(levels)
        )
        return "{ ...f0 } " + " ".join(fragments) + f" fragment f{levels} on Query {{ id }}"

    # Each selection was seen once, though 729 spreads stand for them.
    assert check_limits(SCHEMA, parse(chain(6))) == 1 + 6 * spreads + 1


@pytest.mark.parametrize(
    "text",
    [
        "{" + " __typename" * 60 + "}#%d",
        "{ __typename }" + "#\n" * 80 + "#%d",
        "{ __typename }#%d" + "\N{GRINNING FACE}" * 500,
        "query Q%d($id: ID!) { lecture(id: $id) { id title status progress { percent } } }",
        "{ ...F } fragment F on Query { __typename } #%d",
    ],
    ids=["fields", "comments", "wide characters", "usual", "fragments"],
)
def test_remembered_documents_take_what_they_may(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_bytes = 1024 * 1024
    monkeypatch.setattr(documents, "MAX_REMEMBERED_BYTES", limit_bytes)
    checker = DocumentChecker(studybuddy._schema, introspection=True)
    checker.check(text % 10_000)
    number = 0
    tracemalloc.start()
    while len(checker._remembered) == number + 1:
        number += 1
        checker.check(text % number)
    gc.collect()
    held_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert limit_bytes * 0.2 < held_bytes <= limit_bytes
    newest = checker.check(text % number)
    assert checker.check(text % number) is newest
