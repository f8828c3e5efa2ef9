"""The options of ``roofplan train``, for the command line and for plan files."""

from __future__ import annotations

from planner.cli.options import Command, Option, quantity, read_count, read_counts
from planner.specs.parallelism import TRAINING_AXES

OPTIONS = {
    option.name: option
    for option in (
        Option("cluster", "NAME", "Cluster: a name (roofplan show clusters) or a YAML file.",
               required=True),
        Option("devices", "N", "Devices to use, or several numbers to try: 512,1024.", read_counts),
        Option("max_devices", "N", "Try every sensible number up to this one instead.", read_count),
        Option("seq_len", "S", "Tokens in a sequence.", read_count, required=True),
        Option("global_batch", "B", "Sequences in an optimizer step.", read_count, required=True),
        Option("precision", "NAME", "bf16 (default), fp16, fp8, mxfp8 or nvfp4."),
        Option("software", "NAME", "megatron[-2022|-bridge], fsdp or vtrain; default megatron."),
        Option("top", "N", "Plans to show; default 10.", read_count),
        Option("objective", "NAME", "throughput (default), price, devices or memory."),
        Option("tokens", "T", "Tokens to train on, such as 15T.", quantity("tokens")),
        Option("deadline", "TIME", "Longest training time, such as 30d.", quantity("time")),
        Option("memory_reserve", "SHARE", "Memory to leave free; default '10 %'.",
               quantity("fraction", allow_zero=True)),
        Option("max_step_time", "TIME", "Longest step, such as 12s.", quantity("time")),
        Option("price", "PRICE", "Price of a device, such as 2.10/h.", quantity("usd/h")),
        Option("pareto", "NAME", "Also find the front of time against memory or price."),
        Option("imbalance", "X", "Tokens of the busiest expert rank over the mean.",
               quantity("number")),
        Option("loads", "FILE|PRESET", "Loads of experts instead: a record, or deepseek-r1 ..."),
        Option("placement", "NAME", "Of the experts with --loads: contiguous (default), balanced."),
        Option("baseline", "AXES", "What runs today, such as 'tp=8,pp=4'."),
        Option("measured", "TIME", "Measured step time of the baseline; scales every time.",
               quantity("time")),
    )
}  # fmt: skip

TRAIN = Command("train", OPTIONS, TRAINING_AXES)
