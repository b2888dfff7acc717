"""The installed model of meaning, folders that are none, and what a query is remembered for."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.embedder import onnx
from app.embedder.assets import MODEL_DIRECTORY
from app.embedder.embedder import DIMENSIONS
from app.embedder.onnx import OnnxEmbedder, open_embedder
from app.errors import ConfigurationError
from app.settings import load_settings
from tests.support.children import media_children
from tests.support.loop import MOST_SECONDS, ticking

MANIFEST: dict[str, Any] = {"name": "other", "pooling": "mean", "max_tokens": 256}


@pytest.fixture
async def embedder():  # type: ignore[no-untyped-def]
    async with open_embedder(load_settings()) as embedder:
        assert embedder is not None
        yield embedder
    assert media_children() == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of an operator's, with the installed model under another name."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("model.onnx", "tokenizer.json"):
        (folder / name).symlink_to(MODEL_DIRECTORY / name)
    (folder / "manifest.json").write_text(json.dumps(MANIFEST))
    return folder


def _replace(path: Path, content: str | bytes) -> None:
    path.unlink()
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


async def _opened(folder: Path) -> str:
    async with open_embedder(load_settings(embedder=str(folder))) as embedder:
        assert embedder is not None
        return embedder.model


async def test_what_means_the_same_is_near(embedder: OnnxEmbedder) -> None:
    query = await embedder.embed_query("How do cells make energy?")
    passages = await embedder.embed(
        ["The treaty ended a war of thirty years.", "Mitochondria turn sugar into ATP."]
    )
    assert passages.dtype == query.dtype == np.float32
    assert passages @ query == pytest.approx([0.0, 0.55], abs=0.2)


async def test_any_text_has_a_vector_of_length_one(embedder: OnnxEmbedder) -> None:
    texts = ["", " ", "\0", "\ud83d", "😀" * 25_000, "a" * 100_000, "word " * 20_000, "\U0010fffd"]
    vectors = await embedder.embed(texts)
    assert vectors.shape == (len(texts), DIMENSIONS)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert (await embedder.embed([])).shape == (0, DIMENSIONS)


async def test_a_vector_is_its_texts_alone(embedder: OnnxEmbedder) -> None:
    """Whatever it is embedded with, and in whatever order."""
    texts = [f"Lecture {number} is about {'graphs and trees ' * number}." for number in range(9)]
    alone = np.concatenate([await embedder.embed([text]) for text in texts])
    together = await embedder.embed([*reversed(texts)])
    assert np.abs(together[::-1] - alone).max() < 1e-5


async def test_beyond_the_window_nothing_counts(embedder: OnnxEmbedder) -> None:
    beginning = "The heart pumps blood. " * 60
    one, other = await embedder.embed([beginning + "Graphs.", beginning + "Wars. " * 900])
    assert np.abs(one - other).max() < 1e-5


async def test_the_loop_is_not_held(embedder: OnnxEmbedder) -> None:
    await embedder.load()
    async with ticking() as ticks:
        await embedder.embed(["word " * 20_000, *["The heart pumps blood. " * 20] * 8])
    assert ticks.longest_seconds < MOST_SECONDS


async def test_cancelling_leaves_the_embedder_usable(embedder: OnnxEmbedder) -> None:
    many = asyncio.create_task(embedder.embed(["The heart pumps blood. " * 20] * 1000))
    await embedder.embed_query("heart")  # Gets its turn in between.
    assert not many.done()
    many.cancel()
    with pytest.raises(asyncio.CancelledError):
        await many
    assert (await embedder.embed_query("blood")).shape == (DIMENSIONS,)


async def test_the_last_queries_are_remembered(
    embedder: OnnxEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx, "_REMEMBERED", 2)
    first = await embedder.embed_query("first")
    await embedder.embed_query("second")
    assert await embedder.embed_query("first") is first
    await embedder.embed_query("third")  # The second is the one that was not asked for longest.
    assert await embedder.embed_query("first") is first
    await embedder.embed_query("fourth")
    await embedder.embed_query("fifth")
    again = await embedder.embed_query("first")
    assert again is not first
    assert np.array_equal(again, first)
    long = "long " * 1000
    assert await embedder.embed_query(long) is not await embedder.embed_query(long)
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 0


async def test_a_folder_of_an_operators(folder: Path) -> None:
    name, _, digest = (await _opened(folder)).rpartition("-")
    assert (name, len(digest)) == ("other", 12)
    assert media_children() == []


async def test_prefixes_go_before_queries_and_passages(folder: Path) -> None:
    prefixes = {"query_prefix": "query: ", "passage_prefix": "passage: "}
    (folder / "manifest.json").write_text(json.dumps(MANIFEST | prefixes))
    settings = load_settings(embedder=str(folder))
    async with open_embedder(settings) as with_them, open_embedder(load_settings()) as without:
        assert with_them is not None
        assert without is not None
        query = await with_them.embed_query("cells")
        passages = await with_them.embed(["cells"])
        plain = await without.embed(["query: cells", "passage: cells"])
    assert np.concatenate([[query], passages]) == pytest.approx(plain, abs=1e-5)


async def test_the_id_changes_with_whatever_changes_vectors(folder: Path) -> None:
    ids = {await _opened(folder)}
    for changed in ({"max_tokens": 128}, {"query_prefix": "query: "}):
        (folder / "manifest.json").write_text(json.dumps(MANIFEST | changed))
        ids.add(await _opened(folder))
    tokenizer = (folder / "tokenizer.json").read_text()
    _replace(folder / "tokenizer.json", tokenizer + "\n")
    ids.add(await _opened(folder))
    (folder / "model.onnx_data").write_bytes(b"weights")
    ids.add(await _opened(folder))
    assert len(ids) == 5


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
WRONG_MANIFESTS = [
    ("{", "manifest.json: "),
    ("[]", "manifest.json: "),
    (json.dumps(MANIFEST | {"name": "a/b"}), "manifest.json: name "),
    (json.dumps(MANIFEST | {"pooling": "max"}), "manifest.json: pooling "),
    (json.dumps(MANIFEST | {"max_tokens": 10**9}), "manifest.json: max_tokens "),
    (json.dumps(MANIFEST | {"pooled": "mean"}), "manifest.json: pooled "),
    (json.dumps(MANIFEST | {"sha256": {"model.onnx": "0" * 64}}), "model.onnx has not the SHA-256"),
]


@pytest.mark.parametrize(("manifest", "reason"), WRONG_MANIFESTS)
async def test_a_wrong_manifest_is_one_line(folder: Path, manifest: str, reason: str) -> None:
    (folder / "manifest.json").write_text(manifest)
    await _is_refused(folder, reason)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "manifest.json"])
async def test_a_missing_or_broken_file_is_one_line(folder: Path, name: str) -> None:
    _replace(folder / name, "no such thing")
    await _is_refused(folder, "" if name != "manifest.json" else "manifest.json")
    if name != "manifest.json":
        _replace(folder / name, POINTER)
        await _is_refused(folder, f"{name} is a pointer of Git LFS")
    (folder / name).unlink()
    await _is_refused(folder, f"it has no {name}")


async def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    await _is_refused(tmp_path / "gone", "there is no such folder")


async def test_a_file_that_cannot_be_read_is_one_line(folder: Path) -> None:
    (folder / "model.onnx_data").mkdir()
    await _is_refused(folder, "model.onnx_data cannot be read")


async def test_in_production_no_search_waits_for_the_model() -> None:
    settings = load_settings(
        environment="production",
        database_url="postgresql://db/studybuddy",
        redis_url="redis://redis:6379",
        auth_issuer="https://issuer.example.org",
        secret_key="0123456789abcdef",
    )
    async with open_embedder(settings) as ready, open_embedder(load_settings()) as other:
        assert "_loaded" in vars(ready)
        assert "_loaded" not in vars(other)


async def test_a_model_whose_vectors_mean_nothing_is_found_out(folder: Path) -> None:
    """Here by the tokenizer of another model: everything loads, and answers."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    ordinary = [word for word in words if not word.startswith("[")]
    ids = [words[word] for word in ordinary]
    words.update(zip(ordinary, [*ids[7000:], *ids[:7000]], strict=True))
    _replace(folder / "tokenizer.json", json.dumps(tokenizer))
    await _is_refused(folder, "it does not find known answers")


async def _is_refused(folder: Path, reason: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        await _opened(folder)
    assert caught.value.message.startswith(f"EMBEDDER: {reason}")
    assert "\n" not in caught.value.message
    assert media_children() == []


async def test_without_a_model_there_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path
) -> None:
    for value in ("off", " OFF "):
        async with open_embedder(load_settings(embedder=value)) as embedder:
            assert embedder is None
    monkeypatch.setattr(onnx, "MODEL_DIRECTORY", tmp_path / "gone")
    async with open_embedder(load_settings()) as embedder:
        assert embedder is None
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(onnx, "find_spec", lambda name: None if name == "onnxruntime" else name)
    await _is_refused(folder, "it needs the extra")
    monkeypatch.setattr(onnx, "MODEL_DIRECTORY", MODEL_DIRECTORY)
    async with open_embedder(load_settings()) as embedder:
        assert embedder is None


def test_a_relative_folder_is_made_absolute(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_settings(embedder="models/e5").embedder == tmp_path / "models" / "e5"
