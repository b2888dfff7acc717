"""`studybuddy storage copy`: the copy with a progress bar, and its result as an exit code."""

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from app.errors import ConfigurationError, StorageError
from app.settings import Settings
from app.storage.copying import CopyJob, Outcome
from app.storage.factory import open_storage

_FAILED_EXIT = 1


async def copy_storage(
    settings: Settings,
    source_url: str,
    target_url: str,
    *,
    concurrency: int,
    dry_run: bool,
    compare: bool,
    is_left_out: Callable[[str], bool],
) -> int:
    """Copy one storage into another; 0 where all of it is there, 1 where anything failed.

    The summary goes to standard output, bar and failures to standard error.  Both URLs use the
    same S3_… settings.
    """
    _check_urls(source_url, target_url)
    source = open_storage(settings.model_copy(update={"storage_url": source_url}))
    target = open_storage(settings.model_copy(update={"storage_url": target_url}))
    job = CopyJob(source, target, concurrency, dry_run, compare, is_left_out)
    try:
        counts = await _run(job)
    except StorageError as error:
        sys.stderr.write(f"studybuddy: a storage cannot be listed: {error.message}\n")
        return _FAILED_EXIT
    finally:
        await source.close()
        await target.close()
    verb = "to copy" if dry_run else Outcome.COPIED.value
    parts = [f"{counts[Outcome.COPIED]} {verb}"]
    parts += [f"{counts[outcome]} {outcome.value}" for outcome in list(Outcome)[1:]]
    sys.stdout.write(", ".join(parts) + "\n")
    return _FAILED_EXIT if counts[Outcome.FAILED] else 0


def _check_urls(source_url: str, target_url: str) -> None:
    if source_url.rstrip("/") == target_url.rstrip("/"):
        raise ConfigurationError("--from and --to: they are the same storage")
    parts = urlsplit(source_url)
    if parts.scheme == "file" and not Path(unquote(parts.path)).is_dir():
        raise ConfigurationError("--from: there is no such directory")


async def _run(job: CopyJob) -> Counter[Outcome]:
    counts: Counter[Outcome] = Counter()
    infos = await job.list_source()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=Console(file=sys.stderr)) as bar:
        task = bar.add_task("copying", total=sum(info.size_bytes for info in infos))
        async for copied in job.run(infos):
            counts[copied.outcome] += 1
            bar.advance(task, copied.info.size_bytes)
            if copied.problem:
                bar.console.print(f"{copied.info.key}: {copied.problem}", markup=False)
    return counts
