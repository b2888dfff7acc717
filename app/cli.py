"""The `studybuddy` command.

What a subcommand runs is imported when it runs, so that `--help` and `token` answer at once.
"""

import argparse
import asyncio
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from app.embedded.process import stop
from app.embedded.servers import EmbeddedServers, database_directory, make_data_directory
from app.errors import ConfigurationError, StorageError
from app.settings import Settings, checked_storage_url, load_settings
from app.supervisor import CannotRun, Child, Supervisor, free_address, run_command

if TYPE_CHECKING:
    from app.services.upkeep.doctor import Finding

CONFIGURATION_EXIT = 2
INTERRUPTED_EXIT = 130
TERMINATED_EXIT = 143
FINDINGS_EXIT = 1
UNEXAMINED_EXIT = 3
DEFAULT_TOKEN_SECONDS = 3600


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 (cannot run), or 2 (wrong setting).

    `doctor` returns 1 for findings, and 3 where it could not look.
    """
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options, load_settings()))
    except ConfigurationError as error:
        _complain(error.message)
        return CONFIGURATION_EXIT
    except CannotRun as error:
        _complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED_EXIT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="studybuddy",
        description="StudyBuddy's service. Settings are environment variables; see the README.",
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    def add(
        name: str, command: Callable[[argparse.Namespace, Settings], int], text: str
    ) -> argparse.ArgumentParser:
        subparser = commands.add_parser(name, help=text, description=text)
        subparser.set_defaults(command=command)
        return subparser

    add("run", _run, "The whole service: servers where none are set, migrations, API and worker.")
    add("api", _api, "The API alone.")
    add("worker", _worker, "A worker alone.")
    add("migrate", _migrate, "Bring the database to the newest schema.")
    token = add("token", _token, "Print a session token of the development issuer.")
    token.add_argument("--user", required=True, metavar="NAME", help="`admin` is an admin")
    token.add_argument("--ttl", type=_positive, default=DEFAULT_TOKEN_SECONDS, metavar="SECONDS")
    add("schema", _schema, "Print the GraphQL schema.")
    doctor = add("doctor", _doctor, "Check rows, objects and jobs against each other.")
    doctor.add_argument(
        "--deep",
        action="store_true",
        help="read every document and the outline of every recording",
    )
    courses = add("courses", _import_courses, "Look after the catalogue of courses.")
    text = "Add a CSV file's courses to the catalogue; those that it has by code are changed."
    importing = courses.add_subparsers(required=True, metavar="action").add_parser(
        "import", help=text, description=text
    )
    columns = "with the columns code, title and instructor, named in its first line"
    importing.add_argument("file", type=Path, metavar="FILE.csv", help=columns)
    text = "Index anew what has no vectors of the configured embedder; stopped, it goes on later."
    add("reindex", _reindex, text)
    storage = add("storage", _storage_copy, "Look after stored files.")
    _add_copy(storage.add_subparsers(required=True, metavar="action"))
    demo = add("demo", _demo, "Show the service at work, on a simulated Panopto.")
    demo.add_argument("--exit", action="store_true", help="end after the checks")
    return parser


def _add_copy(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "Copy all files of one storage into another; run it again to go on, or to catch up."
    copy = actions.add_parser("copy", help=text, description=text)
    place = "file:///directory or s3://bucket/prefix, with the S3_… settings"
    for name, attribute in (("--from", "source"), ("--to", "target")):
        copy.add_argument(
            name, dest=attribute, type=_storage_url, required=True, metavar="URL", help=place
        )
    copy.add_argument("--dry-run", action="store_true", help="only tell what would be copied")
    copy.add_argument("--concurrency", type=_positive, default=8, metavar="N")
    text = "compare the bytes of files that are there already"
    copy.add_argument("--checksum", action="store_true", help=text)


def _run(_: argparse.Namespace, settings: Settings) -> int:
    address = free_address(settings.host, settings.port)
    _exit_on_sigterm()
    with EmbeddedServers(settings) as servers:
        environment = {  # what a child must know that this process found out
            "DATABASE_URL": servers.settings.database_url or "",
            "REDIS_URL": servers.settings.redis_url or "",
            "PORT": str(address.port),
        }
        # Migrated in a process that gives its memory back, unlike this one, which stays.
        migration = run_command("migrate", environment)
        try:
            code = migration.wait()
        except BaseException:
            stop(migration, signal.SIGTERM, timeout_seconds=5)
            raise
        if code:
            reason = "the database could not be migrated; the message above tells why"
            raise CannotRun(reason, code)
        Supervisor(
            [Child("api", environment), Child("worker", environment)],
            address,
            announce=lambda: _say(f"StudyBuddy is ready at {address.url}/graphql"),
            tend_servers=servers.revive,
        ).run()
    return 0


def _api(_: argparse.Namespace, settings: Settings) -> int:
    free_address(settings.host, settings.port)
    _exit_on_sigterm()
    from app.http.edge.server import serve
    from app.main import create_app

    with EmbeddedServers(settings) as servers:
        _migrate_own(servers)
        asyncio.run(serve(create_app(servers.settings), servers.settings))
    return 0


def _worker(_: argparse.Namespace, settings: Settings) -> int:
    from app.worker import run_worker

    _exit_on_sigterm()
    with EmbeddedServers(settings) as servers:
        _migrate_own(servers)
        asyncio.run(run_worker(servers.settings))
    return 0


def _migrate(_: argparse.Namespace, settings: Settings) -> int:
    _exit_on_sigterm(TERMINATED_EXIT)
    with EmbeddedServers(settings) as servers:
        _upgrade(servers.settings)
    return 0


def _token(options: argparse.Namespace, settings: Settings) -> int:
    from app.auth.issuer import DevelopmentIssuer

    if not settings.uses_development_issuer:
        raise ConfigurationError(
            "AUTH_ISSUER: tokens come from it; the development issuer is off in production, "
            "and wherever this is set"
        )
    make_data_directory(settings.data_path)
    if not DevelopmentIssuer.has_key(settings.data_path):
        _complain(
            f"DATA_DIR: a new signing key is made in {settings.data_path}, since there was none; "
            "a service with another DATA_DIR answers 401 to this token"
        )
    _say(DevelopmentIssuer.load(settings.data_path).issue(options.user, options.ttl))
    return 0


def _schema(_: argparse.Namespace, __: Settings) -> int:
    from app.schema.root import sdl

    sys.stdout.write(sdl())
    return 0


def _import_courses(options: argparse.Namespace, settings: Settings) -> int:
    from app.services.courses.catalogue_file import CannotRead, change_catalogue, read_courses

    try:
        courses = read_courses(options.file)
    except CannotRead as error:
        raise CannotRun(str(error)) from error
    _exit_on_sigterm(TERMINATED_EXIT)
    with EmbeddedServers(settings) as servers, _telling_of_the_database():
        _migrate_own(servers)
        database_url = servers.settings.database_url or ""
        asyncio.run(_require_newest_schema(database_url))
        counts = asyncio.run(change_catalogue(database_url, courses))
    _say(f"{counts.added} added, {counts.changed} changed, {counts.kept} as they were")
    return 0


def _reindex(_: argparse.Namespace, settings: Settings) -> int:
    from app.db.engine import make_engine, make_sessions
    from app.embedder.onnx import open_embedder
    from app.services.search.reindex import reindex

    async def run(database_url: str) -> int:
        await _require_newest_schema(database_url)
        engine = make_engine(database_url)
        left = 0
        try:
            async with open_embedder(settings) as embedder:
                model = None if embedder is None else embedder.model
                async for state in reindex(make_sessions(engine), model):
                    _say(f"{state.left} to index, {state.waiting} jobs open")
                    left = state.left
        finally:
            await engine.dispose()
        return FINDINGS_EXIT if left else 0

    _exit_on_sigterm(TERMINATED_EXIT)
    with EmbeddedServers(settings) as servers, _telling_of_the_database():
        _migrate_own(servers)
        return asyncio.run(run(servers.settings.database_url or ""))


def _storage_copy(options: argparse.Namespace, settings: Settings) -> int:
    from app.services.kernel.storage_keys import is_temporary
    from app.storage.copy_command import copy_storage

    _exit_on_sigterm(TERMINATED_EXIT)
    return asyncio.run(
        copy_storage(
            settings,
            options.source,
            options.target,
            concurrency=options.concurrency,
            dry_run=options.dry_run,
            compare=options.checksum,
            is_left_out=is_temporary,
        )
    )


def _demo(options: argparse.Namespace, settings: Settings) -> int:
    from app.demo import demonstration as demo

    return demo.main(settings, exit_after=options.exit)


def _doctor(options: argparse.Namespace, settings: Settings) -> int:
    _exit_on_sigterm(UNEXAMINED_EXIT)
    try:
        findings = _findings(settings, deep=options.deep)
    except (ConfigurationError, CannotRun):
        raise
    except Exception:  # noqa: BLE001 - Python's own exit code for it would say: findings
        traceback.print_exc()
        return UNEXAMINED_EXIT
    if not findings:
        _say("Rows, objects and jobs fit together.")
        return 0
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Column, Table
        from rich.text import Text

        # What is too wide goes on in the next line, and nothing is cut.
        columns = (Column(name, overflow="fold") for name in ("problem", "item"))
        table = Table(*columns, title=f"{len(findings)} findings")
        for finding in findings:
            table.add_row(finding.problem, Text(_printable(finding.item)))
        Console().print(table)
    else:
        lines = (f"{finding.problem}\t{_printable(finding.item)}" for finding in findings)
        _say("\n".join([f"{len(findings)} findings", *lines]))
    return FINDINGS_EXIT


def _printable(name: str) -> str:
    """Return the name without what could break a line or command a terminal."""
    escaped = (repr(each)[1:-1] if not each.isprintable() else each for each in name)
    return "".join(escaped)


def _findings(settings: Settings, *, deep: bool) -> "list[Finding]":
    """Examine what is there; `CannotRun` where that cannot be had without making or mending it."""
    if settings.database_url is None and not database_directory(settings).exists():
        raise CannotRun(
            "DATA_DIR: there is no database in it yet; `studybuddy migrate` makes one",
            UNEXAMINED_EXIT,
        )
    with EmbeddedServers(settings) as servers:
        try:
            with _telling_of_the_database(UNEXAMINED_EXIT):
                return asyncio.run(_examine(servers.settings, deep=deep))
        except StorageError as error:
            raise CannotRun(f"STORAGE_URL: {error.message}", UNEXAMINED_EXIT) from error


async def _examine(settings: Settings, *, deep: bool) -> "list[Finding]":
    from app.db.engine import make_engine, make_sessions
    from app.services.upkeep.doctor import Doctor
    from app.storage.factory import open_scratch, open_storage

    database_url = settings.database_url or ""
    await _require_newest_schema(database_url, UNEXAMINED_EXIT)
    async with AsyncExitStack() as stack:
        engine, storage = make_engine(database_url), open_storage(settings)
        scratch = open_scratch(settings, storage)
        for close in (engine.dispose, storage.close, scratch.close):
            stack.push_async_callback(close)
        elsewhere = None if scratch is storage else scratch
        return await Doctor(make_sessions(engine), storage, elsewhere).examine(deep=deep)


@contextmanager
def _telling_of_the_database(exit_code: int = 1) -> Iterator[None]:
    from sqlalchemy.exc import DBAPIError

    try:
        yield
    except (OSError, DBAPIError) as error:
        reason = f"DATABASE_URL: the database refuses ({_last_words(error)})"
        raise CannotRun(reason, exit_code) from error


async def _require_newest_schema(database_url: str, exit_code: int = 1) -> None:
    from app.db.migrations import revision_drift

    if drift := await revision_drift(database_url):
        reason = f"DATABASE_URL: not this version's schema ({'; '.join(drift)})"
        raise CannotRun(f"{reason}; run `studybuddy migrate` first", exit_code)


def _migrate_own(servers: EmbeddedServers) -> None:
    """Migrate a database that nobody else could: the embedded one, where we started it."""
    if servers.owns_database:
        _upgrade(servers.settings)


def _upgrade(settings: Settings) -> None:
    from sqlalchemy.exc import DBAPIError

    from app.db.migrations import upgrade

    try:
        asyncio.run(upgrade(settings.database_url or ""))
    except OSError as error:
        raise CannotRun(f"DATABASE_URL: no database answers ({error.strerror or error})") from error
    except DBAPIError as error:
        if error.statement is not None:  # a migration's own: its traceback is needed
            raise
        raise CannotRun(f"DATABASE_URL: the database refuses ({_last_words(error)})") from error


def _last_words(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())


def _exit_on_sigterm(exit_code: int = 0) -> None:
    """End by an exception, so that what was started is stopped in order.

    Zero is for what runs until it is stopped: a task that was stopped half way is not done.
    """

    def leave(_: int, __: FrameType | None) -> NoReturn:
        raise SystemExit(exit_code)

    signal.signal(signal.SIGTERM, leave)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _storage_url(text: str) -> str:
    try:
        return checked_storage_url(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _complain(message: str) -> None:
    sys.stderr.write(f"studybuddy: {message}\n")


if __name__ == "__main__":
    sys.exit(main())
