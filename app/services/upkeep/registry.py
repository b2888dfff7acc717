"""Every feature that keeps objects: one line each."""

from app.services.documents.stored import DOCUMENTS
from app.services.lectures.stored import LECTURES

STORED = (LECTURES, DOCUMENTS)
