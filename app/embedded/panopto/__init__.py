"""A Panopto tenant to test against: recordings, faults to order, and the server that plays both."""

from app.embedded.panopto.link import Link
from app.embedded.panopto.recording import Faults, Recording
from app.embedded.panopto.server import PanoptoSimulator, RequestRecord

__all__ = ["Faults", "Link", "PanoptoSimulator", "Recording", "RequestRecord"]
