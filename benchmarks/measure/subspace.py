"""Randomised subspace optimisation beside AdamW, GaLore and LoRA, at equal rank.

Two tasks. ``--task pretrain``: a small Llama from scratch, on the bytes of real text, so that next
to all of its weights lie in the layers. ``--task finetune``: SmolLM2-135M, all weights, on blocks
of the same text. Text is that of the generated mixture, or of ``--data FILE ...``. Norms,
embeddings and head are trained as usual in every arm, so that what differs is the linear maps of
the layers.

``python -m benchmarks subspace`` runs every arm with every learning rate and seed that is named,
and writes a file for each when it ends: held-out loss after steps and seconds, and the bytes of

- ``weight``: weights, and of subspaces their directions P;
- ``optimizer``: its states;
- ``saved``: most that autograd saves for backward at one time, weights and P left out;
- ``peak``: weights, states, and the most that tensors made in a step hold at one time, over steps
  that merge or project anew and those that do not.

Where directions come from a gradient (`benchmarks/gradient_directions.py`), the bytes are those of
a trial, which keeps whole gradients. What is there is not run again. ``benchmarks subspace_pace``
times the arms side by side, and ``make results`` puts the figures into ``docs/memory.md``.
"""

import argparse
import math
import statistics
import time
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from galore_torch import GaLoreAdamW
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from benchmarks.gradient_directions import CHOICES, GradientSubspaceOptimizer
from benchmarks.measure.quality import data_names, load_data, slug
from benchmarks.optimizer_tensors import state_tensors
from benchmarks.record import RESULTS, machine, write_result
from colm.memory.subspaces.linear import draw_directions
from colm.memory.subspaces.optimizer import SubspaceOptimizer
from colm.memory.subspaces.subspaces import Subspaces
from colm.planning.tally import SavedBytes, Tally, storage_bytes
from colm.runs.pretrained import demo_model_folder

HELD_OUT_BLOCKS = 64
WARMUP, LAST_RATE = 0.1, 0.1  # shares of the steps, and of the learning rate at their end


@dataclass(frozen=True)
class Arm:
    """A way of training: its kind, and options of `Subspaces` and of `SubspaceOptimizer`.

    Attributes:
        loops: steps of an inner loop, over ``--inner_steps``.
        trial: options of `GradientSubspaceOptimizer`, which then takes the optimizer's place.
    """

    kind: str
    of_subspaces: dict[str, Any] = field(default_factory=dict)
    of_optimizer: dict[str, Any] = field(default_factory=dict)
    loops: float = 1.0
    trial: dict[str, Any] = field(default_factory=dict)


ARMS = {
    "AdamW": Arm("adamw"),
    "RSO": Arm("rso"),
    "RSO, gaussian": Arm("rso", {"sampling": "gaussian"}),
    "RSO, moments reset": Arm("rso", of_optimizer={"moments": "reset"}),
    "RSO, moments kept": Arm("rso", of_optimizer={"moments": "kept"}),
    "RSO, proximal": Arm("rso", of_optimizer={"proximal": 1.0}),
    "RSO, weak proximal": Arm("rso", of_optimizer={"proximal": 1000.0}),
    "RSO, rounded to nearest": Arm("rso", {"rounding": "nearest"}),
    "RSO, loops of half": Arm("rso", loops=0.5),
    "RSO, loops of twice": Arm("rso", loops=2),
    "RSO, loops of four times": Arm("rso", loops=4),
    "RSO, moments carried": Arm("rso", trial={"choice": "haar", "moments": "carried"}),
    "GaLore": Arm("galore"),
    "LoRA": Arm("lora"),
    "LoRA, A frozen": Arm("frozen lora"),
} | {
    f"RSO, {choice}" + (f", moments {moments}" if moments != "averaged" else ""): Arm(
        "rso", trial={"choice": choice, "moments": moments}
    )
    for choice in CHOICES
    for moments in ("averaged", "reset", "kept", "carried")
}
#: Run where none are named.
STANDARD = [name for name, arm in ARMS.items() if not arm.trial]


def main() -> None:
    """Run what is missing, and say where results lie."""
    options = parser().parse_args()
    of_data = (data_names(options) or "generated").partition(".")[0]
    folder = RESULTS / "subspace" / f"{options.task}-{options.label or of_data}"
    bench = SubspaceBench(options)
    for seed in options.seeds:
        for name in options.arms:
            for rate in options.learning_rates:
                path = folder / f"{slug(name)}-rank{options.rank}-lr{rate:g}-seed{seed}.json"
                if path.exists():
                    print(f"{path.stem}: done before", flush=True)
                    continue
                rows, held = bench.run(ARMS[name], rate, seed)
                settings = vars(options) | {"data": data_names(options), "arm": name}
                settings |= {"learning_rate": rate, "seed": seed}
                for several in ("arms", "learning_rates", "seeds"):
                    del settings[several]
                folder.mkdir(parents=True, exist_ok=True)
                write_result("subspace", settings, rows, rows[-1] | held, path)
                print(f"{path.stem}: {rows[-1]}", flush=True)
    print(f"results are in {folder.name}, measured on {machine()}")


def parser() -> argparse.ArgumentParser:
    """Return a parser of the options."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("--task", choices=["pretrain", "finetune"], default="pretrain")
    made.add_argument("--data", nargs="+", help="default: the generated mixture")
    made.add_argument("--label", help="of these runs; default: the name of the data")
    made.add_argument("--arms", nargs="+", choices=ARMS, default=STANDARD, metavar="ARM")
    made.add_argument("--learning_rates", type=float, nargs="+", default=[1e-3, 3e-3])
    made.add_argument("--others_rate", type=float, help="of norms, embeddings and head, of all")
    made.add_argument("--seeds", type=int, nargs="+", default=[0])
    made.add_argument("--rank", type=int, default=64)
    made.add_argument("--inner_steps", type=int, default=100, help="and GaLore's gap")
    made.add_argument("--steps", type=int, default=600)
    made.add_argument("--measure_every", type=int, default=100)
    made.add_argument("--batch", type=int, default=16, help="blocks a step")
    made.add_argument("--tokens", type=int, default=256, help="of a block")
    made.add_argument("--hidden", type=int, default=256, help="of the model to pre-train")
    made.add_argument("--layers", type=int, default=6, help="of the model to pre-train")
    made.add_argument("--dtype", default="float32", help="of the weights")
    made.add_argument("--autocast", action="store_true", help="compute in bfloat16")
    return made


class SubspaceBench:
    """Text and models that all runs share."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        blocks = read_blocks(options)
        self.held_out, self.train = blocks[:HELD_OUT_BLOCKS], blocks[HELD_OUT_BLOCKS:]

    def run(
        self, arm: Arm, rate: float, seed: int
    ) -> tuple[list[dict[str, float]], dict[str, float]]:
        """Train with one arm; return what was measured on the way, and the bytes it takes."""
        options = self.options
        held = self.count_bytes(arm, rate)
        torch.manual_seed(seed)
        model, optimizer = self.build(arm, rate, options.inner_steps)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.share_of_rate)
        order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(seed))
        seconds, rows = 0.0, [{"steps": 0.0, "seconds": 0.0, "loss": self.measure(model)}]
        for step in range(1, options.steps + 1):
            places = torch.arange((step - 1) * options.batch, step * options.batch) % len(order)
            started = time.perf_counter()
            self.step(model, optimizer, self.train[order[places]])
            schedule.step()
            self.synchronise()
            seconds += time.perf_counter() - started
            if step % options.measure_every == 0:
                loss = self.measure(model)
                rows.append({"steps": float(step), "seconds": seconds, "loss": loss})
        return rows, held

    def share_of_rate(self, step: int) -> float:
        """Warm-up, then a cosine down to a tenth."""
        warmup = WARMUP * float(self.options.steps)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        done = (step - warmup) / (self.options.steps - warmup)
        return LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * done)) / 2

    def step(self, model: nn.Module, optimizer: Any, blocks: Tensor) -> None:
        """Forward, backward, and the optimiser's step, gradients clipped at 1."""
        blocks = blocks.to(self.device)
        if isinstance(optimizer, GradientSubspaceOptimizer):
            optimizer.look_at(partial(self.loss, model, blocks))
        self.loss(model, blocks).backward()
        nn.utils.clip_grad_norm_((p for p in model.parameters() if p.requires_grad), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    def loss(self, model: nn.Module, blocks: Tensor) -> Tensor:
        """Loss of the next token, over blocks."""
        with torch.autocast(self.device, torch.bfloat16, enabled=self.options.autocast):
            loss: Tensor = model(input_ids=blocks, labels=blocks).loss
        return loss

    @torch.no_grad()
    def measure(self, model: nn.Module) -> float:
        """Loss on held-out blocks."""
        model.eval()
        losses = [
            self.loss(model, part).item()
            for part in self.held_out.to(self.device).split(self.options.batch)
        ]
        model.train()
        return statistics.fmean(losses)

    def build(self, arm: Arm, rate: float, inner_steps: int) -> tuple[Any, Any]:
        """Return a model and its optimiser; what an arm trains of the layers is its own."""
        model = new_model(self.options).to(self.device).train()
        others = [p for name, p in model.named_parameters() if not is_map(name, p)]
        rank: int = self.options.rank
        options: dict[str, Any] = {"lr": rate, "weight_decay": 0.0}
        if arm.kind == "rso":
            subspaces = Subspaces(model, rank, **arm.of_subspaces)
        elif "lora" in arm.kind:
            lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
            model = get_peft_model(model, lora)
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(not ("base_layer" in name or frozen(arm, name)))
        known = {id(parameter) for parameter in others}
        inside = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
        others_rate: float = self.options.others_rate or rate
        groups: list[dict[str, Any]] = [
            {"params": others, "lr": others_rate},
            {"params": inside},
        ]
        if arm.kind == "rso":
            loop = max(1, round(inner_steps * arm.loops))
            inner = {"inner_steps": loop} | arm.of_optimizer | arm.trial
            if arm.trial:
                return model, GradientSubspaceOptimizer(subspaces, groups, **inner, **options)
            return model, SubspaceOptimizer(subspaces, groups, **inner, **options)
        if arm.kind == "galore":
            # The scale and the way of projecting of the authors' recipes.
            groups[1] |= {"rank": rank, "update_proj_gap": inner_steps, "scale": 0.25}
            groups[1] |= {"proj_type": "std"}
            return model, GaLoreAdamW(groups, **options, no_deprecation_warning=True)
        return model, torch.optim.AdamW(groups, **options)

    def count_bytes(self, arm: Arm, rate: float) -> dict[str, float]:
        """Count on a model of its own, over steps of which every second draws anew."""
        model, optimizer = self.build(replace(arm, loops=1), rate, inner_steps=2)
        blocks = self.train[: self.options.batch].clone()  # a view would hold all of the text
        self.step(model, optimizer, blocks)
        peak = saved_bytes = 0
        for _ in range(4):
            weights = [*model.parameters(), *draw_directions(model)]
            states = state_tensors(optimizer)
            with Tally([*weights, *states, blocks]) as tally, SavedBytes(weights) as saved:
                self.step(model, optimizer, blocks)
            static = storage_bytes(weights) + storage_bytes(states)
            peak = max(peak, static + tally.peak_bytes)
            saved_bytes = max(saved_bytes, saved.peak_bytes)
        return {
            "weight_bytes": storage_bytes([*model.parameters(), *draw_directions(model)]),
            "optimizer_bytes": storage_bytes(state_tensors(optimizer)),
            "saved_bytes": saved_bytes,
            "peak_bytes": peak,
        }

    def synchronise(self) -> None:
        """Wait for the accelerator, where there is one."""
        if self.device == "cuda":
            torch.cuda.synchronize()


def new_model(options: argparse.Namespace) -> Any:
    """Return the model to train: a small one with random weights, or the pretrained one."""
    dtype = getattr(torch, options.dtype)
    if options.task == "finetune":
        return AutoModelForCausalLM.from_pretrained(str(demo_model_folder()), dtype=dtype)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=options.hidden,
        intermediate_size=options.hidden * 8 // 3 // 16 * 16,
        num_hidden_layers=options.layers,
        num_attention_heads=max(1, options.hidden // 64),
        max_position_embeddings=options.tokens,
        bos_token_id=None,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config).to(dtype)


def read_blocks(options: argparse.Namespace) -> Tensor:
    """Return text in blocks, ``[blocks, tokens]``, shuffled: as bytes, or in the model's tokens."""
    texts = [
        " ".join(part["content"] for part in [*row["prompt"], *row["completion"]]) + "\n"
        for row in load_data(options.data).shuffle(seed=0)
    ]
    if options.task == "pretrain":
        ids = torch.frombuffer(bytearray("".join(texts).encode()), dtype=torch.uint8).long()
    else:
        tokenizer = AutoTokenizer.from_pretrained(str(demo_model_folder()))
        needed = options.tokens * (options.batch * options.steps + HELD_OUT_BLOCKS)
        said: list[int] = []
        for text in texts:
            said += tokenizer(text)["input_ids"]
            if len(said) >= needed:
                break
        ids = torch.tensor(said)
    return ids[: len(ids) // options.tokens * options.tokens].view(-1, options.tokens)


def is_map(name: str, parameter: Tensor) -> bool:
    """Whether a weight is that of a linear map of the layers."""
    return ".layers." in name and parameter.ndim == 2


def frozen(arm: Arm, name: str) -> bool:
    """Whether an arm leaves a factor of LoRA as it was drawn."""
    return arm.kind == "frozen lora" and "lora_A" in name
