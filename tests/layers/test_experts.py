"""How often a token meets a domain, and what sending it there only once saves."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from planner.layers.moe import distinct_domains, exchange_time, moe_part
from planner.specs.model import MixtureOfExperts
from planner.specs.models_catalog import find_model


def column(value: float) -> np.ndarray:
    return np.array([value], dtype=float)


def distinct(spec: MixtureOfExperts, domains: int) -> float:
    return distinct_domains(spec, column(domains)).item()


class TestDistinctDomains:
    @pytest.mark.parametrize(
        ("domains", "published"),
        [(32, (2, 4, 7, 9)), (16, (3, 9, 14, 18)), (8, (6, 17, 27, 34)), (4, (12, 32, 46, 55))],
    )
    def test_duplication_rates_of_hiermoe(self, domains: int, published: tuple[int, ...]) -> None:
        """Table II of arXiv 2508.09591, in percent, for 2, 4, 6 and 8 of 256 experts."""
        for top_k, percent in zip((2, 4, 6, 8), published, strict=True):
            found = 100 * (1 - distinct(MixtureOfExperts(256, top_k, 2048), domains) / top_k)
            assert found == pytest.approx(percent, abs=1.5)

    @pytest.mark.parametrize(("experts", "top_k", "domains"), [(8, 3, 4), (12, 4, 3), (10, 2, 5)])
    def test_equal_to_counting_every_choice(self, experts: int, top_k: int, domains: int) -> None:
        per_domain = experts // domains
        choices = list(combinations(range(experts), top_k))
        exact = np.mean([len({e // per_domain for e in choice}) for choice in choices])
        found = distinct(MixtureOfExperts(experts, top_k, 64), domains)
        assert found == pytest.approx(exact, rel=1e-12)

    def test_limits(self) -> None:
        spec = MixtureOfExperts(256, 8, 2048)
        assert distinct(spec, 1) == 1.0
        assert distinct(spec, 256) == pytest.approx(8.0)  # an expert a domain: no duplicates
        assert distinct(MixtureOfExperts(64, 64, 64), 8) == pytest.approx(8.0)

    def test_monotone_in_domains_and_in_top_k(self) -> None:
        domains = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0])
        previous = np.zeros_like(domains)
        for top_k in range(1, 10):
            found = distinct_domains(MixtureOfExperts(256, top_k, 64), domains)
            assert np.all(np.diff(found) >= 0.0)
            assert np.all(found >= previous)
            previous = found

    def test_group_limited_routing_reaches_only_its_groups(self) -> None:
        """DeepSeek-V3: four of eight groups, so with a group a node at most four nodes."""
        free = MixtureOfExperts(256, 8, 2048)
        limited = replace(free, route_groups=(4, 8))
        assert distinct(free, 8) > 5.0
        assert distinct(limited, 8) == 4.0
        assert distinct(limited, 1) == 1.0

    def test_routing_to_all_groups_is_no_limit(self) -> None:
        free = MixtureOfExperts(256, 8, 2048)
        for domains in (1, 2, 4, 8, 16):
            assert distinct(replace(free, route_groups=(8, 8)), domains) == distinct(free, domains)

    @pytest.mark.parametrize("domains", [2, 4])
    def test_fewer_domains_than_groups(self, domains: int) -> None:
        """Four of eight groups, drawn evenly, touch nearly all of two or four domains."""
        exact = np.mean(
            [len({g * domains // 8 for g in groups}) for groups in combinations(range(8), 4)]
        )
        limited = MixtureOfExperts(256, 8, 2048, route_groups=(4, 8))
        assert distinct(limited, domains) == pytest.approx(exact, rel=0.1)


class TestExchange:
    def seconds(
        self,
        bench: Any,
        dispatch: str,
        ep: int,
        etp: int = 1,
        *,
        top_k: int = 8,
        tokens: float = 4096.0,
        cluster: str = "h800-ib",
        imbalance: float = 1.0,
    ) -> float:
        setting = bench.setting(7168, cluster=cluster, devices=max(8, ep * etp), dispatch=dispatch)
        spec = MixtureOfExperts(256, top_k, 2048)
        skew, tokens_, ep_, etp_ = (column(v) for v in (imbalance, tokens, ep, etp))
        return float(np.sum(exchange_time(setting, spec, skew, tokens_, ep_, etp_)))

    @pytest.mark.parametrize("top_k", [1, 2, 4, 8])
    @pytest.mark.parametrize("tokens", [1.0, 128.0, 4096.0, 65536.0])
    @pytest.mark.parametrize("ep", [16, 32, 64, 256])
    def test_sending_a_token_once_to_a_node_is_never_slower(
        self, bench: Any, ep: int, tokens: float, top_k: int
    ) -> None:
        args: dict[str, Any] = {"tokens": tokens, "top_k": top_k}
        once = self.seconds(bench, "deduplicated", ep, **args)
        assert once <= self.seconds(bench, "all-to-all", ep, **args) * (1 + 1e-9)

    def test_it_saves_the_duplicates_where_the_fabric_is_the_limit(self, bench: Any) -> None:
        plain = self.seconds(bench, "all-to-all", 64, tokens=65536.0)
        once = self.seconds(bench, "deduplicated", 64, tokens=65536.0)
        share = distinct(MixtureOfExperts(256, 8, 2048), 8) / 8
        # Both send the share 7/8 that leaves the node.
        assert once / plain == pytest.approx(share, rel=0.02)

    def test_inside_a_node_there_is_nothing_to_save(self, bench: Any) -> None:
        assert self.seconds(bench, "deduplicated", 8) == self.seconds(bench, "all-to-all", 8)

    def test_a_pod_between_node_and_fabric_does_not_hide_the_duplicates(self, bench: Any) -> None:
        plain, once = (
            self.seconds(bench, kind, 64, cluster="h100-roce-7to1")
            for kind in ("all-to-all", "deduplicated")
        )
        assert once < 0.8 * plain

    def test_gathering_does_not_depend_on_the_experts_of_a_token(self, bench: Any) -> None:
        one, eight = (self.seconds(bench, "all-gather", 8, top_k=k) for k in (1, 8))
        assert one == eight

    def test_gathering_beats_all_to_all_only_for_many_experts_a_token(self, bench: Any) -> None:
        """MegaScale-MoE section 3.2: volumes cross at top-k = n, with n = 8 in a node."""
        for top_k, wins in ((2, "all-to-all"), (16, "all-gather")):
            found = {
                kind: self.seconds(bench, kind, 8, top_k=top_k, tokens=65536.0)
                for kind in ("all-to-all", "all-gather")
            }
            assert min(found, key=lambda kind: found[kind]) == wins

    @pytest.mark.parametrize("dispatch", ["all-to-all", "deduplicated"])
    def test_the_busiest_rank_sets_the_pace(self, bench: Any, dispatch: str) -> None:
        even, skewed = (
            self.seconds(bench, dispatch, 64, tokens=65536.0, imbalance=i) for i in (1.0, 1.5)
        )
        assert skewed / even == pytest.approx(1.5, rel=0.02)

    def test_expert_tensor_parallelism_gathers_the_copies(self, bench: Any) -> None:
        assert self.seconds(bench, "all-to-all", 8, 1) < self.seconds(bench, "all-to-all", 8, 2)


class TestExpertsOnADevice:
    SPEC = find_model("deepseek-v3").layers[-1].feedforward

    def part(self, bench: Any, ep: int, etp: int = 1, imbalance: float = 1.0) -> Any:
        setting = bench.setting(7168, devices=256, imbalance=imbalance)
        return moe_part(setting, self.SPEC, *(column(v) for v in (4096.0, 1.0, ep, etp)))

    @pytest.mark.parametrize(("ep", "etp"), [(1, 1), (8, 1), (64, 1), (256, 1), (32, 4)])
    def test_expert_parameters_are_divided_over_both_axes(
        self, bench: Any, ep: int, etp: int
    ) -> None:
        whole = 256 * 3 * 7168 * 2048
        assert self.part(bench, ep, etp).expert_parameters.item() == whole / (ep * etp)

    def test_the_always_active_part_stays_whole(self, bench: Any) -> None:
        expected = 7168 * 256 + 3 * 7168 * 2048  # router and shared expert
        for ep in (1, 8, 64):
            found = np.sum(self.part(bench, ep).parameters)
            assert found - expected in (0, 256)  # with or without the router's bias

    def test_products_of_the_experts_do_not_depend_on_how_they_are_spread(
        self, bench: Any, spied_flops: Any
    ) -> None:
        spread = ((1, 1), (64, 1), (32, 4), (8, 8))
        found = [spied_flops(lambda axes=axes: self.part(bench, *axes)) for axes in spread]
        assert found == pytest.approx([found[0]] * 4, rel=1e-12)

    def test_the_busiest_device_multiplies_and_keeps_more(
        self, bench: Any, spied_flops: Any
    ) -> None:
        rows = 2 * 3 * 4096 * 8 * 7168 * 2048
        even, skewed = (
            spied_flops(lambda i=i: self.part(bench, 64, imbalance=i)) for i in (1.0, 1.2)
        )
        assert skewed - even == pytest.approx(0.2 * rows, rel=1e-9)
        kept = [np.sum(self.part(bench, 64, imbalance=i).kept) for i in (1.0, 1.2)]
        copies = 2 * 4096 * 8 * (2 * 7168 + 3 * 2048)  # dispatched, its gradient's input, gate, up
        assert kept[1] - kept[0] == pytest.approx(0.2 * copies, rel=1e-9)
