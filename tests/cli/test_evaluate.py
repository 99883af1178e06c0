"""``colm evaluate`` from files to one JSON, with a tiny model that was taught to write programs."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from colm.cli import main
from colm.evaluation.fingerprint import weights_digest
from colm.evaluation.prompt_tokens import prompt_tokens
from colm.evaluation.questions import Question
from colm.evaluation.sandbox.process import run_program

REQUEST = " Write Python."
# Question, right answer, what is written where a program is asked for, and where it is not.
TAUGHT = [
    ("6 times 7?", "42", "print(6*7)", "The answer is 1."),
    ("one third?", r"\frac{1}{3}", "print(1/3)", "Three."),
    ("2 plus 2?", "4", "1/0", "So the answer is 4."),
    ("3 plus 3?", "6", "I add.", "It is 7."),
]
NEEDS_A_SANDBOX = pytest.mark.skipif(
    run_program("print(1)").status == "refused", reason="nothing here can hold a program"
)


@pytest.fixture(scope="module")
def taught(tiny_model_folder, tmp_path_factory):
    """A tiny model that has learnt its answers by heart."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    rows, labels = [], []
    for text, gold, program, chain in TAUGHT:
        for suffix, answer in ((REQUEST, program), ("", chain)):
            prompt = prompt_tokens(tokenizer, Question(text, gold), suffix)
            written = tokenizer(answer)["input_ids"] + [tokenizer.eos_token_id]
            rows.append(torch.tensor(prompt + written))
            labels.append(torch.tensor([-100] * len(prompt) + written))
    pad = torch.nn.utils.rnn.pad_sequence
    batch = {
        "input_ids": pad(rows, batch_first=True),
        "labels": pad(labels, batch_first=True, padding_value=-100),
    }
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(400):
        loss = model(**batch).loss
        if loss < 0.01:
            break
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.05
    folder = tmp_path_factory.mktemp("models") / "taught"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("questions")
    sums = [{"question": text, "answer": gold} for text, gold, *_ in TAUGHT]
    weather = [
        {"prompt": "It rained so it is", "candidates": ["dry", "wet"], "label": n % 2}
        for n in range(3)
    ]
    held_out = [
        {"question": f"{n} + {n}?", "answer": str(2 * n), "source": "ab"[n % 2]} for n in range(6)
    ]
    for name, records in (("sums", sums), ("weather", weather), ("held", held_out)):
        lines = "".join(f"{json.dumps(record)}\n" for record in records)
        (folder / f"{name}.jsonl").write_text(lines)
    return folder


def evaluate(model, files, output, *more, data=("sums", "weather")):
    paths = [str(files / f"{name}.jsonl") for name in data]
    options = ["--output", str(output), "--max-new-tokens", "24"]
    if "sums" in data and "--method" not in more:
        options += ["--programs", "--program-request", REQUEST]
    given_data = ["--data", *paths] if paths else []
    return main(["evaluate", str(model), *given_data, *options, *more])


@pytest.mark.slow
@NEEDS_A_SANDBOX
def test_one_json_has_every_answer(taught, files, tmp_path, capsys):
    output = tmp_path / "new" / "result.json"
    held_out = ["--held-out", str(files / "held.jsonl"), "--source-column", "source"]
    assert evaluate(taught, files, output, "--batch-size", "3", *held_out) == 0
    shown = capsys.readouterr()
    assert "macro" in shown.out
    assert "sums  program  4/4" in shown.err
    result = json.loads(output.read_text())
    sums = result["sets"]["sums"]
    assert [answer["right"] for answer in sums["answers"]] == [True, True, True, False]
    assert sums["answered_by"] == {"program": 2, "chain": 2}
    assert sums["programs"] == {"ok": 2, "error": 1, "none": 1}
    assert sums["answers"][0]["program"]["output"] == "42\n"
    assert sums["answers"][3]["written"] == "It is 7."
    weather = result["sets"]["weather"]
    assert weather["accuracy"] in (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert result["accuracy"] == pytest.approx((0.75 + weather["accuracy"]) / 2)
    assert set(result["held_out"]["by_source"]) == {"a", "b"}
    assert result["held_out"]["macro"] == pytest.approx(
        sum(result["held_out"]["by_source"].values()) / 2
    )
    assert result["settings"]["data"] == ["sums.jsonl", "weather.jsonl"]
    assert {"torch", "math-verify"} <= set(result["versions"])
    assert str(tmp_path) not in output.read_text()
    assert str(files) not in output.read_text()


@pytest.mark.slow
@NEEDS_A_SANDBOX
def test_cut_after_any_line_it_goes_on(taught, files, tmp_path, capsys):
    output = tmp_path / "result.json"
    journal = tmp_path / "result.json.answers.jsonl"
    # One question at a time, so that batches are the same wherever it goes on.
    alone = ("--batch-size", "1")
    assert evaluate(taught, files, output, *alone) == 0
    whole = json.loads(output.read_text())
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) == 1 + 4 + 2 + 3
    for kept in range(len(lines)):
        journal.write_bytes(b"".join(lines[:kept]) + lines[kept][:7])
        capsys.readouterr()
        assert evaluate(taught, files, output, *alone) == 0
        assert journal.read_bytes() == b"".join(lines)
        again = json.loads(output.read_text())
        assert {**again, "seconds": 0} == {**whole, "seconds": 0}
    assert "sums  program  4/4\n" in capsys.readouterr().err


@pytest.mark.slow
@NEEDS_A_SANDBOX
def test_an_interrupt_loses_nothing(taught, files, tmp_path, capsys, monkeypatch):
    from colm.evaluation import journal as journals

    add, calls = journals.Journal.add, []

    def interrupted(self, answers):
        add(self, answers)
        calls.append(answers)
        if len(calls) == 3:
            raise KeyboardInterrupt

    output = tmp_path / "result.json"
    monkeypatch.setattr(journals.Journal, "add", interrupted)
    assert evaluate(taught, files, output, "--batch-size", "1") == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert not output.exists()
    assert evaluate(taught, files, output, "--batch-size", "1") == 0
    assert len(calls) == 4 + 2 + 3
    assert json.loads(output.read_text())["sets"]["sums"]["accuracy"] == 0.75


@pytest.mark.slow
def test_another_model_or_question_is_refused(taught, tiny_model_folder, files, tmp_path, capsys):
    output = tmp_path / "result.json"
    direct = ("--method", "direct", "--max-new-tokens", "2")
    assert evaluate(taught, files, output, *direct, data=["sums"]) == 0
    for model, more, data, complaint in (
        (tiny_model_folder, (), ["sums"], "another model: name"),
        (taught, ("--dtype", "float16"), ["sums"], "another model: weights"),
        (taught, (), ["held"], "another data: held"),
        (taught, ("--max-new-tokens", "3"), ["sums"], "another options: max_new_tokens direct 2"),
        (taught, ("--method", "chain"), ["sums"], "another method: sums"),
    ):
        capsys.readouterr()
        assert evaluate(model, files, output, *direct, *more, data=data) == 2
        assert complaint in capsys.readouterr().err
    assert evaluate(tiny_model_folder, files, output, *direct, "--no-resume", data=["sums"]) == 0
    (tmp_path / "result.json.answers.jsonl").unlink()
    assert evaluate(tiny_model_folder, files, output, *direct, data=["sums"]) == 2
    assert "there already" in capsys.readouterr().err


def test_the_first_questions_are_asked_once(taught, files, tmp_path, capsys):
    output = tmp_path / "result.json"
    chain = ("--method", "chain")
    assert evaluate(taught, files, output, *chain, "--limit", "2", data=["sums"]) == 0
    assert json.loads(output.read_text())["sets"]["sums"]["questions"] == 2
    assert evaluate(taught, files, output, *chain, data=["sums"]) == 0
    assert "sums  chain  2/4" in capsys.readouterr().err
    rights = [a["right"] for a in json.loads(output.read_text())["sets"]["sums"]["answers"]]
    assert rights == [False, False, True, False]


def test_nothing_that_a_model_writes_is_run_unless_asked_for(taught, files, tmp_path, monkeypatch):
    from colm.evaluation import programs

    monkeypatch.setattr(programs, "run_programs", None)
    output = tmp_path / "result.json"
    plain = ("--data", str(files / "sums.jsonl"), "--output", str(output), "--max-new-tokens", "24")
    assert main(["evaluate", str(taught), *plain]) == 0
    sums = json.loads(output.read_text())["sets"]["sums"]
    assert sums["method"] == "chain"
    assert "programs" not in sums
    assert [answer["right"] for answer in sums["answers"]] == [False, False, True, False]


@pytest.fixture
def run_folder(taught, tmp_path, monkeypatch):
    """A run's folder: a model beside its trainer's state."""
    monkeypatch.chdir(tmp_path)
    folder = shutil.copytree(taught, tmp_path / "mine")
    train_to(4, folder)
    return folder


def train_to(step, folder):
    entries = [{"step": n, "loss": 1.0} for n in range(1, step + 1)]
    state = {"global_step": step, "max_steps": step, "log_history": entries}
    (folder / "trainer_state.json").write_text(json.dumps(state))


def ask(model, files, *more, data="sums", code=0):
    """Evaluate without naming an output; the results that lie in the folder of the run."""
    words = ["--data", str(files / f"{data}.jsonl"), "--method", "direct", "--max-new-tokens", "9"]
    assert main(["evaluate", str(model), *words, *more]) == code
    return sorted(path for path in model.glob("evaluations/*.json"))


@pytest.mark.slow
def test_results_lie_in_the_folder_of_the_run(run_folder, files, tmp_path, capsys):
    (first,) = ask(run_folder, files)
    whole = first.read_bytes()
    assert f"result  {first}" in capsys.readouterr().out
    assert first.name.startswith("sums-step-4-")
    # The same command finds its answers; another evaluation has a file of its own.
    assert ask(run_folder, files, "--batch-size", "2") == [first]
    assert "sums  direct  4/4" in capsys.readouterr().err
    first.write_bytes(whole)
    found = ask(run_folder, files, data="held")
    found = ask(run_folder, files, "--max-new-tokens", "8")
    found = ask(run_folder, files, "--held-out", str(files / "held.jsonl"))
    assert len(found) == 4
    assert first.read_bytes() == whole
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_more_training_has_results_of_its_own_and_a_report_shows_them(run_folder, files, capsys):
    from safetensors.torch import load_file, save_file

    from colm.reports import read_runs

    (first,) = ask(run_folder, files)
    whole = first.read_bytes()
    accuracy = json.loads(whole)["sets"]["sums"]["accuracy"]
    (arm,) = read_runs([run_folder]).arms
    assert arm.accuracies == {"sums": accuracy}
    weights = load_file(run_folder / "model.safetensors")
    changed = {name: weight * 0.5 for name, weight in weights.items()}
    save_file(changed, run_folder / "model.safetensors", {"format": "pt"})
    train_to(6, run_folder)
    comparison = read_runs([run_folder])
    assert not comparison.arms[0].accuracies
    assert any("after step 4" in note for note in comparison.notes)
    found = ask(run_folder, files, "--held-out", str(files / "held.jsonl"))
    assert len(found) == 2
    assert first.read_bytes() == whole
    (second,) = set(found) - {first}
    result = json.loads(second.read_text())
    assert result["model"]["steps"] == 6
    (arm,) = read_runs([run_folder]).arms
    assert arm.accuracies == {"sums": result["sets"]["sums"]["accuracy"]}
    assert arm.scores.macro == result["held_out"]["macro"]
    capsys.readouterr()
    assert main(["report", str(run_folder), "--output", "page.html"]) == 0
    shown = capsys.readouterr().out
    assert "accuracy, sums" in shown
    assert "held-out loss, macro" in shown


@pytest.mark.slow
def test_checkpoints_are_evaluated_into_the_run_and_other_models_elsewhere(
    run_folder, taught, files, tmp_path
):
    checkpoint = shutil.copytree(run_folder, tmp_path / "mine" / "checkpoint-4")
    assert not ask(checkpoint, files)
    (found,) = (run_folder / "evaluations").glob("*.json")
    assert json.loads(found.read_text())["model"]["steps"] == 4
    assert not ask(taught, files)
    assert len(list((tmp_path / "runs" / "evaluations" / taught.name).glob("sums-*.json"))) == 1


def test_no_result_is_written_over_by_another(taught, files, tmp_path, capsys):
    output = tmp_path / "result.json"
    named = ("--method", "direct", "--output", str(output))
    assert main(["evaluate", str(taught), "--data", str(files / "sums.jsonl"), *named]) == 0
    whole = output.read_bytes()
    held_out = ("--held-out", str(files / "held.jsonl"))
    questions = ("--data", str(files / "sums.jsonl"))
    for words, complaint in (
        (held_out, "holds another evaluation"),
        ((*questions, *held_out), "held_out: null there"),
        ((*questions, "--limit", "2"), "holds 4 answers to sums, of which --limit would leave 2"),
        ((*questions, "--length-normalized"), "length_normalized: false there, true now"),
    ):
        capsys.readouterr()
        assert main(["evaluate", str(taught), *words, *named]) == 2
        assert complaint in capsys.readouterr().err.splitlines()[-1]
        assert output.read_bytes() == whole
    assert main(["evaluate", str(taught), *held_out, "--no-resume", *named]) == 0
    assert output.read_bytes() != whole
    output.write_text("[]")
    assert main(["evaluate", str(taught), *questions, *named]) == 2
    assert "is no evaluation" in capsys.readouterr().err


@pytest.fixture(scope="module")
def adapter(tiny_model_folder, tmp_path_factory):
    """An adapter that changes what the model says, with no tokenizer of its own."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = LoraConfig(r=4, task_type="CAUSAL_LM", init_lora_weights=False)
        adapted = get_peft_model(model, config)
    folder = tmp_path_factory.mktemp("adapters") / "adapter"
    adapted.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_an_adapter_is_put_on_its_base(adapter, tiny_model_folder, files, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    results = []
    for number, model in enumerate((adapter, tiny_model_folder)):
        output = tmp_path / f"{number}.json"
        assert evaluate(model, files, output, "--method", "auto") == 0
        results.append(json.loads(output.read_text()))
    first, _ = results
    assert (first["model"]["name"], first["model"]["base"]) == ("adapter", tiny_model_folder.name)
    base = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    assert first["model"]["weights"] == weights_digest(PeftModel.from_pretrained(base, adapter))
    answers = [result["sets"]["weather"]["answers"][0] for result in results]
    assert answers[0]["log_likelihoods"] != answers[1]["log_likelihoods"]


def test_held_out_loss_is_that_of_training(tiny_model_folder, files, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    output = tmp_path / "result.json"
    other = tmp_path / "greetings.jsonl"
    other.write_text(json.dumps({"instruction": "Hello?", "output": "Hello!"}))
    pattern, named = f"{files}/h*.jsonl", f"short talks={other}"
    more = ("--held-out", pattern, str(other), named)
    assert evaluate(tiny_model_folder, files, output, *more, data=[]) == 0
    result = json.loads(output.read_text())
    assert "sets" not in result
    assert set(result["held_out"]["by_source"]) == {"a", "b", "greetings", "short talks"}
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder).eval()
    losses = []
    for n in range(0, 6, 2):
        prompt = prompt_tokens(tokenizer, Question(f"{n} + {n}?", ""))
        row = prompt + tokenizer(f"{2 * n}<|im_end|>\n")["input_ids"]
        labels = [-100] * len(prompt) + row[len(prompt) :]
        with torch.no_grad():
            losses.append(
                float(model(input_ids=torch.tensor([row]), labels=torch.tensor([labels])).loss)
            )
    assert result["held_out"]["by_source"]["a"] == pytest.approx(sum(losses) / 3, rel=1e-4)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ([], "nothing to evaluate on: name files with --data or --held_out"),
        (["--data", "nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["--held-out", "nowhere.jsonl"], "--held_out nowhere.jsonl: no such file"),
        (["--held-out", "no/*.jsonl"], r"--held_out no/\*.jsonl: no data file matches"),
        (["--data", "{files}/sums.jsonl", "--batch-size", "0"], "--batch_size .* 1"),
        (["--data", "{files}/sums.jsonl", "--limit", "-1"], "--limit .* 1"),
        (["--data", "{files}/sums.jsonl", "--program-seconds", "nan"], "--program_seconds must be"),
        (["--data", "{files}/sums.jsonl", "--method", "best"], "invalid choice: 'best'"),
        (["--data", "{files}/sums.jsonl", "--program-request", "x"], "no program is asked for"),
        (["--data", "{files}/sums.jsonl", "--programs", "--method", "chain"], "--programs goes"),
        (["--data", "{files}/sums.jsonl", "--method", "options"], "sums.jsonl has no candidates"),
        (
            ["--data", "{files}/sums.jsonl", "--device", "nowhere"],
            "--device nowhere cannot be used",
        ),
        (["--data", "{files}/sums.jsonl", "--device", "meta"], "--device meta cannot be used"),
        (["--data", "{files}/sums.jsonl", "--output", "{files}"], "is a folder; name a file"),
        (
            ["--data", "{files}/sums.jsonl", "--max-new-tokens", "512"],
            "leaves no room for a prompt",
        ),
        (["--data", "{files}/sums.jsonl", "{files}/sums.jsonl"], "two files are called"),
        (["--data", "{files}/sums.jsonl", "--output", "{files}/sums.jsonl/a.json"], "cannot write"),
        (["--held-out", "{files}/held.jsonl", "--source-column", "kind"], "kind"),
    ],
)
def test_bad_input_is_one_line(options, complaint, tiny_model_folder, files, tmp_path, capsys):
    output = [] if "--output" in options else ["--output", str(tmp_path / "result.json")]
    options = [option.format(files=files) for option in options]
    assert main(["evaluate", str(tiny_model_folder), *options, *output]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    # Where a model was loaded first, its bar may stand above.
    line = shown.err.splitlines()[-1]
    assert line.startswith("colm: error: ")
    assert re.search(complaint, line)
    assert "Traceback" not in shown.err
    assert not list(tmp_path.iterdir())


def test_a_plain_installation_is_told_what_to_install(files, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)  # as if it were not there
    assert main(["evaluate", "model", "--data", str(files / "sums.jsonl")]) == 2
    assert "colm[evaluate]" in capsys.readouterr().err


def test_a_model_that_is_none_is_one_line(adapter, files, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    (tmp_path / "empty").mkdir()
    broken = shutil.copytree(adapter, tmp_path / "broken")
    (broken / "adapter_config.json").write_text('{"base_model_name_or_path": ')
    alone = shutil.copytree(adapter, tmp_path / "alone")
    config = json.loads((alone / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tmp_path / "gone")
    (alone / "adapter_config.json").write_text(json.dumps(config))
    for model, complaint in (
        ("./nowhere", "MODEL: there is no folder ./nowhere"),
        ("no-such-model-of-anyone", "cannot load model 'no-such-model-of-anyone'"),
        ("no-such-model-of-anyone", "there is no folder no-such-model-of-anyone"),
        (f"{tmp_path.name}/none", f"there is no folder {tmp_path.name}/none"),
        ("runs/of/mine", "MODEL: there is no folder runs/of/mine"),
        ("runs/mine/", "MODEL: there is no folder runs/mine/"),
        (tmp_path / "empty", "has neither a config.json nor an adapter_config.json"),
        (broken, "adapter_config.json cannot be read"),
        (alone, "cannot load adapter"),
    ):
        assert evaluate(model, files, tmp_path / "result.json", data=["sums"]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("colm: error: ")
        assert complaint in error
        # Whoever mistypes a folder is not told of a hub.
        assert "/" not in str(model) or "hub" not in error.lower()


def test_the_newest_model_of_a_run_that_was_cut_short_is_named(taught, tmp_path, capsys):
    for step in (9, 10):
        shutil.copytree(taught, tmp_path / "run" / f"checkpoint-{step}")
    assert main(["evaluate", str(tmp_path / "run"), "--data", "q.jsonl"]) == 2
    assert "q.jsonl: no such file" in capsys.readouterr().err
    (tmp_path / "q.jsonl").write_text('{"question": "?", "answer": "1"}')
    assert main(["evaluate", str(tmp_path / "run"), "--data", str(tmp_path / "q.jsonl")]) == 2
    assert f"the newest model in it is {tmp_path / 'run' / 'checkpoint-10'}" in (
        capsys.readouterr().err
    )


@settings(
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=25,
    suppress_health_check=list(HealthCheck),
)
@given(
    words=st.lists(
        st.sampled_from(
            ["--data", "--limit", "--method", "--batch-size", "--output", "--held-out", "--resume",
             "--no-resume", "0", "-1", "x", "", "auto", "\n", "é.jsonl", "--max-new-tokens", "1e9",
             "--program-seconds", "inf", "."]
        ),
        max_size=6,
    )
)  # fmt: skip
def test_any_words_are_refused_in_one_line(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "./no-model", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("colm: error: ")
    assert error.count("\n") == 1


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom colm.cli import main\n"
        "try:\n    main(['evaluate', '--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'transformers', 'sympy', 'numpy'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "--program_request" in done.stdout
