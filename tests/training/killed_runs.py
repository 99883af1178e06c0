"""Runs that are killed and taken up again, each in a process of its own.

``python -m tests.training.killed_runs FOLDER`` imports once, builds what all runs share and forks
a process for each run. Runs leave what they kept and their weights in FOLDER, and the report that
the tests read is ``FOLDER/report.json``.
"""

import builtins
import contextlib
import hashlib
import io
import json
import os
import resource
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

import peft.peft_model
import torch
from datasets import Dataset, disable_progress_bars
from peft import LoraConfig
from safetensors.torch import save_file
from transformers import TrainerCallback

import colm.durable
import colm.training.checkpoints.selector_state
import conftest  # noqa: F401  the environment of tests
from colm.training.checkpoints import manifest
from tests.conftest import CHAT_TEMPLATE, save_tiny_model
from tests.training.conftest import StopAt, build_trainer, make_records, on_keep

STEPS, SAVED_EVERY = 6, 2
OPTIONS = {
    "max_steps": STEPS,
    "save_strategy": "steps",
    "save_steps": SAVED_EVERY,
    "save_total_limit": 1,
    "gradient_accumulation_steps": 1,
    "logging_steps": 3,
    "selector": "colm",
}
LONGEST_SECONDS = 60


def build(model_folder, dropout=0.2, **options):
    lora = LoraConfig(r=4, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM")
    return build_trainer(
        model_folder,
        Dataset.from_list(make_records()),
        trainer_options={"peft_config": lora},
        **(OPTIONS | options),
    )


def run(trainer, folder, name, resume=None, rank=0):
    """Train; note each step's kept examples at once, and the weights at the end."""
    trainer.args.output_dir = str(folder / "runs" / name.partition("+")[0])
    notes = (folder / f"{name}.{rank}.kept").open("a")

    def note(kept):
        line = [kept.split.step, [e["input_ids"] for e in kept.examples]]
        # A process that is killed does not flush.
        print(json.dumps(line), file=notes, flush=True)

    on_keep(trainer, note)
    if resume is not None:
        # What is not loaded from the checkpoint must not be right by chance.
        torch.rand(7)
        with torch.no_grad():
            for parameter in trainer.model.parameters():
                if parameter.requires_grad:
                    parameter.add_(1.0)
    trainer.train(resume_from_checkpoint=resume)
    trained = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    torch.save(trained, folder / f"{name}.{rank}.weights")


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


class FileOperations:
    """Call a function at each change of a file in a checkpoint, halfway through writing it, too."""

    def __init__(self, trainer, from_step, action):
        self.action, self.active = action, False
        self.from_step, self.trainer = from_step, trainer
        self.save = trainer._save_checkpoint
        trainer._save_checkpoint = self._save_checkpoint

    def _save_checkpoint(self, *arguments):
        if self.trainer.state.global_step == self.from_step:
            self._watch()
            self.active = True
        try:
            self.save(*arguments)
        finally:
            self.active = False

    def note(self, label):
        if self.active:
            self.active = False
            try:
                self.action(label)
            finally:
                self.active = True

    def _watch(self):
        sys.addaudithook(self._audit)
        opening, saving, fsync = io.open, torch.save, os.fsync

        def watched_open(file, mode="r", *arguments, **options):
            opened = opening(file, mode, *arguments, **options)
            if set(mode) & set("wxa"):
                self.note(f"opened {Path(file).name}")
            return opened

        def watched_fsync(handle):
            self.note("flushing")
            fsync(handle)

        def watched_save(value, path, *arguments, **options):
            saving(value, path, *arguments, **options)
            self._halve(Path(path))

        def watched_save_file(tensors, path, *arguments, **options):
            save_file(tensors, path, *arguments, **options)
            self._halve(Path(path))

        builtins.open = io.open = watched_open
        torch.save, os.fsync = watched_save, watched_fsync
        peft.peft_model.safe_save_file = watched_save_file

    def _audit(self, event, arguments):
        if event in {"os.rename", "os.remove", "os.rmdir", "os.mkdir"}:
            self.note(f"{event} {Path(os.fsdecode(arguments[0])).name}")

    def _halve(self, path):
        """Stand still when half of a file is written that another language writes."""
        if self.active:
            self.active = False
            content = path.read_bytes()
            path.write_bytes(content[: len(content) // 2])
            self.active = True
            self.note(f"half {path.name}")
            self.active = False
            path.write_bytes(content)
            self.active = True


def digests(checkpoint):
    """What is in the files of a checkpoint."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(checkpoint.iterdir())
    }


def watch_every_operation(trainer, folder, name):
    """At each file operation of the second checkpoint, which checkpoints count as complete."""
    output = folder / "runs" / name
    seen, final = [], {}

    def look(label):
        complete = manifest.find_checkpoints(output).complete
        if not final:
            final["checkpoint-2"] = digests(output / "checkpoint-2")
        seen.append([label, {path.name: digests(path) for path in complete}])

    class Final(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            if state.global_step == 4:
                final["checkpoint-4"] = digests(output / "checkpoint-4")

    FileOperations(trainer, 4, look)
    trainer.add_callback(Final())
    trainer.add_callback(StopAt(4))
    run(trainer, folder, name)
    (folder / "operations.json").write_text(json.dumps({"seen": seen, "final": final}))


def die_at_operation(trainer, folder, name, label, occurrence=1):
    left = [occurrence]

    def count(current):
        left[0] -= current == label
        if not left[0]:
            kill()

    FileOperations(trainer, 4, count)
    run(trainer, folder, name)


def run_out_of_disk(trainer, folder, name, most_bytes):
    """No file may grow beyond a size from the second checkpoint on: a disk that is full."""

    save = trainer._save_checkpoint

    def limited(*arguments):
        if trainer.state.global_step == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, resource.RLIM_INFINITY))
        save(*arguments)

    trainer._save_checkpoint = limited
    note_error(lambda: run(trainer, folder, name), folder, name)


def run_out_of_disk_in(trainer, folder, name, file):
    """The disk is full when one of this library's own files is written."""
    write = colm.durable.write_whole

    def failing(path, content):
        if path.name == file and trainer.state.global_step == 4:
            path.with_name(f"{path.name}.unfinished").write_bytes(content[:10])
            raise OSError(28, "No space left on device")
        write(path, content)

    manifest.write_whole = colm.training.checkpoints.selector_state.write_whole = failing
    note_error(lambda: run(trainer, folder, name), folder, name)


def note_error(function, folder, name):
    error = None
    try:
        function()
    except Exception as raised:
        error = [type(raised).__name__, str(raised)]
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    (folder / f"{name}.error").write_text(json.dumps(error))


def resume(trainer, folder, name):
    """Go on from the last complete checkpoint, or from the start where there is none."""
    output = folder / "runs" / name
    found = manifest.find_checkpoints(output)
    names = [path.name for path in found.complete]
    (folder / f"{name}.found").write_text(json.dumps(names))
    run(trainer, folder, f"{name}+resumed", resume=bool(found.complete) or None)


# One process of two.


def join(rank, port):
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def train_as_one_of_two(rank, port, model_folder, folder, name, fault, how, options):
    join(rank, port)
    colm.training.checkpoints.selector_state._PIECE_BYTES = 1_000  # so that a state takes several
    trainer = build(model_folder, output_dir=str(folder / "runs" / name), **options)
    dying_rank, label = fault
    if rank == dying_rank:
        FileOperations(trainer, 4, lambda current: kill() if current == label else None)
        if label == "step":
            trainer.add_callback(KillAt(5))
    if how == "stop":
        trainer.add_callback(StopAt(2))
    whole_name = f"{name}+resumed" if how == "resume" else name
    run(trainer, folder, whole_name, True if how == "resume" else None, rank)
    torch.distributed.destroy_process_group()


class KillAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step == self.step - 1:
            kill()


# Starting processes.


def start(function, *arguments):
    """Fork a process that calls a function; return its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        function(*arguments)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def end(children, kill_after=None):
    """Wait for processes; once one fails, the others get a moment, as a launcher would do."""
    codes, deadline = {}, time.monotonic() + LONGEST_SECONDS
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(children[0], signal.SIGKILL)
    while len(codes) < len(children):
        for child in children:
            if child not in codes:
                found, status = os.waitpid(child, os.WNOHANG)
                if found:
                    codes[child] = os.waitstatus_to_exitcode(status)
        if any(codes.values()):
            deadline = min(deadline, time.monotonic() + 1)
        if time.monotonic() > deadline:
            for child in set(children) - set(codes):
                os.kill(child, signal.SIGKILL)
            deadline += LONGEST_SECONDS
        time.sleep(0.01)
    return [codes[child] for child in children]


def start_two(*arguments):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [start(train_as_one_of_two, rank, port, *arguments) for rank in (0, 1)]


NOBODY = (None, None)
# Where a run is killed: an operation of the second checkpoint, and the first or a later one.
OPERATIONS = {
    "beginning": ("os.mkdir checkpoint-4", 1),
    "weights": ("half adapter_model.safetensors", 1),
    "optimizer": ("half optimizer.pt", 1),
    "trainer-state": ("opened trainer_state.json", 1),
    "manifest-opened": ("opened colm_manifest.json.unfinished", 1),
    "manifest-named": ("os.rename colm_manifest.json.unfinished", 1),
    "old-deleted": ("os.remove optimizer.pt", 1),
}
MOMENTS = (0.4, 0.8)
# The first is less than the weights of the adapter take, the other less than the optimiser's state.
FULL = {"full-at-once": 7_000, "full-later": None}
FULL_FILES = {
    "full-selector": "colm_selector.safetensors",
    "full-manifest": "colm_manifest.json",
}
PAIRS = {
    "pair-step-0": (0, "step"),
    "pair-saving-1": (1, "half rng_state_1.pth"),
}


def main(folder):
    disable_progress_bars()
    codes = {}
    model_folder = save_tiny_model(folder / "model", CHAT_TEMPLATE)
    trainer = build(model_folder, output_dir=str(folder / "runs"))

    began = time.monotonic()
    codes["whole"] = end([start(run, trainer, folder, "whole")])
    seconds = time.monotonic() - began
    adapter = folder / "runs" / "whole" / f"checkpoint-{STEPS}" / "adapter_model.safetensors"
    FULL["full-later"] = adapter.stat().st_size + 1_000
    first = {"operations": start(watch_every_operation, trainer, folder, "operations")}
    for name, (label, occurrence) in OPERATIONS.items():
        first[name] = start(die_at_operation, trainer, folder, name, label, occurrence)
        if len(first) % 2 == 0:
            codes |= {name: end([child]) for name, child in first.items() if name not in codes}
    for name, most_bytes in FULL.items():
        first[name] = start(run_out_of_disk, trainer, folder, name, most_bytes)
    for name, file in FULL_FILES.items():
        first[name] = start(run_out_of_disk_in, trainer, folder, name, file)
    codes |= {name: end([child]) for name, child in first.items() if name not in codes}
    codes["finished"] = end([start(run, trainer, folder, "finished")])
    for share in MOMENTS:
        name = f"moment-{share}"
        codes[name] = end([start(run, trainer, folder, name)], kill_after=share * seconds)
    resumed = [name for name in codes if name not in {"whole", "operations"}]
    for pair in zip(resumed[::2], [*resumed[1::2], None], strict=False):
        children = {name: start(resume, trainer, folder, name) for name in pair if name}
        codes |= {f"{name}+resumed": end([child]) for name, child in children.items()}

    codes["pair"] = end(start_two(model_folder, folder, "pair", NOBODY, "whole", {}))
    for name, fault in PAIRS.items():
        codes[name] = end(start_two(model_folder, folder, name, fault, "whole", {}))
        found = manifest.find_checkpoints(folder / "runs" / name).complete
        (folder / f"{name}.found").write_text(json.dumps([path.name for path in found]))
        resumed = start_two(model_folder, folder, name, NOBODY, "resume", {})
        codes[f"{name}+resumed"] = end(resumed)
    together(model_folder, folder, codes)
    (folder / "report.json").write_text(json.dumps({"codes": codes, "seconds": seconds}))


def together(model_folder, folder, codes):
    """Two processes that select together are stopped; one with twice the batch goes on."""
    options = {"selection_scope": "global", "dropout": 0.0, "per_device_train_batch_size": 2}
    codes["together"] = end(start_two(model_folder, folder, "together", NOBODY, "stop", options))
    alone = build(
        model_folder,
        output_dir=str(folder / "runs" / "alone"),
        **(options | {"per_device_train_batch_size": 4}),
    )
    whole = start(run, alone, folder, "alone")
    codes["alone"] = end([whole])
    taken_up = start(run, alone, folder, "together+resumed", True)
    codes["together+resumed"] = end([taken_up])


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(Path(sys.argv[1]))
