"""What a document may cost, measured before it is validated, in time linear in its text.

Each fragment is measured once, however often it is spread, so neither a chain of fragments that
doubles at each level nor a cycle makes the check slow.
"""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    GraphQLField,
    GraphQLInterfaceType,
    GraphQLObjectType,
    GraphQLSchema,
    InlineFragmentNode,
    IntValueNode,
    ListValueNode,
    NamedTypeNode,
    OperationDefinitionNode,
    SelectionNode,
    SelectionSetNode,
    Source,
    TokenKind,
    get_named_type,
)
from graphql.language import Lexer
from strawberry.schema.config import StrawberryConfig

from app.schema.kernel.error_format import VALIDATION_FAILED
from app.schema.kernel.scalars import SCALARS
from app.services.kernel.keyset import MAX_PAGE_SIZE

MAX_TOKENS = 1_000
MAX_DEPTH = 10
MAX_ALIASES = 15
MAX_FIELDS = 1_000
"""Fields with every fragment written out; a document within MAX_TOKENS that uses none has fewer."""

MAX_ROOT_FIELDS = 20
MAX_DIRECTIVES = 50
MAX_REPEATS = 100
"""Of one field with a selection of its own, in one place: comparing them all is quadratic."""

MAX_LIST_COST = 20_000
"""Fields of an answer, each list's counted as often as its page is long."""

_LIST_COSTS = {("Transcription", "export"): 300}
"""Fields that cost as much as so many others: a whole transcript is read and written each time."""

MAX_VARIABLE_VALUES = 10_000
"""In all variables together, lists and objects included: each may cost an error of its own."""

OPERATIONS_PER_SOCKET = 20
"""Subscriptions that one socket runs at once."""

LINKS_PER_REQUEST = 50
"""Lectures that one request asks for."""

_PAGE_ARGUMENT = "first"
_IDS_ARGUMENT = "ids"
_INTROSPECTION_ROOTS = frozenset({"__schema", "__type"})


def schema_config() -> StrawberryConfig:
    """Return the schema's configuration: our scalars."""
    return StrawberryConfig(scalar_map=SCALARS)


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


def has_too_many_values(variables: dict[str, Any]) -> bool:
    """Whether the variables hold more than MAX_VARIABLE_VALUES; looks at no more than that."""
    count = 0
    waiting: list[Any] = [variables]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict | list):
            count += len(value)
            if count > MAX_VARIABLE_VALUES:
                return True
            waiting.extend(value.values() if isinstance(value, dict) else value)
    return False


def check_limits(schema: GraphQLSchema, document: DocumentNode) -> int:
    """Return the number of selections that were looked at, each once.

    Raises `LimitExceeded` where an operation is too deep, too wide, too costly or never ends.
    Depth counts fields, inline fragments and fragment spreads, each as one level.  Introspection
    adds no depth; its lists are limited by graphql-core's own rule.
    """
    meter = _Meter(schema, document)
    meter.measure_fragments()
    for definition in document.definitions:
        if isinstance(definition, OperationDefinitionNode):
            root = schema.get_root_type(definition.operation)
            cost = meter.measure(definition.selection_set, root)
            _check(cost, len(meter.root_names(definition.selection_set)), definition)
    return meter.visited


def _check(cost: "_Cost", root_fields: int, operation: OperationDefinitionNode) -> None:
    directives = cost.directives + len(operation.directives or ())
    for measured, limit, message in (
        (cost.depth, MAX_DEPTH, "is more than {} levels deep"),
        (cost.aliases, MAX_ALIASES, "has more than {} aliases"),
        (root_fields, MAX_ROOT_FIELDS, "has more than {} fields at its root"),
        (cost.fields, MAX_FIELDS, "selects more than {} fields"),
        (directives, MAX_DIRECTIVES, "has more than {} directives"),
        (cost.repeats, MAX_REPEATS, "repeats a field more than {} times"),
        (cost.listed, MAX_LIST_COST, "could answer with more than {} fields: ask for less a page"),
    ):
        if measured > limit:
            raise LimitExceeded(f"The operation {message.format(limit)}.", operation)


_Parent = GraphQLObjectType | GraphQLInterfaceType | None
"""The type that a selection is made on; None where its fields are not looked up."""


@dataclass(frozen=True, slots=True)
class _Cost:
    """What a selection set costs with its fragments written out."""

    depth: int = 0
    aliases: int = 0
    fields: int = 0
    directives: int = 0
    repeats: int = 0
    listed: int = 0


_FREE = _Cost()


class _Meter:
    """Measures selection sets of one document; a fragment's cost is remembered."""

    def __init__(self, schema: GraphQLSchema, document: DocumentNode) -> None:
        self.visited = 0
        self._schema = schema
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

    def measure(self, selection_set: SelectionSetNode | None, parent: _Parent) -> _Cost:
        """Return the cost of the selection set; nothing where there is none."""
        selections = selection_set.selections if selection_set else ()
        costs = [self._selection(selection, parent) for selection in selections]
        if not costs:
            return _FREE
        repeats = Counter(map(_repeatable, selections))
        repeats.pop(None, None)
        return _Cost(
            max(cost.depth for cost in costs),
            sum(cost.aliases for cost in costs),
            sum(cost.fields for cost in costs),
            sum(cost.directives for cost in costs),
            max([*repeats.values(), *(cost.repeats for cost in costs)]),
            sum(cost.listed for cost in costs),
        )

    def root_names(self, selection_set: SelectionSetNode) -> set[str]:
        """Return the names under which the operation's root fields answer."""
        names: set[str] = set()
        seen: set[str] = set()
        waiting = [selection_set]
        while waiting:
            for selection in waiting.pop().selections:
                if isinstance(selection, FieldNode):
                    names.add((selection.alias or selection.name).value)
                elif isinstance(selection, InlineFragmentNode):
                    waiting.append(selection.selection_set)
                elif isinstance(selection, FragmentSpreadNode):
                    name = selection.name.value
                    if name in self._fragments and name not in seen:
                        seen.add(name)
                        waiting.append(self._fragments[name].selection_set)
        return names

    def _selection(self, selection: SelectionNode, parent: _Parent) -> _Cost:
        """Return the cost of one selection, itself included."""
        self.visited += 1
        own = len(selection.directives or ())
        if isinstance(selection, FieldNode):
            field = parent.fields.get(selection.name.value) if parent else None
            kind = get_named_type(field.type) if field else None
            inside = self.measure(selection.selection_set, _composite(kind))
            if selection.name.value in _INTROSPECTION_ROOTS:
                inside = replace(inside, depth=0)
            pages = _page_size(selection, field)
            own_cost = _LIST_COSTS.get((parent.name, selection.name.value), 1) if parent else 1
            return _Cost(
                inside.depth + 1,
                inside.aliases + (selection.alias is not None),
                inside.fields + 1,
                inside.directives + own,
                inside.repeats,
                min(own_cost + inside.listed * pages, MAX_LIST_COST + 1),
            )
        inside = _FREE
        if isinstance(selection, FragmentSpreadNode):
            inside = self._fragment(selection.name.value)
        elif isinstance(selection, InlineFragmentNode):
            on = selection.type_condition
            inside = self.measure(selection.selection_set, self._named(on) if on else parent)
        return replace(inside, depth=inside.depth + 1, directives=inside.directives + own)

    def _fragment(self, name: str) -> _Cost:
        fragment = self._fragments.get(name)
        if fragment is None:  # the standard rules name what is missing
            return _FREE
        if name in self._open:
            raise LimitExceeded("A fragment spreads itself.")
        if name not in self._costs:
            self._open.add(name)
            on = fragment.type_condition
            cost = self.measure(fragment.selection_set, self._named(on))
            is_introspection = on.name.value.startswith("__")
            self._costs[name] = replace(cost, depth=0) if is_introspection else cost
            self._open.remove(name)
        return self._costs[name]

    def _named(self, condition: NamedTypeNode) -> _Parent:
        return _composite(self._schema.get_type(condition.name.value))


def _composite(kind: object) -> _Parent:
    return kind if isinstance(kind, GraphQLObjectType | GraphQLInterfaceType) else None


def _repeatable(selection: SelectionNode) -> str | None:
    """Return the name that a field with a selection answers under; None for anything else."""
    if isinstance(selection, FieldNode) and selection.selection_set:
        return (selection.alias or selection.name).value
    return None


def _page_size(node: FieldNode, field: GraphQLField | None) -> int:
    """Return how many items the field may answer with: 1 where it has neither pages nor ids.

    A variable may hold the most there is: what is remembered of a document holds for all of them.
    """
    if field and _IDS_ARGUMENT in field.args:
        return _ids_asked_for(node)
    page = field.args.get(_PAGE_ARGUMENT) if field else None
    if page is None:
        return 1
    for argument in node.arguments or ():
        if argument.name.value == _PAGE_ARGUMENT and isinstance(argument.value, IntValueNode):
            # Beyond the limits it is refused by the resolver.
            return max(1, min(int(argument.value.value[:6]), MAX_PAGE_SIZE))
        if argument.name.value == _PAGE_ARGUMENT:
            return MAX_PAGE_SIZE
    return page.default_value if isinstance(page.default_value, int) else MAX_PAGE_SIZE


def _ids_asked_for(node: FieldNode) -> int:
    for argument in node.arguments or ():
        if argument.name.value == _IDS_ARGUMENT and isinstance(argument.value, ListValueNode):
            return max(1, min(len(argument.value.values), MAX_PAGE_SIZE))
    return MAX_PAGE_SIZE
