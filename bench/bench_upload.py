"""A 100 MiB upload, against hashing and copying the same bytes durably; and the API's memory."""

import hashlib
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from uuid import uuid4

from bench.service import benched_service, resident_bytes

SIZE = 100 * 1024 * 1024
ROUNDS = 5
UPLOAD = """mutation ($input: UploadDocumentInput!) { uploadDocument(input: $input) {
  ... on UploadDocumentPayload { document { id fileUrl } } } }"""


def main() -> None:
    """Print the table."""
    with benched_service() as service, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.pdf"
        path.write_bytes(b"%PDF-1.7\n" + os.urandom(SIZE - 9))
        with service.client() as client:
            _upload(client, b"%PDF-1.7\nwarm up")
            idle = resident_bytes(service.api_pid)
            floors, uploads, reads = [], [], []
            for _ in range(ROUNDS):
                floors.append(_floor(path))
                content = path.read_bytes() + uuid4().bytes
                started = time.perf_counter()
                url = _upload(client, content)
                uploads.append(time.perf_counter() - started)
                started = time.perf_counter()
                assert len(client.get(url).content) == len(content)
                reads.append(time.perf_counter() - started)
            peak = resident_bytes(service.api_pid, "VmHWM")
    floor = statistics.median(floors)
    print("## Upload and download of 100 MiB")
    print(f"floor (sha256 + copy + fsync): {floor:.3f} s")
    print(
        f"upload: {statistics.median(uploads):.3f} s = {statistics.median(uploads) / floor:.2f} x"
    )
    print(f"download: {statistics.median(reads):.3f} s = {statistics.median(reads) / floor:.2f} x")
    print(f"API memory: idle {idle / 2**20:.0f} MiB, peak +{(peak - idle) / 2**20:.1f} MiB")


def _floor(path: Path) -> float:
    started = time.perf_counter()
    with path.open("rb") as source, tempfile.NamedTemporaryFile(dir=path.parent) as target:
        digest = hashlib.sha256()
        while chunk := source.read(1024 * 1024):
            digest.update(chunk)
            target.write(chunk)
        target.flush()
        os.fsync(target.fileno())
    return time.perf_counter() - started


def _upload(client, content: bytes) -> str:  # type: ignore[no-untyped-def]
    variables = {"input": {"courseId": str(uuid4()), "file": None}}
    fields = {
        "operations": json.dumps({"query": UPLOAD, "variables": variables}),
        "map": json.dumps({"0": ["variables.input.file"]}),
    }
    files = {"0": ("large.pdf", content, "application/pdf")}
    answer = client.post("/graphql", data=fields, files=files).raise_for_status().json()
    return answer["data"]["uploadDocument"]["document"]["fileUrl"]


if __name__ == "__main__":
    main()
