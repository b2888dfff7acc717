"""`python -m bench [NAME …]`: run all measurements, or those named."""

import importlib
import pkgutil
import sys

import bench


def main(names: list[str]) -> int:
    """Run each measurement's `main`, which prints its table."""
    known = sorted(
        module.name for module in pkgutil.iter_modules(bench.__path__) if "bench_" in module.name
    )
    unknown = set(names) - {name.removeprefix("bench_") for name in known}
    if unknown:
        print(f"no measurement named {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    for name in known:
        if not names or name.removeprefix("bench_") in names:
            importlib.import_module(f"bench.{name}").main()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
