"""What a trainer adds to train in random subspaces: entering them, the optimiser, checkpoints.

The model enters its subspaces before it is wrapped and leaves them when training ends, so that
whoever has the model before or after has a plain one. A checkpoint holds the merged model, which
can be loaded as any, and beside it what the merged one cannot give back. Symbols: W a frozen
weight, P its random directions, B what is trained in W + B P.
"""

import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open
from safetensors.torch import save
from torch import nn

from colm.durable import write_whole
from colm.json_text import parse_json
from colm.memory.subspaces.optimizer import SubspaceOptimizer
from colm.memory.subspaces.subspaces import Subspaces
from colm.training.optimizers import optimizer_name
from colm.training.options.subspace_arguments import ADAMW, SubspaceArguments, others_trained

if TYPE_CHECKING:  # to a type checker the mixin is a trainer, as it is wherever it is used
    from transformers import Trainer as _Base
else:
    _Base = object

SUBSPACES_FILE = "colm_subspaces.safetensors"
_SETTINGS = "colm_subspaces"
#: What a resumed run must share with the one that wrote a checkpoint.
_SHARED = (*(option.name for option in fields(SubspaceArguments)), "seed")
_FACTOR = ".subspace.weight"


class SubspaceMixin(_Base):
    """Training in random subspaces for any trainer of ``transformers``.  Paper: RSO, Alg. 1."""

    _subspaces: Subspaces | None = None

    def train(self, *args: Any, **options: Any) -> Any:
        """Train as ever, in subspaces where ``subspace_rank`` is set; the model is left merged."""
        if self.args.subspace_rank is None:
            return super().train(*args, **options)
        self._enter_subspaces()
        try:
            return super().train(*args, **options)
        finally:
            self._leave_subspaces()

    def _enter_subspaces(self) -> None:
        """Put the model into its subspaces."""
        self._subspaces = enter_subspaces(self.accelerator.unwrap_model(self.model), self.args)

    def _leave_subspaces(self) -> None:
        """Merge; what refers to B, the optimiser and its schedule, goes with it."""
        assert self._subspaces is not None
        self._subspaces.detach()
        self._subspaces = None
        self.optimizer = self.lr_scheduler = None

    def create_optimizer(self, model: Any = None) -> Any:
        """Build Adam inside the subspaces from the plain trainer's groups and options of AdamW."""
        optimizer = super().create_optimizer(model)
        if self._subspaces is None or isinstance(optimizer, SubspaceOptimizer):
            return optimizer
        groups = [
            {"params": g["params"], "weight_decay": g["weight_decay"]}
            for g in optimizer.param_groups
        ]
        # AdamW is this by being AdamW, and does not take it as an option.
        given = {k: v for k, v in optimizer.defaults.items() if k != "decoupled_weight_decay"}
        inside = SubspaceOptimizer(
            self._subspaces,
            groups,
            inner_steps=self.args.subspace_inner_steps,
            proximal=self.args.subspace_proximal,
            moments=self.args.subspace_moments,
            **given,
        )
        self.optimizer = inside  # type: ignore[assignment]
        return inside

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save the merged model: a plain one, whatever subspace it is in."""
        if self._subspaces is not None and self.args.should_save:
            if state_dict is None:
                state_dict = self.accelerator.unwrap_model(self.model).state_dict()
            state_dict = self._subspaces.merged_state_dict(state_dict)
        super()._save(output_dir, state_dict)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Save what the merged model cannot give back where the optimiser is saved."""
        super()._save_optimizer_and_scheduler(output_dir)
        if self._subspaces is None or not self.args.should_save:
            return
        # Sharded, the model's own files have W and B as they are.
        state = {}
        if not self.is_fsdp_enabled:
            own = self.accelerator.unwrap_model(self.model).state_dict()
            state = self._subspaces.exact_state(own)
        settings = {name: getattr(self.args, name) for name in _SHARED}
        settings["outer_step"] = self._subspaces.outer_step
        content = {name: value.detach().cpu().contiguous() for name, value in state.items()}
        write_whole(
            Path(output_dir) / SUBSPACES_FILE, save(content, {_SETTINGS: json.dumps(settings)})
        )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load a checkpoint's W and B; the merged model alone where it was trained otherwise."""
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self._subspaces is not None:
            self._load_exact(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        """Load the best model; B goes back with it."""
        super()._load_best_model()
        if self._subspaces is not None:
            self._load_exact(Path(str(self.state.best_model_checkpoint)))

    def _load_exact(self, checkpoint: Path) -> None:
        """Set W, B and the outer step to those of a checkpoint.

        Raises:
            ValueError: it was not written in subspaces, or in others.
        """
        assert self._subspaces is not None
        path = checkpoint / SUBSPACES_FILE
        if not path.is_file():
            raise ValueError(
                f"{checkpoint} has no {SUBSPACES_FILE}: it was not written by a run in subspaces. "
                "Start a new run from its weights, or leave subspace_rank unset."
            )
        with safe_open(path, framework="pt") as file:
            written = parse_json((file.metadata() or {})[_SETTINGS])
            exact = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        for name in _SHARED:
            if written[name] != getattr(self.args, name):
                raise ValueError(
                    f"{name} is {getattr(self.args, name)!r}, but {checkpoint} was written with "
                    f"{written[name]!r}: resume with the same value, or start a new run."
                )
        self._subspaces.redraw(written["outer_step"])
        if not self.is_fsdp_enabled:
            self._subspaces.clear()
            self.accelerator.unwrap_model(self.model).load_state_dict(exact, strict=False)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Warn of what a checkpoint lacks, but not of B, which it has elsewhere."""
        keys = [key for key in load_result.missing_keys if not key.endswith(_FACTOR)]
        super()._issue_warnings_after_load(load_result._replace(missing_keys=keys))


def enter_subspaces(model: nn.Module, args: Any) -> Subspaces:
    """Put a model into subspaces as the options say.

    Raises:
        ValueError: the model has nothing that can be trained so.
    """
    return Subspaces(
        model,
        args.subspace_rank,
        sampling=args.subspace_sampling,
        rounding=args.subspace_rounding,
        others=others_trained(args),
        seed=args.seed,
    )


def check_subspaces(trainer: Any) -> None:
    """Refuse what cannot be trained in subspaces, before anything is changed.

    Raises:
        ValueError: such an optimiser or way of training, by name.
    """
    option = f"subspace_rank={trainer.args.subspace_rank}"
    if trainer.optimizer is not None or trainer.optimizer_cls_and_kwargs is not None:
        raise ValueError(f"{option} brings an optimiser of its own: pass none to the trainer.")
    if trainer.model_init is not None:
        raise ValueError(
            f"{option} puts the model into subspaces before training, and model_init would make "
            "another one then: pass model."
        )
    optim = optimizer_name(trainer.args)
    if optim not in ADAMW:
        raise ValueError(
            f"{option} trains with Adam inside subspaces: set optim to one of {', '.join(ADAMW)}; "
            f"got {optim!r}."
        )
    if trainer.is_deepspeed_enabled:
        raise ValueError(
            f"{option} needs whole weights or FSDP, and DeepSpeed keeps optimisers to itself: "
            "train with DDP or FSDP2, or leave subspace_rank unset."
        )
