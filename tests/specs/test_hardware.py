"""The hardware database obeys physics, and bad files are refused with the place and a hint."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from planner.costs.kernels import parameters
from planner.errors import PlannerError
from planner.specs.catalog import (
    database_paths,
    find_accelerator,
    find_cluster,
    list_accelerators,
    list_clusters,
    override,
)
from planner.specs.fits import TRANSFER_ERROR
from planner.specs.hardware_files import load_tiers
from planner.specs.kernel_sets import parameters_of

DATABASE = database_paths("hardware_db")[-1]
FILES = sorted(DATABASE.glob("*/*.yaml"))
accelerators = pytest.mark.parametrize("name", list_accelerators())
clusters = pytest.mark.parametrize("name", list_clusters())


def raw(kind: str, name: str) -> dict:
    return yaml.safe_load((DATABASE / kind / f"{name}.yaml").read_text(encoding="utf-8"))


def rate_per_core(name: str) -> int | None:
    """Dense bf16 FLOP per cycle and core, where the file gives it."""
    for block in ("datasheet", "assumed"):
        value = raw("accelerators", name).get(block, {}).get("flop_per_cycle_per_core")
        if value is not None:
            return value["value"] if isinstance(value, dict) else value
    return None


# Physics of the data


@accelerators
def test_narrower_datatypes_double_the_rate(name):
    peak = find_accelerator(name).peak
    int8_cut = {"b300-sxm", "gb300"}  # Blackwell Ultra gives most of int8 up
    fp4_more = {"b300-sxm", "gb300"}  # and runs fp4 at three times the rate of fp8
    int8_more = {"rtx-4090"}  # full-rate int8 beside half-rate fp8
    assert peak["bf16"] == peak["fp16"]
    for narrow, wide, ratio, exceptions in (
        ("bf16", "tf32", 2, set()),
        ("fp8", "bf16", 2, set()),
        ("int8", "bf16", 2, int8_cut | int8_more),
        ("fp4", "fp8", 2, fp4_more),
    ):
        if narrow in peak and wide in peak and name not in exceptions:
            assert peak[narrow] == pytest.approx(ratio * peak[wide], rel=0.015), (narrow, wide)
    if name in fp4_more:
        assert peak["fp4"] == pytest.approx(3 * peak["fp8"])


@pytest.mark.parametrize("name", [n for n in list_accelerators() if rate_per_core(n)])
def test_cores_times_rate_times_clock_is_the_dense_peak(name):
    device = find_accelerator(name)
    # A figure with structured sparsity would be off by a factor of two.
    peak = device.cores * rate_per_core(name) * device.clock
    assert peak == pytest.approx(device.peak["bf16"], rel=0.035)


@accelerators
def test_memory_is_in_the_range_of_its_kind(name):
    device = find_accelerator(name)
    assert 20e9 < device.memory < 320e9
    seconds_to_read_it_all = device.memory / device.memory_bandwidth
    assert 0.015 < seconds_to_read_it_all < 0.065
    assert device.memory_bandwidth > 5 * device.host_bandwidth
    assert 16e6 < device.l2_cache < 500e6
    assert 300 <= device.power <= 1400


@accelerators
def test_every_family_has_sets_with_ten_numbers_at_most_and_a_source(name):
    kernels = find_accelerator(name).kernels
    trained = {"gemm", "attention_prefill", "experts", "elementwise"}
    assert trained | {"attention_decode", "mla_prefill", "mla_decode"} <= set(kernels)
    for family, libraries in kernels.items():
        for library, sets in libraries.items():
            for dtype, one in sets.items():
                place = (family, library, dtype)
                for part in (one, getattr(one, "shared", None), getattr(one, "own", None)):
                    assert part is None or len(numbers(part)) <= 10, place
                assert one.source, place
                assert one.fit.error is None or 0 < one.fit.error < 0.5, place


def numbers(one):
    """Fitted numbers of a set that are not at their neutral default."""
    fields = [f for f in parameters_of(type(one)) if "low" in f.metadata]
    return [f for f in fields if getattr(one, f.name) != f.default]


@clusters
def test_tiers_grow_and_slow_down_outwards(name):
    cluster = find_cluster(name)
    sizes = [tier.devices for tier in cluster.tiers]
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == cluster.max_devices
    assert all(outer % inner == 0 for inner, outer in pairwise(sizes))
    assert cluster.devices_per_node in sizes
    bandwidths = [tier.bandwidth / tier.oversubscription for tier in cluster.tiers]
    assert bandwidths == sorted(bandwidths, reverse=True) or name == "h100-pcie-ib"


@clusters
def test_links_are_in_range_and_per_direction(name):
    for tier in find_cluster(name).tiers:
        assert 3e9 < tier.bandwidth <= 900e9  # 1800 GB/s of NVLink 5 is both directions
        assert tier.pair_bandwidth <= tier.bandwidth
        assert 1e-6 < tier.latency < 20e-6
        assert 0.5 < tier.efficiency <= 1
        assert tier.oversubscription >= 1
        for operation, line in tier.collectives.items():
            assert 0 < line.low_bandwidth <= line.bandwidth, operation
            assert line.bandwidth <= tier.bandwidth, operation
            assert 0 <= line.step < 5e-6 and 1e-6 < line.base < 30e-6, operation


@pytest.mark.parametrize(("name", "links"), [("mi300x-ib", 7), ("mi355x-ib", 7), ("gh200-ib", 3)])
def test_a_pair_on_a_mesh_gets_one_link(name, links):
    node = find_cluster(name).tiers[0]
    assert node.topology == "mesh"
    assert node.pair_bandwidth == pytest.approx(node.bandwidth / links)


def test_systems_as_published():
    assert [t.devices for t in find_cluster("gb200-nvl72").tiers[:2]] == [4, 72]
    assert find_cluster("gb200-nvl72").devices_per_node == 4
    roce = find_cluster("h100-roce-7to1")
    assert [(t.devices, t.oversubscription) for t in roce.tiers[1:]] == [(3072, 1), (24576, 7)]
    die, package = find_accelerator("ascend-910c-die"), find_accelerator("ascend-910c")
    assert package.memory_bandwidth == pytest.approx(2 * die.memory_bandwidth)
    h800, h100 = find_cluster("h800-ib").tiers[0], find_cluster("dgx-h100").tiers[0]
    assert h800.bandwidth * h800.efficiency == pytest.approx(160e9)
    ours, theirs = h800.collectives["all_reduce"], h100.collectives["all_reduce"]
    assert ours.bandwidth == pytest.approx(theirs.bandwidth * 200 / 450)
    assert ours.base == theirs.base
    assert ours.source == "like hgx-h100.node"


def test_a_relative_lends_its_kernels_with_a_wider_error():
    ours = parameters(find_accelerator("h800-sxm"), "gemm", "bf16")
    theirs = parameters(find_accelerator("h100-sxm"), "gemm", "bf16")
    assert (ours.compute, ours.launch) == (theirs.compute, theirs.launch)
    assert ours.source == "like h100-sxm"
    assert ours.fit.error == pytest.approx(theirs.fit.error + TRANSFER_ERROR)
    assert ours.fit.bias is None


# Provenance and names


def test_every_accelerator_is_in_a_cluster():
    assert {find_cluster(name).accelerator.name for name in list_clusters()} == set(
        list_accelerators()
    )


def test_every_source_is_used_and_described():
    sources = yaml.safe_load((DATABASE / "sources.yaml").read_text(encoding="utf-8"))
    used = {word for path in FILES for word in sources_in(yaml.safe_load(path.read_text("utf-8")))}
    assert used == set(sources)
    for source in sources.values():
        assert set(source) == {"title", "address", "read"}
        assert source["address"].startswith("https://")


def sources_in(node) -> set[str]:
    if not isinstance(node, dict):
        return set()
    below = set().union(*(sources_in(child) for child in node.values()))
    return below | ({node["source"]} if "source" in node else set())


@accelerators
def test_every_number_of_an_accelerator_has_a_source(name):
    device = find_accelerator(name)
    for field in (
        "memory.bandwidth",
        "cores",
        "host_bandwidth",
        *(f"peak.{d}" for d in device.peak),
    ):
        assert device.sources[field]


def test_names_and_aliases_are_unique():
    for kind in ("accelerators", "nodes", "clusters"):
        found: list[str] = []
        for path in DATABASE.glob(f"{kind}/*.yaml"):
            found += [path.stem, *yaml.safe_load(path.read_text("utf-8")).get("aliases", [])]
        assert len(found) == len(set(found)), kind


def test_aliases_and_case():
    assert find_cluster("H100").name == "dgx-h100"
    assert find_accelerator("ascend-910b").name == "ascend-910b3"


def test_every_node_is_used():
    used = {raw("clusters", name)["node"] for name in list_clusters()}
    assert used == {path.stem for path in DATABASE.glob("nodes/*.yaml")}


# Bad input

SOURCES = "vendor: {title: t, address: 'https://example.org', read: 2026-11-22}\n"
DEVICE = """
vendor: Example
generation: One
datasheet:
  source: vendor
  peak: {bf16: 100 TFLOP/s}
  memory: {capacity: 16 GiB, bandwidth: 1 TB/s}
  cores: 10
  host_bandwidth: 31 GB/s
"""
NODE = """
tiers:
  node:
    datasheet: {source: vendor, devices: 8, topology: switch, bandwidth: 100 GB/s}
    assumed: {latency: {value: 5 us, note: a guess}, efficiency: {value: 0.8, note: a guess}}
"""
CLUSTER = """
accelerator: mine
node: mynode
datasheet: {source: vendor, max_devices: 64}
tiers:
  fabric:
    datasheet: {source: vendor, topology: fat-tree, bandwidth: 25 GB/s}
    assumed: {latency: {value: 5 us, note: a guess}, efficiency: {value: 0.8, note: a guess}}
"""


@pytest.fixture
def user_db(tmp_path):
    def write(device=DEVICE, node=NODE, cluster=CLUSTER) -> Path:
        texts = {"accelerators/mine": device, "nodes/mynode": node, "clusters/mycluster": cluster}
        for name, text in {**texts, "sources": SOURCES}.items():
            path = tmp_path / "hardware_db" / f"{name}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return tmp_path

    return write


def test_a_users_database_comes_first(user_db, monkeypatch):
    folder = user_db()
    assert find_cluster("mycluster", [folder]).max_devices == 64
    assert find_cluster("mycluster", [folder / "hardware_db"]).devices_per_node == 8
    assert "mycluster" in list_clusters([folder])
    monkeypatch.setenv("ROOFPLAN_DB", str(folder))
    assert find_cluster("mycluster").accelerator.memory == 16 * 2**30
    assert find_accelerator(folder / "hardware_db/accelerators/mine.yaml").name == "mine"
    assert find_cluster("dgx-h100").name == "dgx-h100"


def test_measured_wins_over_datasheet_and_datasheet_over_assumed(user_db):
    device = DEVICE + "measured: {source: vendor, memory: {usable: 15 GiB, bandwidth: 0.9 TB/s}}\n"
    device += "assumed: {note: a guess, memory: {bandwidth: 2 TB/s}, power: 100 W}\n"
    mine = find_accelerator("mine", [user_db(device=device)])
    assert (mine.memory, mine.memory_bandwidth, mine.power) == (15 * 2**30, 0.9e12, 100)
    assert mine.sources["power"] == "assumed: a guess"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("bandwidth: 1 TB/s", "bandwith: 1 TB/s", "'bandwith', did you mean 'bandwidth'?"),
        ("bandwidth: 1 TB/s", "bandwidth: 1000 GB", "datasheet.memory.bandwidth: found '1000 GB'"),
        ("16 GiB", "16", "memory.capacity: found 16 (no unit)"),
        ("cores: 10", "", "missing field 'cores'"),
        ("vendor: Example", "", "missing field 'vendor'"),
        ("peak: {bf16: 100 TFLOP/s}", "", "missing field 'peak'"),
        ("bf16: 100", "bf61: 100", "'bf61', did you mean 'bf16'"),
        ("  source: vendor", "  source: vendr", "unknown source 'vendr', did you mean 'vendor'?"),
        ("  source: vendor\n", "", "no source"),
        ("vendor: Example", "vendor: [", "cannot be read as YAML"),
        ("generation: One", "generation: One\nassumed: {power: 100 W}", "power: assumed without"),
        ("generation: One", "generation: One\nassumed: 3", "found 3, expected a mapping"),
        (
            "generation: One",
            "generation: One\nassumed: {kernels_like: {value: h10, note: n}}",
            "unknown accelerator 'h10'",
        ),
        (
            "generation: One",
            "generation: One\nprice: {per_hour: 2 USD/h, date: 2026-05, source: vendor}",
            "price: missing field 'provider_class'",
        ),
    ],
)
def test_a_wrong_device_file_is_refused_with_file_and_field(user_db, old, new, message):
    assert old in DEVICE
    with pytest.raises(PlannerError) as error:
        find_accelerator("mine", [user_db(device=DEVICE.replace(old, new))])
    assert "mine.yaml" in str(error.value) or "h10" in message
    assert message in str(error.value)


def test_a_page_address_is_a_source(user_db):
    device = DEVICE.replace("  source: vendor", "  source: https://example.org/datasheet")
    mine = find_accelerator("mine", [user_db(device=device)])
    assert mine.sources["cores"] == "https://example.org/datasheet"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("topology: switch", "topology: swich", "expected one of: switch, mesh"),
        ("latency: {value: 5 us, note: a guess}, ", "", "missing field 'latency'"),
        ("devices: 8", "devices: 128", "tiers of [128, 64] devices"),
        ("assumed: {", "asumed: {", "'asumed', did you mean 'assumed'"),
        (
            "assumed: {",
            "assumed: {collectives_like: {value: hgx-h100.nod, note: n}, ",
            "expected NODE.TIER, one of: hgx-h100.node",
        ),
    ],
)
def test_a_wrong_node_file_is_refused(user_db, old, new, message):
    assert old in NODE
    with pytest.raises(PlannerError) as error:
        find_cluster("mycluster", [user_db(node=NODE.replace(old, new))])
    assert message in str(error.value)


def test_unknown_names_and_folders():
    with pytest.raises(PlannerError, match="unknown cluster 'dgx-h10', did you mean 'dgx-h100'"):
        find_cluster("dgx-h10")
    with pytest.raises(PlannerError, match="does not exist"):
        find_cluster("dgx-h100", ["/no/such/folder"])
    with pytest.raises(PlannerError, match="cannot be read"):
        find_cluster("nowhere.yaml")


def test_relatives_in_a_circle_are_refused(tmp_path):
    tier = NODE.replace("assumed: {", "assumed: {collectives_like: {value: X.node, note: n}, ")
    nodes = tmp_path / "nodes"
    nodes.mkdir()
    (tmp_path / "sources.yaml").write_text(SOURCES)
    for name, relative in (("one", "two"), ("two", "one")):
        (nodes / f"{name}.yaml").write_text(tier.replace("X.", f"{relative}."))
    with pytest.raises(PlannerError, match=r"two\.node -> one\.node -> two\.node"):
        load_tiers(nodes / "one.yaml", [tmp_path])


def test_a_relatives_relative_lends_too(user_db):
    device = DEVICE + "assumed: {kernels_like: {value: h800-sxm, note: n}}\n"
    found = parameters(find_accelerator("mine", [user_db(device=device)]), "gemm", "bf16")
    assert found.source == "like h800-sxm"


# Overrides


def test_override_replaces_one_number_and_leaves_the_original():
    before = find_cluster("dgx-h100")
    after = override(
        before, {"hardware.memory_bandwidth": "4 TB/s", "hardware.peak.bf16": "1 PFLOP/s"}
    )
    assert after.accelerator.memory_bandwidth == 4e12
    assert after.accelerator.peak["bf16"] == 1e15
    assert after.accelerator.sources["peak.bf16"] == "user"
    assert before.accelerator.memory_bandwidth == 3.35e12
    assert override(before, {}) == before


@pytest.mark.parametrize("field", ["hardware.tiers.node.bandwidth", "node.bandwidth"])
def test_collectives_follow_the_bandwidth_of_their_tier(field):
    before = find_cluster("dgx-h100")
    node, faster = before.tiers[0], override(before, {field: "900 GB/s"}).tiers[0]
    assert faster.bandwidth == faster.pair_bandwidth == 900e9
    line, line_faster = node.collectives["all_gather"], faster.collectives["all_gather"]
    assert line_faster.bandwidth == pytest.approx(2 * line.bandwidth)
    assert (line_faster.base, line_faster.step) == (line.base, line.step)


def test_override_of_sizes_price_and_kernels():
    cluster = override(
        find_cluster("gb200-nvl72"),
        {
            "node.devices": 8,
            "max_devices": 7200,
            "price": "3/h",
            "rack.latency": "9 us",
            "cores": 100,
            "kernels.gemm.bf16.compute": 0.5,
        },
    )
    assert cluster.devices_per_node == 8
    assert [tier.devices for tier in cluster.tiers] == [8, 72, 7200]
    assert cluster.price_per_hour == 3.0
    assert cluster.tiers[1].latency == 9e-6
    assert cluster.accelerator.cores == 100
    changed = parameters(cluster.accelerator, "gemm", "bf16")
    assert (changed.compute, changed.source) == (0.5, "user")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("hardware.memory_bandwith", "4 TB/s", "did you mean 'memory_bandwidth'"),
        ("hardware.memory", "80", "--set hardware.memory: found '80' (no unit)"),
        ("fabric.bandwidth", "50 GB", "(a size), expected a bandwidth"),
        ("node.devices", "100000", "tiers of [100000, 65536] devices"),
    ],
)
def test_a_wrong_override_is_refused(field, value, message):
    with pytest.raises(PlannerError) as error:
        override(find_cluster("dgx-h100"), {field: value})
    assert message in str(error.value)
