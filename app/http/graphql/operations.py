"""Running a GraphQL operation, whichever way it came: the one place that calls graphql-core.

Strawberry builds the schema; its own `Schema.execute` and `Schema.stream` are not used, since they
parse and validate inside extension hooks, where an error of the document ends a whole socket.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast

import graphql
import strawberry
from graphql import (
    DocumentNode,
    ExecutionResult,
    OperationDefinitionNode,
    OperationType,
)
from strawberry.execution import optimized_is_awaitable
from strawberry.utils.await_maybe import await_maybe

from app.errors import BadUserInput, DomainError, StorageFull
from app.http.graphql.persisted import PersistedDocuments
from app.observability import OPERATIONS, SUBSCRIPTIONS
from app.schema.kernel.error_format import (
    BAD_USER_INPUT,
    VALIDATION_FAILED,
    format_errors,
    format_exception,
    root_cause,
)
from app.schema.kernel.limits import MAX_VARIABLE_VALUES, has_too_many_values
from app.schema.kernel.operations import DocumentChecker, DocumentRefused
from app.schema.kernel.problems import name_problems_of_variables


@dataclass(frozen=True, slots=True)
class GraphQLRequest:
    """A well-formed request; whether its document is any good is not yet known.

    It has a ``query``, or ``document_id``, the hash that stands for one, or both.
    """

    query: str | None = None
    variables: dict[str, Any] | None = None
    operation_name: str | None = None
    document_id: str | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a checked document, ready to run."""

    request: GraphQLRequest
    document: DocumentNode
    definition: OperationDefinitionNode

    @property
    def type(self) -> OperationType:
        """What it does: read, change, or watch."""
        return self.definition.operation

    @property
    def is_subscription(self) -> bool:
        """Whether it has a stream of results in place of one."""
        return self.type is OperationType.SUBSCRIPTION


@dataclass(frozen=True, slots=True)
class Answer:
    """One result in the form of a GraphQL response.

    ``refused`` is true where there is no ``data`` entry: the operation did not run, or its source
    of events failed.  ``storage_full`` is true where there was no room for what was sent.
    """

    body: dict[str, Any]
    refused: bool = False
    storage_full: bool = False


class OperationRefused(Exception):
    """The operation cannot be started; ``answer`` tells the client why."""

    def __init__(self, errors: list[dict[str, Any]]) -> None:
        super().__init__()
        self.errors = errors
        self.answer = Answer({"errors": errors}, refused=True)


class OperationRunner:
    """Checks and runs operations against one schema."""

    def __init__(
        self, schema: strawberry.Schema, documents: PersistedDocuments, *, introspection: bool
    ) -> None:
        self._schema = schema._schema
        self._documents = documents
        self._executor_class = schema.execution_context_class
        self._hide_suggestions = not introspection
        self._checker = DocumentChecker(self._schema, introspection=introspection)

    async def prepare(self, request: GraphQLRequest, request_id: str) -> Operation:
        """Return the operation that the request names, or raise `OperationRefused`."""
        try:
            if has_too_many_values(request.variables or {}):
                raise BadUserInput(f"The variables hold more than {MAX_VARIABLE_VALUES} values.")
            text = await self._documents.find(request.query, request.document_id)
            document = self._checker.check(text)
        except DocumentRefused as refusal:
            errors = format_errors(refusal.errors, request_id, VALIDATION_FAILED)
            raise OperationRefused(errors) from None
        except DomainError as error:
            raise OperationRefused([format_exception(error, request_id)]) from None
        if request.query is not None and request.document_id is not None:
            await self._documents.remember(text, request.document_id)
        chosen = graphql.get_operation_ast(document, request.operation_name)
        if chosen is None:
            unknown = BadUserInput(
                "The document has no such operation, or operationName is needed."
            )
            raise OperationRefused([format_exception(unknown, request_id)])
        return Operation(request, document, chosen)

    async def run(self, operation: Operation, context: object, request_id: str) -> Answer:
        """Run a query or a mutation to its end."""
        running = graphql.execute(self._schema, **self._arguments(operation, context))
        result = await await_maybe(running)
        self._name_problems(operation, result)
        answer = _answer(result, request_id)
        _count(operation, failed="errors" in answer.body)
        return answer

    async def stream(
        self, operation: Operation, context: object, request_id: str
    ) -> AsyncGenerator[Answer, None]:
        """Yield every answer of any kind of operation; close it to end a subscription."""
        if not operation.is_subscription:
            yield await self.run(operation, context, request_id)
            return
        failed = False
        try:
            with SUBSCRIPTIONS.track_inprogress():
                async with aclosing(self._events(operation, context, request_id)) as answers:
                    async for answer in answers:
                        failed |= "errors" in answer.body
                        yield answer
        finally:
            _count(operation, failed=failed)

    async def _events(
        self, operation: Operation, context: object, request_id: str
    ) -> AsyncGenerator[Answer, None]:
        try:
            source = graphql.subscribe(self._schema, **self._arguments(operation, context))
            results = await await_maybe(source)
            if isinstance(results, ExecutionResult):
                self._name_problems(operation, results)
                yield _answer(results, request_id, refused=True)
                return
            async with aclosing(cast(AsyncGenerator[ExecutionResult, None], results)) as stream:
                async for result in stream:
                    yield _answer(result, request_id)
        except Exception as error:  # noqa: BLE001 - whatever the source raised; logged by the format
            yield Answer({"errors": [format_exception(error, request_id)]}, refused=True)

    def _name_problems(self, operation: Operation, result: ExecutionResult) -> None:
        given = operation.request.variables or {}
        name_problems_of_variables(self._schema, operation.definition, given, result.errors or ())

    def _arguments(self, operation: Operation, context: object) -> dict[str, Any]:
        return {
            "document": operation.document,
            "variable_values": operation.request.variables,
            "operation_name": operation.request.operation_name,
            "context_value": context,
            "executor_class": self._executor_class,
            "is_awaitable": optimized_is_awaitable,
            "operation_extensions": None,
            "hide_suggestions": self._hide_suggestions,
        }


def _count(operation: Operation, *, failed: bool) -> None:
    OPERATIONS.labels(operation.type.value, "error" if failed else "ok").inc()


def _answer(result: ExecutionResult, request_id: str, *, refused: bool = False) -> Answer:
    errors = result.errors or []
    # Bad variables leave no data and no path; a field's error has one.
    refused = refused or (result.data is None and all(error.path is None for error in errors))
    body: dict[str, Any] = {} if refused else {"data": result.data}
    if errors:
        body["errors"] = format_errors(errors, request_id, BAD_USER_INPUT)
    storage_full = any(isinstance(root_cause(error), StorageFull) for error in errors)
    return Answer(body, refused, storage_full)
