"""The plan of examples and the cut of a step: every example once, for any lengths, processes and budgets."""

import math

import numpy as np
import pytest
import torch

from hftrain.data.plan import Plan, _greedy, cut, seed_all, seed_torch, steps


def random_lengths(seed: int) -> np.ndarray:
    """(N, K) of a few laws: nearly equal, long-tailed, and one that is mostly ones."""
    draw = np.random.default_rng(seed)
    shape = (int(draw.integers(1, 200)), int(draw.integers(1, 4)))
    laws = [
        lambda: draw.integers(20, 30, shape),
        lambda: np.minimum(500, 1 + draw.pareto(1.2, shape) * 5).astype(np.int64),
        lambda: np.where(draw.random(shape) < 0.9, 1, draw.integers(1, 100, shape)),
    ]
    return laws[seed % 3]()


# ------------------------------------------------------------------------------------------------------- the order


@pytest.mark.parametrize("seed", range(60))
def test_an_epoch_has_every_example_once(seed):
    lengths = random_lengths(seed)
    tokens = lengths.sum(axis=1)
    for settings in (
        {"global_batch_size": 7},
        {"global_batch_size": None, "global_batch_tokens": int(2.5 * tokens.max())},
    ):
        plan = Plan(lengths, seed=seed, grouped=seed % 2 == 1, **settings)
        for epoch in range(3):
            numbers = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
            seen = np.concatenate([plan.examples(step) for step in numbers])
            assert sorted(seen) == list(range(len(lengths)))


@pytest.mark.parametrize("seed", range(60))
def test_token_steps_are_within_one_example_of_their_share_and_never_empty(seed):
    lengths = random_lengths(seed)
    tokens = lengths.sum(axis=1)
    limit = int(2 * tokens.max())
    plan = Plan(lengths, seed=seed, global_batch_size=None, global_batch_tokens=limit, grouped=seed % 2 == 1)
    assert plan.steps_per_epoch == -(-tokens.sum() // limit)
    sums = [tokens[plan.examples(step)].sum() for step in range(plan.steps_per_epoch)]
    assert min(sums) > 0
    assert max(abs(sums - tokens.sum() / plan.steps_per_epoch)) < tokens.max()


def test_order_is_this_one_on_every_platform():
    plan = Plan(np.ones((10, 1), dtype=np.int64), seed=42, global_batch_size=4)
    orders = [np.concatenate([plan.examples(3 * epoch + step) for step in range(3)]).tolist() for epoch in range(2)]
    assert orders == [[7, 1, 6, 4, 3, 5, 9, 0, 2, 8], [4, 9, 5, 3, 0, 2, 7, 1, 6, 8]]


def test_golden_order_of_a_token_plan():
    lengths = np.array([[3, 1], [9, 9], [1, 1], [5, 5], [2, 7], [8, 2], [4, 4]])
    plan = Plan(lengths, seed=7, global_batch_size=None, global_batch_tokens=25)
    assert [plan.examples(step).tolist() for step in range(plan.steps_per_epoch)] == [[4, 1], [6, 3], [2, 5, 0]]


@pytest.mark.parametrize("grouped", [False, True])
def test_order_follows_from_seed_epoch_and_lengths_alone(grouped):
    lengths = random_lengths(1)
    plan = Plan(lengths, seed=3, global_batch_size=5, grouped=grouped)
    forwards = [plan.examples(step).tolist() for step in range(2 * plan.steps_per_epoch)]
    np.random.seed(0)
    torch.manual_seed(0)
    again = Plan(lengths.copy(), seed=3, global_batch_size=5, grouped=grouped)
    backwards = [again.examples(step).tolist() for step in reversed(range(2 * again.steps_per_epoch))][::-1]
    assert backwards == forwards
    assert [step.tolist() for step in again._plan_epoch(0)] != [step.tolist() for step in again._plan_epoch(1)]
    other = Plan(lengths, seed=4, global_batch_size=5, grouped=grouped)
    assert [other.examples(step).tolist() for step in range(2 * other.steps_per_epoch)] != forwards


def test_golden_order_of_a_grouped_plan():
    lengths = np.array([3, 9, 1, 5, 2, 8, 4, 6, 7, 3, 9, 1, 5, 2, 8, 4, 6])[:, None]
    plan = Plan(lengths, seed=7, global_batch_size=2, grouped=True)
    epochs = [[plan.examples(9 * epoch + step).tolist() for step in range(9)] for epoch in range(2)]
    assert epochs == [
        [[10, 15], [14, 5], [11, 7], [12, 3], [6, 2], [4, 16], [9, 13], [8, 1], [0]],
        [[1, 3], [2, 4], [11, 15], [14, 8], [9, 13], [7, 0], [12, 16], [6, 5], [10]],
    ]


SIZED = {"global_batch_size": 32}
BY_TOKENS = {"global_batch_size": None, "global_batch_tokens": 2000}


@pytest.mark.parametrize("settings", [SIZED, BY_TOKENS], ids=["examples", "tokens"])
def test_steps_of_a_grouped_plan_hold_similar_lengths_and_come_in_random_order(settings):
    draw = np.random.default_rng(0)
    source = np.exp(draw.normal(3, 0.6, 5000)).astype(int) + 1
    lengths = np.stack([source, np.maximum(1, source + draw.integers(-4, 5, 5000))], axis=1)
    plans = {grouped: Plan(lengths, seed=1, grouped=grouped, **settings) for grouped in (False, True)}
    steps = {name: [plan.examples(i) for i in range(2 * plan.steps_per_epoch)] for name, plan in plans.items()}
    padding = {k: 1 - lengths[np.concatenate(v)].sum() / sum(cost(lengths[s]) for s in v) for k, v in steps.items()}
    assert padding[True] < 0.13 and padding[False] > 0.6  # the lengths of source and target differ by up to 4
    means = np.array([lengths[step].sum(axis=1).mean() for step in steps[True]])
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.2
    per_epoch = plans[True].steps_per_epoch
    for epoch in (steps[True][:per_epoch], steps[True][per_epoch:]):
        assert np.argmax([cost(lengths[step]) for step in epoch]) == 0
    # the examples of a step were in many steps of the epoch before
    home = plans[True].first_steps(range(5000))
    assert np.median([len({home[i] for i in step}) for step in steps[True][per_epoch:]]) >= 5


def test_the_last_step_of_a_grouped_epoch_is_the_one_that_holds_fewer():
    plan = Plan(np.arange(1, 103)[:, None], seed=1, global_batch_size=5, grouped=True)
    for epoch in range(3):
        assert [len(plan.examples(21 * epoch + step)) for step in range(21)] == [5] * 20 + [2]


def test_grouped_order_of_equal_lengths_and_of_few_steps():
    """Nothing to group: each example once, and steps are random samples."""
    plan = Plan(np.full((64, 1), 7), seed=1, global_batch_size=4, grouped=True)
    assert sorted(np.concatenate([plan.examples(step) for step in range(16)])) == list(range(64))
    lengths = np.arange(1, 25)[:, None]  # 6 steps: windows of one
    grouped, random = (Plan(lengths, seed=1, global_batch_size=4, grouped=g) for g in (True, False))
    assert {frozenset(grouped.examples(i)) for i in range(6)} == {frozenset(random.examples(i)) for i in range(6)}


def test_total_steps():
    plan = Plan(np.ones((10, 1), dtype=np.int64), seed=0, global_batch_size=4)
    assert plan.steps_per_epoch == 3
    assert plan.total_steps(2.0, None) == 6
    assert plan.total_steps(0.5, None) == 2  # 1.5 steps
    assert plan.total_steps(0.01, None) == 1
    assert plan.total_steps(None, 7) == 7


def test_errors_of_the_plan():
    with pytest.raises(ValueError, match="there are no training examples: check the refused rows"):
        Plan(np.empty((0, 2), dtype=np.int64), seed=0)
    with pytest.raises(ValueError, match=r"global_batch_tokens=20 .* example 1\b.* 30 tokens. Raise global_batch_tok"):
        Plan(np.array([[5, 5], [20, 10], [5, 5]]), seed=0, global_batch_size=None, global_batch_tokens=20)
    # 50 tokens are 2 steps of 25: the setting is above the example, and what it makes is not
    with pytest.raises(ValueError, match=r"global_batch_tokens=32 makes steps of 25 tokens, and example 1 alone has"):
        Plan(np.array([[5, 5], [20, 10], [5, 5]]), seed=0, global_batch_size=None, global_batch_tokens=32)


# --------------------------------------------------------------------------------------------------------- the cut


def cost(lengths: np.ndarray) -> int:
    return len(lengths) * int(lengths.max(axis=0).sum()) if len(lengths) else 0


@pytest.mark.parametrize("seed", range(120))
def test_a_cut_has_every_example_once_within_the_budget(seed):
    lengths = random_lengths(seed)
    draw = np.random.default_rng(seed + 1000)
    processes = int(draw.choice([1, 2, 3, 8]))
    size = int(draw.integers(1, 20))
    budget = int(lengths.sum(axis=1).max() * draw.uniform(1, 8))
    for settings in ({}, {"micro_batch_size": size}, {"micro_batch_tokens": budget}):
        groups = cut(lengths, processes, **settings)
        assert len(groups) % processes == 0
        assert sorted(np.concatenate(groups)) == list(range(len(lengths)))
        assert max(map(len, groups)) <= settings.get("micro_batch_size", len(lengths))
        costs = [cost(lengths[group]) for group in groups]
        assert max(costs) <= settings.get("micro_batch_tokens", np.inf)
        assert costs == sorted(costs, reverse=True)  # too large a budget fails in the first forward pass
        if min(map(len, groups)) == 0:
            assert max(map(len, groups)) == 1  # no empty one where an example could be spared
        again = cut(lengths, processes, **settings)
        assert all(np.array_equal(a, b) for a, b in zip(groups, again, strict=True))


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_an_empty_micro_batch_needs_fewer_examples_than_micro_batches(processes):
    for examples in range(1, 30):
        for size in range(1, 9):
            groups = cut(np.ones((examples, 2), dtype=np.int64), processes, micro_batch_size=size)
            assert len(groups) == -(-math.ceil(examples / size) // processes) * processes  # no more than are needed
            assert sum(len(group) == 0 for group in groups) == max(0, len(groups) - examples)


@pytest.mark.parametrize("processes", [1, 2, 8])
def test_micro_batches_are_balanced(processes):
    """Like lengths together: the costliest micro-batch is near the mean, and little of it is padding."""
    draw = np.random.default_rng(0)
    source = draw.integers(4, 60, 400)
    lengths = np.stack([source, np.maximum(2, source + draw.integers(-4, 5, 400))], axis=1)
    groups = cut(lengths, processes, micro_batch_tokens=2048)
    costs = [cost(lengths[group]) for group in groups]
    assert max(costs) / np.mean(costs) < 1.1
    assert lengths.sum() / sum(costs) > 0.88
    rounds = [costs[i : i + processes] for i in range(0, len(costs), processes)]
    waiting = sum(processes * max(one) - sum(one) for one in rounds) / sum(costs)  # by processes for the slowest
    assert waiting < 0.05


def one_by_one(rows: list[list[int]], size: int, budget: int, equal: bool) -> list[int]:
    """Sizes of micro-batches that take row after row."""
    sizes, count, widest = [], 0, [0] * len(rows[0])
    for row in rows:
        wider = list(map(max, widest, row))
        if count and (count == size or (count + 1) * sum(wider) > budget or (equal and row != widest)):
            sizes.append(count)
            count, wider = 0, row
        count, widest = count + 1, wider
    return [*sizes, count]


@pytest.mark.parametrize("equal", [False, True])
def test_a_micro_batch_takes_rows_until_the_next_would_not_fit(equal):
    draw = np.random.default_rng(0)
    for _ in range(200):
        lengths = draw.integers(0, draw.integers(1, 100), (draw.integers(1, 60), draw.integers(1, 4)))
        rows = lengths[np.argsort(-lengths.sum(axis=1), kind="stable")]
        size, budget = int(draw.integers(1, 70)), int(max(1, rows[0].sum()) * draw.uniform(1, 6))
        assert _greedy(rows, size, budget, equal) == one_by_one(rows.tolist(), size, budget, equal)


def test_error_of_the_cut():
    message = "micro_batch_tokens=20 is less than one example of 30 tokens: raise micro_batch_tokens or lower the max"
    with pytest.raises(ValueError, match=message):
        cut(np.array([[5, 5], [20, 10]]), 1, micro_batch_tokens=20)
    assert len(cut(np.array([[5, 5], [20, 10]]), 1, micro_batch_tokens=30)) == 2


# ------------------------------------------------------------------------------------------------ collated, by step

EXAMPLES = list(range(23))


def collate_with_noise(examples: list[int]) -> dict[str, torch.Tensor]:
    noise = torch.tensor(np.random.rand(len(examples)))
    return {"x": torch.tensor(examples), "noise": noise, "more": torch.rand(len(examples))}


def iterate(start: int, stop: int, num_workers: int = 0, process: int = 0, processes: int = 1) -> list:
    plan = Plan(np.arange(1, 24)[:, None], seed=5, global_batch_size=5)  # 5 steps an epoch, the last of 3 examples
    torch.manual_seed(start + num_workers)  # what has gone before must not matter
    found = steps(
        EXAMPLES, collate_with_noise, plan, start=start, stop=stop, process=process, processes=processes,
        micro_batch_size=2, num_workers=num_workers,
    )  # fmt: skip
    return list(found)


def assert_same(left: list, right: list) -> None:
    assert len(left) == len(right)
    for (step, indices, micros), (other_step, other_indices, other_micros) in zip(left, right, strict=True):
        assert step == other_step
        assert np.array_equal(indices, other_indices)
        for micro, other in zip(micros, other_micros, strict=True):
            assert micro.number == other.number
            assert np.array_equal(micro.indices, other.indices)
            assert all(torch.equal(micro.batch[key], other.batch[key]) for key in micro.batch)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("start", [1, 5, 7])
def test_steps_go_on_as_if_never_stopped(start, num_workers):
    """In the middle of an epoch, at its end, in the next one; noise of the collate and all."""
    assert_same(iterate(start, 12, num_workers), iterate(0, 12)[start:])


def test_steps_leave_the_global_randomness_alone_between_iterators():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    plan = Plan(np.ones((4, 1), dtype=np.int64), seed=0, global_batch_size=4)
    next(steps(EXAMPLES[:4], lambda examples: {"x": torch.tensor(examples)}, plan, start=0, stop=1, num_workers=2))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_processes_share_the_same_micro_batches():
    """Each micro-batch of two processes is one of one process, with the same number and the same noise."""
    alone = iterate(0, 6)
    shared = [iterate(0, 6, process=process, processes=2) for process in range(2)]
    for (_, indices, micros), *parts in zip(alone, *shared, strict=True):
        by_number = {micro.number: micro for micro in micros}
        assert all(np.array_equal(part[1], indices) for part in parts)
        for process, (_, _, mine) in enumerate(parts):
            assert [micro.number % 2 for micro in mine] == [process] * len(mine)
            for micro in mine:
                if len(micro.indices) and len(micros) % 2 == 0:
                    assert torch.equal(micro.batch["noise"], by_number[micro.number].batch["noise"])
        seen = np.concatenate([micro.indices for _, _, mine in parts for micro in mine])
        assert sorted(seen) == sorted(indices)


def test_a_process_without_an_example_gets_one_to_stand_in():
    plan = Plan(np.ones((3, 1), dtype=np.int64), seed=0, global_batch_size=1)
    for process in range(2):
        ((_, indices, (micro,)),) = steps(
            EXAMPLES[:3], collate_with_noise, plan, start=0, stop=1, process=process, processes=2
        )
        assert micro.indices.tolist() == (indices.tolist() if process == 0 else [])
        assert len(micro.batch["x"]) == 1


def test_seed_all_depends_on_every_part():
    def draw(*parts: int) -> tuple[float, float]:
        seed_all(*parts)
        return float(torch.rand(())), float(np.random.rand())

    assert draw(1, 2, 3) == draw(1, 2, 3)
    assert len({draw(a, b, c) for a in range(3) for b in range(3) for c in range(3)}) == 27


@pytest.mark.parametrize("seed", [0, 42, 2**64 - 1])
def test_seed_torch_leaves_the_state_that_torch_leaves(seed):
    torch.manual_seed(seed)
    cpu, others = torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    seed_torch(seed + 1 if seed < 2**63 else 1)
    assert not torch.equal(torch.get_rng_state(), cpu)
    seed_torch(seed)
    assert torch.equal(torch.get_rng_state(), cpu)
    assert all(map(torch.equal, torch.cuda.get_rng_state_all() if others else [], others))
