"""Where in a request's input a problem is: ``extensions.problems`` of its errors.

graphql-core tells it in prose alone.  A path begins with the name of the variable, or of the
argument where the value stands in the document, and goes on with fields and indices; a field that
is missing or unknown is named as well.
"""

import re
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, cast

import graphql
from graphql import (
    ArgumentNode,
    FieldNode,
    GraphQLError,
    GraphQLInputType,
    GraphQLSchema,
    OperationDefinitionNode,
    ValueNode,
    ValuesOfCorrectTypeRule,
    VariableDefinitionNode,
    VariableNode,
    VisitorAction,
)
from graphql.utilities import validate_input_literal, validate_input_value

from app.errors import BadUserInput

Path = list[str | int]

# As `validate_input_value` and `validate_input_literal` word it, with the path of the object.
_OF_FIELD = re.compile(
    r"Expected value of type '\w+' (?:to include required|not to include unknown) field '(\w+)'"
)


def problem(path: Iterable[str | int], message: str) -> dict[str, Any]:
    """Return one entry of ``problems``."""
    field = _OF_FIELD.match(message)
    return {"path": [*path, *(field.groups() if field else ())], "message": message}


def problem_of_argument(error: GraphQLError, cause: BadUserInput) -> dict[str, Any]:
    """Return the problem that a resolver found with an argument of its field."""
    name, *rest = cause.path
    for node in error.nodes or ():
        for argument in node.arguments or () if isinstance(node, FieldNode) else ():
            if argument.name.value == name and isinstance(argument.value, VariableNode):
                return problem([argument.value.name.value, *rest], cause.message)
    return problem(cause.path, cause.message)


class NamedValuesRule(ValuesOfCorrectTypeRule):
    """The standard rule for values in documents, whose errors also tell where the problem is."""

    _name = ""

    def enter_argument(self, node: ArgumentNode, *_args: Any) -> None:
        """Note whose value comes next."""
        self._name = node.name.value

    def enter_variable_definition(self, node: VariableDefinitionNode, *_args: Any) -> None:
        """Note whose default comes next."""
        self._name = node.variable.name.value

    def is_valid_value_node(
        self, node: ValueNode, input_type: GraphQLInputType | None
    ) -> VisitorAction:
        """Report each error of the value; what is inside it is judged with it."""

        def report(error: GraphQLError, path: Path) -> None:
            named = {"problems": [problem([self._name, *path], error.message)]}
            error.extensions = (error.extensions or {}) | named
            self.report_error(error)

        if input_type:
            hide_suggestions = self.context.hide_suggestions
            validate_input_literal(node, input_type, report, None, None, hide_suggestions)
        return graphql.SKIP


def name_problems_of_variables(
    schema: GraphQLSchema,
    definition: OperationDefinitionNode,
    given: Mapping[str, Any],
    errors: Iterable[GraphQLError],
) -> None:
    """Add its problem to each error of a variable, judging the values once more in their order."""
    unnamed = deque(error for error in errors if _is_of_variable(error))
    for variable in definition.variable_definitions or ():
        name = variable.variable.name.value
        kind = cast(GraphQLInputType, graphql.type_from_ast(schema, variable.type))
        value = given.get(name, graphql.Undefined)
        if value is graphql.Undefined and variable.default_value:
            continue
        # No further than the errors came: they are limited in number.
        for path, message in _problems(value, kind, len(unnamed)):
            unnamed.popleft().extensions = {"problems": [problem([name, *path], message)]}


class _Enough(Exception):
    """Nobody asks for more."""


def _problems(value: Any, kind: GraphQLInputType, limit: int) -> list[tuple[Path, str]]:
    """Return the first problems of an input value, each with its path."""
    found: list[tuple[Path, str]] = []
    if limit == 0:
        return found

    def note(error: GraphQLError, path: Path) -> None:
        found.append((path, error.message))
        if len(found) == limit:
            raise _Enough

    with suppress(_Enough):
        validate_input_value(value, kind, note, hide_suggestions=True)
    return found


def _is_of_variable(error: GraphQLError) -> bool:
    return error.path is None and any(
        isinstance(node, VariableDefinitionNode) for node in error.nodes or ()
    )
