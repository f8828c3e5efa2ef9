"""Known loads in the planners: the imbalance follows from loads, ranks and placement."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import planner
from planner.errors import PlannerError
from planner.placement.rank_skew import rank_skew
from planner.specs.models_catalog import find_model
from planner.specs.skew import RankSkew, over_mean

MIXTRAL = find_model("mixtral-8x7b-v0.1")


def test_neighbours_share_a_rank() -> None:
    counts = np.tile([8.0, 0, 4, 4, 2, 2, 2, 2], (32, 1))
    found = rank_skew(counts, MIXTRAL)
    assert dict(zip(found.ranks, found.ratios, strict=True)) == pytest.approx(
        {1: 1.0, 2: 16 / 12, 4: 8 / 6, 8: 8 / 3}
    )


def test_packing_balances_what_neighbours_do_not() -> None:
    counts = np.tile([8.0, 8, 8, 8, 1, 1, 1, 1], (32, 1))
    assert rank_skew(counts, MIXTRAL, "contiguous").at(4) == pytest.approx(16 / 9)
    assert rank_skew(counts, MIXTRAL, "balanced").at(4) == pytest.approx(1.0)


def test_one_rank_is_never_busier_than_itself() -> None:
    skew = RankSkew((1, 4), (1.0, 3.0), "")
    assert over_mean(1.5, skew, np.array([1, 2, 4])) == pytest.approx([1.0, 3.0, 4.5])
    assert over_mean(1.5, None, np.array([1, 2])) == pytest.approx([1.0, 1.5])


QUESTION = {"devices": 64, "seq_len": 4096, "global_batch": 512, "top": 40}


class TestPlanners:
    def test_placement_changes_what_experts_cost(self) -> None:
        times = {}
        for placement in ("contiguous", "balanced"):
            found = planner.plan_training(
                "mixtral-8x7b-v0.1",
                "dgx-h100",
                loads="mixtral",
                placement=placement,
                fixed={"ep": 8},
                **QUESTION,
            )
            times[placement] = found.plan(1)["step_time"]
        even = planner.plan_training(
            "mixtral-8x7b-v0.1", "dgx-h100", imbalance=1.0, fixed={"ep": 8}, **QUESTION
        ).plan(1)["step_time"]
        assert times["contiguous"] >= times["balanced"] >= even

    def test_serving_takes_the_same_loads(self) -> None:
        def served(**options: str) -> float:
            found = planner.plan_serving(
                "deepseek-v3",
                "hgx-h200",
                devices=32,
                isl=4000,
                osl=500,
                architecture="aggregated",
                fixed={"ep": 32, "attention_dp": 32},
                **options,
            )
            return float(found.plan(1)["output_tokens_per_s"] or 0.0)

        skewed = served(loads="deepseek-r1")
        assert skewed < served(loads="deepseek-r1", placement="balanced") < served()

    def test_a_file_of_loads(self, tmp_path: Path) -> None:
        path = tmp_path / "loads.csv"
        np.savetxt(path, np.ones((32, 8)), delimiter=",", fmt="%g")
        found = planner.plan_training("mixtral-8x7b-v0.1", "dgx-h100", loads=str(path), **QUESTION)
        even = planner.plan_training("mixtral-8x7b-v0.1", "dgx-h100", imbalance=1.0, **QUESTION)
        assert found.plan(1)["step_time"] == pytest.approx(even.plan(1)["step_time"])

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"loads": "deepseek-r2"}, "found 'deepseek-r2', did you mean 'deepseek-r1'"),
            ({"loads": "mixtral", "placement": "random"}, "placement: found 'random'"),
        ],
    )
    def test_wrong_loads_are_named(self, options: dict[str, str], message: str) -> None:
        with pytest.raises(PlannerError) as error:
            planner.plan_training("mixtral-8x7b-v0.1", "dgx-h100", **options, **QUESTION)
        assert message in str(error.value)

    def test_a_dense_model_has_no_loads(self) -> None:
        with pytest.raises(PlannerError, match="which has no experts"):
            planner.plan_training("llama-3.1-8b", "dgx-h100", loads="mixtral", **QUESTION)
