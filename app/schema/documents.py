"""From the text of a document to one that is parsed, within the limits, and valid.

Parsing and validation cost far more than running a small query, so documents that passed are
remembered by their text.
"""

from collections.abc import Sequence
from functools import lru_cache

from graphql import (
    DocumentNode,
    GraphQLError,
    GraphQLSchema,
    GraphQLSyntaxError,
    NoSchemaIntrospectionCustomRule,
    parse,
    specified_rules,
    validate,
)
from strawberry.schema.validation_rules.maybe_null import MaybeNullValidationRule
from strawberry.schema.validation_rules.one_of import OneOfInputValidationRule

from app.schema.limits import MAX_TOKENS, LimitExceeded, check_limits, has_too_many_tokens

_REMEMBERED_DOCUMENTS = 512
# Longer texts (comments and strings have no limit of their own) are checked anew each time, so
# that what is remembered stays within a few MiB.
_MAX_REMEMBERED_CHARACTERS = 8 * 1024


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
        self._rules = (*specified_rules, *own_rules, *no_introspection)
        self._check_remembered = lru_cache(_REMEMBERED_DOCUMENTS)(self._check)

    def check(self, text: str) -> DocumentNode:
        """Return the document, or raise `DocumentRefused`."""
        if len(text) > _MAX_REMEMBERED_CHARACTERS:
            return self._check(text)
        return self._check_remembered(text)

    def _check(self, text: str) -> DocumentNode:
        # The limits come first and alone: the standard rules are slow on what the limits refuse.
        try:
            document = _parse(text)
            check_limits(self._schema, document)
        except GraphQLError as error:
            raise DocumentRefused([error]) from None
        errors = validate(
            self._schema, document, self._rules, max_errors=_MAX_ERRORS, hide_suggestions=True
        )
        if errors:
            raise DocumentRefused(errors)
        return document


def _parse(text: str) -> DocumentNode:
    try:
        return parse(text, max_tokens=MAX_TOKENS)
    except GraphQLSyntaxError:
        if has_too_many_tokens(text):
            raise LimitExceeded(f"The document has more than {MAX_TOKENS} tokens.") from None
        raise
