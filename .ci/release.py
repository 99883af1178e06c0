"""Check what is about to be published, without a network: ``python .ci/release.py FOLDER``.

FOLDER holds the source distribution and the wheel. Checked are: one version everywhere; no link of
the page on an index that is relative; the wheel, imported and run in an environment of its own.
With a tag in the environment's ``TAG``, also its version, and that there is one date of release.
"""

import email
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
import venv
import zipfile
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from hatch_build import relative_links  # noqa: E402

# What `make release-check` has links begin with where nothing says where the repository is.
NOBODYS = "https://repository.invalid"
SET_ADDRESS = "set Repository in [project.urls], or REPOSITORY"
_HEADING = re.compile(r"^## \[([^\]]+)\](?: - (\S+))?", re.MULTILINE)
_DATE = re.compile(r"\d{4}-\d\d-\d\d")


def version_problems(root: Path, tag: str = "") -> list[str]:
    """Return a line for each place that has another version than ``pyproject.toml``.

    Args:
        root: of the project.
        tag: of the release, where this is one: then there must be a date of release, too.
    """
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    package = (root / "src" / "colm" / "__init__.py").read_text()
    citation = yaml.safe_load((root / "CITATION.cff").read_text())
    latest, date = _HEADING.search((root / "CHANGELOG.md").read_text()).groups()
    found = {
        "src/colm/__init__.py": re.search(r'^__version__ = "(.*)"$', package, re.MULTILINE)[1],
        "CITATION.cff": str(citation["version"]),
        "CHANGELOG.md, first heading": latest,
    }
    if tag:
        found["tag"] = tag.removeprefix("v")
    wrong = [f"{place}: version {v}, not {version}" for place, v in found.items() if v != version]
    released = str(citation.get("date-released"))
    if tag and not _DATE.fullmatch(date or ""):
        wrong.append(f"CHANGELOG.md: version {latest} has no date of release ({date})")
    elif tag and released != date:
        wrong.append(f"CITATION.cff: date-released is {released}, in CHANGELOG.md it is {date}")
    return wrong


def page_problems(wheel: Path) -> list[str]:
    """Return a line for each link of the wheel's page on an index that leads nowhere there."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [each for each in archive.namelist() if each.endswith(".dist-info/METADATA")]
        page = email.message_from_string(archive.read(name).decode())
    text = page.get_payload()
    links = relative_links(text)
    problems = [f"README.md on an index: the link {link} is relative" for link in links]
    if NOBODYS in text and os.environ.get("TAG"):
        problems.append(f"README.md on an index: its links begin with {NOBODYS}; {SET_ADDRESS}")
    return problems


def run_problems(wheel: Path) -> list[str]:
    """Return a line for what does not run of the wheel where this checkout is not seen.

    What the wheel requires is that of the environment that this runs in.
    """
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=False, symlinks=True)
        programs = Path(folder) / "bin"
        python = str(programs / "python")
        install = [sys.executable, "-m", "pip", f"--python={python}", "install", "--quiet"]
        where = "import sysconfig; print(sysconfig.get_path('purelib'))"
        packages = _run([python, "-c", where], folder).strip()
        try:
            _run([*install, "--no-deps", "--no-index", str(wheel.resolve())], folder)
            # A path named in a .pth file has its own such files, this checkout's, left unread.
            (Path(packages) / "required.pth").write_text(sysconfig.get_path("purelib") + "\n")
            if packages not in _run([python, "-c", "import colm; print(colm.__file__)"], folder):
                return ["the wheel is not what is imported"]
            _run([str(programs / "colm"), "--help"], folder)
        except subprocess.CalledProcessError as error:
            return [f"{' '.join(map(str, error.cmd))}: {error.stderr.strip()}"]
    return []


def _run(command: list[str], folder: str) -> str:
    """What a command prints, run in a folder without the paths of this environment."""
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        command, cwd=folder, env=outside, capture_output=True, text=True, check=True
    ).stdout


def main() -> int:
    """Print the problems; return 1 where there are any."""
    (wheel,) = Path(sys.argv[1]).glob("*.whl")
    problems = [
        *version_problems(ROOT, os.environ.get("TAG", "")),
        *page_problems(wheel),
        *run_problems(wheel),
    ]
    for problem in problems:
        print(problem, file=sys.stderr)
    if os.environ.get("REPOSITORY", "").startswith(NOBODYS) and not os.environ.get("TAG"):
        print(f"The address of the repository is not known yet: {SET_ADDRESS}.")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
