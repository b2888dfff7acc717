"""A Panopto tenant on this machine: ``python -m app.embedded.panopto_simulator --port 8123``.

Serves one sample lecture (or the MP4s given) until it is interrupted; `docs/simulator.md` tells
what else it can do.
"""

import argparse
import signal
import tempfile
from pathlib import Path

from rich.console import Console

from app.embedded.panopto import Faults, PanoptoSimulator, Recording, RequestRecord
from app.embedded.sample_media import make_lecture

__all__ = ["Faults", "PanoptoSimulator", "Recording", "RequestRecord", "main"]


def main() -> None:
    """Serve until SIGINT or SIGTERM; the addresses are printed."""
    parser = argparse.ArgumentParser(prog="panopto_simulator", description=__doc__)
    parser.add_argument("media", nargs="*", type=Path, help="MP4 files to serve as recordings")
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument("--seconds", type=float, default=60, help="length of the sample lecture")
    options = parser.parse_args()
    ends = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    with tempfile.TemporaryDirectory(prefix="panopto-") as folder:
        media = options.media or [make_lecture(Path(folder) / "lecture.mp4", options.seconds)]
        simulator = PanoptoSimulator(
            [Recording(path, title=path.stem) for path in media], port=options.port
        )
        simulator.start()
        console = Console()
        console.print(f"PANOPTO_HOSTS={simulator.host_port}")
        console.print(f"FETCH_ALLOWED_PRIVATE_HOSTS={simulator.host_port}")
        for recording in simulator.recordings:
            console.print(simulator.viewer_url(recording), soft_wrap=True)
        signal.sigwait(ends)
        simulator.stop()


if __name__ == "__main__":
    main()
