"""What a resolver is given: who asks, and how to reach everything.  It holds no open session."""

from collections.abc import Collection
from dataclasses import dataclass

from app.auth.links import LinkSigner
from app.auth.viewer import Viewer
from app.backends import Backends
from app.services.quotas import Allowance, Usage
from app.settings import Settings


@dataclass(frozen=True, slots=True)
class AppState:
    """What lives as long as the process."""

    settings: Settings
    backends: Backends
    links: LinkSigner


@dataclass(frozen=True, slots=True)
class GraphQLContext:
    """One operation's context: made anew for each, also on a socket that runs many."""

    app: AppState
    viewer: Viewer
    request_id: str
    allowance: Allowance

    @property
    def usages(self) -> Collection[Usage]:
        """What the operation has used of the viewer's quotas."""
        return self.allowance.usages.values()
