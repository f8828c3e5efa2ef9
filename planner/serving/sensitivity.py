"""What would help a deployment: its time of a token when one number of the hardware is better.

Each change is one more evaluation of the same deployment at the same batch.
"""

from __future__ import annotations

from dataclasses import replace

from planner.costs.topology import network
from planner.results.plan import Plan, Sensitivity
from planner.serving.deployment import Deployment
from planner.serving.evaluate import tpot_on
from planner.serving.fleet import Fleet
from planner.serving.report import generating
from planner.serving.request import Request
from planner.specs.better import better_clusters
from planner.specs.hardware import Cluster


def deepen(plan: Plan, request: Request, found: Deployment) -> Plan:
    """The plan with its sensitivities."""
    part = generating(found)
    fleet, model, asked = part.column.fleet, request.model, request.asked
    before = tpot_on(part, model, asked, fleet)
    effects = [
        Sensitivity(text, tpot_on(part, model, asked, _on(fleet, changed)) / before - 1.0)
        for text, changed in better_clusters(fleet.cluster)
    ]
    return replace(plan, sensitivities=tuple(effects))


def _on(fleet: Fleet, cluster: Cluster) -> Fleet:
    """The fleet with another cluster's numbers."""
    run = replace(fleet.run, device=cluster.accelerator, net=network(cluster, fleet.devices))
    return replace(fleet, cluster=cluster, run=run)
