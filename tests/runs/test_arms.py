"""Short forms of arms, arms of one's own, and the controls that come by themselves."""

import re

import pytest

from colm.coreset.registry import available_selectors
from colm.runs.arguments import parse_arguments
from colm.runs.arms import make_arms, option_words, short_forms
from colm.training.options.by_selector import options_by_selector

RECIPE = ["--per_device_train_batch_size=6", "--gradient_accumulation_steps=2", "--seed=5"]


def arms_of(*names: str, recipe: list[str] | None = None) -> dict:
    return {arm.name: arm for arm in make_arms(names, recipe or RECIPE)}


def training_of(arm, recipe: list[str] | None = None):
    return parse_arguments([*(recipe or RECIPE), *option_words(arm.options)]).training


def test_every_short_form_is_an_arm_that_can_be_trained() -> None:
    arms = arms_of(*short_forms())
    assert set(short_forms()) <= set(arms)
    for arm in arms.values():
        assert training_of(arm).per_device_train_batch_size <= 6
    assert set(available_selectors()) <= set(arms)


@pytest.mark.parametrize("selector", available_selectors())
def test_the_name_of_a_selector_is_what_it_brings_whatever_the_recipe_says(selector: str) -> None:
    recipe = [*RECIPE, "--weighted=true", "--distance=cosine", "--candidate_ratio=1"]
    training = training_of(arms_of(selector, recipe=recipe)[selector], recipe)
    brought = options_by_selector(selector)
    assert {name: getattr(training, name) for name in brought} == brought
    assert training.candidate_ratio == 2.0


def test_an_arm_tells_what_of_the_recipe_it_sets_aside_and_which_arm_has_it() -> None:
    recipe = [*RECIPE, "--gradient=zeroth_order", "--weighted=true"]
    arms = arms_of("colm", "ssm", "random", "even", recipe=recipe)
    for name in ("colm", "ssm"):
        told = arms[name].meaning
        assert "gradients that are exact" in told
        own = re.search(r"'(\w+:[^']+)'", told)
        assert own
        arm = arms_of(own[1], recipe=recipe)[f"{name}_so"]
        training = training_of(arm, recipe)
        assert (training.selector, training.gradient, training.weighted) == (
            name,
            "zeroth_order",
            True,
        )
    for name in ("random", "even"):
        assert "aside" not in arms[name].meaning
    assert "aside" not in arms_of("colm")["colm"].meaning


def test_plain_arms_train_on_r_n_and_2n_without_larger_micro_batches() -> None:
    arms = arms_of("plain_2n")
    sizes = {
        name: (t.per_device_train_batch_size, t.gradient_accumulation_steps)
        for name, t in ((name, training_of(arm)) for name, arm in arms.items())
    }
    assert sizes == {"plain": (6, 2), "plain_n": (6, 4), "plain_2n": (6, 8)}
    odd = ["--per_device_train_batch_size=5", "--candidate_ratio=1.5"]
    training = training_of(arms_of(recipe=odd)["plain_n"], odd)
    batches = training.per_device_train_batch_size * training.gradient_accumulation_steps
    assert batches == round(5 * 1.5)
    assert training.per_device_train_batch_size <= 5
    assert all(training_of(arm).candidate_ratio == 1 for arm in arms.values())


@pytest.mark.parametrize("rule", ["hard", "infobatch", "tailsft"])
def test_a_rule_of_stored_losses_is_an_arm_and_no_other_arm_keeps_the_recipes(rule: str) -> None:
    recipe = [*RECIPE, "--stored_losses=hard"]
    arms = arms_of(rule, "colm", "recipe", recipe=recipe)
    stored = {name: training_of(arm, recipe).stored_losses for name, arm in arms.items()}
    expected = dict.fromkeys(arms, None) | {
        rule: rule,
        "recipe": "hard",
        arms["recipe"].control: "hard",
    }
    assert stored == expected
    training = training_of(arms[rule], recipe)
    assert (training.candidate_ratio, training.candidate_sampling) == (1, "uniform")


def test_the_control_of_an_arm_draws_by_the_same_stored_losses() -> None:
    mine = "mine:selector=mean_matching,stored_losses=hard,candidate_sampling=uniform"
    arms = arms_of(mine)
    control = arms[arms["mine"].control]
    assert training_of(control).stored_losses == "hard"


def test_even_draws_every_source_equally_often_and_looks_at_nothing() -> None:
    arm = arms_of("even")["even"]
    training = training_of(arm)
    assert (training.candidate_sampling, training.candidate_ratio) == ("unimax", 1)
    assert not arm.looks
    assert arm.control is None


@pytest.mark.parametrize("selector", ["colm", "ssm", "balanced_sampling", "top_loss"])
def test_a_look_is_held_against_a_random_choice_of_the_same_draws(selector: str) -> None:
    arms = arms_of(selector)
    arm = arms[selector]
    assert arm.looks
    own, control = training_of(arm), training_of(arms[arm.control])
    assert control.selector in ("random", "small_random")
    for name in ("candidate_sampling", "small_sources", "candidate_ratio"):
        assert getattr(control, name) == getattr(own, name)
    assert not arms[arm.control].looks


def test_arms_that_need_the_same_control_share_it() -> None:
    assert list(arms_of("colm", "mean_matching", "small_random")) == [
        "colm",
        "mean_matching",
        "small_random",
        "plain",
        "plain_n",
    ]


def test_an_arm_of_ones_own_takes_options_of_sft_and_its_control_shares_them() -> None:
    arms = arms_of("mine:selector=colm,gradient=zeroth_order,learning_rate=3e-4,projections=q v")
    own = training_of(arms["mine"])
    assert (own.gradient, own.learning_rate, own.projections) == ("zeroth_order", 3e-4, ["q", "v"])
    assert training_of(arms[arms["mine"].control]).learning_rate == 3e-4


def test_without_a_selector_an_arm_is_the_recipe_with_other_options() -> None:
    recipe = [*RECIPE, "--selector=ssm", "--weighted=true"]
    arms = arms_of("recipe", "warm:learning_rate=1e-5", recipe=recipe)
    for name in ("recipe", "warm"):
        training = training_of(arms[name], recipe)
        assert (training.selector, training.weighted) == ("ssm", True)
    assert training_of(arms["warm"], recipe).learning_rate == 1e-5


def test_weights_of_the_recipe_are_for_what_is_drawn_by_them() -> None:
    recipe = [*RECIPE, "--candidate_ratio=1", "--source_weights", "web=1", "code=2"]
    arms = arms_of("weights", "recipe", "colm", "even", recipe=recipe)
    for name, arm in arms.items():
        training = training_of(arm, recipe)
        assert (training.source_weights is not None) == (name in ("weights", "recipe"))
        assert (training.candidate_sampling == "weights") == (name in ("weights", "recipe"))
    with pytest.raises(ValueError, match="weights"):
        make_arms(["weights"], RECIPE)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("colmm", ["colmm", "balanced_sampling", "even", "plain_2n"]),
        ("mine:selector", ["selector", "option=value"]),
        ("colm:weighted=true", ["colm", "short form"]),
        ("a/b:weighted=true", ["a/b", "name"]),
        ("mine:max_steps=3", ["max_steps", "same for all"]),
        ("mine:dataset_name=x", ["dataset_name", "same for all"]),
        ("mine:dataset_num_proc=2", ["dataset_num_proc", "same for all"]),
        ("mine:no_such=3", ["mine", "no_such"]),
        ("mine:selector=nobody", ["selector", "nobody"]),
        ("mine:candidate_ratio=0.5", ["mine", "candidate_ratio", "0.5"]),
    ],
)
def test_an_arm_that_cannot_be_is_one_line(name: str, words: list[str]) -> None:
    with pytest.raises(ValueError, match=words[0]) as caught:
        make_arms([name], RECIPE)
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


def test_two_arms_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        make_arms(["a:weighted=true", "a:weighted=false"], RECIPE)
