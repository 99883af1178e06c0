"""Print the lowest versions that ``pyproject.toml`` allows, as pip's constraints.

Of the library, of its extras and of the tests: what ``make lowest`` installs. PyTorch is left out,
for it is installed first and by itself.
"""

import re
import tomllib
from pathlib import Path

_PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
_BOUND = re.compile(r"([\w.-]+)(?:\[[^]]*\])?>=([\w.]+)")


def lowest_versions() -> dict[str, str]:
    """Return the lower bound of every package that is installed for the tests, by name.

    Raises:
        ValueError: A requirement has no lower bound.
    """
    content = tomllib.loads(_PYPROJECT.read_text())
    project = content["project"]
    requirements = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
        *content["dependency-groups"]["test"],
    ]
    bounds = {}
    for requirement in requirements:
        found = _BOUND.match(requirement)
        if found is None:
            raise ValueError(f"pyproject.toml: '{requirement}' has no lower bound (name>=version)")
        bounds[found[1]] = found[2]
    return bounds


if __name__ == "__main__":
    for name, version in lowest_versions().items():
        if name != "torch":
            print(f"{name}=={version}")
