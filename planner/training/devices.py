"""How many devices to try when the user gives a limit instead of a number."""

from __future__ import annotations

from collections.abc import Sequence

from planner.errors import PlannerError
from planner.search.space import divisors
from planner.specs.hardware import Cluster


def device_numbers(
    cluster: Cluster, devices: int | Sequence[int] | None, max_devices: int | None
) -> tuple[int, ...]:
    """The numbers of devices that a search tries, in increasing order.

    ``devices`` is taken as it is.  Up to ``max_devices``, every divisor of a node and every whole
    number of nodes ``2^a 3^b 5^c`` is tried: degrees of parallelism are products of small primes,
    so other numbers leave devices idle or force odd meshes.

    Raises
    ------
    PlannerError
        If both or neither is given, or a number is not positive or more than the cluster has.

    Examples
    --------
    For a cluster of 8-device nodes and ``max_devices=64``: 1, 2, 4, 8, 16, 24, 32, 40, 48, 64.
    """
    if (devices is None) == (max_devices is None):
        found = "neither" if devices is None else "both"
        raise PlannerError(f"devices: found {found} of devices and max_devices, expected one.")
    if max_devices is not None:
        if max_devices < 1:
            raise PlannerError(f"max_devices: found {max_devices}, expected 1 or more.")
        return _numbers_up_to(cluster, min(max_devices, cluster.max_devices))
    chosen = [devices] if isinstance(devices, int) else list(devices or ())
    for number in chosen:
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise PlannerError(f"devices: found {number!r}, expected a positive whole number.")
        if number > cluster.max_devices:
            raise PlannerError(
                f"devices: found {number}, expected at most the {cluster.max_devices} devices of"
                f" {cluster.name}."
            )
    if not chosen:
        raise PlannerError("devices: found an empty list, expected at least one number.")
    return tuple(sorted(set(chosen)))


def _numbers_up_to(cluster: Cluster, limit: int) -> tuple[int, ...]:
    node = cluster.devices_per_node
    inside = [number for number in divisors(node) if number <= limit]
    nodes = [node * count for count in range(1, limit // node + 1) if _is_smooth(count)]
    return tuple(sorted({*inside, *nodes}))


def _is_smooth(number: int) -> bool:
    """Whether 2, 3 and 5 are the only prime factors."""
    for prime in (2, 3, 5):
        while number % prime == 0:
            number //= prime
    return number == 1
