"""Groups of experts that accompany each other, against exhaustive search and a planted answer."""

from __future__ import annotations

import time
from itertools import permutations

import numpy as np
import pytest
from numpy.typing import NDArray

from planner.placement.coactivation import company, company_kept, gather
from planner.placement.reach import counted

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def friends(layers: int, experts: int, seed: int) -> Floats:
    """Random company: symmetric, zero on the diagonal."""
    counts = np.random.default_rng(seed).poisson(3.0, (layers, experts, experts)).astype(float)
    upper = np.triu(counts, 1)
    return np.asarray(upper + upper.transpose(0, 2, 1))


def planted(layers: int, experts: int, groups: int, seed: int) -> tuple[Floats, Ints]:
    """Company three times as strong inside groups that are to be found."""
    random = np.random.default_rng(seed)
    hidden = np.array([random.permutation(experts) % groups for _ in range(layers)])
    same = hidden[:, :, np.newaxis] == hidden[:, np.newaxis, :]
    return friends(layers, experts, seed) * (1.0 + 2.0 * same), hidden


class TestCompany:
    def test_counts_tokens_that_go_to_both(self) -> None:
        together = company(np.array([[0, 1, 2], [0, 1, 3]]), 4)
        assert together[0].tolist() == [0, 2, 1, 1]
        assert np.array_equal(together, together.T)
        assert together.sum() == 2 * 3 * 2

    def test_kept_counts_each_pair_once(self) -> None:
        together = company(np.array([[0, 1, 2], [0, 1, 3]]), 4)[np.newaxis]
        assert company_kept(together, np.array([[0, 0, 1, 1]])).tolist() == [2]
        assert company_kept(together, np.zeros((1, 4), dtype=int)).tolist() == [6]

    def test_with_two_experts_a_token_each_pair_kept_saves_a_copy(self) -> None:
        random = np.random.default_rng(0)
        routing = np.array([random.permutation(8)[:2] for _ in range(100)])
        group = np.arange(8) % 2
        kept = company_kept(company(routing, 8)[np.newaxis], group[np.newaxis])[0]
        assert counted(routing, group, 2).sum() == pytest.approx(2 - kept / 100)


class TestGather:
    @pytest.mark.parametrize("seed", range(8))
    def test_is_close_to_the_best_of_all_groupings(self, seed: int) -> None:
        """Eight experts in two groups; no exchange is left that gains."""
        together, loads = friends(1, 8, seed), np.ones((1, 8))
        start = np.arange(8)[np.newaxis] % 2
        found = gather(together, loads, start, 1.0)
        every = np.array(sorted(set(permutations([0, 0, 0, 0, 1, 1, 1, 1]))))
        kept = company_kept(np.broadcast_to(together, (len(every), 8, 8)), every)
        own = company_kept(together, found)[0]
        assert 0.95 * kept.max() <= own <= kept.max()
        one_exchange = (every != found).sum(axis=1) == 2
        assert own >= kept[one_exchange].max()

    def test_finds_planted_groups(self) -> None:
        together, hidden = planted(4, 64, 8, 0)
        start = np.tile(np.arange(64) % 8, (4, 1))
        found = gather(together, np.ones((4, 64)), start, 1.0)
        assert company_kept(together, found) == pytest.approx(company_kept(together, hidden))

    @pytest.mark.parametrize("limit", [1.0, 1.05, 1.2])
    def test_the_load_stays_within_the_limit(self, limit: float) -> None:
        together, _ = planted(3, 32, 4, 0)
        loads = np.random.default_rng(0).lognormal(0, 0.5, (3, 32))
        order = np.argsort(np.argsort(-loads, axis=1), axis=1)
        start = np.where(order // 4 % 2 == 0, order % 4, 3 - order % 4)  # dealt forth and back
        found = gather(together, loads, start, limit)
        for load, before, after in zip(loads, start, found, strict=True):
            allowed = max(limit * load.sum() / 4, np.bincount(before, load).max())
            assert np.bincount(after, load).max() <= allowed * (1 + 1e-12)
            assert np.bincount(after).tolist() == [8] * 4

    def test_a_looser_limit_keeps_more_company(self) -> None:
        together, _ = planted(3, 32, 4, 0)
        loads = np.random.default_rng(0).lognormal(0, 1.0, (3, 32))
        start = np.tile(np.arange(32) % 4, (3, 1))
        tight, loose = (company_kept(together, gather(together, loads, start, x)) for x in (1, 9))
        assert np.all(company_kept(together, start) < tight)
        assert tight.sum() < loose.sum()

    def test_a_layer_does_not_depend_on_the_others(self) -> None:
        together, _ = planted(3, 32, 4, 0)
        loads, start = np.ones((3, 32)), np.tile(np.arange(32) % 4, (3, 1))
        whole = gather(together, loads, start, 1.1)
        alone = [gather(together[[i]], loads[[i]], start[[i]], 1.1)[0] for i in range(3)]
        assert np.array_equal(whole, alone)

    def test_a_token_reaches_fewer_nodes(self) -> None:
        """Tokens of 32 topics, each with experts that it much prefers."""
        random = np.random.default_rng(0)
        liked = random.normal(0.0, 2.0, (32, 64))[random.integers(0, 32, 4096)]
        score = liked + random.gumbel(size=liked.shape)
        routing = np.argsort(-score, axis=1)[:, :6]
        start = np.arange(64) % 8
        loads = np.bincount(routing.ravel(), minlength=64).astype(float)
        found = gather(company(routing, 64)[np.newaxis], loads[np.newaxis], start[np.newaxis], 1.1)
        before, after = (counted(routing, g, 8).sum() for g in (start, found[0]))
        assert after < 0.92 * before

    def test_58_layers_of_256_experts_take_less_than_two_seconds(self) -> None:
        together, _ = planted(58, 256, 8, 0)
        start = np.tile(np.arange(256) % 8, (58, 1))
        begin = time.process_time()
        gather(together, np.ones((58, 256)), start, 1.05)
        assert time.process_time() - begin < 2.0
