"""Build hook: the README as the page of a package index shows it, with absolute links.

The README links to files beside it, which an index does not have. Where the address of the
repository is known, each such link becomes one to the file at the tag of this version. The address
is ``Repository`` of ``[project.urls]`` or, where that is not set, the environment's ``REPOSITORY``,
as in the release workflow. Where neither is, links stay as they are.
"""

import os
import re
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface

_CODE = re.compile(r"(^```.*?^```$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
_TARGET = re.compile(r"""(\]\(|\b(?:src|srcset|href)=["'])([^)"'\s]+)""")
_ABSOLUTE = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_PICTURES = (".gif", ".jpeg", ".jpg", ".png", ".svg", ".webp")


class ReadmeHook(MetadataHookInterface):
    """Gives the project its ``readme``."""

    def update(self, metadata: dict) -> None:
        """Set ``readme`` to the text for an index."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        address = metadata.get("urls", {}).get("Repository") or os.environ.get("REPOSITORY")
        if address:
            text = with_absolute_links(text, address, f"v{metadata['version']}")
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def with_absolute_links(text: str, address: str, tag: str) -> str:
    """Return Markdown whose links and pictures name files of the repository by address.

    Args:
        text: Markdown with links relative to the repository's root; code is left as it is.
        address: of the repository, such as ``https://host/owner/name``.
        tag: at which the files are linked.
    """

    def absolute(found: re.Match[str]) -> str:
        before, target = found.groups()
        if _ABSOLUTE.match(target):
            return found[0]
        file, _, anchor = target.removeprefix("./").partition("#")
        kind = "raw" if file.lower().endswith(_PICTURES) else "blob"
        anchor = f"#{anchor}" if anchor else ""
        return f"{before}{address.rstrip('/')}/{kind}/{tag}/{file or 'README.md'}{anchor}"

    parts = _CODE.split(text)  # code at the odd places
    parts[::2] = [_TARGET.sub(absolute, part) for part in parts[::2]]
    return "".join(parts)


def relative_links(text: str) -> list[str]:
    """Return the targets of Markdown that are not absolute, outside of code."""
    targets = [target for part in _CODE.split(text)[::2] for _, target in _TARGET.findall(part)]
    return [target for target in targets if not _ABSOLUTE.match(target)]
