"""From an estimate to the value of every metric, and from values to figures."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.evidence import score
from planner.evidence.predict import Prediction, predict_rows
from planner.evidence.tables import TRAINING_METRICS


def predicted(row, library, **stated):
    (found,) = predict_rows([row(tp=1, pp=1, recompute="full", **stated)], library)
    return found.predicted


def test_tokens_per_second_is_the_inverse_of_the_step(row, library):
    seconds = predicted(row, library)
    rate = predicted(row, library, metric="tokens_per_s_per_device")
    assert rate == pytest.approx(16 * 2048 / 8 / seconds)


def test_mfu_is_the_rate_over_the_printed_peak(row, library):
    rate = predicted(row, library, metric="model_tflops_per_device")
    half = predicted(row, library, metric="mfu", notes="mfu against 156 TFLOPS")
    assert half == pytest.approx(rate / 156)
    assert predicted(row, library, metric="mfu") == pytest.approx(rate / 312)


def test_causal_attention_counts_less_than_full(row, library):
    full = predicted(row, library, metric="mfu")
    notes = "model FLOPs count causal (half) attention"
    assert predicted(row, library, metric="mfu", notes=notes) < full


def test_hardware_flops_count_the_recomputation(row, library):
    model = predicted(row, library, metric="model_tflops_per_device")
    hardware = predicted(row, library, metric="hardware_tflops_per_device")
    assert 1.1 * model < hardware < 4 / 3 * model


def test_out_of_memory_is_predicted_when_nothing_fits(row, library):
    assert predicted(row, library, metric="oom") == 0.0
    assert predicted(row, library, metric="oom", seq_len=2**20, micro_batch=2) == 1.0


def test_every_metric_has_a_value(row, library):
    for metric in TRAINING_METRICS:
        assert predicted(row, library, metric=metric) is not None


def test_an_unknown_metric_is_skipped_with_its_name(row, library):
    (found,) = predict_rows([row(metric="joules")], library)
    assert found.predicted is None
    assert "'joules'" in found.reason


def test_utilisation_is_not_scored_where_the_run_has_a_time(row, library):
    rows = [
        row(id="a", metric="iteration_s"),
        row(id="a", metric="mfu"),
        row(id="b", metric="mfu"),
        row(id="a", metric="peak_memory_bytes"),
    ]
    assert [p.scored for p in predict_rows(rows, library)] == [True, False, True, True]


def make(row, pairs, **stated):
    return [Prediction(row(value=m, **stated), p) for m, p in pairs]


def test_worked_figures(row):
    found = score.figures(make(row, [(1.0, 1.1), (2.0, 1.0), (4.0, 4.0), (10.0, None)]))
    assert (found["rows"], found["predicted"], found["skipped"]) == (4, 3, 1)
    assert found["median_ape"] == pytest.approx(0.1)
    assert found["mape"] == pytest.approx(0.2)
    assert found["worst_ape"] == pytest.approx(0.5)
    assert found["bias"] == pytest.approx((1.1 * 0.5) ** (1 / 3))
    assert found["within_20pct"] == pytest.approx(2 / 3)
    assert found["spearman"] == pytest.approx(0.5)


def test_nothing_scored_has_no_errors(row):
    found = score.figures(make(row, [(1.0, None)]))
    assert found["skipped"] == 1
    assert found["median_ape"] is None


@given(st.lists(st.floats(0.1, 10.0), min_size=3, max_size=20, unique=True))
def test_rank_correlation_is_one_for_any_increasing_map(values):
    a = np.array(values)
    b = np.exp(a)
    if len(set(b)) == len(b):
        assert score.spearman(a, b) == pytest.approx(1.0)
        assert score.spearman(a, -b) == pytest.approx(-1.0)


def test_ties_take_their_mean_rank():
    found = score.spearman(np.array([1.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0]))
    assert found == pytest.approx(math.sqrt(3) / 2)


def test_sets_a_and_b_share_out_the_time_rows(row):
    sure = make(row, [(1.0, 1.0)], assumed=frozenset({"zero"}))
    unsure = make(row, [(1.0, 2.0)], assumed=frozenset({"zero", "micro_batch"}))
    memory = make(row, [(1.0, 1.5)], metric="peak_memory_bytes")
    found = score.table([*sure, *unsure, *memory])
    assert found["set_a"]["median_ape"] == 0.0
    assert found["set_b"]["median_ape"] == 1.0
    assert found["memory"]["median_ape"] == 0.5
    assert found["headline"]["rows"] == 2
    assert list(found["by_metric"]) == ["iteration_s", "peak_memory_bytes"]


def test_the_median_over_sources_needs_five_rows_of_each(row):
    many = make(row, [(1.0, 1.1)] * 5, source="many")
    few = make(row, [(1.0, 2.0)] * 4, source="few")
    assert score.table([*many, *few])["set_a"]["median_of_source_medians"] == pytest.approx(0.1)
