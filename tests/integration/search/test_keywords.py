"""What passages are about, and texts that are about nothing."""

import random
from collections.abc import AsyncIterator

import pytest

from app.embedder import keywords as module
from app.embedder.embedder import Embedder
from app.embedder.keywords import keywords
from app.embedder.onnx import open_embedder
from app.ingest.sandbox.run import Limits
from app.settings import load_settings
from tests.support.children import media_children

ENGLISH = (
    "Gradient descent trains neural networks. We compute the gradient of the loss function with"
    " backpropagation, and each weight takes a small step against its gradient. The learning rate"
    " says how small: with a learning rate that is too large the loss function diverges. Stochastic"
    " gradient descent takes a mini batch of training examples. Neural networks overfit."
)
GERMAN = (
    "Heute sprechen wir über die Photosynthese der Pflanzen. Das Chlorophyll nimmt Licht auf, und"
    " aus Kohlendioxid und Wasser entsteht Zucker. Ohne Licht ruht die Lichtreaktion, aber der"
    " Calvin-Zyklus läuft weiter."
)


async def keywords_of(
    texts: list[str], language: str | None, embedder: Embedder | None
) -> list[list[str]]:
    vectors = None if embedder is None else await embedder.embed(texts)
    return await keywords(texts, language, embedder, vectors)


@pytest.fixture(params=["with an embedder", "without one"])
async def embedder(request: pytest.FixtureRequest) -> AsyncIterator[Embedder | None]:
    value = "off" if request.param == "without one" else None
    async with open_embedder(load_settings(embedder=value)) as embedder:
        yield embedder
    assert media_children() == []


async def test_keywords_are_the_texts_own(embedder: Embedder | None) -> None:
    english, german = await keywords_of([ENGLISH, ENGLISH + GERMAN], "en", embedder)
    assert len(english) == 8
    assert all(each.casefold() in ENGLISH.casefold() for each in english)
    told = " ".join(english).casefold()
    assert "gradient" in told
    assert "learning rate" in told
    assert german != english


async def test_stop_words_are_the_languages_own(embedder: Embedder | None) -> None:
    (found,) = await keywords_of([GERMAN], "de-CH", embedder)
    assert any("Photosynthese" in each for each in found)
    assert not {"und", "aus", "die"} & {each.split()[0] for each in found}


async def test_no_keyword_is_a_variant_of_another(embedder: Embedder | None) -> None:
    text = "Binary trees grow. BINARY TREES, a binary tree; balanced binary trees rotate. " * 3
    (found,) = await keywords_of([text], "en", embedder)
    assert sum("binary tree" in each.casefold() for each in found) == 1


async def test_meaning_puts_the_order() -> None:
    async with open_embedder(load_settings()) as embedder:
        (with_it,) = await keywords_of([ENGLISH], "en", embedder)
    (without,) = await keywords_of([ENGLISH], "en", None)
    assert with_it != without
    assert with_it[0].casefold().endswith("gradient descent")


HOSTILE = {
    "nothing": "",
    "one word": "a" * 1_000_000,
    "many long words": f"{'ab' * 29} " * 20_000,
    "punctuation": "!?.,;:-" * 100_000,
    "halves of pairs": "\ud83d \udc00x\ud83d " * 1000,
    "control characters": "\0\x07\x1b[31m graph\0theory " * 1000,
    "abbreviations": "a.b." * 100_000,
    "quotes": "'\"" * 100_000,
    "every plane": "".join(
        " " + chr(random.Random(number).randrange(0xE000, 0x110000)) * 4 for number in range(20_000)
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_texts_are_answered_calmly(name: str, embedder: Embedder | None) -> None:
    (found, good) = await keywords_of([HOSTILE[name], ENGLISH], "en", embedder)
    assert len(found) <= 8
    for each in found:
        assert len(each) <= 80
        assert each.isprintable()
        each.encode()
    assert len(good) == 8


async def test_any_language_and_no_text(embedder: Embedder | None) -> None:
    for language in (None, "", "xx", "zh-Hant", "../../etc", "a" * 1000):
        (found,) = await keywords_of(["Gradient descent."], language, embedder)
        assert found == ["Gradient descent"]
    assert await keywords_of([], "en", embedder) == []


async def test_what_takes_too_long_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SECONDS", 0.01)
    assert await keywords_of([ENGLISH, GERMAN], "en", None) == [[], []]
    monkeypatch.setattr(module, "_SECONDS", 60)
    monkeypatch.setattr(module, "_LIMITS", Limits(64 * 1024**2, 60, 0))
    assert await keywords_of([ENGLISH, GERMAN], "en", None) == [[], []]
    assert media_children() == []


async def test_without_yake_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    assert await keywords_of([ENGLISH], "en", None) == [[]]
