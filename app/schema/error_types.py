"""Expected business errors as members of each mutation's union, and the map that makes them.

Services raise domain errors; Strawberry hands each to the handler whose type the field's union
has.  What no handler takes ends in ``errors[]``.
"""

import strawberry
from strawberry.types.field import StrawberryField

from app.domain import FieldErrorCode
from app.errors import Conflict, InvalidInput, NotFound, RateLimited
from app.schema.shapes import Error

strawberry.enum(FieldErrorCode, description="What is wrong with an input field; more may come.")


@strawberry.type
class FieldError:
    """One input field and what is wrong with it."""

    path: list[str] = strawberry.field(
        description="Path of the input field, as ['input', 'panoptoUrl']."
    )
    message: str
    code: FieldErrorCode


@strawberry.type
class InvalidInputError(Error):
    """The input is well-formed but cannot be accepted."""

    field_errors: list[FieldError]


@strawberry.type
class NotFoundError(Error):
    """There is no such item, or the viewer may not know that there is."""

    missing_id: strawberry.ID = strawberry.field(
        description="Not called id: a normalising client would take the error for the thing itself."
    )

    @classmethod
    def of(cls, exception: NotFound) -> "NotFoundError":
        """Return the error in its public shape."""
        return cls(message=exception.message, missing_id=strawberry.ID(exception.item_id))


@strawberry.type(
    description="The item's state does not allow it, as retrying a lecture that has not failed."
)
class ConflictError(Error):
    """The item's state does not allow it."""


@strawberry.type
class RateLimitedError(Error):
    """Too many accepted requests in the window."""

    retry_after_seconds: int


class InvalidInputHandler(strawberry.ExceptionHandler[InvalidInput, InvalidInputError]):
    """`InvalidInput` to ``InvalidInputError``."""

    def handle(
        self, exception: InvalidInput, *, field: StrawberryField, info: strawberry.Info
    ) -> InvalidInputError:
        """Return the error in its public shape."""
        problems = [
            FieldError(path=list(problem.path), message=problem.message, code=problem.code)
            for problem in exception.problems
        ]
        return InvalidInputError(message=exception.message, field_errors=problems)


class NotFoundHandler(strawberry.ExceptionHandler[NotFound, NotFoundError]):
    """`NotFound` to ``NotFoundError``."""

    def handle(
        self, exception: NotFound, *, field: StrawberryField, info: strawberry.Info
    ) -> NotFoundError:
        """Return the error in its public shape."""
        return NotFoundError.of(exception)


class ConflictHandler(strawberry.ExceptionHandler[Conflict, ConflictError]):
    """`Conflict` to ``ConflictError``."""

    def handle(
        self, exception: Conflict, *, field: StrawberryField, info: strawberry.Info
    ) -> ConflictError:
        """Return the error in its public shape."""
        return ConflictError(message=exception.message)


class RateLimitedHandler(strawberry.ExceptionHandler[RateLimited, RateLimitedError]):
    """`RateLimited` to ``RateLimitedError``."""

    def handle(
        self, exception: RateLimited, *, field: StrawberryField, info: strawberry.Info
    ) -> RateLimitedError:
        """Return the error in its public shape."""
        return RateLimitedError(
            message=exception.message, retry_after_seconds=exception.retry_after_seconds
        )


ERROR_MAP = (InvalidInputHandler(), NotFoundHandler(), ConflictHandler(), RateLimitedHandler())
