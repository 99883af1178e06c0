"""What is evaluated: a model, an adapter or side block on its base; examples as in training."""

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from peft import AutoPeftModelForCausalLM
from transformers import PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer

from colm.data import SOURCE_COLUMN, Source, format_dataset, load_mixture
from colm.json_text import read_json
from colm.runs.pretrained import (
    LOADING_ERRORS,
    cannot_load,
    check_folder,
    load_model,
    load_tokenizer,
)
from colm.runs.refused_records import RECORD, Check, numbered, refused_records_named
from colm.training.checkpoints.side_block_file import (
    CONFIG_FILE,
    load_side_block,
    read_side_block_config,
)

ADAPTER_CONFIG = "adapter_config.json"
_TOKENIZER_CONFIG = "tokenizer_config.json"


class EvaluatedModel(NamedTuple):
    """A model, its tokenizer, and the name of its base, if it is an adapter or a side block."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    base: str | None


def load_evaluated(
    name: str, dtype: str = "auto", device: str = "auto", *, trust_remote_code: bool = False
) -> EvaluatedModel:
    """Return a model that is ready to be asked.

    Args:
        name: Folder of a model, of a PEFT adapter or of a side block, or name of a model on the
            hub.
        dtype: Of the weights; "auto" for that in which they are saved.
        device: Such as "cpu" or "cuda:1"; "auto" for the accelerator where there is one.
        trust_remote_code: Run code that the model brings; without, such a model is refused.

    Returns:
        The model on the device, its adapter not merged, and its tokenizer: the adapter's own where
        its folder has one.

    Raises:
        ValueError: There is no such model or device, or it cannot be read.
    """
    place = find_device(device)
    folder = Path(name).expanduser()
    check_folder(name, "MODEL")
    if not folder.is_dir() or (folder / "config.json").is_file():
        source = str(folder) if folder.is_dir() else name
        model = load_model(source, dtype, trust_remote_code=trust_remote_code).to(place)
        tokenizer = load_tokenizer(source, trust_remote_code=trust_remote_code)
        return EvaluatedModel(model, tokenizer, None)
    if (folder / CONFIG_FILE).is_file():
        return _with_side_block(folder, dtype, place, trust_remote_code)
    if not (folder / ADAPTER_CONFIG).is_file():
        raise ValueError(
            f"MODEL: {name} has neither a config.json nor an {ADAPTER_CONFIG} nor a {CONFIG_FILE}"
            f"{_checkpoint(folder)}"
        )
    base = _base_of(folder)
    check_folder(base, f"cannot load adapter '{name}' on its base")
    try:
        adapted = AutoPeftModelForCausalLM.from_pretrained(
            str(folder), dtype=dtype, trust_remote_code=trust_remote_code
        )
    except LOADING_ERRORS as error:
        raise cannot_load(f"load adapter '{name}' on its base", base, error) from error
    return EvaluatedModel(adapted.to(place), _tokenizer_of(folder, base, trust_remote_code), base)


def _with_side_block(
    folder: Path, dtype: str, place: torch.device, trust_remote_code: bool
) -> EvaluatedModel:
    """The base that a folder's side block stands beside, with the block."""
    base = read_side_block_config(folder).get("base_model_name_or_path")
    if not base:
        raise ValueError(f"MODEL: {folder / CONFIG_FILE} names no base model")
    base = str(base)
    check_folder(base, f"cannot put side block '{folder}' beside its base")
    model = load_model(base, dtype, trust_remote_code=trust_remote_code)
    load_side_block(model, folder)
    return EvaluatedModel(model.to(place), _tokenizer_of(folder, base, trust_remote_code), base)


def _tokenizer_of(folder: Path, base: str, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """The tokenizer that lies with an adapter or a side block, or else that of the base."""
    has_tokenizer = (folder / _TOKENIZER_CONFIG).is_file()
    return load_tokenizer(folder if has_tokenizer else base, trust_remote_code=trust_remote_code)


def find_device(name: str) -> torch.device:
    """Return the device of a name.

    Args:
        name: Such as "cpu" or "cuda:1"; "auto" for the accelerator where there is one.

    Returns:
        A device that tensors can be put on.

    Raises:
        ValueError: There is no such device.

    Example:
        >>> find_device("cpu")
        device(type='cpu')
    """
    if name == "auto":
        found = (
            torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        )
        return found or torch.device("cpu")
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise RuntimeError("it holds no values")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"--device {name} cannot be used: {reason}; choose auto, cpu, or an accelerator"
        ) from error
    return device


def held_out_examples(
    files: Sequence[Source], source_column: str | None, evaluated: EvaluatedModel, max_length: int
) -> list[dict[str, Any]]:
    """Return the examples of files as training would see them.

    Args:
        files: JSON Lines, JSON, CSV or Parquet files in layouts that ``colm sft`` takes.
        source_column: Column of the sources; ``None`` for "source" where there is one, else each
            file is one source.
        evaluated: The model and its tokenizer.
        max_length: Most tokens of an example; the rest is cut off, as in training.

    Returns:
        ``input_ids``, ``labels`` and ``source`` of each.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: One cannot be read or understood, or they do not go together.
    """
    tokenizer = evaluated.tokenizer
    column = source_column or SOURCE_COLUMN

    def read(check: Check | None = None) -> Any:
        def prepare(dataset: Any, _: str) -> Any:
            found = format_dataset(
                dataset if check is None else numbered(dataset),
                conversational=bool(tokenizer.chat_template),
                kept_columns=[column] if check is None else [column, RECORD],
            ).dataset
            if check is not None:
                check(found)
            return found

        return load_mixture(files, source_column=source_column, prepare=prepare)

    for file in files:
        if not Path(file.path).is_file():
            raise FileNotFoundError(f"{file.path}: no such file")
    records = read()
    with refused_records_named(tokenizer, read):
        tokenised = _tokenize(records, evaluated, max_length)
    columns = tokenised.select_columns(["input_ids", "labels", column])
    return [{**row, "source": row[column]} for row in columns]


def _tokenize(records: Dataset, evaluated: EvaluatedModel, max_length: int) -> Dataset:
    """The records with tokens and labels, by the trainer that would train on them."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # What the trainer would do with options that nothing is trained with.
        warnings.simplefilter("ignore")
        options = SFTConfig(
            folder,
            max_length=max_length,
            bf16=False,
            use_cpu=next(evaluated.model.parameters()).device.type == "cpu",
            gradient_checkpointing=False,
            dataloader_pin_memory=False,
            disable_tqdm=True,
            report_to="none",
        )
        trainer = SFTTrainer(
            evaluated.model, options, train_dataset=records, processing_class=evaluated.tokenizer
        )
    return trainer.train_dataset


def _checkpoint(folder: Path) -> str:
    """Where the model of a run that was cut short is, for the message."""
    kinds = (ADAPTER_CONFIG, CONFIG_FILE, "config.json")
    saved = [path.parent for kind in kinds for path in folder.glob(f"checkpoint-*/{kind}")]
    if not saved:
        return ""
    newest = max(saved, key=lambda path: path.name.removeprefix("checkpoint-").zfill(12))
    return f"; the newest model in it is {newest}"


def _base_of(folder: Path) -> str:
    """The model that an adapter is on."""
    try:
        config = read_json(folder / ADAPTER_CONFIG)
        base = config["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"MODEL: {folder / ADAPTER_CONFIG} cannot be read: {error}") from error
    if not base:
        raise ValueError(f"MODEL: {folder / ADAPTER_CONFIG} names no base model")
    return str(base)
