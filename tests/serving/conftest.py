"""One place that puts a model on a replica of an engine and asks it for its costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import numpy as np
import pytest

from planner.costs.topology import network
from planner.costs.tree import Cost
from planner.layers.inference import Array, Runtime, Split, Step
from planner.serving import aggregated, disaggregated, memory
from planner.serving.aggregated import Load, Steady
from planner.serving.disaggregated import Pool
from planner.serving.fleet import Fleet
from planner.serving.iteration import Replica, iteration
from planner.specs.catalog import find_cluster
from planner.specs.engine import Widths, find_engine
from planner.specs.model import ModelSpec
from planner.specs.models_catalog import find_model

PLAIN = Widths()
_cluster, _model = cache(find_cluster), cache(find_model)


def _columns(kind: Any, values: dict[str, Any]) -> Any:
    """A dataclass of arrays, all of one length."""
    parts = np.broadcast_arrays(*(np.atleast_1d(np.asarray(v, float)) for v in values.values()))
    return kind(**dict(zip(values, parts, strict=True)))


@dataclass(frozen=True)
class Server:
    """A model on one replica; every number of a question may be a list of candidates."""

    run: Runtime
    model: ModelSpec
    layout: dict[str, Any]

    def replica(self, rows: int = 1) -> Replica:
        wide = {name: np.broadcast_to(value, rows) * 1.0 for name, value in self.layout.items()}
        pp = wide.pop("pp")
        ranks = wide["tp"] * wide["attention_dp"]
        return Replica(Split(**wide, moe_tp=ranks / wide["ep"]), pp)

    def step(self, **given: Any) -> Step:
        """An iteration; what is not given is nothing."""
        empty = {"prefills": 0, "chunk": 1, "cached": 0, "decodes": 0, "context": 1, "verified": 1}
        return _columns(Step, empty | given)

    def iteration(self, **given: Any) -> Cost:
        step = self.step(**given)
        return iteration(self.run, self.model, self.replica(step.decodes.size), step)

    def seconds(self, **given: Any) -> Array:
        return np.asarray(self.iteration(**given).seconds)

    def load(self, **given: Any) -> Load:
        """A load of mixed lengths that lasts, of one request unless given."""
        usual = {"isl": 1024, "osl": 256, "concurrency": 1, "hit": 0, "waves": np.inf, "fixed": 0}
        return _columns(Load, usual | given)

    def steady(self, **given: Any) -> Steady:
        load = self.load(**given)
        return aggregated.steady(self.run, self.model, self.replica(load.isl.size), load)

    def at_rate(self, rate: Any, **given: Any) -> Steady:
        load = self.load(**given, concurrency=np.ones_like(np.asarray(rate, dtype=float)))
        rate = np.broadcast_to(np.asarray(rate, dtype=float), load.isl.shape)
        return aggregated.at_rate(self.run, self.model, self.replica(load.isl.size), load, rate)

    def weights(self) -> float:
        return float(memory.weight_bytes(self.run, self.model, self.replica()).item())

    def cache(self, tokens: float) -> float:
        """Bytes of cache of a sequence on a device."""
        held = np.array([float(tokens)])
        return float(memory.sequence_bytes(self.run, self.model, self.replica(), held).item())

    def memory(self) -> memory.Memory:
        return memory.memory(self.run, self.model, self.replica())

    def limit(self, **given: Any) -> float:
        return float(
            aggregated.most_running(self.run, self.model, self.replica(), self.load(**given)).item()
        )


@dataclass(frozen=True)
class Pools:
    """Prefill and decode replicas of one kind."""

    server: Server
    prefill: float = 1.0
    decode: float = 1.0

    def _pools(self, rows: int) -> tuple[Pool, Pool]:
        run, replica = self.server.run, self.server.replica(rows)
        prefill, decode = (np.full(rows, float(n)) for n in (self.prefill, self.decode))
        return Pool(run, replica, prefill), Pool(run, replica, decode)

    def steady(self, **given: Any) -> Steady:
        load = self.server.load(**given)
        return disaggregated.disaggregated(*self._pools(load.isl.size), self.server.model, load)

    def at_rate(self, rate: Any, **given: Any) -> Steady:
        load = self.server.load(**given, concurrency=np.ones_like(np.asarray(rate, dtype=float)))
        rate = np.broadcast_to(np.asarray(rate, dtype=float), load.isl.shape)
        return disaggregated.at_rate(*self._pools(load.isl.size), self.server.model, load, rate)

    def prompt(self, isl: float) -> float:
        """Time of one prompt alone [s]."""
        one = np.array([float(isl)])
        pool, _ = self._pools(1)
        return float(disaggregated.prefill_seconds(pool, self.server.model, one, 0.0 * one).item())

    def transfer(self, isl: Any) -> Array:
        tokens = np.atleast_1d(np.asarray(isl, dtype=float))
        pool, _ = self._pools(tokens.size)
        return disaggregated.transfer_seconds(pool, self.server.model, tokens)


@dataclass(frozen=True)
class Bench:
    """What the serving tests build."""

    def server(
        self,
        model: str = "meta-llama-3.1-70b",
        cluster: str = "hgx-h200",
        *,
        engine: str = "vllm",
        widths: Widths = PLAIN,
        devices: int | None = None,
        imbalance: float = 1.0,
        **layout: Any,
    ) -> Server:
        """By default Llama-3.1-70B on eight H200; ``layout`` has tp, attention_dp, ep and pp."""
        shape = {"tp": 8, "attention_dp": 1, "ep": 1, "pp": 1} | layout
        arrays = {name: np.asarray(value, dtype=float) for name, value in shape.items()}
        machines, spec = _cluster(cluster), _model(model)
        used = arrays["tp"] * arrays["attention_dp"] * arrays["pp"]
        net = network(machines, devices or int(np.max(used)))
        run = Runtime(
            machines.accelerator, net, spec.hidden, widths, find_engine(engine), imbalance
        )
        return Server(run, spec, arrays)

    def pools(self, prefill: float = 1, decode: float = 1, **options: Any) -> Pools:
        return Pools(self.server(devices=16, **options), prefill, decode)


@pytest.fixture(scope="session")
def fleet() -> Callable[..., Fleet]:
    """So many devices of a cluster, by default DGX H100, for a role."""

    def build(devices: int, role: str = "any", name: str = "dgx-h100") -> Fleet:
        machines = _cluster(name)
        net = network(machines, devices)
        run = Runtime(machines.accelerator, net, 4096, PLAIN, find_engine("vllm"))
        return Fleet(role, machines, devices, run)

    return build


@pytest.fixture(scope="session")
def bench() -> Bench:
    return Bench()


@pytest.fixture(scope="session")
def same_rows() -> Callable[[Any, Any, int], None]:
    """Assert that row ``index`` of a batch is the scalar."""

    def compare(batch: Any, scalar: Any, index: int) -> None:
        for field in fields(scalar):
            many, one = (np.asarray(getattr(part, field.name)) for part in (batch, scalar))
            assert many[index] == pytest.approx(one.item(), rel=1e-9), field.name

    return compare
