"""Supervised fine-tuning from options to a saved model: what ``colm sft`` runs."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from trl import get_peft_config, get_quantization_config

from colm.durable import naming_what_is_written
from colm.runs.arguments import SFTArguments
from colm.runs.model_card import write_model_card
from colm.runs.output_folder import find_checkpoint
from colm.runs.pretrained import LOADING_ERRORS, cannot_load, check_folder, load_tokenizer
from colm.runs.refused_records import refused_records_named
from colm.runs.saying import Say
from colm.runs.step_lines import say_log
from colm.runs.trackers import check_trackers
from colm.runs.training_data import Examples, load_examples
from colm.training.checkpoints.folder_lock import holding
from colm.training.checkpoints.manifest import find_checkpoints
from colm.training.outcome import check_duration
from colm.training.trainer import CoLMSFTTrainer

logger = logging.getLogger(__name__)

AnyTrainer = TypeVar("AnyTrainer", bound=CoLMSFTTrainer)


def run_sft(arguments: SFTArguments, say: Say | None = None) -> CoLMSFTTrainer:
    """Fine-tune a model, evaluate while training if asked, and save it with a model card.

    Args:
        arguments: Options of the run, from ``colm.runs.arguments.parse_arguments``.
        say: Takes a line for each entry of the log; without it ``transformers`` prints the entries.

    Returns:
        The trainer after training; ``trainer.state.log_history`` tells what happened.

    Raises:
        FileNotFoundError: A local file is not there.
        ValueError: Something the options ask for cannot be; nothing has been written then.
    """
    training = arguments.training
    check_trackers(training.report_to)
    with holding(training.output_dir, training.should_save):
        checkpoint = find_checkpoint(
            training.output_dir, training.resume_from_checkpoint, training.candidate_ratio == 1
        )
        trainer = build_trainer(arguments, CoLMSFTTrainer)
        trainer.run_facts = run_facts(arguments, "colm sft")
        if say is not None:
            say_log(trainer, say)
        # A stream meets its chat template on the way.
        with named_refusals(arguments, trainer.processing_class):
            trainer.train(resume_from_checkpoint=checkpoint)
        _save(trainer, arguments)
    return trainer


def build_trainer(
    arguments: SFTArguments,
    trainer_class: type[AnyTrainer],
    load: Callable[[SFTArguments, bool], Examples] = load_examples,
) -> AnyTrainer:
    """Load model and data as the options of a run say, and return a trainer that has them.

    Args:
        arguments: Options of the run.
        trainer_class: What it is to be.
        load: Takes the options and whether there is a chat template, returns the examples.

    Returns:
        The trainer, before it trains; what is worth knowing about the data has been logged.

    Raises:
        FileNotFoundError: A local file is not there.
        ValueError: Something the options ask for cannot be.
    """
    training = arguments.training
    check_duration(training)
    tokenizer = _load_tokenizer(arguments)
    conversational = bool(tokenizer.chat_template or training.chat_template_path)
    with training.main_process_first(desc="loading data"):
        examples = load(arguments, conversational)
    with named_refusals(arguments, tokenizer):
        trainer = _make_trainer(arguments, trainer_class, tokenizer, examples)
    for note in examples.notes:
        logger.info(note)
    return trainer


def named_refusals(arguments: SFTArguments, tokenizer: Any) -> AbstractContextManager[None]:
    """Return a context in which a record that the chat template refuses is named, with its file.

    Args:
        arguments: Options of the run, by which the data is read again.
        tokenizer: With the chat template.

    Returns:
        The context; a refusal becomes a ``ValueError``.
    """
    return refused_records_named(
        tokenizer, lambda check: load_examples(arguments, conversational=True, check=check)
    )


def _load_tokenizer(arguments: SFTArguments) -> PreTrainedTokenizerBase:
    if not arguments.model.model_name_or_path:
        raise ValueError("no model: set model_name_or_path to a folder or the name of a hub model")
    name = str(arguments.model.model_name_or_path)
    check_folder(name, "model_name_or_path")
    _check_template(arguments.training.chat_template_path)
    try:
        return AutoTokenizer.from_pretrained(
            name,
            revision=arguments.model.model_revision,
            trust_remote_code=arguments.training.trust_remote_code,
        )
    except LOADING_ERRORS as error:
        raise cannot_load("load the tokenizer of model", name, error) from error


def _check_template(path: str | None) -> None:
    """Refuse a chat template's tokenizer that brings code: TRL would ask whether to run it."""
    if path is None or Path(path).is_file():
        return
    if path.endswith((".jinja", ".j2")):
        raise ValueError(f"chat_template_path: there is no file {path}")
    check_folder(path, "chat_template_path")
    try:
        load_tokenizer(path)
    except ValueError as error:
        raise ValueError(f"chat_template_path: {error}") from error


def _make_trainer(
    arguments: SFTArguments,
    trainer_class: type[AnyTrainer],
    tokenizer: PreTrainedTokenizerBase,
    examples: Examples,
) -> AnyTrainer:
    """The trainer; what the libraries object to in the options is the user's to mend."""
    _, training, model, _ = arguments
    training.model_init_kwargs = _model_init_kwargs(arguments)
    try:
        return trainer_class(
            model=model.model_name_or_path,
            args=training,
            train_dataset=examples.train,
            eval_dataset=examples.test,
            processing_class=tokenizer,
            quantization_config=get_quantization_config(model),
            peft_config=get_peft_config(model),
        )
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(str(error)) from error
    except RuntimeError as error:
        if "to be installed" not in str(error):  # what report_to names
            raise
        raise ValueError(str(error)) from error


def _model_init_kwargs(arguments: SFTArguments) -> dict[str, Any]:
    """How the model is loaded: the options of TRL's ``sft``, then what was spelled out."""
    _, training, model, _ = arguments
    return {
        "revision": model.model_revision,
        "trust_remote_code": training.trust_remote_code,
        "attn_implementation": model.attn_implementation,
        "dtype": model.dtype,
        **(training.model_init_kwargs or {}),
    }


def _save(trainer: CoLMSFTTrainer, arguments: SFTArguments) -> None:
    """Write model, state and model card, and push them if asked."""
    name = arguments.script.dataset_name
    hub_dataset = name if name and not Path(name).exists() else None
    output = Path(arguments.training.output_dir)
    with naming_what_is_written(output, _what_is_left(output)):
        trainer.save_model()
        trainer.save_state()
        write_model_card(trainer, str(arguments.model.model_name_or_path), hub_dataset)
    if arguments.training.push_to_hub:
        trainer.push_to_hub(dataset_name=hub_dataset)
    trainer.end()


def run_facts(arguments: SFTArguments, command: str) -> dict[str, Any]:
    """Return what the record of a run says of its model and data, beside what the trainer knows.

    Args:
        arguments: Options of the run.
        command: That began it.

    Returns:
        For ``run_facts`` of the trainer.
    """
    script, _, model, mixture = arguments
    named = {key: value for key, value in vars(script).items() if key.startswith("dataset_")}
    of_data = named | {key: value for key, value in vars(mixture).items() if value is not None}
    of_model = {key: value for key, value in vars(model).items() if value is not None}
    name = of_model.pop("model_name_or_path")
    return {"command": command, "model": {"name": name, **of_model}, "data": of_data}


def _what_is_left(output: Path) -> str:
    """What is not lost where the trained model cannot be written, and what to do."""
    complete = find_checkpoints(output).complete
    if not complete:
        return (
            "The trained model is not whole there, and no checkpoint has it: make room, and train "
            "again into another output_dir."
        )
    return (
        f"The model is not whole there, but {complete[0].name} is: make room, and "
        "--resume_from_checkpoint true goes on from it and saves the model."
    )
