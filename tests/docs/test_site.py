"""The documentation builds as a site: every page, every link and every anchor is there, and nothing is asked of others."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    # Not --quiet: warnings that are not told are not counted, and nothing is strict.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(target)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return target


def test_every_page_of_the_repository_is_in_it(site: Path) -> None:
    pages = [path.relative_to(ROOT / "docs").with_suffix("") for path in (ROOT / "docs").rglob("*.md")]
    assert len(pages) > 40
    assert all((site / page / "index.html").exists() for page in pages)
    assert "Hierarchical federated training" in (site / "index.html").read_text()
    assert (site / "cluster/index.html").exists() or (site / "cluster/README/index.html").exists()
    assert "pruned model opens in stock diffusers" in (site / "index.html").read_text().replace("\n", " ")


def test_every_page_can_be_found_from_the_menu(site: Path) -> None:
    menu = (ROOT / "mkdocs.yml").read_text()
    named = set(re.findall(r"[\w/]+\.md", menu))
    assert {path.name for path in (ROOT / "docs").glob("*.md")} <= named


def test_the_interface_is_told_from_its_docstrings(site: Path) -> None:
    page = (site / "api/index.html").read_text()
    assert "Goes on with a run from its last checkpoint" in page
    assert "the client half of a method begins with" in page


def test_it_asks_nothing_of_others(site: Path) -> None:
    """Fonts, scripts and styles are its own; links that a reader follows may lead elsewhere."""
    asked = [
        found
        for page in site.rglob("*.html")
        for found in re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"?(https?://[^\"\s>]+)", page.read_text())
    ]
    assert not asked
