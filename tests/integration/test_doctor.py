"""`studybuddy doctor` as an operator runs it."""

import os
import subprocess
import sys
from uuid import uuid4

from app.settings import Settings


def _doctor(settings: Settings, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "DATABASE_URL": settings.database_url or "",
        "REDIS_URL": settings.redis_url or "",
        "DATA_DIR": str(settings.data_path),
        "COLUMNS": "120",
    }
    command = [sys.executable, "-m", "app.cli", "doctor", *options]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=30, check=False
    )


async def test_exit_codes_and_table(settings: Settings) -> None:
    well = _doctor(settings, "--deep")
    assert (well.returncode, well.stderr) == (0, "")
    assert well.stdout == "Rows, objects and jobs fit together.\n"

    key = f"audio/{uuid4()}.m4a"
    orphan = settings.data_path / "storage" / key
    orphan.parent.mkdir(parents=True)
    orphan.write_bytes(b"x")
    ill = _doctor(settings)
    assert (ill.returncode, ill.stderr) == (1, "")
    assert "1 findings" in ill.stdout
    assert "object without a row" in ill.stdout
    assert key in ill.stdout
    assert orphan.exists(), "it changes nothing"


async def test_a_database_that_does_not_answer(settings: Settings) -> None:
    away = settings.model_copy(update={"database_url": "postgresql://x@127.0.0.1:1/x"})
    answer = _doctor(away)
    assert answer.returncode == 1
    assert answer.stderr.startswith("studybuddy: DATABASE_URL: ")
    assert "Traceback" not in answer.stderr
