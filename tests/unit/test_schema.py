"""The exported schema: what is committed, what clients rely on, and what errors have in common."""

from pathlib import Path

from graphql import (
    GraphQLEnumType,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLObjectType,
    GraphQLScalarType,
    GraphQLUnionType,
    build_schema,
    is_specified_scalar_type,
)

from app.domain import DownloadStage, LectureFailure, LectureStatus
from app.errors import DomainError
from app.schema.kernel.errors import ERROR_MAP
from app.schema.root import sdl

ROOT = Path(__file__).parents[2]
CONTRACT = build_schema((ROOT / "tests/contract/schema.graphql").read_text())
OURS = build_schema(sdl())


def test_the_committed_schema_is_the_exported_one() -> None:
    assert (ROOT / "schema.graphql").read_text() == sdl()


def test_every_name_type_and_nullability_of_the_contract_holds() -> None:
    broken = []
    for name, promised in CONTRACT.type_map.items():
        if not name.startswith("__"):
            broken += list(_differences(name, promised, OURS.type_map.get(name)))
    assert broken == []


def _differences(name, promised, ours):  # type: ignore[no-untyped-def]
    if type(ours) is not type(promised):
        yield f"{name}: {ours}"
    elif isinstance(promised, GraphQLObjectType | GraphQLInterfaceType | GraphQLInputObjectType):
        for field_name, field in promised.fields.items():
            yield from _field_differences(
                f"{name}.{field_name}", field, ours.fields.get(field_name)
            )
        for interface in getattr(promised, "interfaces", ()):
            if interface.name not in {each.name for each in ours.interfaces}:
                yield f"{name} implements {interface.name}"
    elif isinstance(promised, GraphQLUnionType):
        if [t.name for t in promised.types] != [t.name for t in ours.types]:
            yield f"{name}: {ours.types}"
    elif isinstance(promised, GraphQLScalarType):
        if promised.specified_by_url != ours.specified_by_url:
            yield f"{name}: {ours.specified_by_url}"
    elif isinstance(promised, GraphQLEnumType) and list(promised.values) != list(ours.values):
        yield f"{name}: {list(ours.values)}"


def _field_differences(name, promised, ours):  # type: ignore[no-untyped-def]
    if ours is None or str(ours.type) != str(promised.type):
        yield f"{name}: {ours and ours.type}"
        return
    for argument_name, argument in getattr(promised, "args", {}).items():
        own = ours.args.get(argument_name)
        if own is None or str(own.type) != str(argument.type):
            yield f"{name}({argument_name}): {own and own.type}"
        elif own.default_value != argument.default_value:
            yield f"{name}({argument_name}) = {own.default_value}"


def test_everything_has_a_description() -> None:
    bare = []
    for name, kind in OURS.type_map.items():
        if name.startswith("__") or is_specified_scalar_type(kind):
            continue
        parts = {name: kind}
        for member, part in {**getattr(kind, "fields", {}), **getattr(kind, "values", {})}.items():
            parts[f"{name}.{member}"] = part
            for argument, taken in getattr(part, "args", {}).items():
                parts[f"{name}.{member}({argument})"] = taken
        bare += [each for each, part in parts.items() if not part.description]
    assert bare == []


def test_enums_are_the_words_of_the_domain() -> None:
    for kind in (LectureStatus, LectureFailure, DownloadStage):
        values = OURS.type_map[kind.__name__].values  # type: ignore[attr-defined]
        assert list(values) == [member.name for member in kind]


def test_every_error_of_a_union_has_its_place_in_the_error_map() -> None:
    mapped = {handler.__class__.__name__.removesuffix("Handler") + "Error" for handler in ERROR_MAP}
    members = {
        member.name
        for union in OURS.type_map.values()
        if isinstance(union, GraphQLUnionType)
        for member in union.types
        if member.name.endswith("Error")
    }
    assert members == mapped
    interface = OURS.type_map["Error"]
    for name in members:
        assert interface in OURS.type_map[name].interfaces  # type: ignore[attr-defined]


def test_every_domain_error_has_a_code() -> None:
    def below(kind: type[DomainError]) -> set[type[DomainError]]:
        return {kind}.union(*(below(child) for child in kind.__subclasses__()))

    assert all(kind.code.isupper() for kind in below(DomainError))
