"""``--input plan.yaml``: the options of a command as a file.

Keys are the options with dashes or underscores, ``model`` is the model, and an axis takes one value
or a list.  An option on the command line wins over the file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from planner.cli.options import Command, Given
from planner.errors import PlannerError
from planner.specs.folders import near

DEVICES = {"devices", "max_devices", "pool"}
"""Ways to say one thing: any on the command line replaces any in a file."""


def gather(command: Command, options: Mapping[str, Any]) -> tuple[Given, str | None]:
    """What stands on the command line over what the plan file says, and the file's path."""
    given: Given = {
        key: str(value).lower() if isinstance(value, bool) else value
        for key, value in options.items()
        if value not in (None, [], ())
    }
    path = given.pop("input", None)
    if path is None:
        return given, None
    return _merge(command, read_plan(command, str(path)), given), str(path)


def _merge(command: Command, file: Given, line: Given) -> Given:
    """The file's options under the command line's; what repeats adds up."""
    file = {k: v for k, v in file.items() if not (k in DEVICES and DEVICES & line.keys())}
    merged: Given = {**file, **line}
    for name in command.repeatable:
        order = (line, file) if name == "db" else (file, line)
        items = [item for source in order for item in source.get(name, [])]
        if items:
            merged[name] = items
    return merged


def read_plan(command: Command, path: str) -> Given:
    """The options in a file.

    Raises
    ------
    PlannerError
        If the file cannot be read, is no mapping, or has an unknown key or an odd value.
    """
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8")
        found = yaml.safe_load(text)
        written = yaml.compose(text, yaml.SafeLoader)  # a mapping would hide what stands twice
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise PlannerError(f"{path}: cannot be read: {reason.lower()}.") from None
    except yaml.YAMLError as error:
        raise PlannerError(f"{path}: not valid YAML ({' '.join(str(error).split())}).") from None
    if not isinstance(found, Mapping):
        raise PlannerError(f"{path}: found {text[:40]!r}, expected options such as 'devices: 8'.")
    keys = Counter(str(key.value) for key, _ in getattr(written, "value", ()))
    for key in (key for key, times in keys.items() if times > 1):
        raise PlannerError(f"{path}: {key}: found twice, expected once.")
    given: Given = {}
    for key, value in found.items():
        name = _name(command, path, str(key))
        if name in given:
            raise PlannerError(f"{path}: {key}: found twice, expected once.")
        where = f"{path}: {key}"
        given[name] = _items(value, where) if name in command.repeatable else _text(value, where)
    return given


def _name(command: Command, path: str, key: str) -> str:
    plain = key.strip().lower().replace("-", "_")
    if plain not in command.keys:
        raise PlannerError(
            f"{path}: unknown key {key!r}{near(plain, command.keys)}; expected an option of"
            f" roofplan {command.name}."
        )
    return command.aliases.get(plain, plain)


def _items(value: object, where: str) -> list[str]:
    """A value of an option that may repeat: one, a list, or for ``set`` a mapping."""
    if isinstance(value, Mapping):
        return [f"{field}={_text(one, where)}" for field, one in value.items()]
    return (
        [_text(one, where) for one in value] if isinstance(value, list) else [_text(value, where)]
    )


def _text(value: object, where: str) -> str:
    """One value as the command line would hold it; a list is one with commas."""
    if isinstance(value, list):
        return ",".join(_text(one, where) for one in value)
    if isinstance(value, Mapping) and where.endswith("baseline"):
        return ",".join(f"{axis}={_text(one, where)}" for axis, one in value.items())
    if isinstance(value, bool):
        return str(value).lower()
    if value is None or not isinstance(value, str | int | float):
        raise PlannerError(f"{where}: found {value!r}, expected a text or a number.")
    return str(value)
