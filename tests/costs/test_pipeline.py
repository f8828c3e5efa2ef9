"""Every schedule's idle time and activations, against the published tables for equal stages."""

from __future__ import annotations

import numpy as np
import pytest

from planner.costs.pipeline import SCHEDULES, VOCABULARY, Others

F, D, W = 1.0, 1.3, 0.8
"""Forward, input gradient and weight gradient of a stage; B is both gradients."""
B = D + W
SIZES = (2, 4, 8, 16, 64)


def others(p: int, forward: float = F, input_gradient: float = D, weight: float = W) -> Others:
    backward = input_gradient + weight
    return Others((p - 1) * (forward + backward), (p - 1) * backward, (p - 1) * weight)


def fill(name: str, p: int, chunks: int = 1, **times: float) -> float:
    return float(SCHEDULES[name].fill(others(p, **times), p, chunks))


@pytest.mark.parametrize("p", SIZES)
class TestFill:
    def test_1f1b_and_gpipe(self, p: int) -> None:
        assert fill("1f1b", p) == pytest.approx((p - 1) * (F + B))
        assert fill("gpipe", p) == pytest.approx((p - 1) * (F + B))

    @pytest.mark.parametrize("v", [1, 2, 4, 8])
    def test_interleaved_divides_by_its_chunks(self, p: int, v: int) -> None:
        assert fill("interleaved-1f1b", p, v) == pytest.approx((p - 1) * (F + B) / v)

    def test_zb_h1(self, p: int) -> None:
        assert fill("zb-h1", p) == pytest.approx((p - 1) * (F + B - 2 * W))

    def test_zb_h1_is_a_third_of_1f1b_for_equal_passes(self, p: int) -> None:
        equal = {"forward": 1.0, "input_gradient": 1.0, "weight": 1.0}
        assert fill("zb-h1", p, **equal) == pytest.approx(fill("1f1b", p, **equal) / 3)

    def test_zb_v_has_no_bubble_for_equal_passes(self, p: int) -> None:
        assert fill("zb-v", p, 2, forward=1.0, input_gradient=1.0, weight=1.0) == 0.0

    def test_zb_v_has_one_for_unequal_passes(self, p: int) -> None:
        assert fill("zb-v", p, 2) == pytest.approx((p - 1) * (F + D - 2 * W))

    def test_v_half_halves_1f1b(self, p: int) -> None:
        assert fill("v-half", p, 2) == pytest.approx((p - 1) * (F + B) / 2)

    def test_dualpipe(self, p: int) -> None:
        """(p/2 - 1)(F&B + B - 3W), the pair taking as long as its two passes."""
        assert fill("dualpipe", p) == pytest.approx((p / 2 - 1) * ((F + B) + B - 3 * W))

    @pytest.mark.parametrize("name", sorted(SCHEDULES))
    def test_never_negative_even_if_weight_gradients_dominate(self, p: int, name: str) -> None:
        assert fill(name, p, 2, forward=0.1, input_gradient=0.1, weight=5.0) >= 0.0

    @pytest.mark.parametrize("name", sorted(SCHEDULES))
    def test_never_more_than_1f1b(self, p: int, name: str) -> None:
        assert fill(name, p, 2) <= fill("1f1b", p) * (1 + 1e-12)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_other_stages_without_work_leave_no_idle_time(name: str) -> None:
    assert float(SCHEDULES[name].fill(Others(0.0, 0.0, 0.0), 4, 2)) == 0.0


def in_flight(name: str, m: float, p: int, device: int = 0, chunks: int = 1) -> float:
    return float(SCHEDULES[name].in_flight(m, p, device, chunks))


@pytest.mark.parametrize("p", SIZES)
class TestInFlight:
    @pytest.mark.parametrize("name", ["1f1b", "zb-h1"])
    def test_1f1b_keeps_one_fewer_on_each_later_device(self, p: int, name: str) -> None:
        assert [in_flight(name, 1000, p, d) for d in range(p)] == list(range(p, 0, -1))

    def test_gpipe_keeps_every_micro_batch(self, p: int) -> None:
        assert in_flight("gpipe", 1000, p) == 1000

    @pytest.mark.parametrize("v", [2, 3, 8])
    def test_interleaved_keeps_a_little_more_than_1f1b(self, p: int, v: int) -> None:
        expected = p * (1 + (p - 1) / (p * v))
        assert in_flight("interleaved-1f1b", 1000, p, 0, v) == pytest.approx(expected)

    def test_interleaved_with_one_chunk_warms_up_two_for_each_later_device(self, p: int) -> None:
        for d in range(p):
            assert in_flight("interleaved-1f1b", 1000, p, d, 1) == 2 * (p - d - 1) + 1

    def test_zb_v_is_even_over_devices(self, p: int) -> None:
        assert {in_flight("zb-v", 1000, p, d, 2) for d in range(p)} == {p}

    def test_v_half_keeps_about_half_of_1f1b(self, p: int) -> None:
        assert p / 2 <= in_flight("v-half", 1000, p, 0, 2) <= p / 2 + 1

    def test_dualpipe_keeps_p_plus_one_stage_activations(self, p: int) -> None:
        """Counted in micro-batches of a device with two stages."""
        assert 2 * in_flight("dualpipe", 1000, p) == p + 1

    @pytest.mark.parametrize("name", sorted(SCHEDULES))
    @pytest.mark.parametrize("m", [1, 2, 3])
    def test_never_more_than_there_are(self, p: int, name: str, m: int) -> None:
        for d in range(p):
            assert in_flight(name, m, p, d, 2) <= m

    @pytest.mark.parametrize("name", sorted(SCHEDULES))
    def test_the_first_device_keeps_the_most(self, p: int, name: str) -> None:
        kept = [in_flight(name, 1000, p, d, 2) for d in range(p)]
        assert max(kept) == kept[0]


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_a_batch_is_its_rows(name: str) -> None:
    schedule = SCHEDULES[name]
    stages = [others(4, forward=f) for f in (0.5, 1.0, 2.0)]
    batch = Others(*(np.array(column) for column in zip(*map(_values, stages), strict=True)))
    alone = [float(schedule.fill(one, 4, 2)) for one in stages]
    np.testing.assert_allclose(schedule.fill(batch, 4, 2), alone, rtol=1e-12)
    m = np.array([1.0, 3.0, 100.0])
    kept = [in_flight(name, value, 4, 1, 2) for value in m]
    np.testing.assert_allclose(schedule.in_flight(m, 4, 1, 2), kept, rtol=1e-12)


def _values(item: Others) -> tuple[float, float, float]:
    return (float(item.total), float(item.backward), float(item.weight))


@pytest.mark.parametrize(
    ("name", "kept"),
    [("ends", 8), ("redistributed", 8), ("vocab-1", 10), ("vocab-2", 9), ("interlaced", 12)],
)
def test_vocabulary_layers_elsewhere_keep_p_plus_barriers(name: str, kept: int) -> None:
    """arXiv 2411.05288: p + 2 with two barriers, p + 1 with one, 1.5 p interlaced."""
    moved = VOCABULARY[name]
    assert 8 * moved.factor + moved.extra == kept
    assert moved.synchronous is (name == "interlaced")
