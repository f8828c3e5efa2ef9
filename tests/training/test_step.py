"""The time of a step: limits, and what happens when something gets better or more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from planner.specs.catalog import find_cluster
from planner.specs.hardware import Cluster
from planner.specs.model import (
    DenseFeedForward,
    GroupedQueryAttention,
    Layer,
    MixtureOfExperts,
    ModelSpec,
)
from planner.specs.parallelism import Configuration
from planner.specs.workload import PRECISIONS, SOFTWARE, Software, TrainingJob
from planner.training.estimate import Estimate, estimate
from planner.training.search import search

H100, A100 = find_cluster("dgx-h100"), find_cluster("dgx-a100")
ATTENTION = GroupedQueryAttention(32, 8, 128)
DENSE = ModelSpec("dense", 4096, 32_000, (Layer(ATTENTION, DenseFeedForward(14336)),) * 16)
EXPERTS = MixtureOfExperts(32, 4, 1536)
MOE = ModelSpec("moe", 4096, 32_000, (Layer(ATTENTION, EXPERTS),) * 16)
JOB = TrainingJob(4096, 64, imbalance=1.2)
PIPELINED = {
    "1f1b": {},
    "interleaved-1f1b": {"vpp": 2},
    "gpipe": {},
    "zb-h1": {},
    "zb-v": {},
    "v-half": {},
    "dualpipe": {},
}
FILLED_WITH_WEIGHT_GRADIENTS = ("zb-h1", "zb-v", "dualpipe")
"""Faster devices shorten the weight gradients that fill these schedules' bubble.  Where links bound
the stages, the idle time then grows by what the filling lost."""

SHORTER_FILLING = 0.02
"""Share of a step that this may cost."""

SOFTWARES = ("megatron", "megatron-2022", "megatron-bridge", "fsdp")


def cost(
    model: ModelSpec = DENSE, job: TrainingJob = JOB, cluster: Cluster = H100, **axes
) -> Estimate:
    return estimate(model, cluster, job, Configuration(**axes))


def without_host(name: str) -> Software:
    """The software on a host that launches at once, so that devices and links set the time."""
    return replace(SOFTWARE[name], host=0.0)


def pipelined(schedule: str, model: ModelSpec = DENSE, job: TrainingJob = JOB, **axes) -> Estimate:
    return cost(model, job, schedule=schedule, **PIPELINED[schedule], **axes)


@cache
def candidates(name: str, count: int = 120) -> tuple[Configuration, ...]:
    """Legal configurations at random, on two nodes."""
    model = {"dense": DENSE, "moe": MOE}[name]
    found = search(
        model,
        H100,
        JOB,
        devices=(16,),
        fixed={"micro_batch": (1, 2), "vpp": (1, 2)},
        top=10**7,
        memory_reserve=-1e9,
    ).configurations
    chosen = np.random.default_rng(0).choice(len(found), count, replace=False)
    return tuple(found[index] for index in chosen)


def faster_tier(cluster: Cluster, index: int, factor: float) -> Cluster:
    tier = cluster.tiers[index]
    lines = {
        name: replace(
            line,
            bandwidth=line.bandwidth * factor,
            low_bandwidth=line.low_bandwidth * factor,
        )
        for name, line in tier.collectives.items()
    }
    better = replace(
        tier,
        bandwidth=tier.bandwidth * factor,
        pair_bandwidth=tier.pair_bandwidth * factor,
        collectives=lines,
    )
    return replace(cluster, tiers=(*cluster.tiers[:index], better, *cluster.tiers[index + 1 :]))


def faster_memory(cluster: Cluster, factor: float) -> Cluster:
    device = cluster.accelerator
    faster = replace(device, memory_bandwidth=device.memory_bandwidth * factor)
    return replace(cluster, accelerator=faster)


def faster_compute(cluster: Cluster, factor: float) -> Cluster:
    device = cluster.accelerator
    peaks = {name: rate * factor for name, rate in device.peak.items()}
    power = None if device.power is None else device.power * factor
    return replace(cluster, accelerator=replace(device, peak=peaks, power=power))


def slower(model: ModelSpec, job: TrainingJob, better: Cluster) -> Iterator[Configuration]:
    """Configurations that take longer on the better cluster."""
    for one in candidates(model.name):
        before, after = (estimate(model, c, job, one).seconds for c in (H100, better))
        allowed = SHORTER_FILLING if one.schedule in FILLED_WITH_WEIGHT_GRADIENTS else 1e-9
        if after > before * (1.0 + allowed):
            yield one


@pytest.mark.parametrize("model", [DENSE, MOE], ids=lambda model: model.name)
@pytest.mark.parametrize("software", SOFTWARES)
class TestBetterHardwareIsNeverSlower:
    def test_more_bandwidth_of_any_tier(self, model, software) -> None:
        job = replace(JOB, software=without_host(software))
        for tier in range(len(H100.tiers)):
            assert not list(slower(model, job, faster_tier(H100, tier, 1.5)))

    def test_more_memory_bandwidth(self, model, software) -> None:
        job = replace(JOB, software=without_host(software))
        assert not list(slower(model, job, faster_memory(H100, 1.5)))

    def test_more_compute(self, model, software) -> None:
        job = replace(JOB, software=without_host(software))
        assert not list(slower(model, job, faster_compute(H100, 1.5)))

    def test_lower_latency(self, model, software) -> None:
        job = replace(JOB, software=without_host(software))
        tiers = tuple(replace(tier, latency=0.5 * tier.latency) for tier in H100.tiers)
        assert not list(slower(model, job, replace(H100, tiers=tiers)))


HOST_BOUND = Configuration(
    cp=8,
    pp=2,
    ep=8,
    zero=1,
    recompute="selective",
    schedule="gpipe",
    dispatch="all-gather",
    context_parallel="ulysses",
)
"""Its layers wait for the host, and its software hides the exchange."""


class TestAHostThatLaunchesSlowly:
    JOB = replace(JOB, software=SOFTWARE["megatron-bridge"])

    def test_faster_links_do_not_slow_it(self) -> None:
        before = estimate(MOE, H100, self.JOB, HOST_BOUND)
        after = estimate(MOE, faster_tier(H100, 0, 1.5), self.JOB, HOST_BOUND)
        assert after.seconds <= before.seconds

    def test_hiding_the_exchange_leaves_the_time_that_the_host_needs(self) -> None:
        passes = 2 * len(MOE.layers) // HOST_BOUND.pp
        found = estimate(MOE, H100, self.JOB, HOST_BOUND)
        assert found.step["slowest"] >= passes * self.JOB.software.host

    @pytest.mark.parametrize("model", [DENSE, MOE], ids=lambda model: model.name)
    def test_a_slower_host_is_never_faster(self, model) -> None:
        for one in candidates(model.name):
            softwares = [replace(SOFTWARE["megatron"], host=host) for host in (0.0, 1e-3, 1e-2)]
            jobs = [replace(JOB, software=software) for software in softwares]
            times = [estimate(model, H100, job, one).seconds for job in jobs]
            assert times == sorted(times), one


class TestLimits:
    def test_a_single_device_has_work_and_optimizer_only(self) -> None:
        found = cost()
        for part in ("fill", "transfers", "gradients", "weights", "stragglers"):
            assert found.step[part] == 0.0
        assert found.step["optimizer"] > 0.0
        assert found.step["num_microbatches"] == JOB.global_batch

    def test_one_data_parallel_rank_has_no_gradient_communication(self) -> None:
        job = replace(JOB, software=SOFTWARE["megatron-2022"])  # hides nothing
        for axes in ({}, {"tp": 8}, {"pp": 4}, {"tp": 8, "pp": 2, "sequence_parallel": 1}):
            found = cost(job=job, **axes)
            assert found.step["gradients"] == found.step["weights"] == 0.0
            assert cost(job=job, dp=2, **axes).step["gradients"] > 0.0

    def test_without_stages_there_is_no_fill_and_no_transfer(self) -> None:
        found = cost(tp=8, dp=8)
        assert found.step["fill"] == found.step["transfers"] == 0.0

    @pytest.mark.parametrize("schedule", PIPELINED)
    def test_any_pipeline_transfers(self, schedule) -> None:
        assert pipelined(schedule, pp=4).step["transfers"] > 0.0

    def test_tensor_parallelism_of_one_communicates_nothing(self) -> None:
        faster = faster_tier(faster_tier(H100, 0, 8.0), 1, 8.0)
        assert cost(cluster=faster).seconds == cost().seconds
        assert cost(cluster=faster, tp=2).seconds < cost(tp=2).seconds

    def test_work_and_devices_scale_alike_without_communication(self) -> None:
        one = cost(job=replace(JOB, global_batch=64), zero=0)
        two = cost(job=replace(JOB, global_batch=128), zero=0)
        micro = one.step["slowest"]
        assert two.seconds - one.seconds == pytest.approx(64 * micro, rel=1e-9)

    def test_stragglers_grow_with_the_number_of_nodes_only(self) -> None:
        shares = []
        for dp in (8, 16, 32, 64):
            found = cost(job=replace(JOB, global_batch=512), dp=dp, zero=1)
            shares.append(found.step["stragglers"] / found.seconds)
        assert shares[0] == 0.0
        assert np.all(np.diff(shares) > 0.0)


class TestTheBubble:
    @pytest.mark.parametrize("schedule", PIPELINED)
    def test_its_share_shrinks_with_micro_batches(self, schedule) -> None:
        shares = []
        for batch in (16, 32, 64, 256):
            found = pipelined(schedule, job=replace(JOB, global_batch=batch), pp=8)
            shares.append(found.step["fill"] / found.seconds)
        assert all(after <= before for before, after in pairwise(shares))
        if schedule != "zb-v":
            assert shares[-1] < 0.2 * shares[0] < 0.2

    def test_1f1b_is_the_textbook_bubble_on_equal_stages(self) -> None:
        model = replace(DENSE, vocab=1)
        found = cost(model, pp=8)
        bubble = found.step["fill"] / (found.step["num_microbatches"] * found.step["slowest"])
        assert bubble == pytest.approx(7 / 64, rel=0.01)

    def test_chunks_divide_it(self) -> None:
        plain = cost(pp=4)
        for vpp in (2, 4):
            chunked = cost(pp=4, vpp=vpp, schedule="interleaved-1f1b")
            assert chunked.step["fill"] == pytest.approx(plain.step["fill"] / vpp, rel=0.02)

    def test_better_schedules_have_less(self) -> None:
        fill = {name: pipelined(name, pp=8).step["fill"] for name in PIPELINED}
        assert fill["gpipe"] == fill["1f1b"]
        assert fill["zb-v"] < fill["zb-h1"] < fill["1f1b"]
        assert fill["v-half"] < fill["1f1b"]
        assert fill["interleaved-1f1b"] < fill["1f1b"]

    def test_the_slowest_stage_sets_the_pace(self) -> None:
        even, uneven = replace(DENSE, vocab=1), replace(DENSE, vocab=500_000)
        assert cost(uneven, pp=8).step["slowest"] > 1.5 * cost(even, pp=8).step["slowest"]
        moved = cost(uneven, pp=8, vocabulary="vocab-2").step["slowest"]
        assert moved < cost(uneven, pp=8).step["slowest"]


class TestGradientsAndWeights:
    def test_overlap_hides_behind_the_backward_pass(self) -> None:
        shown = {}
        for overlaps in (False, True):
            software = replace(SOFTWARE["megatron"], overlaps_gradients=overlaps)
            found = cost(job=replace(JOB, software=software), dp=16, zero=1)
            shown[overlaps] = found.step["gradients"] + found.step["weights"]
        assert shown[True] < shown[False]

    def test_sharding_the_optimizer_shortens_its_step(self) -> None:
        whole, sharded = (cost(dp=16, zero=zero).step["optimizer"] for zero in (0, 1))
        assert sharded < 0.2 * whole

    def test_zero_3_gathers_for_every_micro_batch(self) -> None:
        slow = faster_tier(faster_tier(H100, 0, 0.02), 1, 0.02)
        once, always = (cost(cluster=slow, dp=16, zero=zero) for zero in (1, 3))
        assert always.step["slowest"] > once.step["slowest"]
        assert always.step["gradients"] == always.step["weights"] == 0.0

    def test_more_accumulation_spreads_the_reduction(self) -> None:
        job = replace(JOB, software=SOFTWARE["megatron-2022"])
        shares = []
        for batch in (16, 64, 256):
            found = cost(job=replace(job, global_batch=batch), dp=16, zero=1)
            shares.append(found.step["gradients"] / found.seconds)
        assert shares == sorted(shares, reverse=True)


class TestWhatAddsWork:
    def test_full_recomputation_repeats_the_forward_pass(self) -> None:
        kinds = ("none", "selective", "full")
        times = [cost(recompute=kind).seconds for kind in kinds]
        assert times == sorted(times)
        assert 1.2 < times[2] / times[0] < 1.4

    @pytest.mark.parametrize("name", ["dense", "moe"])
    def test_recomputation_never_saves_time_or_costs_memory(self, name) -> None:
        model = {"dense": DENSE, "moe": MOE}[name]
        for one in candidates(name)[:150]:
            found = [
                estimate(model, H100, JOB, replace(one, recompute=kind))
                for kind in ("none", "selective", "full")
            ]
            times, peaks = [e.seconds for e in found], [e.peak_memory for e in found]
            assert all(b >= a * (1 - 1e-9) for a, b in pairwise(times)), one
            assert all(b <= a * (1 + 1e-9) for a, b in pairwise(peaks)), one

    def test_multi_token_prediction_adds_time_and_memory(self) -> None:
        model = replace(MOE, mtp_layers=MOE.layers[:1])
        for axes in ({}, {"pp": 4}, {"pp": 4, "schedule": "dualpipe"}, {"dp": 8, "ep": 8}):
            with_it, without = (
                estimate(model, H100, replace(JOB, mtp=mtp), Configuration(**axes))
                for mtp in (True, False)
            )
            assert with_it.seconds > without.seconds
            assert with_it.peak_memory >= without.peak_memory

    def test_imbalance_slows_experts_that_are_spread_and_nothing_else(self) -> None:
        jobs = [replace(JOB, imbalance=x) for x in (1.0, 1.5, 2.0)]
        spread = [cost(MOE, job, dp=8, ep=8).seconds for job in jobs]
        assert spread[0] < spread[1] < spread[2]
        for model, axes in ((MOE, {"dp": 8, "ep": 1}), (DENSE, {"dp": 8}), (DENSE, {"tp": 8})):
            assert len({cost(model, job, **axes).seconds for job in jobs}) == 1

    def test_longer_sequences_take_more_than_proportional_time(self) -> None:
        short, long = (cost(job=replace(JOB, seq_len=length)).seconds for length in (8192, 65536))
        assert long > 8.0 * short

    def test_fp8_is_faster_than_bf16_where_matrices_are_large(self) -> None:
        times = {
            name: cost(job=replace(JOB, precision=PRECISIONS[name])).seconds
            for name in ("bf16", "fp16", "fp8")
        }
        assert times["bf16"] == times["fp16"] > times["fp8"]

    def test_an_a100_is_slower_than_an_h100(self) -> None:
        assert cost(cluster=A100, dp=8).seconds > 1.5 * cost(cluster=H100, dp=8).seconds


class TestMemory:
    @pytest.mark.parametrize("model", [DENSE, MOE], ids=lambda model: model.name)
    def test_every_zero_stage_needs_less(self, model) -> None:
        for axes in ({"dp": 16}, {"dp": 4, "cp": 2}, {"dp": 8, "tp": 2, "sequence_parallel": 1}):
            peaks = [cost(model, zero=zero, **axes).peak_memory for zero in range(4)]
            assert peaks == sorted(peaks, reverse=True)
            assert len(set(peaks)) == 4

    def test_zero_stages_shard_the_states_they_name(self) -> None:
        kinds = [cost(dp=16, zero=zero).memory for zero in range(4)]
        whole = kinds[0]
        for zero, kind in ((1, "optimizer"), (2, "gradients"), (3, "weights")):
            for stage in range(4):
                share = 16 if stage >= zero else 1
                assert kinds[stage][kind] == pytest.approx(whole[kind] / share)

    def test_zero_without_a_second_rank_would_change_no_state(self) -> None:
        states = ("weights", "gradients", "optimizer")
        none, three = (cost(tp=8, zero=zero).memory for zero in (0, 3))
        assert [none[kind] for kind in states] == [three[kind] for kind in states]

    def test_states_take_18_bytes_a_parameter_under_megatron(self) -> None:
        memory = cost(zero=0).memory
        states = memory["weights"] + memory["gradients"] + memory["optimizer"]
        assert states == pytest.approx(18 * DENSE.parameters().total, rel=1e-3)

    def test_experts_shard_over_ranks_that_hold_the_same_ones(self) -> None:
        spread, copied = (cost(MOE, dp=16, ep=ep, zero=0).memory["weights"] for ep in (16, 1))
        expert = 2 * 16 * 32 * EXPERTS.expert_parameters(4096)
        assert copied - spread == pytest.approx(expert * 15 / 16, rel=1e-9)

    def test_gpipe_keeps_every_micro_batch_and_1f1b_at_most_as_many_as_stages(self) -> None:
        small, large = (replace(JOB, global_batch=batch) for batch in (64, 128))
        kept = [pipelined("gpipe", job=j, pp=4).memory["activations"] for j in (small, large)]
        assert kept[1] > 1.9 * kept[0]
        peaks = {pipelined("1f1b", job=job, pp=4).peak_memory for job in (small, large)}
        assert len(peaks) == 1

    def test_sequence_parallelism_and_tp_split_activations(self) -> None:
        off, on = (cost(tp=8, sequence_parallel=sp).memory["activations"] for sp in (0, 1))
        assert on < off < cost().memory["activations"]

    def test_a_larger_micro_batch_keeps_more(self) -> None:
        peaks = [cost(micro_batch=b).peak_memory for b in (1, 2, 4)]
        assert peaks == sorted(peaks)
        assert len(set(peaks)) == 3
