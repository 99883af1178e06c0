"""What colm overrides is there in transformers, TRL and PyTorch, and is called as it expects.

mypy does not follow transformers and TRL, and a hook that a later version renames would just never
be called; so the classes themselves are asked.
"""

import inspect
import re

import pytest
from transformers import Trainer
from trl import SFTConfig, SFTTrainer

from colm import CoLMSFTTrainer, CoLMTrainer
from colm.data.exact_json import ExactJson
from colm.memory.subspaces.optimizer import SubspaceOptimizer
from colm.runs.arm_process import TurnTaking
from colm.runs.select import DryRunTrainer
from colm.training import trainer


def overrides(derived):
    """Pairs of methods by name: colm's in a class, and the first of another package after it."""
    found = {}
    for place, cls in enumerate(derived.__mro__):
        for name, method in vars(cls).items():
            method = getattr(method, "__func__", method)  # of a static method
            ours = cls.__module__.partition(".")[0] == "colm" and inspect.isfunction(method)
            if not ours or name in found or name == "__init__":
                continue
            for base in derived.__mro__[place + 1 :]:
                theirs = vars(base).get(name)
                theirs = getattr(theirs, "__func__", theirs)
                foreign = base.__module__.partition(".")[0] not in ("colm", "builtins")
                if foreign and inspect.isfunction(theirs):
                    found[name] = method, theirs
                    break
    return found


def mismatch(ours, theirs):
    """Why a call that the overridden method allows fails; what is optional is passed by name."""
    parameters = inspect.signature(theirs).parameters.values()
    plain = [
        each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
    ]
    required = [None for each in plain if each.default is each.empty]
    optional = {each.name: None for each in plain if each.default is not each.empty}
    try:
        inspect.signature(ours).bind(*required, **optional)
    except TypeError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    "derived",
    [
        CoLMTrainer,
        CoLMSFTTrainer,
        DryRunTrainer,
        TurnTaking,
        ExactJson,
        SubspaceOptimizer,
    ],
)
def test_overrides_take_what_the_overridden_take(derived):
    found = overrides(derived)
    assert found
    wrong = {name: mismatch(*pair) for name, pair in found.items() if mismatch(*pair)}
    assert not wrong


@pytest.mark.parametrize("derived", [CoLMTrainer, CoLMSFTTrainer])
def test_the_trainer_names_every_method_that_it_overrides(derived):
    """Without which a step, a checkpoint or a resumed run is another."""
    named = set(re.findall(r"``(\w+)``", trainer.__doc__.partition("is overridden")[2]))
    assert set(overrides(derived)) == named


def test_a_wrong_signature_and_a_missing_hook_are_seen():
    class Wrong(Trainer):
        def log(self, logs):
            """Lacks start_time."""

        def get_batch_sample(self, epoch_iterator, num_batches, device):
            """No method of Trainer's."""

    Wrong.__module__ = "colm.wrong"
    found = overrides(Wrong)
    assert found.keys() == {"log"}
    assert "start_time" in mismatch(*found["log"])


def test_no_attribute_of_the_plain_trainer_is_taken_for_another(make_trainer, dataset):
    ours = vars(make_trainer(dataset))
    plain = vars(make_trainer(dataset, trainer_class=SFTTrainer, config_class=SFTConfig))
    assert {name: type(ours[name]) for name in plain if name != "args"} == {
        name: type(value) for name, value in plain.items() if name != "args"
    }
