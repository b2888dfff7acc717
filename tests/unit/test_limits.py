"""Cost limits: what is refused, that fragments are no way around, and that it stays quick."""

import time

import pytest
from graphql import GraphQLSchema, build_schema, get_introspection_query

from app.schema.documents import DocumentChecker, DocumentRefused
from app.schema.error_format import format_errors

SCHEMA: GraphQLSchema = build_schema(
    "type Query { id: ID name(of: String): String a: Query b: Query c: Query d: Query }"
)
CHECKER = DocumentChecker(SCHEMA, introspection=True)
QUICK_SECONDS = 0.1


def _refusal(text: str, checker: DocumentChecker = CHECKER) -> str:
    """Return the first error's message."""
    with pytest.raises(DocumentRefused) as refused:
        checker.check(text)
    errors = format_errors(refused.value.errors, "r", "GRAPHQL_VALIDATION_FAILED")
    assert errors[0]["extensions"]["code"] == "GRAPHQL_VALIDATION_FAILED"
    return str(errors[0]["message"])


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
    document = "{ " + "a { id } " * 200 + "id " * 198 + "}"
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
    began = time.perf_counter()
    assert "10 levels" in _refusal("{ ...f0 } " + chain + " fragment f30 on Query { id }")
    assert time.perf_counter() - began < QUICK_SECONDS


@pytest.mark.parametrize(
    "document",
    [
        "{ ...a } fragment a on Query { ...a }",
        "{ ...a } fragment a on Query { a { ...b } } fragment b on Query { a { ...a } }",
        "{ id } fragment a on Query { ...b } fragment b on Query { ...a }",
    ],
)
def test_fragments_in_a_cycle_are_refused_quickly(document: str) -> None:
    began = time.perf_counter()
    assert "spreads itself" in _refusal(document)
    assert time.perf_counter() - began < QUICK_SECONDS


def test_deep_brackets_are_refused_and_no_crash() -> None:
    for document in ("{a" * 320, "{ name(of: " + "[" * 480, "{ name(of: " + "{a:" * 300):
        with pytest.raises(DocumentRefused):
            CHECKER.check(document)


def test_the_stock_introspection_passes_where_it_is_on() -> None:
    CHECKER.check(get_introspection_query(input_value_deprecation=True, specified_by_url=True))
    off = DocumentChecker(SCHEMA, introspection=False)
    assert "introspection" in _refusal(get_introspection_query(), off)
    off.check("{ __typename }")


def test_introspection_hides_nothing_costly() -> None:
    deep = "{ __schema { types { ...t } } a " + _nested(10) + " } fragment t on __Type { name }"
    assert "10 levels" in _refusal(deep)
    lists = "{ __schema { types { fields { type { fields { type { fields { name } } } } } } } }"
    assert "introspection depth" in _refusal(lists)
    bomb = " ".join(
        f"fragment f{n} on __Type {{ ofType {{ ...f{n + 1} }} ofType {{ ...f{n + 1} }} }}"
        for n in range(30)
    )
    began = time.perf_counter()
    whole = "{ __schema { types { ...f0 } } } " + bomb + " fragment f30 on __Type { name }"
    assert "fields" in _refusal(whole)
    assert time.perf_counter() - began < QUICK_SECONDS


def test_a_checked_document_is_remembered() -> None:
    assert CHECKER.check("{ id }") is CHECKER.check("{ id }")
    long = "{ id } #" + "x" * 100_000
    assert CHECKER.check(long) is not CHECKER.check(long)
