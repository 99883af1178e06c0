"""Which options decide a run, so that a resumed one must share them.

All of them do but those that are listed here, each with its reason, so that an option of a library
that nobody here has heard of counts, too.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from colm.training.checkpoints.model_digest import plain
from colm.training.checkpoints.selector_state import PROCESSES, RESUME_SETTINGS, with_step_size

#: Options that a resumed run may set otherwise, by the reason why.
MAY_DIFFER: Mapping[str, tuple[str, ...]] = {
    "how long the run is": ("max_steps", "num_train_epochs"),
    "how it is resumed": (
        "resume_from_checkpoint",
        "ignore_data_skip",
        "restore_callback_states_from_checkpoint",
    ),
    "what it writes and sends, and where": (
        "output_dir",
        "save_strategy",
        "save_steps",
        "save_total_limit",
        "save_only_model",
        "save_on_each_node",
        "enable_jit_checkpoint",
        "push_to_hub",
        "hub_token",
        "hub_private_repo",
        "hub_model_id",
        "hub_strategy",
        "hub_always_push",
        "hub_revision",
    ),
    "what it shows": (
        "logging_strategy",
        "logging_steps",
        "logging_first_step",
        "logging_nan_inf_filter",
        "log_on_each_node",
        "log_level",
        "log_level_replica",
        "include_num_input_tokens_seen",
        "disable_tqdm",
        "report_to",
        "run_name",
        "project",
        "trackio_space_id",
        "trackio_bucket_id",
        "trackio_static_space_id",
        "skip_memory_metrics",
        "debug",
        "match_every",
    ),
    "when and how it is evaluated": (
        "do_train",
        "do_eval",
        "do_predict",
        "eval_strategy",
        "eval_steps",
        "eval_delay",
        "eval_on_start",
        "eval_packing",
        "eval_accumulation_steps",
        "eval_do_concat_batches",
        "eval_use_gather_object",
        "per_device_eval_batch_size",
        "prediction_loss_only",
        "include_for_metrics",
        "batch_eval_metrics",
        "bf16_full_eval",
        "fp16_full_eval",
        "load_best_model_at_end",
    ),
    "how fast and in how much memory, not what is computed": (
        "arrange",
        "selection_tokens",
        "side_block_reuse",
        "gradient_checkpointing",
        "gradient_checkpointing_kwargs",
        "activation_checkpointing",
        "activation_checkpointing_kwargs",
        "activation_offloading",
        "torch_compile",
        "torch_compile_backend",
        "torch_compile_mode",
        "torch_empty_cache_steps",
        "use_liger_kernel",
        "liger_kernel_config",
        "use_cache",
        "use_cpu",
        "dataset_num_proc",
        "dataloader_num_workers",
        "dataloader_pin_memory",
        "dataloader_persistent_workers",
        "dataloader_prefetch_factor",
        "dataloader_multiprocessing_context",
        "ddp_find_unused_parameters",
        "ddp_bucket_cap_mb",
        "ddp_broadcast_buffers",
        "ddp_static_graph",
        "ddp_backend",
        "ddp_timeout",
        "local_rank",
    ),
    "what comes of it is compared itself": (
        "model_init_kwargs",
        "trust_remote_code",
        "chat_template_path",
    ),
}
_MAY_DIFFER = {name for names in MAY_DIFFER.values() for name in names}
#: Compared where both runs have one: without a best model there is none.
_OF_THE_BEST = ("metric_for_best_model", "greater_is_better")
#: Where a stream is read by several workers, their number decides the order.
_OF_STREAMS = "dataloader_num_workers"
#: Follows from there being one process or several.
_OF_PROCESSES = "average_tokens_across_devices"


def describe_options(args: Any) -> dict[str, Any]:
    """Return the options that count, as JSON has them.

    Args:
        args: the configuration of a trainer.
    """
    names = [each.name for each in fields(args) if each.name not in _MAY_DIFFER]
    # Those of the selection come first, and are the first to be named.
    names = [*RESUME_SETTINGS, *names, _OF_STREAMS]
    told = {name: plain(getattr(args, name)) for name in names}
    return told | {PROCESSES: args.world_size}


def comparable_options(
    written: Mapping[str, Any], now: Mapping[str, Any], is_stream: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options of two runs without those whose difference means nothing.

    Args:
        written: of the run before.
        now: of the run that is to go on.
        is_stream: whether its data are.
    """
    then, mine = dict(written), dict(now)
    if then.get(PROCESSES) != mine[PROCESSES]:
        # Without selection, and where all select together, nothing belongs to one process.
        if mine["selection_scope"] == "global" or mine["candidate_ratio"] == 1:
            then, mine = with_step_size(then), with_step_size(mine)
        then[_OF_PROCESSES] = mine[_OF_PROCESSES] = None
    left_out = {name for name in _OF_THE_BEST if None in (then.get(name), mine.get(name))}
    if not is_stream:
        left_out.add(_OF_STREAMS)
    for name in left_out:
        then.pop(name, None)
        mine.pop(name, None)
    return then, mine
