"""The child's task that looks whether a model can be used, before anything is searched with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from app.embedder.embedder import EmbedderFailed
from app.embedder.folder import read_folder
from app.embedder.model import OnnxModel

_LEAST_LEAD = 0.02
"""How much nearer, as a cosine, the answer must be; models of the E5 family lie close together."""
_KNOWN = (
    ("Where does a cell get its energy from?", "Mitochondria produce the power that cells need."),
    ("How do plants turn sunlight into food?", "Photosynthesis makes sugar with light."),
    ("When did the war end?", "Peace came in 1648, when both kingdoms signed the treaty."),
    ("How is the slope of a curve found?", "The derivative tells how steep a function is."),
)
"""Questions, each with its answer."""


def run(arguments: dict[str, Any]) -> dict[str, Any]:
    """Load the model in ``folder`` and let it find known answers to known questions.

    Returns ``{"problem": …}``, a part of a sentence, or None.
    """
    try:
        return {"problem": _problem(Path(arguments["folder"]))}
    except EmbedderFailed as error:
        return {"problem": str(error)}


def _problem(folder: Path) -> str | None:
    files = read_folder(folder)
    model = OnnxModel(files)
    questions = model.embed([files.manifest.query_prefix + question for question, _ in _KNOWN])
    answers = model.embed([files.manifest.passage_prefix + answer for _, answer in _KNOWN])
    nothing, long = model.embed([""]), model.embed(["word " * 10_000])
    if not np.isfinite(np.concatenate([questions, answers, nothing, long])).all():
        return "its vectors are not numbers"
    nearness = questions @ answers.T
    right = nearness.diagonal()
    wrong = (nearness - 2 * np.eye(len(_KNOWN))).max(axis=1)
    if (right - wrong).min() < _LEAST_LEAD:
        return "it does not find known answers to known questions; are pooling and prefixes right?"
    return None
