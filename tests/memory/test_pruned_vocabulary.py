"""A model cut to the tokens that its data use, beside the whole one that it stands for.

Oracles: the whole model's own softmax, of which the cut one's is a part, and its weights before.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig

from colm.memory.pruned_vocabulary import PrunedVocabulary
from tests.gradients.architectures import VOCABULARY, build

USED = torch.tensor([59, 0, 1, 2, 5, 7, 40, 11, 30, 5])
#: Tied and untied heads, one with a bias, a scaled embedding, soft-capped and scaled logits.
FAMILIES = ["llama", "gpt2", "phi", "gemma2", "cohere", "gemma3_text"]


def batch_of(tokens, seed=1):
    drawn = torch.randint(len(tokens), (3, 8), generator=torch.Generator().manual_seed(seed))
    ids = tokens[drawn]
    labels = ids.clone()
    labels[0, :4] = -100
    return {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}


def model_of(family, frozen_head=False, **changes):
    torch.manual_seed(0)
    model = build(family, **changes).eval()
    if frozen_head:
        model.get_output_embeddings().requires_grad_(False)
    return model


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def gradients(model, batch):
    """Of all that is trained, by name."""
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    found = torch.autograd.grad(model(**batch).loss, trained.values())
    return dict(zip(trained, found, strict=True))


def token_losses(logits, labels):
    """By position; 0 where there is no label."""
    logits, labels = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    return functional.cross_entropy(logits, labels, reduction="none")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_differs_by_what_the_softmax_misses(family):
    model, batch = model_of(family), batch_of(USED)
    with torch.no_grad():
        whole = model(**batch)
    left_out = torch.ones(VOCABULARY, dtype=torch.bool)
    left_out[USED] = False
    is_label = (batch["labels"][:, 1:] != -100).flatten()
    missing = whole.logits[:, :-1].softmax(-1)[..., left_out].sum(-1).flatten()[is_label]
    pruned = PrunedVocabulary(model, USED)
    with torch.no_grad():
        placed = pruned.with_places(batch)
        cut = model(**placed)
    assert cut.logits.shape[-1] == len(USED.unique())
    difference = token_losses(whole.logits, batch["labels"]) - token_losses(
        cut.logits, placed["labels"]
    )
    torch.testing.assert_close(difference[is_label], -torch.log1p(-missing))
    assert not difference[~is_label].any()
    torch.testing.assert_close(pruned.missing_mass(batch), missing)
    # The model's own loss, which says V itself.
    expected = whole.loss + torch.log1p(-missing).mean()
    torch.testing.assert_close(cut.loss, expected, check_dtype=False, atol=1e-5, rtol=1e-5)


def test_an_untied_frozen_head_stays_whole_and_nothing_is_missed():
    model, batch = model_of("llama", frozen_head=True), batch_of(USED)
    whole, expected = model(**batch), gradients(model, batch)
    pruned = PrunedVocabulary(model, USED)
    assert not pruned.cuts_head
    cut, found = model(**pruned.with_places(batch)), gradients(model, pruned.with_places(batch))
    assert torch.equal(cut.logits, whole.logits)
    assert torch.equal(cut.loss, whole.loss)
    assert not pruned.missing_mass(batch).any()
    rows = "model.embed_tokens.weight"
    assert torch.equal(found.pop(rows), expected.pop(rows)[USED.unique()])
    assert_same(found, expected)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_with_every_token_used_it_is_the_same_model(family):
    model = model_of(family)
    tokens = torch.randperm(VOCABULARY)
    batch = batch_of(tokens)
    expected = gradients(model, batch)
    pruned = PrunedVocabulary(model, tokens)
    assert_same(gradients(model, pruned.with_places(batch)), expected)
    assert not pruned.missing_mass(batch).any()


@pytest.mark.parametrize("family", FAMILIES)
def test_restored_it_is_plain_and_the_others_are_as_they_were(family):
    model, batch = model_of(family), batch_of(USED)
    before, parameters = state_of(model), list(model.parameters())
    attributes, loss = set(vars(model)), model.loss_function
    pruned = PrunedVocabulary(model, USED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(**pruned.with_places(batch)).loss.backward()
    optimizer.step()
    assert pruned.restore() is model
    after = state_of(model)
    assert [id(each) for each in model.parameters()] == [id(each) for each in parameters]
    assert set(vars(model)) - {"_loss_function"} == attributes
    assert model.loss_function is loss
    assert not any(module._forward_pre_hooks for module in model.modules())
    left_out = torch.ones(VOCABULARY, dtype=torch.bool)
    left_out[USED] = False
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        name = next(n for n, weight in model.named_parameters() if weight is module.weight)
        assert torch.equal(after[name][left_out], before[name][left_out])
        assert not torch.equal(after[name][~left_out], before[name][~left_out])
    logits = model(**batch).logits
    logits.sum().backward()
    assert logits.shape[-1] == VOCABULARY


def test_whole_it_can_be_looked_at_changed_and_cut_again_after_an_exception():
    model = model_of("gpt2")
    before = state_of(model)
    pruned = PrunedVocabulary(model, USED)
    rows = model.get_input_embeddings().weight

    def look_and_change():
        with pruned.whole(), torch.no_grad():
            assert_same(state_of(model), before)
            model.get_input_embeddings().weight.add_(1)
            raise KeyError

    with pytest.raises(KeyError):
        look_and_change()
    assert pruned.is_cut
    assert model.get_input_embeddings().weight is model.lm_head.weight is rows
    assert torch.equal(rows, before["lm_head.weight"][USED.unique()] + 1)
    assert torch.equal(state_of(pruned.restore())["lm_head.weight"], before["lm_head.weight"] + 1)


def test_what_is_saved_and_generated_meanwhile_is_of_the_whole_model(tmp_path):
    model, prompt = model_of("gpt2"), {"input_ids": USED[None, :4]}
    before = state_of(model)
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    expected = model.generate(**prompt, **options)
    assert not set(expected[0, 4:].tolist()) & set(USED[:4].tolist())
    PrunedVocabulary(model, USED[:4])
    assert torch.equal(model.generate(**prompt, **options), expected)
    model.save_pretrained(tmp_path)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    assert_same(state_of(saved), before)
    assert saved.config.vocab_size == VOCABULARY


def test_padding_that_has_a_row_is_not_trained():
    model = model_of("llama", pad_token_id=5)
    pruned = PrunedVocabulary(model, USED)
    batch = batch_of(torch.tensor([5, 7, 11]))
    model(**pruned.with_places(batch)).loss.backward()
    embedding = model.get_input_embeddings()
    assert pruned.tokens[embedding.padding_idx] == 5
    assert not embedding.weight.grad[embedding.padding_idx].any()
    pruned.restore()
    assert embedding.padding_idx == 5


@pytest.mark.parametrize("key", ["input_ids", "labels"])
def test_a_token_that_was_not_there_is_refused_by_name(key):
    model = model_of("llama")
    pruned = PrunedVocabulary(model, USED, name=lambda token: f"'<{token}>'")
    batch = batch_of(USED)
    batch[key][1, 2] = 33
    with pytest.raises(ValueError, match=r"^token '<33>' \(id 33\) is none of the 9 that") as error:
        model(**pruned.with_places(batch))
    assert "\n" not in str(error.value)
    batch[key][1, 2] = VOCABULARY
    with pytest.raises(ValueError, match=f"^token {VOCABULARY} is none"):
        model(**pruned.with_places(batch))


def test_all_that_a_token_costs_is_saved():
    """The vocabulary of Gemma 3 beside small layers: weights, gradients and Adam's moments."""
    size, used, hidden = 262144, 3000, 4
    config = Gemma3TextConfig(
        vocab_size=size,
        hidden_size=hidden,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=4,
    )
    tokens = torch.randperm(size)[:used]

    def held(prunes):
        model = Gemma3ForCausalLM(config)
        batch = batch_of(tokens)
        if prunes:
            batch = PrunedVocabulary(model, tokens).with_places(batch)
        optimizer = torch.optim.AdamW(model.parameters())
        model(**batch).loss.backward()
        optimizer.step()
        weights = list(model.parameters())
        states = [s for state in optimizer.state.values() for s in state.values() if s.ndim]
        return sum(each.nbytes for each in [*weights, *(w.grad for w in weights), *states])

    assert held(False) - held(True) == 4 * 4 * (size - used) * hidden


def test_models_of_which_no_rows_can_be_taken_are_refused():
    class Own(nn.Linear):
        pass

    def shared(model):
        model.model.another = model.get_input_embeddings()
        model.model.other = nn.Embedding(VOCABULARY, 32)
        model.model.other.weight = model.get_input_embeddings().weight

    def own_head(model):
        model.lm_head = Own(32, VOCABULARY).double()

    def longer_head(model):
        model.lm_head = nn.Linear(32, VOCABULARY + 1).double()

    def own_embedding(model):
        model.set_input_embeddings(nn.Sequential(model.get_input_embeddings()))

    for change, message in (
        (shared, "an embedding that more than the head shares"),
        (own_head, "a head of Own"),
        (longer_head, "61 rows of embeddings and 62 of a head"),
        (own_embedding, "an embedding of Sequential"),
        (lambda model: model.to("meta"), "does not hold all rows"),
    ):
        model = model_of("llama")
        change(model)
        with pytest.raises(ValueError, match=rf"^LlamaForCausalLM has .*{message}") as error:
            PrunedVocabulary(model, USED)
        assert "\n" not in str(error.value)
    for tokens in ([], [-1, 3], [VOCABULARY]):
        with pytest.raises(ValueError, match="tokens must be one or more ids of 0 to 60"):
            PrunedVocabulary(model_of("llama"), torch.tensor(tokens, dtype=torch.int64))
