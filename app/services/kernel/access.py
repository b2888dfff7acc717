"""Who may do what, where being linked to it does not tell."""

from app.auth.viewer import Viewer
from app.errors import Forbidden


def require_admin(viewer: Viewer) -> None:
    """Raise `Forbidden` for anyone else."""
    if not viewer.is_admin:
        raise Forbidden
