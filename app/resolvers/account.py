"""The account: who is asking, and what they may."""

import strawberry

from app.resolvers.info import Info, counter
from app.schema.account import Limits, Viewer
from app.schema.kernel.limits import LINKS_PER_REQUEST, OPERATIONS_PER_SOCKET
from app.schema.kernel.scalars import BigInt
from app.services.kernel.keyset import MAX_PAGE_SIZE
from app.services.kernel.quotas import stored_bytes
from app.services.lectures.read import count_by_status


@strawberry.type
class AccountQueries:
    """Reading what concerns the viewer alone."""

    @strawberry.field(description="Who is asking.")
    async def viewer(self, info: Info) -> Viewer:
        """Return who is asking."""
        asking, limit = info.context.viewer, info.context.allowance.max_bytes
        return Viewer(
            id=strawberry.ID(str(asking.id)),
            is_admin=asking.is_admin,
            stored_bytes_limit=None if limit is None else BigInt(limit),
            sum_up=counter(info, lambda session: stored_bytes(session, asking.id)),
            count_lectures=counter(info, lambda session: count_by_status(session, asking)),
        )

    @strawberry.field(description="What a client should know before it asks.")
    async def limits(self, info: Info) -> Limits:
        """Return what the service allows."""
        return Limits(
            max_upload_bytes=BigInt(info.context.app.settings.max_upload_bytes),
            operations_per_socket=OPERATIONS_PER_SOCKET,
            links_per_request=LINKS_PER_REQUEST,
            max_page_size=MAX_PAGE_SIZE,
        )
