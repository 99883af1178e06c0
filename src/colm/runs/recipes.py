"""A recipe as it lies in a file: a YAML mapping of options to values, read within bounds.

In YAML a part may be named and stand elsewhere by its name. Parts of parts of parts so become more
than any memory holds, from a few lines; and nothing that such a recipe says could be shown. So what
all names stand for is counted before any of it is made.
"""

from pathlib import Path
from typing import Any

import yaml

#: Characters and values that aliases may add to what is written out.
MOST_ALIASED = 100_000


def find_recipe(named: str) -> Path:
    """Return the file that ``--config`` means: one of the user's, or else one that comes with colm.

    Args:
        named: A file's path, or the name of a recipe that comes with colm: ``quickstart``, or
            ``recipes/quickstart.yaml`` as the documentation writes it.

    Returns:
        The file.

    Raises:
        FileNotFoundError: There is neither.

    Example:
        >>> find_recipe("papers/phi-2-superglue").name
        'phi-2-superglue.yaml'
    """
    if Path(named).is_file():
        return Path(named)
    shipped = shipped_recipes()
    name = named.removeprefix("recipes/").removesuffix(".yaml")
    if name in shipped:
        return shipped[name]
    if Path(named).suffix:
        raise FileNotFoundError(f"{named}: no such file")
    raise FileNotFoundError(
        f"{named}: no such file, and no recipe of colm's; those are {', '.join(shipped)}"
    )


def shipped_recipes() -> dict[str, Path]:
    """Return the recipes that come with colm.

    Returns:
        Files by name: the path below the recipes' folder, without its suffix.
    """
    package = Path(__file__).parents[1]
    installed, cloned = package / "recipes", package.parents[1] / "recipes"
    folder = installed if installed.is_dir() else cloned
    return {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for path in sorted(folder.rglob("*.yaml"))
    }


def load_recipe(path: Path) -> dict[str, Any]:
    """Return what a recipe says.

    Args:
        path: The file.

    Returns:
        Values as YAML has them, by option.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not YAML, is no mapping, or grows without end by its aliases.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        recipe = parse_yaml(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        place = f"{path}:{error.problem_mark.line + 1}" if error.problem_mark else path
        raise ValueError(f"{place}: not valid YAML: {error.problem}") from error
    except RecursionError as error:
        raise ValueError(f"{path}: not valid YAML: nested too deep") from error
    except (ValueError, yaml.YAMLError) as error:  # a date that is none
        raise ValueError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(recipe, dict) or not all(isinstance(key, str) for key in recipe):
        raise ValueError(f"{path}: a recipe must be a YAML mapping of options to values")
    return recipe


def parse_yaml(text: str) -> Any:
    r"""Return what a text of YAML stands for: plain values, aliases bounded.

    Args:
        text: One document.

    Returns:
        Mappings, lists and scalars; ``None`` where nothing is said.

    Raises:
        ValueError: Its aliases stand for too much, or for what they are in, or it has NUL.
        yaml.YAMLError: It is not YAML.
        RecursionError: It is nested too deep.

    Example:
        >>> parse_yaml("a: &part [1, 2]\nb: *part")
        {'a': [1, 2], 'b': [1, 2]}
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        # What is written out has fewer values than twice its characters.
        if _size(node, {}) > MOST_ALIASED + 2 * len(text):
            raise ValueError(f"its aliases stand for more than {MOST_ALIASED:,} characters")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _size(node: yaml.Node, known: dict[int, int | None]) -> int:
    """Characters and values of a node with all aliases written out, each node counted but once."""
    if id(node) in known:
        size = known[id(node)]
        if size is None:
            raise ValueError("an alias stands inside what it names")
        return size
    known[id(node)] = None
    if isinstance(node, yaml.ScalarNode):
        # No name of a file, an option or a variable of the environment can have one.
        if "\0" in node.value:
            raise ValueError(f"line {node.start_mark.line + 1} has a NUL character")
        size = len(node.value)
    elif isinstance(node, yaml.MappingNode):
        size = sum(_size(part, known) for pair in node.value for part in pair)
    else:
        size = sum(_size(part, known) for part in node.value)
    known[id(node)] = size = size + 1
    return size
