"""Gradients of whole blocks against autograd, and what a look may cost."""

import pytest
import torch

from colm.gradients.block_gradients import DEPTH, INPUTS_KEPT, BlockGradients, spread_layers
from colm.gradients.decoder import find_layers
from colm.gradients.example_observer import ExampleObserver
from colm.gradients.per_example import example_gradients, trained_parameters
from tests.gradients.architectures import VOCABULARY, build
from tests.gradients.test_features import assert_close, examples, padded, padding_free, with_adapter


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def autograd(model, gradients, batch):
    """What plain autograd gives in the weights that the features are of, map by map."""
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_()
    place = {id(parameter): i for i, parameter in enumerate(trained_parameters(model))}
    rows = [
        [gradient[place[id(p.modules[0].weight)]] for p in gradients.projections]
        for gradient in example_gradients(model, [batch])
    ]
    for parameter in frozen:
        parameter.requires_grad_(False)
    return [torch.stack(parts) for parts in zip(*rows, strict=True)]


@pytest.mark.parametrize("layout", [padded, padding_free])
@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_features_are_the_gradients_sketched(adapter, layout):
    model = with_adapter(build("llama"), adapter)
    tokens, labels = examples()
    gradients = BlockGradients(model)
    assert len(gradients.projections) == 7 * len(gradients.layers)
    expected = []
    for sketch, gradient in zip(
        gradients._sketches, autograd(model, gradients, padded(tokens, labels)), strict=True
    ):
        kept = gradient if sketch.rows is None else gradient[:, sketch.rows]
        expected.append(
            (kept if sketch.mixing is None else kept @ sketch.mixing.double()).flatten(1)
        )
    features = gradients(layout(tokens, labels)).features
    assert_close(features, torch.cat(expected, dim=1))


def test_large_weights_are_sketched_and_keep_their_inner_products():
    """Of 32 inputs 16 are mixed at random: on average over maps, inner products stay."""
    model = build("llama")
    batch = padded(*examples())
    gradients = BlockGradients(model)
    assert all(sketch.mixing.shape[1] == INPUTS_KEPT for sketch in gradients._sketches)
    whole = torch.cat([g.flatten(1) for g in autograd(model, gradients, batch)], dim=1)
    features = gradients(batch).features
    products = torch.stack([features @ features.T, whole @ whole.T]).flatten(1)
    assert torch.corrcoef(products)[0, 1] > 0.95
    assert 0.7 < products[0].norm() / products[1].norm() < 1.4


def test_features_are_bounded_whatever_the_model(monkeypatch):
    monkeypatch.setattr("colm.gradients.block_gradients.MOST_FEATURES", 500)
    gradients = BlockGradients(build("llama"))
    batch = padded(*examples())
    assert 400 < gradients(batch).features.shape[1] <= 500


def test_the_whole_vocabulary_given_changes_nothing():
    model, batch = build("gemma2"), padded(*examples())
    gradients = BlockGradients(model)
    whole = gradients(batch)
    given = gradients(batch, torch.arange(VOCABULARY))
    assert_close(given.features, whole.features)
    assert_close(given.losses, whole.losses)


def test_a_small_vocabulary_is_a_softmax_over_its_tokens():
    model, batch = build("llama"), padded(*examples())
    vocabulary = torch.unique(torch.cat([batch["input_ids"].flatten(), torch.arange(5)]))
    losses = BlockGradients(model)(batch, vocabulary).losses
    model.eval()
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    chances = logits[:, :-1, vocabulary].log_softmax(-1)
    targets = batch["labels"][:, 1:]
    labelled = targets != -100
    place = torch.searchsorted(vocabulary, targets.clamp(min=0)).clamp(max=len(vocabulary) - 1)
    tokens = -chances.gather(-1, place.unsqueeze(-1)).squeeze(-1) * labelled
    assert_close(losses, tokens.sum(1) / labelled.sum(1))


def test_a_vocabulary_without_a_label_is_refused():
    batch = padded(*examples())
    with pytest.raises(ValueError, match="lacks tokens that are labels"):
        BlockGradients(build("llama"))(batch, torch.tensor([0, 1, 2]))


@pytest.mark.parametrize(
    ("layers", "depth", "expected"),
    [
        (30, 0.45, (17, 29)),
        (30, DEPTH, (25, 29)),
        (2, DEPTH, (1,)),
        (30, 0.1, (27, 29)),
        (30, 1.0, (0, 29)),
        (2, 0.1, (1,)),
        (1, 1, (0,)),
    ],
)
def test_depth_is_a_share_of_the_layers(layers, depth, expected):
    assert spread_layers(layers, depth) == expected


@pytest.mark.parametrize("depth", [0, -0.1, 1.01, float("nan")])
def test_a_depth_that_is_no_share_is_refused(depth):
    with pytest.raises(ValueError, match=r"depth.* 0 .* at most 1"):
        BlockGradients(build("llama"), depth=depth)


def test_an_observer_goes_as_deep_as_it_is_told():
    model = build("llama")
    for depth in (0.1, 1.0):
        gradients = ExampleObserver(model, layers="spread", depth=depth).gradients
        assert gradients.layers == spread_layers(len(find_layers(model)), depth)


def test_maps_that_see_no_whole_batch_give_zeros():
    model = build("mixtral")
    features = BlockGradients(model)(padded(*examples())).features
    assert torch.isfinite(features).all()
    assert features.abs().max() > 0


def test_as_an_observation():
    model, batch = build("llama"), padded(*examples())
    observer = ExampleObserver(model, ("gradients", "hidden"), layers="spread", vocabulary="batch")
    seen = observer(batch, vocabulary=torch.arange(VOCABULARY))
    assert_close(seen.gradients, BlockGradients(model)(batch).features)
    assert observer.draw_directions(torch.Generator()) is None
    assert seen.hidden.shape == (4, 32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": "first"}, "^layers.*last, spread"),
        ({"layers": "spread", "vocabulary": "none"}, "^vocabulary.*full, batch"),
        ({"layers": "spread", "estimator": "zeroth_order"}, "needs estimator='exact'"),
        ({"vocabulary": "batch"}, "needs layers='spread'"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ExampleObserver(build("llama"), **options)
