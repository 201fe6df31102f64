"""Types for a size: the knapsack, and the options that name the size."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.quantize.allocation import Option, Options, allocate, convex_hull, smallest_size, tensor_types
from pipeline.quantize.size_goal import SizeGoal, parse_goal
from pipeline.quantize.types import TensorTypes


def options(seed: int, tensors: int, types: int = 4) -> Options:
    """Return random options: larger types mostly cost less."""
    random = np.random.default_rng(seed)
    return {
        f"blk.{n}": [
            Option(f"T{t}", int(size), float(random.uniform(0.5, 2) * 4.0**-t))
            for t, size in enumerate(np.cumsum(random.integers(1, 9, types)) * 32)
        ]
        for n in range(tensors)
    }


def best_cost(choices: Options, budget: int) -> float:
    picks = itertools.product(*choices.values())
    return min(sum(o.cost for o in pick) for pick in picks if sum(o.size for o in pick) <= budget)


@pytest.mark.parametrize("seed", range(6))
def test_an_allocation_fits_its_size_and_is_nearly_the_best_of_all(seed: int) -> None:
    choices = options(seed, 6)
    least = smallest_size(choices)
    most = sum(max(one.size for one in found) for found in choices.values())
    for budget in (least, least + 64, (least + most) // 2, most, 2 * most):
        found = allocate(choices, budget)
        assert found.keys() == choices.keys()
        assert sum(one.size for one in found.values()) <= budget
        cost, best = sum(one.cost for one in found.values()), best_cost(choices, budget)
        step = max(abs(a.cost - b.cost) for one in choices.values() for a, b in itertools.pairwise(one))
        assert best - 1e-12 <= cost <= best + step  # a whole step may not fit


def test_a_larger_size_never_costs_more_and_enough_of_it_gets_the_cheapest() -> None:
    choices = options(7, 40)
    costs = [
        sum(one.cost for one in allocate(choices, budget).values()) for budget in range(9000, 40000, 500)
    ]
    assert costs == sorted(costs, reverse=True)
    cheapest = sum(min(one.cost for one in found) for found in choices.values())
    assert costs[-1] == pytest.approx(cheapest)


def test_less_than_the_smallest_is_refused() -> None:
    choices = options(0, 3)
    with pytest.raises(ValueError, match="less than"):
        allocate(choices, smallest_size(choices) - 1)


def test_a_type_that_a_smaller_one_beats_is_on_no_hull() -> None:
    small, worse, large = Option("Q5_0", 22, 0.1), Option("Q5_1", 24, 0.5), Option("Q8_0", 34, 0.01)
    flat = Option("Q6_K", 33, 0.095)
    assert convex_hull([large, worse, flat, small]) == [small, large]


def test_what_one_step_leaves_over_goes_to_a_tensor_that_it_fits() -> None:
    choices = {
        "large": [Option("Q4_0", 100, 1.0), Option("Q8_0", 200, 0.0)],
        "small": [Option("Q4_0", 10, 0.05), Option("Q8_0", 20, 0.0)],
    }
    assert {name: one.type for name, one in allocate(choices, 125).items()} == {
        "large": "Q4_0",
        "small": "Q8_0",
    }


def test_the_embeddings_and_the_output_are_named_by_options_of_their_own() -> None:
    types = {"token_embd.weight": "Q6_K", "blk.0.attn_q.weight": "IQ4_XS", "output.weight": "Q8_0"}
    assert tensor_types(types) == TensorTypes((("blk.0.attn_q.weight", "IQ4_XS"),), "Q8_0", "Q6_K")


@pytest.mark.parametrize(
    ("text", "size", "name"),
    [
        ("900M", 900_000_000, "AUTO-900M"),
        ("0.9G", 900_000_000, "AUTO-900M"),
        ("1.2g", 1_200_000_000, "AUTO-1.2G"),
        ("1200M", 1_200_000_000, "AUTO-1.2G"),
        ("07M", 7_000_000, "AUTO-7M"),
        (".5M", 500_000, "AUTO-0.5M"),
        ("1.055M", 1_055_000, "AUTO-1.055M"),
        (" 40G ", 40_000_000_000, "AUTO-40G"),
    ],
)
def test_a_size_is_bytes_and_gives_the_file_its_name(text: str, size: int, name: str) -> None:
    goal = parse_goal(text, None)
    assert goal == SizeGoal(size, None) and goal is not None
    assert goal.name == name
    assert goal.limit(header=10**6, weights=10**9) == size
    assert goal.describe() == {"max_size": size}


def test_bits_a_weight_count_the_weights_alone() -> None:
    goal = parse_goal(None, "4.50")
    assert goal is not None and goal.name == "AUTO-4.5BPW" and goal.option == "--max-bpw 4.5"
    assert goal.limit(header=1000, weights=1_000_001) == 1000 + 562_500
    assert goal.needed(1000 + 600_000, 1000, 1_000_000) == "4.8"
    assert SizeGoal(10**8, None).needed(123_456_789, 0, 1) == "123.457M"
    assert parse_goal(None, None) is None


@pytest.mark.parametrize(
    ("size", "bits", "says"),
    [
        ("900", None, "--max-size '900' is no size: use a number and M or G, as in 900M or 1.2G"),
        ("0M", None, "--max-size '0M' is no size"),
        ("-1G", None, "--max-size '-1G' is no size"),
        ("1,2G", None, "--max-size '1,2G' is no size"),
        ("1e3M", None, "--max-size '1e3M' is no size"),
        ("900MB", None, "--max-size '900MB' is no size"),
        ("nanM", None, "--max-size 'nanM' is no size"),
        ("1.G", None, "--max-size '1.G' is no size"),
        ("", None, "--max-size '' is no size"),
        ("٣G", None, "is no size"),
        (None, "0", "--max-bpw '0' is no number of bits a weight: use one from 2 to 32, as in 4.5"),
        (None, "33", "--max-bpw '33' is no number of bits"),
        (None, "inf", "--max-bpw 'inf' is no number of bits"),
        (None, "4,5", "--max-bpw '4,5' is no number of bits"),
        (None, "Q4", "--max-bpw 'Q4' is no number of bits"),
        ("900M", "4.5", "--max-size 900M and --max-bpw 4.5 both limit the size: give one of them"),
    ],
)
def test_what_is_no_size_is_refused_by_name(size: str | None, bits: str | None, says: str) -> None:
    with pytest.raises(InputError) as error:
        parse_goal(size, bits)
    assert says in str(error.value)
