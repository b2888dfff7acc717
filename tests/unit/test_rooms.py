"""The names of the rooms: a feature is called the same in every layer (docs/architecture.md)."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
APP = ROOT / "app"

# Each layer, and what is in it besides features.
SHARED = {
    "services": {"kernel", "upkeep"},
    "schema": {"kernel", "root"},
    "resolvers": {"info", "nodes"},
    "db/models": {"base", "jobs"},
}
ABSENT = {
    ("services", "account"): "what it tells is counted by kernel/quotas and lectures/read",
}
PATH = re.compile(r"`((?:app|tests|docs|alembic|scripts)/[\w./*-]+)`")


def rooms_of(layer: str) -> set[str]:
    packages = {path.parent.name for path in (APP / layer).glob("*/__init__.py")}
    names = packages | {path.stem for path in (APP / layer).glob("[!_]*.py")}
    assert names >= SHARED[layer]
    return names - SHARED[layer]


FEATURES = set().union(*(rooms_of(layer) for layer in SHARED))


@pytest.mark.parametrize("layer", SHARED)
def test_every_feature_has_its_name_in_every_layer(layer: str) -> None:
    absent = {feature for where, feature in ABSENT if where == layer}
    assert rooms_of(layer) == FEATURES - absent


def test_services_are_in_rooms() -> None:
    assert [path.name for path in (APP / "services").glob("*.py")] == ["__init__.py"]


def test_every_package_says_what_it_is_for() -> None:
    for folder in {path.parent for path in APP.rglob("*.py")}:
        source = (folder / "__init__.py").read_text()
        assert ast.get_docstring(ast.parse(source)), folder


def test_every_path_that_the_docs_name_is_there() -> None:
    documents = {*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")} - {ROOT / "CHANGELOG.md"}
    named = {(text.name, path) for text in documents for path in PATH.findall(text.read_text())}
    assert len(named) > 50
    assert {(text, path) for text, path in named if not any(ROOT.glob(path))} == set()
