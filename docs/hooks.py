"""Pages of the site that do not lie in docs/: the README is its home, and examples and cluster files are part of it."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
BROUGHT = ("examples/*.yaml", "examples/*.py", "cluster/*", "cluster/observability/*", "cluster/kubernetes/**/*.yaml")


def on_files(files: Files, config: Any) -> Files:
    """Adds what the pages link to, and a page that lists the decisions."""
    for path in sorted(path for pattern in BROUGHT for path in ROOT.glob(pattern) if path.is_file()):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    files.append(File.generated(config, "index.md", content=(ROOT / "README.md").read_text()))
    titles = {
        path.name: path.read_text().splitlines()[0].removeprefix("# ") for path in sorted((ROOT / "docs/decisions").glob("*.md"))
    }
    listed = "\n".join(f"- [{title}]({name})" for name, title in titles.items())
    files.append(
        File.generated(
            config, "decisions/index.md", content=f"# Decisions\n\nContext, choice, consequence: a page each.\n\n{listed}\n"
        )
    )
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links that leave docs/ in the repository stay in the site: docs/x.md is x.md there, ../examples is examples."""
    depth = page.file.src_uri.count("/")
    if page.file.src_uri == "index.md":
        markdown = re.sub(r"\]\(docs/decisions/\)", "](decisions/index.md)", markdown)
        return re.sub(r"\]\(docs/", "](", markdown)
    if page.file.src_uri.startswith("cluster/"):
        return re.sub(r"\]\(\.\./docs/", "](../", re.sub(r"\]\((kubernetes/[a-z/]+)\)", _as_code, markdown))
    up = "../" * depth
    markdown = re.sub(rf"\]\((?:\.\./){{{depth + 1}}}README\.md", f"]({up}index.md", markdown)
    return re.sub(rf"\]\((?:\.\./){{{depth + 1}}}(examples|cluster)/", rf"]({up}\1/", markdown)


def _as_code(match: "re.Match[str]") -> str:
    """A folder has no page: its link goes to the file that kustomize reads."""
    return f"]({match[1].rstrip('/')}/kustomization.yaml)"
