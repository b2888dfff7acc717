"""Every feature that keeps objects: one line each.

Transcriptions come before lectures, in whose folder theirs lies.
"""

from app.services.documents.stored import DOCUMENTS
from app.services.lectures.stored import LECTURES
from app.services.transcripts.stored import TRANSCRIPTIONS

STORED = (TRANSCRIPTIONS, LECTURES, DOCUMENTS)
