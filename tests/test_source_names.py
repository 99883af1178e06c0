"""One name for a source, however it is spelled."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from colm import CoresetSelector
from colm.source_names import as_source_name, as_source_names


@given(st.integers(-(2**53), 2**53))
def test_a_number_is_one_source_however_it_is_held(number):
    held = [number, str(number), np.int64(number), np.array(number), torch.tensor(number)]
    held += [float(number), np.float64(number)] if abs(number) < 2**53 else []
    assert {as_source_name(value) for value in held} == {str(number)}


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("web", "web"),
        (np.str_("web"), "web"),
        (b"web", "web"),
        (2.5, "2.5"),
        (True, "True"),
        (np.bool_(False), "False"),
        (torch.tensor([7]), "7"),
        (0, "0"),
    ],
)
def test_values_have_names(value, name):
    assert as_source_name(value) == name


@pytest.mark.parametrize(
    "value",
    [
        *(None, float("nan"), np.float32("nan"), torch.tensor(float("nan")), "", " \n", b""),
        *([1], ("a",), {"a": 1}, {"a"}, np.array([1, 2]), torch.tensor([1, 2])),
    ],
)
def test_what_names_no_source_or_several_is_refused(value):
    with pytest.raises(ValueError, match="a source") as caught:
        as_source_name(value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="a source"):
        as_source_names(["a", value])


def test_many_are_named_as_one_is():
    values = [1, "1", 1.0, True, "True", 1, True, 2]
    assert as_source_names(values) == [as_source_name(value) for value in values]


@pytest.mark.parametrize("rule", ["auto", [1], ["1"], [1.0]])
@pytest.mark.parametrize("sizes", [{0: 90, 1: 10}, {"0": 90, "1": 10}, {0.0: 90, np.int64(1): 10}])
@pytest.mark.parametrize("names", [[0, 1], ["0", "1"], [np.int64(0), np.int64(1)]])
def test_a_selector_keeps_a_small_source_whole_however_it_is_spelled(rule, sizes, names):
    features = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    selector = CoresetSelector("colm", small_sources=rule, source_sizes=sizes)
    sources = [names[row in (2, 5)] for row in range(8)]
    selection = selector.select(features, 4, sources=sources)
    assert selection.kept_whole == 2
    assert {2, 5} <= set(selection.indices.tolist())


def test_a_candidate_without_a_source_is_refused():
    with pytest.raises(ValueError, match="a source needs a name; got None"):
        CoresetSelector("colm").select(torch.randn(3, 2), 1, sources=["a", None, "b"])
