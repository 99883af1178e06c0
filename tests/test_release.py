"""What a release publishes agrees with itself; ``make release-check`` sees where it does not."""

import importlib.util
import re
import shutil
from pathlib import Path

import pytest

from hatch_build import relative_links, with_absolute_links

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
ADDRESS = "https://host/owner/colm"


@pytest.fixture(scope="module")
def release():
    spec = importlib.util.spec_from_file_location("release", ROOT / ".ci" / "release.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def project(tmp_path):
    """A copy of the files that say a version."""
    for name in ("pyproject.toml", "CHANGELOG.md", "CITATION.cff", "src/colm/__init__.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_version_changelog_and_citation_agree(release):
    assert release.version_problems(ROOT) == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("CHANGELOG.md", r"^## \[.*"),
        ("CITATION.cff", r"^version: .*"),
        ("src/colm/__init__.py", r"^__version__ = .*"),
    ],
)
def test_another_version_is_named_with_its_place(release, project, file, line):
    other = {"CHANGELOG.md": "## [9.9.9]", "CITATION.cff": "version: 9.9.9"}
    text = (project / file).read_text()
    changed = re.sub(line, other.get(file, '__version__ = "9.9.9"'), text, count=1, flags=re.M)
    (project / file).write_text(changed)
    (problem,) = release.version_problems(project)
    assert file in problem
    assert "9.9.9" in problem


def test_a_tag_needs_its_version_and_one_date(release, project):
    version = re.search(r'^version = "(.*)"', (project / "pyproject.toml").read_text(), re.M)[1]
    changelog, citation = project / "CHANGELOG.md", project / "CITATION.cff"
    heading = f"## [{version}] - 2030-01-31"
    dated = re.sub(r"^## \[.*", heading, changelog.read_text(), count=1, flags=re.M)
    changelog.write_text(dated)
    (problem,) = release.version_problems(project, f"v{version}")
    assert "date-released" in problem
    citation.write_text(citation.read_text() + "date-released: 2030-01-31\n")
    assert release.version_problems(project, f"v{version}") == []
    (problem,) = release.version_problems(project, "v9.9.9")
    assert problem.startswith("tag:")
    changelog.write_text(dated.replace(heading, f"## [{version}] - unreleased"))
    (problem,) = release.version_problems(project, f"v{version}")
    assert "no date" in problem


def test_on_an_index_every_link_of_the_readme_is_absolute():
    assert relative_links(README)
    page = with_absolute_links(README, ADDRESS, "v1.2.3")
    assert relative_links(page) == []
    files = re.findall(rf"{ADDRESS}/(?:raw|blob)/v1\.2\.3/([^)\"#\s]+)", page)
    assert len(files) == len(relative_links(README))
    assert all((ROOT / file).exists() for file in files)


@pytest.mark.parametrize(
    ("markdown", "expected"),
    [
        ("![a](docs/a.png)", f"![a]({ADDRESS}/raw/v1/docs/a.png)"),
        ('<img src="docs/a.svg">', f'<img src="{ADDRESS}/raw/v1/docs/a.svg">'),
        ("[a](docs/a.md#b)", f"[a]({ADDRESS}/blob/v1/docs/a.md#b)"),
        ("[a](./LICENSE)", f"[a]({ADDRESS}/blob/v1/LICENSE)"),
        ("[a](#b)", f"[a]({ADDRESS}/blob/v1/README.md#b)"),
        ("[a](https://x.org/y) <a@b.org>", "[a](https://x.org/y) <a@b.org>"),
        ("`f[a](b)`", "`f[a](b)`"),
        ("```python\nf[a](b)\n```", "```python\nf[a](b)\n```"),
    ],
)
def test_links_lead_to_the_repository_and_code_stays(markdown, expected):
    assert with_absolute_links(markdown, ADDRESS, "v1") == expected
