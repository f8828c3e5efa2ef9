"""What a row is taken to mean."""

from dataclasses import replace

import pytest

from planner.evidence import defaults
from planner.evidence.cases import RECOMPUTE, VOCABULARY, NotModelled, case_of
from planner.evidence.tables import DATA, read_training
from planner.specs.catalog import find_cluster
from planner.specs.workload import PRECISIONS, SOFTWARE

ROWS = read_training(DATA / "training.csv")


def only(row, library):
    (configuration,) = case_of(row, library).configurations
    return configuration


@pytest.mark.parametrize("accelerator", sorted(defaults.CLUSTERS))
def test_every_accelerator_of_the_tables_resolves_to_a_cluster_of_that_device(accelerator):
    device = find_cluster(defaults.CLUSTERS[accelerator]).accelerator.name
    assert device.startswith(accelerator)


def test_every_row_names_a_known_accelerator_precision_and_family():
    for row in ROWS:
        assert row.accelerator in defaults.CLUSTERS
        assert row.precision in PRECISIONS
        assert defaults.software_name(row) in SOFTWARE


@pytest.mark.parametrize(
    ("stated", "family"),
    [
        ({"source": "arXiv:2205.05198 Table 5"}, "megatron-2022"),
        ({"source": "arXiv:2104.04473 Table 2", "method": "zero-3", "zero": 3}, "megatron-2022"),
        ({"source": "bigscience chronicles"}, "megatron-2022"),
        ({"source": "arXiv:2402.15627 Table 2", "zero": 2}, "megatron"),
        ({"source": "VIA-Research/vTrain data"}, "vtrain"),
        ({"source": "a blog", "method": "fsdp+ep"}, "fsdp"),
        ({"source": "a blog", "zero": 3}, "fsdp"),
        ({"source": "a blog"}, "megatron"),
    ],
)
def test_software_follows_from_method_and_date(row, stated, family):
    assert defaults.software_name(row(**stated)) == family


def test_no_default_looks_at_the_measured_value(library):
    for given in ROWS[::40]:
        other = replace(given, value=123.0 * given.value)
        for rule in (defaults.software_name, defaults.convention, defaults.stated_peak):
            assert rule(given) == rule(other)


def test_unstated_choices_take_the_defaults(row, library):
    found = only(row(tp=2, pp=2, recompute="none"), library)
    assert (found.dp, found.micro_batch, found.cp, found.ep, found.vpp) == (2, 1, 1, 1, 1)
    assert (found.zero, found.sequence_parallel, found.schedule) == (1, 1, "1f1b")


def test_zero_shards_nothing_without_replicas(row, library):
    assert only(row(tp=8, pp=1, recompute="none"), library).zero == 0


def test_recomputation_that_is_not_stated_is_selective_where_none_does_not_fit(row, library):
    configurations = case_of(row(tp=1, pp=1), library).configurations
    assert tuple(c.recompute for c in configurations) == RECOMPUTE


def test_interleaving_without_a_degree_takes_two_chunks(row, library):
    found = only(row(tp=1, pp=4, schedule="interleaved-1f1b", recompute="none"), library)
    assert (found.schedule, found.vpp) == ("interleaved-1f1b", 2)


def test_chunks_without_a_schedule_are_interleaved(row, library):
    found = only(row(tp=1, pp=4, vpp=2, recompute="none"), library)
    assert (found.schedule, found.vpp) == ("interleaved-1f1b", 2)


def test_a_v_schedule_has_its_two_chunks_by_definition(row, library):
    found = only(row(tp=1, pp=4, vpp=2, schedule="v-half", recompute="none"), library)
    assert (found.schedule, found.vpp) == ("v-half", 1)


def test_a_row_may_state_how_communication_overlaps(row, library):
    plain = case_of(row(tp=8, pp=1), library).job.software
    assert plain.overlaps_gradients
    assert not plain.overlaps_tensor
    apart = case_of(row(tp=8, pp=1, notes="gradients reduced without overlap"), library)
    assert not apart.job.software.overlaps_gradients
    assert case_of(row(tp=8, pp=1, method="async-tp"), library).job.software.overlaps_tensor


def test_a_row_may_state_memory_and_power_of_its_device(row, library):
    notes = "H100 of a special kind: 96 GB HBM2e at 2.4 TB/s with a 500 W power limit"
    found = case_of(row(tp=1, pp=1, accelerator="h100-sxm", notes=notes), library)
    device = found.cluster.accelerator
    assert (device.memory, device.memory_bandwidth, device.power) == (96 * 2**30, 2.4e12, 500.0)


def test_all_to_all_context_parallelism_is_ulysses(row, library):
    assert only(row(tp=1, pp=1, cp=8, method="cp-a2a", recompute="none"), library) == only(
        row(tp=1, pp=1, cp=8, notes="sequence-parallel (Ulysses)", recompute="none"), library
    )


@pytest.mark.parametrize("method", sorted(VOCABULARY))
def test_a_method_may_say_where_the_vocabulary_is(row, library, method):
    found = only(row(tp=1, pp=4, method=method, recompute="none"), library)
    assert found.vocabulary == VOCABULARY[method]


def test_zero_stage_two_in_a_pipeline_accumulates_whole_gradients(row, library):
    assert only(row(tp=1, pp=4, zero=2, recompute="none"), library).zero == 1
    assert only(row(tp=1, pp=1, zero=2, recompute="none"), library).zero == 2


@pytest.mark.parametrize(
    ("stated", "reason"),
    [
        ({"model": "giant"}, "unknown model 'giant'"),
        ({"accelerator": "abacus"}, "unknown accelerator 'abacus'"),
        ({"seq_len": None}, "not stated"),
        ({"precision": "fp12"}, "precision 'fp12'"),
        ({"tp": 3, "pp": 1}, "is not the 8 devices"),
    ],
)
def test_a_row_that_cannot_be_asked_gives_its_reason(row, library, stated, reason):
    with pytest.raises(NotModelled, match=reason):
        case_of(row(**stated), library)
