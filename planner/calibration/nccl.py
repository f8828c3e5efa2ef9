"""Time the collectives of NCCL between the GPUs of this machine, one process a GPU.

``torchrun --nproc-per-node 8 -m planner.calibration.nccl ACCELERATOR OUT.csv`` writes the rows of
groups of 2, 4 and 8 devices; ``roofplan calibrate`` starts it when it finds several GPUs.
"""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from planner.calibration import plan
from planner.calibration.measure import Call, Row, seconds, torch_module
from planner.errors import PlannerError
from planner.specs.measurements import COLUMNS


def measure(accelerator: str, ranks: int) -> list[Row]:
    """Rows for groups of up to ``ranks`` devices, measured by as many processes.

    Raises
    ------
    PlannerError
        If the processes fail, with the last line that they printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "nccl.csv"
        launch = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}")
        worker = ("-m", "planner.calibration.nccl", accelerator, str(out))
        done = subprocess.run(
            [sys.executable, *launch, *worker], capture_output=True, text=True, check=False
        )
        if done.returncode or not out.is_file():
            last = (done.stderr.strip() or "no message").splitlines()[-1]
            raise PlannerError(f"calibrate: timing the collectives failed: {last}")
        with out.open(encoding="utf-8", newline="") as file:
            return [{**row, "latency_s": float(row["latency_s"])} for row in csv.DictReader(file)]


def main(accelerator: str, out: str) -> None:
    """One of the processes; the first writes the table."""
    torch = torch_module()
    distributed = torch.distributed
    distributed.init_process_group("nccl")
    rank, world = distributed.get_rank(), distributed.get_world_size()
    torch.cuda.set_device(rank)
    version = ".".join(map(str, torch.cuda.nccl.version()))
    rows = []
    for size in (n for n in (2, 4, 8) if n <= world):
        group = distributed.new_group(list(range(size)))
        if rank < size:
            for collective, nbytes, latency in _times(torch, group, size):
                rows.append((
                    "nccl", accelerator, f"nccl {version}", "bf16",
                    f"collective={collective};ranks={size};bytes={nbytes}", latency,
                ))  # fmt: skip
        distributed.barrier()
    if rank == 0:
        with Path(out).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows(rows)
    distributed.destroy_process_group()


def _times(torch: Any, group: Any, size: int) -> Iterator[tuple[str, int, float]]:
    """Collective, buffer as nccl-tests counts it [B] and time [s]."""
    distributed = torch.distributed
    for nbytes in plan.collectives():
        whole = torch.ones(nbytes // 2, device="cuda", dtype=torch.bfloat16)
        shard = torch.ones(nbytes // 2 // size, device="cuda", dtype=torch.bfloat16)
        other = torch.empty_like(whole)
        calls = (
            ("all_reduce", distributed.all_reduce, (whole,)),
            ("all_gather", distributed.all_gather_into_tensor, (whole, shard)),
            ("reduce_scatter", distributed.reduce_scatter_tensor, (shard, whole)),
            ("alltoall", distributed.all_to_all_single, (other, whole)),
        )
        for name, collective, operands in calls:
            yield name, nbytes, seconds(torch, _call(collective, operands, group), copies=1)


def _call(collective: Callable[..., Any], operands: tuple[Any, ...], group: Any) -> Call:
    return lambda _: collective(*operands, group=group)


if __name__ == "__main__":
    main(*sys.argv[1:])
