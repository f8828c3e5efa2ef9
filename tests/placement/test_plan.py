"""What `plan_placement` says hangs together: balances, bounds, times, bytes, moves and drift."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import planner
from planner.costs.imbalance import balance
from planner.errors import Infeasible, PlannerError
from planner.placement.generate import PRESETS, capped, generate
from planner.placement.layer_time import layer_seconds
from planner.placement.loads import check_loads
from planner.placement.packing import device_loads_of
from planner.placement.question import Options, resolve
from planner.placement.report import heat_map, summary, table
from planner.specs.models_catalog import find_model


def drawn(layers: int = 6, experts: int = 64, sigma: float = 1.0, seed: int = 0) -> Any:
    return np.random.default_rng(seed).lognormal(0.0, sigma, (layers, experts))


STEP: dict[str, Any] = {"model": "olmoe-1b-7b", "cluster": "dgx-h100", "tokens": 64}


def test_balances_are_means_over_layers_of_the_busiest_device() -> None:
    loads = drawn()
    found = planner.plan_placement(loads, devices=8, slots=80)
    before = balance(loads.reshape(6, 8, 8).sum(axis=2))
    after = balance(device_loads_of(loads, found.slots, 8))
    assert found.balance_before == pytest.approx(before.mean())
    assert found.balance_after == pytest.approx(after.mean())
    assert [one.balance_after for one in found.by_layer] == pytest.approx(after.tolist())
    bounds = np.array([one.bound for one in found.by_layer])
    assert found.bound == pytest.approx(bounds.mean())
    assert found.gap == pytest.approx((after / bounds - 1).mean())
    assert found.worst_gap == pytest.approx((after / bounds - 1).max())
    heaviest = loads.max(axis=1) / 8 / (loads.sum(axis=1) / 8)
    assert (bounds >= np.maximum(1.0, heaviest)).all()


def test_of_several_numbers_of_slots_the_least_good_one_is_taken() -> None:
    loads = drawn(16)
    found = planner.plan_placement(loads, devices=16, slots=[128, 64, 96])
    assert found.slots.shape[1] == found.inputs["slots"] == 96
    (note,) = (one for one in found.notes if "by slots" in one)
    assert note.startswith("busiest device over the mean by slots: 64: ") and "128: 1.00" in note
    with pytest.raises(PlannerError, match="slots: found 60"):
        planner.plan_placement(loads, devices=16, slots=[96, 60])


def test_a_model_alone_names_the_layers() -> None:
    found = planner.plan_placement(drawn(26), devices=8, model="deepseek-v2-lite")
    assert found.layers == tuple(range(1, 27)) and found.layer_time_after_s is None
    rows = json.loads(found.export("sglang"))["physical_to_logical_map"]
    assert len(rows) == 27 and rows[0] == list(range(64))


def test_without_a_model_there_are_no_times() -> None:
    found = planner.plan_placement(drawn(), devices=8)
    assert found.objective == "balance"
    assert found.layer_time_before_s is None and found.layer_time_after_s is None
    assert found.bytes_by_tier is None and found.moved_bytes is None


@pytest.mark.parametrize("phase", ["decode", "prefill", "training"])
def test_the_time_falls_with_the_imbalance(phase: str) -> None:
    loads = drawn(16, sigma=0.77)
    tokens = 64 if phase == "decode" else 4096
    step = {**STEP, "tokens": tokens, "phase": phase}
    found = planner.plan_placement(loads, devices=16, slots=80, **step)
    assert found.objective == "time"
    assert found.layer_time_before_s is not None and found.layer_time_after_s is not None
    assert found.layer_time_after_s < 0.95 * found.layer_time_before_s
    assert found.bytes_by_tier is not None and set(found.bytes_by_tier) == {"node", "fabric"}


def test_tokens_bind_in_prefill_and_experts_in_decode() -> None:
    loads = np.ones((16, 64))
    loads[:, :4] = 10.0  # the first device has most tokens, and as many experts as the others
    shares = np.kron(np.eye(16), np.ones((4, 1)))[np.newaxis].repeat(16, axis=0)
    even, held = np.ones_like(loads), np.full((16, 16), 4.0)

    def ratio(phase: str, tokens: float) -> float:
        options = Options(16, phase=phase, tokens=tokens)
        work = resolve(loads, "dgx-h100", "olmoe-1b-7b", None, None, options).work
        assert work is not None
        both = (layer_seconds(work, one, shares, held).mean() for one in (loads, even))
        return float(np.divide(*both))

    assert ratio("prefill", 8192) > 4.0  # 6.4 times the tokens
    assert ratio("decode", 8) < 1.3  # all experts are read either way


def test_decode_time_grows_with_the_experts_of_the_busiest_device() -> None:
    loads = np.ones((16, 64))
    options = Options(16, phase="decode", tokens=4)
    work = resolve(loads, "dgx-h100", "olmoe-1b-7b", None, None, options).work
    assert work is not None
    even = np.kron(np.eye(16), np.ones((4, 1)))[np.newaxis].repeat(16, axis=0)
    crowded = even.copy()
    crowded[:, 4:8] = crowded[:, 0:4]  # eight experts on the first device, none on the second
    fair, full = (
        layer_seconds(work, loads, shares, (shares > 0).sum(axis=1).astype(float))
        for shares in (even, crowded)
    )
    assert (full > fair).all()


def test_replicas_that_are_only_read_once_more_are_left_out() -> None:
    loads = drawn(4, 8, 0.3)
    step = {"model": "mixtral-8x7b-v0.1", "cluster": "dgx-h100"}
    few, many = (
        planner.plan_placement(loads, devices=4, slots=12, phase=phase, tokens=tokens, **step)
        for phase, tokens in (("decode", 64), ("prefill", 8192))
    )
    assert few.slots.shape == (4, 8) and many.slots.shape == (4, 12)
    assert few.layer_time_after_s is not None and few.layer_time_before_s is not None
    assert few.layer_time_after_s <= few.layer_time_before_s * (1 + 1e-9)
    assert any("8 of 12 slots are used" in note for note in few.notes)


def test_one_replica_a_step_reads_fewer_experts() -> None:
    found = planner.plan_placement(drawn(16), devices=16, slots=96, **{**STEP, "method": "lpt"})
    assert found.reads is not None
    assert 1.0 <= found.reads.scheduled < found.reads.split <= 6.0
    alone = planner.plan_placement(drawn(16), devices=16, slots=64, **{**STEP, "method": "lpt"})
    assert alone.reads is not None and alone.reads.scheduled == alone.reads.split
    prefill = planner.plan_placement(drawn(16), devices=16, **{**STEP, "phase": "prefill"})
    assert prefill.reads is None


def test_tensorrt_llms_deepseek_r1() -> None:
    """EP32 at (max - mean) / mean = 1.56, then 288 slots on 36 devices: 0.115 an interval later."""
    model = find_model("deepseek-r1")
    rows = []
    for seed in range(1, 4):
        loads = generate(model, PRESETS["deepseek-r1"], tokens=100 * 32 * 1024, seed=seed)
        before = planner.plan_placement(loads, devices=32, slots=256)
        after = planner.plan_placement(loads, devices=36, slots=288)
        rows.append((before.balance_before, after.balance_after, after.drift.balance))
    before, static, drifted = np.mean(rows, axis=0) - 1.0
    assert before == pytest.approx(1.564, rel=0.06)
    assert static < 0.002
    assert drifted <= 0.13
    assert drifted == pytest.approx(0.115, abs=0.01)


def test_the_stated_size_is_placed_in_time() -> None:
    loads = drawn(58, 256)
    start = time.perf_counter()
    step = {"model": "deepseek-r1", "cluster": "h800-ib", "tokens": 64}
    found = planner.plan_placement(loads, devices=64, slots=320, **step)
    assert time.perf_counter() - start < 1.5
    assert found.gap <= 0.003 and found.worst_gap <= 0.01


def test_few_experts_without_replicas_get_unequal_counts() -> None:
    loads = drawn(32, 8, 0.8)
    equal = planner.plan_placement(loads, devices=4, counts="equal")
    auto = planner.plan_placement(loads, devices=4)
    assert (equal.method, auto.method) == ("lpt", "unequal")
    assert auto.balance_after < equal.balance_after
    held = np.bincount(auto.device.ravel(), minlength=4)
    assert held.tolist() == [64, 64, 64, 64]  # memory over all layers is the same
    with pytest.raises(PlannerError, match="expected equal counts for sglang"):
        auto.export("sglang")


def test_the_solver_says_what_it_did() -> None:
    loads = drawn(4, 8, 1.0)
    plain = planner.plan_placement(loads, devices=4, slots=12, method="lpt")
    found = planner.plan_placement(loads, devices=4, slots=12, method="milp", time_limit=5.0)
    assert found.certificate is not None
    assert found.balance_after <= plain.balance_after + 1e-12
    assert found.bound >= plain.bound
    assert any("solver" in note for note in found.notes)


def test_eplb_is_a_method() -> None:
    example = Path(__file__).parent / "data/eplb_readme.json"
    data = json.loads(example.read_text(encoding="utf-8"))
    found = planner.plan_placement(
        data["weight"], devices=8, slots=16, nodes=2, groups=4, method="eplb"
    )
    assert found.slots.tolist() == data["expected_phy2log"]
    lpt = planner.plan_placement(data["weight"], devices=8, slots=16, method="lpt")
    assert lpt.balance_after < found.balance_after


def test_affinity_keeps_more_steps_local_at_little_balance() -> None:
    model = find_model("olmoe-1b-7b")
    loads = generate(model, PRESETS["olmoe-chat"], tokens=3000, routed=True)
    plain = planner.plan_placement(loads, "dgx-h100", devices=16, slots=80, method="lpt")
    found = planner.plan_placement(loads, "dgx-h100", devices=16, slots=80, objective="hops")
    assert found.method == "affinity"
    assert found.hops_after is not None and plain.hops_after is not None
    assert found.hops_after < plain.hops_after
    assert found.local_after is not None and plain.local_after is not None
    assert found.local_after > plain.local_after
    assert found.balance_after <= 1.021


def test_bytes_fall_where_experts_that_accompany_each_other_share_a_node() -> None:
    random = np.random.default_rng(0)
    half = random.random((2, 2000, 32)).argsort(axis=2)[:, :, :8]  # 8 of 32 experts
    routing = 2 * half + random.integers(0, 2, (1, 2000, 1))  # all even, or all odd
    counts = [np.bincount(one.ravel(), minlength=64) for one in routing]
    loads = check_loads(counts, where="loads", routing=routing)
    step = {**STEP, "tokens": 4096, "phase": "prefill", "devices": 16}
    plain = planner.plan_placement(loads, objective="balance", method="lpt", **step)
    found = planner.plan_placement(loads, objective="bytes", **step)
    assert found.method == "coactivation"
    assert plain.bytes_by_tier is not None and found.bytes_by_tier is not None
    reached = {name: 2.0 * p.bytes_by_tier["fabric"] / (4096 * 2048)  # type: ignore[index]
               for name, p in (("plain", plain), ("found", found))}  # fmt: skip
    assert reached["plain"] > 1.95  # nearly every token needs both nodes
    assert reached["found"] == pytest.approx(1.0)
    assert found.balance_after <= 1.05 * plain.balance_after


def test_a_current_placement_moves_little() -> None:
    loads = drawn(6, 64, 0.8)
    current = planner.plan_placement(loads, devices=8, slots=80).slots
    drifted = loads * np.exp(np.random.default_rng(9).normal(0.0, 0.12, loads.shape))
    few = planner.plan_placement(drifted, devices=8, slots=80, current=current, **STEP)
    anew = planner.plan_placement(
        drifted, devices=8, slots=80, current=current, method="lpt", **STEP
    )
    assert few.method == "kept" and few.moved_experts is not None
    assert anew.moved_experts is not None
    assert few.moved_experts < 0.5 * anew.moved_experts
    assert few.balance_after < 1.02 < few.balance_before
    # three matrices of 2048 x 1024 in 16 bits
    assert few.moved_bytes == pytest.approx(few.moved_experts * 3 * 2048 * 1024 * 2)
    same = planner.plan_placement(loads, devices=8, slots=80, current=current, method="lpt")
    assert same.moved_experts == 0


def test_longer_windows_wait_longer_before_placing_anew() -> None:
    loads = drawn(6, 64, 0.8)
    question = {**STEP, "devices": 8, "slots": 80, "current": np.tile(np.arange(80) % 64, (6, 1))}
    every = [
        planner.plan_placement(loads, window=w, **question).rebalance_every_s for w in (60, 6000)
    ]
    assert every[0] is not None and every[1] is not None
    assert every[1] == pytest.approx(100 ** (1 / 3) * every[0])


def test_drift_costs_balance_and_splitting_wins_some_of_it_back() -> None:
    loads = drawn(20, 64)
    found = planner.plan_placement(loads, devices=16, slots=96, drift=0.3)
    assert found.drift.balance > 1.1 > found.balance_after
    assert 1.0 <= found.drift.balance_split < found.drift.balance
    assert planner.plan_placement(loads, devices=16, slots=96, drift=0.0).drift.balance == (
        pytest.approx(found.balance_after)
    )


def test_results_are_the_same_every_time_and_plain_data() -> None:
    first, second = (
        json.loads(planner.plan_placement(drawn(), devices=8, slots=80).to_json()) for _ in range(2)
    )
    assert first.pop("seconds") > 0 and second.pop("seconds") > 0
    assert first == second
    assert first["kind"] == "placement" and len(first["by_layer"]) == 6


def test_the_terminal_gets_a_summary_and_a_map() -> None:
    found = planner.plan_placement(drawn(40, 64), devices=8, slots=80)
    text = summary(found)
    assert "busiest device / mean" in text and "after drift of 0.12" in text
    assert heat_map(np.array([[1.0, 0.0, 2.0, 5.0]])) == ["= @@"]
    assert len(heat_map(np.ones((58, 320)))) == 16
    assert len(heat_map(np.ones((58, 320)))[0]) == 64
    names, rows = table(found)
    assert names[0] == "layer" and len(rows) == 40 and len(rows[0]) == len(names)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"slots": 40}, "slots: found 40, expected at least the 64 experts"),
    ({"slots": 81}, "slots: found 81, expected a multiple of the 8 devices"),
    ({"slots": 8000}, "slots: found 8000, expected at most 512"),
    ({"devices": 0}, "devices: found 0"),
    ({"objective": "balanc"}, "did you mean 'balance'"),
    ({"method": "ilp"}, "method: found 'ilp', did you mean"),
    ({"phase": "decoding", "model": "olmoe-1b-7b"}, "phase: found 'decoding'"),
    ({"objective": "time"}, "found 'time' without a model"),
    ({"objective": "hops"}, "found no transitions"),
    ({"model": "olmoe-1b-7b", "phase": "prefill", "cluster": "dgx-h100"}, "expected --tokens T"),
    ({"model": "olmoe-1b-7b", "tokens": 8}, "expected --cluster NAME"),
    ({"tokens": 8}, "found without a model"),
    ({"model": "mixtral-8x7b-v0.1", "cluster": "dgx-h100", "tokens": 8}, "expected the 8 of"),
    ({"cluster": "dgx-h100", "devices": 10**6}, "devices: found 1000000, expected at most"),
    ({"current": [[0, 1, 2, 3] * 20] * 6}, "layer 0: found expert 4 on no device"),
    ({"current": [list(range(64))] * 5}, "found 5 layers, expected the 6"),
    ({"current": [list(range(1, 65))] * 6}, "found expert 64, expected 0 to 63"),
    ({"current": [list(range(66))] * 6}, "found 66 slots, expected a multiple of the 8"),
    ({"counts": "unequal", "method": "eplb"}, "expected auto or lpt"),
    ({"drift": -1.0}, "drift: found -1.0"),
    ({"time_limit": 0.0}, "time_limit: found 0.0"),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=[m for _, m in WRONG])
def test_what_is_wrong_is_one_sentence(options: dict[str, Any], message: str) -> None:
    question = {"devices": 8, **options}
    with pytest.raises(PlannerError, match=message) as error:
        planner.plan_placement(drawn(), **question)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


def test_experts_beyond_the_memory_are_infeasible() -> None:
    step = {"model": "deepseek-r1", "cluster": "h800-ib", "tokens": 64}
    with pytest.raises(Infeasible, match="expected at most the 80"):
        planner.plan_placement(drawn(58, 256), devices=2, slots=256, **step)


def test_chances_add_up_to_the_experts_of_a_token() -> None:
    assert capped(drawn(), 8).sum(axis=1) == pytest.approx(8.0)
