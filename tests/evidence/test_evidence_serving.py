"""From a row of the serving table to a prediction: what is read, assumed and refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from planner.errors import PlannerError
from planner.evidence import fit_engines
from planner.evidence.serving import (
    DIES,
    ServingRow,
    load_of,
    predict_serving,
    read_serving,
    replica_of,
    widths_of,
)
from planner.evidence.tables import DATA, SERVING_METRICS
from planner.evidence.validate import packaged_library
from planner.specs.engine import ENGINES, find_engine

LIBRARY = packaged_library()
TABLE = DATA / "serving.csv"
EMPTY = dict.fromkeys(TABLE.read_text(encoding="utf-8").partition("\n")[0].strip().split(","), "")
RUN = {
    **EMPTY,
    **{"id": "run", "source": "somewhere", "model": "llama-3.1-8b", "accelerator": "h100-sxm"},
    **{"num_devices": "2", "engine": "vllm", "mode": "aggregated", "isl": "1024", "osl": "128"},
    **{"concurrency": "8", "tp": "2", "metric": "tpot_mean_s"},
}


def run(**cells: str) -> ServingRow:
    """A row that states only what is given beside the least that a run has."""
    found = {**RUN, **cells}
    return ServingRow("run", found["source"], found["metric"], 1.0, found)


def predicted(**cells: str) -> float:
    (found,) = predict_serving([run(**cells)], LIBRARY)
    assert found.predicted is not None, found.reason
    return found.predicted


class TestReading:
    def test_the_own_table(self) -> None:
        rows = read_serving(TABLE)
        assert len(rows) == len({(row.id, row.metric) for row in rows}) == 3527
        assert {row.metric for row in rows} <= set(SERVING_METRICS)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("id,source\na,b\n", "found no column 'model', expected a serving table"),
            (",".join(EMPTY) + "\n" + "," * (len(EMPTY) - 1) + "\n", "line 2, value: found ''"),
        ],
    )
    def test_a_wrong_table(self, tmp_path: Path, text: str, message: str) -> None:
        path = tmp_path / "serving.csv"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(PlannerError, match=message):
            read_serving(path)


class TestWhatIsAssumed:
    @pytest.mark.parametrize(
        ("cells", "widths"),
        [
            ({}, ("bf16", "bf16", "bf16")),
            ({"weight_dtype": "fp8"}, ("fp8", "fp8", "fp8")),
            ({"weight_dtype": "fp8", "engine": "sglang"}, ("fp8", "fp8", "bf16")),
            ({"weight_dtype": "fp8", "model": "deepseek-v3"}, ("fp8_block", "fp8_block", "fp8")),
            ({"weight_dtype": "int4", "kv_dtype": "bf16"}, ("int4", "bf16", "bf16")),
            ({"weight_dtype": "fp16", "kv_dtype": "fp16"}, ("fp16", "fp16", "bf16")),
        ],
    )
    def test_datatypes(self, cells: dict[str, str], widths: tuple[str, ...]) -> None:
        row = run(**cells)
        found = widths_of(row, LIBRARY.model(row.cells["model"]))
        assert (found.weights, found.activations, found.kv) == widths

    @pytest.mark.parametrize(
        ("cells", "layout"),
        [
            ({}, (2, 1, 1, 2)),
            ({"tp": "", "num_devices": "4"}, (4, 1, 1, 4)),
            ({"tp": "4", "ep": "4"}, (4, 1, 4, 1)),
            ({"tp": "", "num_devices": "32", "ep": "32"}, (1, 32, 32, 1)),
        ],
    )
    def test_layouts(self, cells: dict[str, str], layout: tuple[int, ...]) -> None:
        split = replica_of([run(**cells)]).split
        parts = (split.tp, split.attention_dp, split.ep, split.moe_tp)
        assert tuple(int(part[0]) for part in parts) == layout

    def test_a_package_of_two_dies_is_two_devices(self) -> None:
        cells = {"accelerator": "ascend-910c", "num_devices": "16", "tp": "", "ep": "32"}
        replica = replica_of([run(model="deepseek-r1", **cells)])
        assert replica.devices[0] == 32 == 16 * DIES["ascend-910c"][1]

    def test_lengths_are_drawn_in_one_benchmark_only(self) -> None:
        rows = [run(), run(source="silicon sample (InferenceX)")]
        assert np.array_equal(load_of(rows).fixed, [1.0, 0.0])


class TestPredictions:
    @pytest.mark.parametrize("mode", ["aggregated", "decode"])
    def test_output_is_the_inverse_of_the_time_of_a_token(self, mode: str) -> None:
        tpot = predicted(mode=mode)
        rate = predicted(mode=mode, metric="output_tokens_per_s_per_device")
        assert 0.8 <= rate * 2 * tpot / 8 <= 1.001

    def test_input_and_total_count_prompts(self) -> None:
        names = ("output", "input", "total")
        output, inputs, total = (predicted(metric=f"{n}_tokens_per_s_per_device") for n in names)
        assert inputs == pytest.approx(8 * output)
        assert total == pytest.approx(9 * output)

    def test_pools_have_the_cells_of_their_roles(self) -> None:
        pools = {"prefill_workers": "1", "prefill_tp": "1", "decode_workers": "1", "decode_tp": "1"}
        few = predicted(mode="disaggregated", **pools)
        more = predicted(mode="disaggregated", **{**pools, "decode_workers": "4"})
        assert more < few

    @pytest.mark.parametrize(
        ("cells", "reason"),
        [
            ({"metric": "tpot_p99_s"}, "the metric is not predicted"),
            (
                {"request_rate": "inf", "concurrency": "", "metric": "ttft_mean_s"},
                "the metric is not predicted",
            ),
            ({"concurrency": "", "metric": "tpot_mean_s"}, "the metric is not predicted"),
            ({"accelerator": "h100"}, "unknown accelerator 'h100'"),
            ({"model": "lama"}, "unknown model 'lama'"),
        ],
    )
    def test_what_cannot_be_predicted_says_why(self, cells: dict[str, str], reason: str) -> None:
        (found,) = predict_serving([run(**cells)], LIBRARY)
        assert found.predicted is None
        assert reason in found.reason

    def test_an_unknown_engine_runs_as_the_generic_one(self) -> None:
        assert predicted(engine="mine") == predicted(engine="generic")


class TestEngines:
    def test_the_fitted_numbers_are_those_of_the_engines(self) -> None:
        found = fit_engines.result()
        for name, one in found.items():
            for parameter, value in one["parameters"].items():
                assert getattr(ENGINES[name], parameter) == pytest.approx(value)

    def test_a_fit_finds_the_host_time_that_was_put_in(self) -> None:
        truth = replace(ENGINES["vllm"], step=1.6e-3, token=8e-6, waits=3.0, together=2.5)
        runs = [
            run(concurrency=c, metric=m, isl=i)
            for c in ("2", "16", "64")
            for i in ("512", "2048")
            for m in ("tpot_mean_s", "ttft_mean_s")
        ]
        made = predict_serving(runs, LIBRARY, {"vllm": truth, "generic": truth})
        rows = [replace(p.row, value=p.predicted) for p in made]
        found = fit_engines.fit_engine(replace(truth, step=0.0), rows, LIBRARY)["parameters"]
        assert found["step"] == truth.step
        assert found["waits"] == truth.waits

    def test_a_misspelt_engine_is_named(self) -> None:
        with pytest.raises(PlannerError, match="found 'vlm', did you mean 'vllm'"):
            find_engine("vlm")
