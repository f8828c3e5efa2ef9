"""The options of ``roofplan serve``, for the command line and for plan files."""

from __future__ import annotations

from planner.cli.options import Command, Option, quantity, read_count, read_flag, read_time
from planner.serving.axes import SERVING_AXES

OPTIONS = {
    option.name: option
    for option in (
        Option("cluster", "NAME", "Cluster: a name (roofplan show clusters) or a YAML file."),
        Option("devices", "N", "Devices to use; those that stay idle count.", read_count),
        Option("max_devices", "N", "Devices that may be used; only those used count.", read_count),
        Option("pool", "ROLE=CLUSTER:DEVICES",
               "Instead of --cluster: devices for one role (any, prefill, decode, attention, ffn);"
               " repeatable.", repeatable=True),
        Option("isl", "N", "Mean input tokens of a request.", read_count),
        Option("osl", "N", "Mean output tokens of a request.", read_count),
        Option("trace", "FILE", "Instead: a trace (Azure CSV, Mooncake JSONL), a summary (YAML), or"
               " the name of one, such as azure-code."),
        Option("ttft", "TIME", "Longest time to the first token, such as 500ms.", read_time),
        Option("tpot", "TIME", "Longest time of an output token, such as 30ms.", read_time),
        Option("end_to_end", "TIME", "Longest time of a whole request, such as 20s.", read_time),
        Option("percentile", "P", "Per cent of the requests that meet ttft and tpot; else means.",
               quantity("number")),
        Option("variation", "CV", "Of the times between arrivals; the trace's, else 1 (Poisson).",
               quantity("number", allow_zero=True)),
        Option("rate", "R", "Requests per second; else as many as possible.", quantity("number")),
        Option("concurrency", "N", "Instead: requests in flight over all replicas.", read_count),
        Option("architecture", "NAME",
               "any, aggregated, shared-device, disaggregated or attention-ffn."),
        Option("engine", "NAME", "vllm (default), sglang, tensorrt-llm or generic."),
        Option("weights", "TYPE", "Datatype of the weights; by default the checkpoint's."),
        Option("activations", "TYPE", "Datatype of the products."),
        Option("kv", "TYPE", "Datatype of the cache; default bf16."),
        Option("prefix_hit", "SHARE", "Input that is in the cache; default 0.",
               quantity("fraction", allow_zero=True)),
        Option("draft_tokens", "K", "Tokens that every step drafts (speculation, MTP).",
               read_count),
        Option("acceptance", "SHARE", "Chance that a drafted token is right.",
               quantity("fraction", allow_zero=True)),
        Option("loads", "FILE|PRESET", "Loads of experts: a record, or deepseek-r1 ..."),
        Option("placement", "NAME", "Of the experts with --loads: contiguous (default), balanced."),
        Option("memory_fraction", "SHARE", "Device memory to use; else the engine's.",
               quantity("fraction")),
        Option("chunk", "N", "Most tokens of an iteration; else the engine's.", read_count),
        Option("objective", "NAME", "throughput (default), price, or devices (for the rate)."),
        Option("price", "PRICE", "Price of a device, such as 2.10/h.", quantity("usd/h")),
        Option("budget", "PRICE", "What the devices may cost, such as 200/h.", quantity("usd/h")),
        Option("baseline", "AXES", "What runs today, such as 'tp=8,replicas=4'."),
        Option("measured", "TIME", "Measured tpot of the baseline; scales every time.", read_time),
        Option("pareto", "", "Also find the front of speed for a user against for a device.",
               read_flag),
        Option("check", "", "Replay the best plans in a simulation of single requests.", read_flag),
        Option("top", "N", "Plans to show; default 10.", read_count),
    )
}  # fmt: skip

SERVE = Command("serve", OPTIONS, SERVING_AXES)
