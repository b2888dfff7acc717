"""What a document may cost, measured before it is validated, in time linear in its text.

Each fragment is measured once, however often it is spread, so neither a chain of fragments that
doubles at each level nor a cycle makes the check slow.
"""

from dataclasses import dataclass

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionNode,
    SelectionSetNode,
    Source,
    TokenKind,
)
from graphql.language import Lexer
from strawberry.schema.config import StrawberryConfig

from app.schema.error_format import VALIDATION_FAILED
from app.schema.scalars import SCALARS

MAX_TOKENS = 1_000
MAX_DEPTH = 10
MAX_ALIASES = 15
MAX_FIELDS = 1_000
"""Fields with every fragment written out; a document within MAX_TOKENS that uses none has fewer."""

_INTROSPECTION_ROOTS = frozenset({"__schema", "__type"})


def schema_config() -> StrawberryConfig:
    """Return the schema's configuration: our scalars, and no suggestions in error messages."""
    return StrawberryConfig(scalar_map=SCALARS, disable_field_suggestions=True)


class LimitExceeded(GraphQLError):
    """The document is well-formed but costs more than the service allows."""

    def __init__(self, message: str, node: OperationDefinitionNode | None = None) -> None:
        super().__init__(message, node, extensions={"code": VALIDATION_FAILED})


def has_too_many_tokens(text: str) -> bool:
    """Whether the text has more than MAX_TOKENS tokens; may raise `GraphQLSyntaxError`."""
    lexer = Lexer(Source(text))
    count = 0
    while lexer.advance().kind is not TokenKind.EOF:
        count += 1
        if count > MAX_TOKENS:
            return True
    return False


def check_limits(document: DocumentNode) -> None:
    """Raise `LimitExceeded` where an operation is too deep, too wide or never ends.

    Depth counts fields, inline fragments and fragment spreads, each as one level.  Introspection
    adds no depth; its lists are limited by graphql-core's own rule.
    """
    meter = _Meter(document)
    meter.measure_fragments()
    for definition in document.definitions:
        if isinstance(definition, OperationDefinitionNode):
            _check(meter.measure(definition.selection_set), definition)


def _check(cost: "_Cost", operation: OperationDefinitionNode) -> None:
    if cost.depth > MAX_DEPTH:
        raise LimitExceeded(f"The operation is more than {MAX_DEPTH} levels deep.", operation)
    if cost.aliases > MAX_ALIASES:
        raise LimitExceeded(f"The operation has more than {MAX_ALIASES} aliases.", operation)
    if cost.fields > MAX_FIELDS:
        raise LimitExceeded(f"The operation selects more than {MAX_FIELDS} fields.", operation)


@dataclass(frozen=True, slots=True)
class _Cost:
    """What a selection set costs with its fragments written out."""

    depth: int = 0
    aliases: int = 0
    fields: int = 0


_FREE = _Cost()


class _Meter:
    """Measures selection sets of one document; a fragment's cost is remembered."""

    def __init__(self, document: DocumentNode) -> None:
        self._fragments = {
            definition.name.value: definition
            for definition in document.definitions
            if isinstance(definition, FragmentDefinitionNode)
        }
        self._costs: dict[str, _Cost] = {}
        self._open: set[str] = set()

    def measure_fragments(self) -> None:
        """Measure every fragment, used or not: the standard rules would walk them all."""
        for name in self._fragments:
            self._fragment(name)

    def measure(self, selection_set: SelectionSetNode | None) -> _Cost:
        """Return the cost of the selection set; nothing where there is none."""
        depth = aliases = fields = 0
        for selection in selection_set.selections if selection_set else ():
            inside = self._inside(selection)
            depth = max(depth, inside.depth + 1)
            aliases += inside.aliases
            fields += inside.fields
            if isinstance(selection, FieldNode):
                fields += 1
                aliases += selection.alias is not None
        return _Cost(depth, aliases, fields)

    def _inside(self, selection: SelectionNode) -> _Cost:
        if isinstance(selection, FragmentSpreadNode):
            return self._fragment(selection.name.value)
        if isinstance(selection, InlineFragmentNode):
            return self.measure(selection.selection_set)
        if not isinstance(selection, FieldNode):
            return _FREE
        cost = self.measure(selection.selection_set)
        return _without_depth(cost) if selection.name.value in _INTROSPECTION_ROOTS else cost

    def _fragment(self, name: str) -> _Cost:
        fragment = self._fragments.get(name)
        if fragment is None:  # the standard rules name what is missing
            return _FREE
        if name in self._open:
            raise LimitExceeded("A fragment spreads itself.")
        if name not in self._costs:
            self._open.add(name)
            cost = self.measure(fragment.selection_set)
            on_introspection = fragment.type_condition.name.value.startswith("__")
            self._costs[name] = _without_depth(cost) if on_introspection else cost
            self._open.remove(name)
        return self._costs[name]


def _without_depth(cost: _Cost) -> _Cost:
    return _Cost(0, cost.aliases, cost.fields)
