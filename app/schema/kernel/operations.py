"""From the text of a document to one that is parsed, within the limits, and valid.

Parsing and validation cost far more than running a small query, so documents that passed are
remembered by their text.
"""

from collections import OrderedDict
from collections.abc import Sequence

from graphql import (
    DocumentNode,
    GraphQLError,
    GraphQLSchema,
    GraphQLSyntaxError,
    NoSchemaIntrospectionCustomRule,
    ValuesOfCorrectTypeRule,
    parse,
    specified_rules,
    validate,
)
from strawberry.schema.validation_rules.maybe_null import MaybeNullValidationRule
from strawberry.schema.validation_rules.one_of import OneOfInputValidationRule

from app.schema.kernel.limits import MAX_TOKENS, LimitExceeded, check_limits, has_too_many_tokens
from app.schema.kernel.problems import NamedValuesRule

MAX_REMEMBERED_BYTES = 32 * 1024 * 1024
# What weighs more (comments and strings have no limit of their own) is checked anew each time, so
# that a few of them do not drive out all others.
_LARGEST_SHARE = 1 / 16
# A token with its nodes, their places and its text, where each is a field: 560 to 620 bytes with
# CPython 3.11 (tracemalloc), and 330 in most other documents.  A character is in the text, in its
# token and in CPython's copy as UTF-8, in 4 bytes each at most.
_BYTES_PER_TOKEN = 640
_BYTES_PER_CHARACTER = 12

# More help nobody; finding and printing each costs time and the answer's length.
_MAX_ERRORS = 20


class DocumentRefused(Exception):
    """The document cannot be run; ``errors`` tell why."""

    def __init__(self, errors: Sequence[GraphQLError]) -> None:
        super().__init__()
        self.errors = errors


class DocumentChecker:
    """Parses and validates documents for one schema."""

    def __init__(self, schema: GraphQLSchema, *, introspection: bool) -> None:
        self._schema = schema
        own_rules = (MaybeNullValidationRule, OneOfInputValidationRule)
        no_introspection = () if introspection else (NoSchemaIntrospectionCustomRule,)
        standard_rules = [
            NamedValuesRule if rule is ValuesOfCorrectTypeRule else rule for rule in specified_rules
        ]
        self._rules = (*standard_rules, *own_rules, *no_introspection)
        # Suggestions tell names of the schema, one guess at a time.
        self._hide_suggestions = not introspection
        self._remembered: OrderedDict[str, tuple[DocumentNode, int]] = OrderedDict()
        self._remembered_bytes = 0

    def check(self, text: str) -> DocumentNode:
        """Return the document, or raise `DocumentRefused`."""
        if text in self._remembered:
            self._remembered.move_to_end(text)
            return self._remembered[text][0]
        document = self._check(text)
        weight = _weigh(text, document)
        if weight <= MAX_REMEMBERED_BYTES * _LARGEST_SHARE:
            self._remembered[text] = document, weight
            self._remembered_bytes += weight
            while self._remembered_bytes > MAX_REMEMBERED_BYTES:  # Those used least of late go.
                _, (_, forgotten) = self._remembered.popitem(last=False)
                self._remembered_bytes -= forgotten
        return document

    def _check(self, text: str) -> DocumentNode:
        # The limits come first and alone: the standard rules are slow on what the limits refuse.
        try:
            document = _parse(text)
            check_limits(self._schema, document)
        except GraphQLError as error:
            raise DocumentRefused([error]) from None
        errors = validate(
            self._schema,
            document,
            self._rules,
            max_errors=_MAX_ERRORS,
            hide_suggestions=self._hide_suggestions,
        )
        if errors:
            raise DocumentRefused(errors)
        return document


def _weigh(text: str, document: DocumentNode) -> int:
    """Return the bytes that the document takes at most; tokens hold on to comments as well."""
    tokens = 0
    token = document.loc.start_token if document.loc else None
    while token is not None:
        tokens += 1
        token = token.next
    return tokens * _BYTES_PER_TOKEN + len(text) * _BYTES_PER_CHARACTER


def _parse(text: str) -> DocumentNode:
    try:
        return parse(text, max_tokens=MAX_TOKENS)
    except GraphQLSyntaxError:
        if has_too_many_tokens(text):
            raise LimitExceeded(f"The document has more than {MAX_TOKENS} tokens.") from None
        raise
