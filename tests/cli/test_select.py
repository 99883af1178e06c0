"""``colm select`` beside ``colm sft``: the same candidates, the same kept, nothing else touched."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from colm.cli import main
from colm.runs.arguments import parse_arguments
from colm.runs.kept_shares import Candidate, share_of, shares_by_source
from colm.runs.select import DryRunTrainer, make_dry_run
from colm.runs.sft import build_trainer
from colm.training.step.record import MOST_SOURCES, OTHER_SOURCES

pytestmark = pytest.mark.usefixtures("no_progress_bars")
SOURCES = {"algebra": 12, "logic": 8, "rare": 2}
QUICK = (
    "--per_device_train_batch_size=2",
    "--max_length=64",
    "--bf16=false",
    "--gradient_checkpointing=false",
    "--logging_steps=1",
    "--report_to=none",
    "--save_strategy=no",
    "--disable_tqdm=true",
)


@pytest.fixture
def options(tmp_path: Path, tiny_model_folder: Path, monkeypatch) -> list[str]:
    """Options of a run, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    rows = [
        {"question": f"{source} {i}?", "answer": "yes " * (i % 5) + str(i), "source": source}
        for source, count in SOURCES.items()
        for i in range(count)
    ]
    Path("train.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return [f"--model_name_or_path={tiny_model_folder}", "--dataset_name=train.jsonl", *QUICK]


def log_of(folder: str) -> list[dict[str, float]]:
    history = json.loads((Path(folder) / "trainer_state.json").read_text())["log_history"]
    return [entry for entry in history if "loss" in entry]


def lines_of(path: str) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def counts(candidates: list[Candidate]) -> dict[str, float]:
    """What a run would log of one step's candidates."""
    drawn = Counter(each.source for each in candidates)
    kept = Counter(each.source for each in candidates if each.kept)
    return {
        **{f"colm/candidates/{source}": number for source, number in drawn.items()},
        **{f"colm/kept/{source}": number for source, number in kept.items()},
    }


def logged_counts(entry: dict[str, float]) -> dict[str, float]:
    names = ("colm/candidates/", "colm/kept/")
    return {name: value for name, value in entry.items() if name.startswith(names)}


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder, files with their content."""
    return {str(p): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        (),
        ("--selector=colm", "--gradient_accumulation_steps=2", "--seed=3", "--match_every=1"),
        ("--selector=gradient_matching", "--candidate_ratio=3", "--data_seed=5"),
        ("--selector=mean_matching", "--use_peft=true", "--lora_target_modules", "all-linear"),
        ("--eval_strategy=steps", "--eval_steps=1", "--test_split_size=0.3"),
        ("--source_clusters=3", "--selector=random"),
        ("--dataset_streaming=true",),
    ],
    ids=lambda more: " ".join(more) or "default",
)
def test_the_first_step_is_that_of_the_run(options, more, capsys) -> None:
    run = [*options, "--max_steps=1", *more]
    assert main(["select", *run, "--batches=1", "--output=kept.jsonl"]) == 0
    shown = capsys.readouterr().out
    candidates = [Candidate(**line) for line in lines_of("kept.jsonl")]
    assert main(["sft", *run, "--output_dir=out"]) == 0
    (logged,) = log_of("out")
    assert {each.step for each in candidates} == {0}
    assert counts(candidates) == logged_counts(logged)
    share = share_of(candidates)
    assert share.of_label_tokens == pytest.approx(logged["colm/label_token_share"])
    for name in ("matching_error", "match_error"):
        value = logged.get(f"colm/{name}")
        said = f"mean {name.replace('_', ' ')}"
        assert (said in shown) == (value is not None)
        if value is not None:
            assert f" {value:.3f}: 1 is as good as a random choice" in shown
    assert ("colm/match_error" in logged) == ("--match_every=1" in more)
    for source, found in shares_by_source(candidates).items():
        row = f"{source} {found.candidates} {found.kept} {found.of_candidates:.1%} "
        assert row in " ".join(shown.split())
    total = f"total {len(candidates)} {share.kept} {share.of_candidates:.1%}"
    assert total in " ".join(shown.split())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:3 candidates of small sources do not fit a budget of 2")
@pytest.mark.parametrize(
    ("sampling", "small"),
    [("uniform", "rare"), ("unimax", "none"), ("inverse_source_size", "none")],
)
def test_without_looking_every_step_is_that_of_the_run(options, sampling: str, small: str) -> None:
    """Three epochs of six steps, the last of them short: nothing here depends on the weights."""
    run = [
        *options,
        "--selector=small_random",
        f"--small_sources={small}",
        f"--candidate_sampling={sampling}",
        "--num_train_epochs=3",
        "--learning_rate=0.1",
    ]
    assert main(["sft", *run, "--output_dir=out"]) == 0
    found = make_dry_run(parse_arguments(run), 100)
    steps = log_of("out")
    assert len(steps) == 18
    by_step = [[c for c in found.candidates if c.step == step] for step in range(len(steps))]
    assert [counts(candidates) for candidates in by_step] == [logged_counts(s) for s in steps]
    assert "steps 0 to 17, all that the run has of 100 asked for" in found.notes
    assert ("small sources kept whole: rare" in found.notes) == (small == "rare")
    assert not any("weights" in note for note in found.notes)


@pytest.mark.slow
def test_from_a_checkpoint_it_goes_on_as_the_run_does(options, tmp_path: Path) -> None:
    saving = ["--output_dir=out", "--save_strategy=steps", "--save_steps=2", "--learning_rate=0.1"]
    run = [*options, "--max_steps=4", "--selector=colm"]
    assert main(["sft", *run, *saving]) == 0
    Path("out/checkpoint-4").rename("elsewhere")
    before = tree(tmp_path)
    for checkpoint in ("out/checkpoint-2", "true"):
        resumed = [*run, *saving, f"--resume_from_checkpoint={checkpoint}"]
        found = make_dry_run(parse_arguments(resumed), 1)
        assert {each.step for each in found.candidates} == {2}
        assert counts(found.candidates) == logged_counts(log_of("out")[2])
    assert tree(tmp_path) == before
    found = make_dry_run(parse_arguments([*run, *saving]), 1)
    assert counts(found.candidates) == logged_counts(log_of("out")[0])
    with pytest.raises(ValueError, match="holds no checkpoint"):
        make_dry_run(parse_arguments([*options, "--resume_from_checkpoint=true"]), 1)


@pytest.mark.slow
def test_a_run_that_has_ended_has_nothing_to_select(options) -> None:
    run = [*options, "--max_steps=1", "--save_strategy=steps", "--save_steps=1", "--output_dir=out"]
    assert main(["sft", *run]) == 0
    with pytest.raises(ValueError, match="the run has ended"):
        make_dry_run(parse_arguments([*run, "--resume_from_checkpoint=true"]), 1)


@pytest.mark.slow
def test_nothing_is_trained_and_nothing_written(
    options, tmp_path: Path, tiny_model_folder: Path, capfd
) -> None:
    saving = ["--save_strategy=steps", "--save_steps=1", "--eval_strategy=steps", "--eval_steps=1"]
    run = [*options, *saving, "--max_steps=8", "--learning_rate=0.1", "--report_to=all"]
    before, state = tree(tmp_path), torch.get_rng_state()
    assert main(["select", *run, "--batches=8", "--output_dir=out"]) == 0
    assert tree(tmp_path) == before
    shown = capfd.readouterr()
    assert "loss" not in shown.out
    assert "single sample" not in shown.err
    assert "step 7: 2 of 4 candidates kept" in shown.err
    assert "if its weights stayed as they are now" in shown.out

    torch.set_rng_state(state)
    trainer = build_trainer(parse_arguments(run), DryRunTrainer)
    trainer.look_ahead(3, None)
    saved = load_file(tiny_model_folder / "model.safetensors")
    now = trainer.model.state_dict()
    assert all(torch.equal(now[name], weight) for name, weight in saved.items())
    assert all(parameter.grad is None for parameter in trainer.model.parameters())
    assert not trainer.optimizer.state_dict()["state"]
    assert trainer.state.global_step == 3
    assert trainer.state.log_history == []


def test_the_file_has_a_line_for_each_candidate(options) -> None:
    run = [*options, "--selector=gradient_matching", "--max_steps=3", "--data_seed=1"]
    assert main(["select", *run, "--batches=2", "--output=new/kept.jsonl"]) == 0
    lines = lines_of("new/kept.jsonl")
    assert [line["step"] for line in lines] == [0] * 4 + [1] * 4
    for step in (0, 1):
        weights = [line["weight"] for line in lines if line["step"] == step and line["kept"]]
        assert len(weights) == 2
        assert min(weights) > 0
    assert all(line["weight"] == 0 for line in lines if not line["kept"])
    texts = {line["key"]: line["text"] for line in lines}
    assert len(texts) == len(set(texts.values()))
    assert all(line["source"] in line["text"] for line in lines)
    assert all(0 < line["label_tokens"] < len(line["text"]) for line in lines)


def test_a_file_that_is_there_is_left_alone(options, capsys) -> None:
    Path("kept.jsonl").write_text("mine")
    assert main(["select", *options, "--output", "kept.jsonl"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("colm: error: --output kept.jsonl ")
    assert Path("kept.jsonl").read_text() == "mine"


def test_a_file_that_cannot_be_written_is_noticed_before_the_work(options, capsys) -> None:
    assert main(["select", *options, "--batches=1", "--output=train.jsonl/new/kept.jsonl"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "--output train.jsonl/new/kept.jsonl cannot be written: " in shown.err


def test_writing_that_fails_in_the_end_costs_no_table(options, capsys) -> None:
    longest = "k" * 255  # No room for the ending of a file that is not whole yet.
    assert main(["select", *options, "--batches=1", f"--output={longest}"]) == 2
    shown = capsys.readouterr()
    assert "label tokens kept" in shown.out
    assert f"--output {longest} cannot be written: " in shown.err


def test_a_recipe_will_do(options, tmp_path: Path, capsys) -> None:
    recipe = {name[2:]: value for name, _, value in (o.partition("=") for o in options)}
    Path("recipe.yaml").write_text("".join(f"{name}: {value}\n" for name, value in recipe.items()))
    arguments = ["--config", "recipe.yaml", "--candidate_ratio", "4", "--batches", "1"]
    assert main(["select", *arguments]) == 0
    shown = capsys.readouterr().out
    assert "- selector colm: r = 2 kept of n = 8 drawn at a step\n- step 0\n" in shown


@pytest.mark.parametrize(
    ("more", "answer"),
    [
        ("--candidate_ratio=1", "candidate_ratio=1 turns selection off: what is drawn is trained"),
        ("--selector=none", "selector='none' keeps every candidate."),
    ],
)
def test_where_all_are_kept_that_is_the_answer(options, more: str, answer: str, capsys) -> None:
    assert main(["select", *options, more]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith(f"Nothing to select: {answer}")
    assert shown.out.count("\n") == 1
    assert main(["select", *options, more, "--output=kept.jsonl"]) == 2
    assert answer in capsys.readouterr().err
    assert not Path("kept.jsonl").exists()


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--batches=0"], "--batches .* 1.* 0"),
        (["--batches=few"], "invalid int value: 'few'"),
        (["--config=nowhere.yaml"], "nowhere.yaml: no such file"),
        (["--selektor=colm"], "unknown option '--selektor'; did you mean --selector"),
        (["--selector=magic"], "magic"),
        (["--candidate_ratio=1.1"], "draws no more than are kept"),
        (["--dataset_name=absent.jsonl"], "absent.jsonl: no such file"),
        (["--dataset_name="], "set dataset_name"),
        (["--model_name_or_path="], "set model_name_or_path"),
        (["--model_name_or_path=./no"], "there is no folder ./no"),
        (["--small_sources", "rar"], "algebra, logic, rare"),
    ],
)
def test_bad_input_is_one_line(options, tmp_path: Path, more, complaint: str, capsys) -> None:
    before = tree(tmp_path)
    assert main(["select", *options, *more]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    *notes, line = shown.err.splitlines()
    assert line.startswith("colm: error: ")
    assert re.search(complaint, line)
    assert not any("error" in note for note in notes)
    assert tree(tmp_path) == before


def test_several_processes_are_refused(options, monkeypatch, capsys) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["select", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("colm: error: colm select is for one process, and this is one of 2")


def test_many_sources_are_summed_up() -> None:
    drawn = [
        Candidate(0, f"s{source:03}", "", 2, source % 2 == 0, 1.0, "")
        for source in range(MOST_SOURCES + 6)
        for _ in range(2 if source > 5 else 1)
    ]
    shares = shares_by_source(drawn)
    assert len(shares) == MOST_SOURCES + 1
    assert list(shares)[-1] == OTHER_SOURCES
    assert shares[OTHER_SOURCES] == share_of([each for each in drawn if each.source < "s006"])
    assert sum(share.candidates for share in shares.values()) == len(drawn)
    assert share_of([]).of_candidates == share_of([]).of_label_tokens == 0
