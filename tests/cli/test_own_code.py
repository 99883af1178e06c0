"""Code that a model brings: not run, and not asked about, unless it is trusted."""

import ast
import io
import json
import shutil
from pathlib import Path

import pytest

import colm
from colm.cli import main
from colm.runs.evaluated import load_evaluated
from colm.runs.pretrained import load_model, load_tokenizer
from tests.training.conftest import make_records

SOURCE = Path(colm.__file__).parent
#: What makes something of a name or a configuration, and may find code beside it.
LOADERS = {"from_pretrained", "from_config", "_from_config", "pipeline"}
# Of a class that transformers itself has, so that no code can be meant.
WITHOUT_CODE = {"architecture._from_config"}
RECORDED = "\nfrom pathlib import Path\nPath({place!r}).write_text('it ran')\n"


def loading_calls(tree: ast.AST) -> list[ast.Call]:
    """Calls of a loader by its name, and of classes of transformers called Auto-something."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    named = [(call, ast.unparse(call.func)) for call in calls]
    return [
        call
        for call, name in named
        if name not in WITHOUT_CODE
        and (name.rpartition(".")[2] in LOADERS or name.rpartition(".")[2].startswith("Auto"))
    ]


def passes_trust(call: ast.Call) -> bool:
    """Whether a call says ``trust_remote_code``: as something that is called so, or ``False``."""
    values = [k.value for k in call.keywords if k.arg == "trust_remote_code"]
    return len(values) == 1 and (
        "trust" in ast.unparse(values[0])
        or (isinstance(values[0], ast.Constant) and values[0].value is False)
    )


def test_every_call_that_loads_says_whose_code_runs() -> None:
    found = {
        (path, call.lineno): passes_trust(call)
        for path in sorted(SOURCE.rglob("*.py"))
        for call in loading_calls(ast.parse(path.read_text()))
    }
    assert len(found) >= 9
    assert not [place for place, passes in found.items() if not passes]


@pytest.mark.parametrize(
    ("code", "passes"),
    [
        ("AutoModel.from_pretrained(name)", False),
        ("AutoModel.from_pretrained(name, trust_remote_code=True)", False),
        ("AutoModel.from_pretrained(name, trust_remote_code=None)", False),
        ("AutoModel.from_pretrained(name, **options)", False),
        ("PeftModel.from_pretrained(model, name, trust_remote_code=args.trust_remote_code)", True),
        ("AutoConfig.from_pretrained(name, trust_remote_code=False)", True),
    ],
)
def test_calls_are_told_apart(code: str, passes: bool) -> None:
    (call,) = loading_calls(ast.parse(code))
    assert passes_trust(call) == passes


@pytest.fixture
def stdin_says_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    """The file that is there once the code of a model has run."""
    return tmp_path / "ran"


def with_code(folder: Path, target: Path, kind: str, ran: Path) -> Path:
    """A copy of a model whose tokenizer, or whose model, is of a class that it brings."""
    shutil.copytree(folder, target)
    code = RECORDED.format(place=str(ran))
    if kind == "tokenizer":
        code += "from transformers import PreTrainedTokenizerFast as Base\nclass Own(Base): pass\n"
        changes = {"auto_map": {"AutoTokenizer": [None, "own.Own"]}, "tokenizer_class": "Own"}
        config = target / "tokenizer_config.json"
    else:
        code += (
            "from transformers import LlamaConfig, LlamaForCausalLM\n"
            "class OwnConfig(LlamaConfig):\n    model_type = 'own-llama'\n"
            "class Own(LlamaForCausalLM):\n    config_class = OwnConfig\n"
        )
        auto_map = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}
        changes = {"auto_map": auto_map, "model_type": "own-llama", "architectures": ["Own"]}
        config = target / "config.json"
    (target / "own.py").write_text(code)
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    return target


@pytest.mark.usefixtures("stdin_says_yes")
@pytest.mark.parametrize(
    ("kind", "load"),
    [("tokenizer", load_tokenizer), ("model", load_model), ("model", load_evaluated),
     ("tokenizer", load_evaluated)],
)  # fmt: skip
def test_code_runs_where_it_is_trusted(kind, load, tiny_model_folder, tmp_path, ran) -> None:
    folder = with_code(tiny_model_folder, tmp_path / "model", kind, ran)
    with pytest.raises(ValueError, match=r"brings code of its own.*trust_remote_code"):
        load(str(folder))
    assert not ran.exists()
    load(str(folder), trust_remote_code=True)
    assert ran.exists()


@pytest.mark.usefixtures("stdin_says_yes")
@pytest.mark.parametrize(
    ("kind", "place"),
    [("tokenizer", "model"), ("model", "model"), ("tokenizer", "base"), ("model", "base"),
     ("tokenizer", "adapter")],
)  # fmt: skip
def test_evaluate_refuses_code(
    kind, place, tiny_model_folder, tmp_path, ran, capsys, monkeypatch
) -> None:
    from peft import LoraConfig, get_peft_model

    monkeypatch.chdir(tmp_path)
    model = with_code(tiny_model_folder, tmp_path / "own", kind, ran)
    if place != "model":
        plain = load_model(tiny_model_folder)
        adapter = tmp_path / "adapter"
        get_peft_model(plain, LoraConfig(task_type="CAUSAL_LM")).save_pretrained(adapter)
        config = json.loads((adapter / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = str(model if place == "base" else tiny_model_folder)
        (adapter / "adapter_config.json").write_text(json.dumps(config))
        if place == "adapter":
            for name in ("own.py", "tokenizer.json", "tokenizer_config.json"):
                shutil.copy(model / name, adapter / name)
        model = adapter
    (tmp_path / "q.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n')
    command = ["evaluate", str(model), "--data", "q.jsonl", "--max-new-tokens", "2"]
    assert main(command) == 2
    shown = capsys.readouterr()
    assert "[y/N]" not in shown.out + shown.err
    assert "--trust_remote_code" in shown.err.splitlines()[-1]
    assert not ran.exists()


@pytest.mark.usefixtures("stdin_says_yes", "no_progress_bars")
@pytest.mark.parametrize(
    ("command", "option", "kind"),
    [
        *[
            (command, option, kind)
            for command in ("sft", "select")
            for option in ("model_name_or_path",)
            for kind in ("tokenizer", "model")
        ],
        ("sft", "chat_template_path", "tokenizer"),
        ("plan", "model_name_or_path", "model"),
    ],
)
def test_training_refuses_code(
    command, option, kind, tiny_model_folder, tmp_path, ran, capsys
) -> None:
    own = with_code(tiny_model_folder, tmp_path / "own", kind, ran)
    data = tmp_path / "data.jsonl"
    data.write_text("".join(f"{json.dumps(record)}\n" for record in make_records()[:16]))
    options = {
        "model_name_or_path": tiny_model_folder,
        "dataset_name": data,
        "output_dir": tmp_path / "run",
        "per_device_train_batch_size": 2,
        "max_steps": 1,
        "bf16": "false",
        "use_cpu": "true",
        "report_to": "none",
        "normalization": "rms",
        option: own,
    }
    words = [f"--{name}={value}" for name, value in options.items()]
    assert main([command, *words]) == 2
    shown = capsys.readouterr()
    assert "[y/N]" not in shown.out + shown.err
    line = shown.err.splitlines()[-1]
    assert line.startswith("colm: error: ")
    assert "trust_remote_code" in line
    assert not ran.exists()
