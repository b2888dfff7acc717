"""The embedder: passages a second of CPU time against bare onnxruntime, and what the loop feels.

Both embed the same passages with the same files, one after the other in one process; the peer has
them tokenized beforehand, in the batches that suit it best, and pools nothing.
"""

import asyncio
import resource
import time

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from app.embedder.assets import MODEL_DIRECTORY
from app.embedder.onnx import open_embedder
from app.settings import load_settings

PASSAGES = 120
SENTENCE = (
    "The derivative of a function at a point is the slope of its tangent there, which we find as"
    " the limit of the slopes of secants while the distance between their two points shrinks. "
)
PEER_BATCHES = (1, 4, 16)


def main() -> None:
    """Print the table."""
    asyncio.run(_main())


async def _main() -> None:
    passages = [f"{number}. {SENTENCE * 2}" for number in range(PASSAGES)]
    async with open_embedder(load_settings(embedder=None)) as embedder:
        assert embedder is not None, "python -m app.embedder.assets has not been run"
        await embedder.load()
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        started = time.process_time()
        await embedder.embed(passages)
        rate = PASSAGES / (time.process_time() - started)
        late = asyncio.create_task(_lateness())
        await embedder.embed(passages[:20])
        late.cancel()
        queries = []
        for number in range(50):
            started = time.perf_counter()
            await embedder.embed_query(f"how do I find the slope of curve {number}?")
            queries.append(1000 * (time.perf_counter() - started))
        latest = (await asyncio.gather(late))[0]
    print("## Embedder (one core, passages of 70 tokens)")
    print("| | |\n| --- | --- |")
    print(f"| ours, passages a CPU second | {rate:.1f} |")
    for batch in PEER_BATCHES:
        peer = _peer(passages, batch)
        print(f"| onnxruntime alone, in batches of {batch} | {peer:.1f} |")
    print(f"| a query, median | {np.median(queries):.1f} ms |")
    print(f"| the loop's worst lateness meanwhile | {latest:.1f} ms |")
    print(f"| the process's memory, loaded | {memory:.0f} MiB |")


async def _lateness() -> float:
    """Return, once cancelled, the most ms by which the event loop was late."""
    worst = 0.0
    try:
        while True:
            started = time.perf_counter()
            await asyncio.sleep(0.001)
            worst = max(worst, 1000 * (time.perf_counter() - started) - 1)
    except asyncio.CancelledError:
        return worst


def _peer(passages: list[str], batch: int) -> float:
    """Return how many passages a second bare onnxruntime does."""
    tokenizer = Tokenizer.from_file(str(MODEL_DIRECTORY / "tokenizer.json"))
    tokenizer.enable_truncation(256)
    tokenizer.enable_padding()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(MODEL_DIRECTORY / "model.onnx"), options)
    batches = []
    for first in range(0, len(passages), batch):
        encodings = tokenizer.encode_batch(passages[first : first + batch])
        ids = np.array([each.ids for each in encodings])
        mask = np.array([each.attention_mask for each in encodings])
        batches.append(
            {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        )
    started = time.process_time()
    for arrays in batches:
        session.run(None, arrays)
    return len(passages) / (time.process_time() - started)


if __name__ == "__main__":
    main()
