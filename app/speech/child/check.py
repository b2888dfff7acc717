"""The child's task that looks whether a model can be used, before any recording is given to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from app.speech import gate
from app.speech.child.recognizer import Recognizer
from app.speech.child.sound import RATE, Sound

_SECONDS = 4
_LEAST_CONFIDENCE = 0.3
_MOST_TOKENS = 40


def run(arguments: dict[str, Any]) -> dict[str, Any]:
    """Load the ``model`` and let it hear the first seconds of ``speech``, a recording in English.

    Returns ``{"problem": …}``, a sentence, or None.
    """
    return {"problem": _problem(arguments["model"], Path(arguments["speech"]))}


def _problem(model: dict[str, Any], speech: Path) -> str | None:
    try:
        recognizer = Recognizer(**model)
        if not recognizer.has_fitting_features:
            return "its preprocessor_config.json is of another model"
        with Sound(speech) as sound:
            samples = sound.read(0, min(len(sound), _SECONDS * RATE))
        # Spoiled weights go on and on.
        passages = list(recognizer.passages(samples, "en", most_tokens=_MOST_TOKENS))
    except Exception as error:  # noqa: BLE001 - the engine's parts raise bare ones; each is told
        return " ".join(str(error).split())[:300] or type(error).__name__
    said = " ".join(passage.text for passage in passages)
    sure = max((passage.confidence for passage in passages), default=0.0)
    if gate.is_no_text(said) or sure < _LEAST_CONFIDENCE:
        return f"it hears {said[:40]!r} in four seconds of English speech"
    return None
