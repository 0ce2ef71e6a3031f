"""What is printed when a run has ended: its outcome in ten lines, or all that its result holds."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from typing import Any

MOST = 5  # evaluations with a line of their own
OTHERS = ("linear", "knn", "ridge")  # any encoder can be judged by, of which the first that a run lacks is offered


def short(record: Mapping[str, Any], folder: str) -> list[str]:
    """The lines of a run's end: outcome, loss, what judged it, features, time, data, files and the next command."""
    facts, lines = record["facts"], [("outcome", _outcome(record))]
    if record.get("loss") is not None:
        lines.append(("loss", f"{record['loss']:.4f} at step {facts['step']:,.0f}"))
    lines += _judged(record["results"])
    if (rank := record["results"].get("collapse/rankme")) is not None:
        lines.append(("features", f"RankMe {rank:.2f}, std {record['results']['collapse/feature_std']:.3f}"))
    lines.append(("time", _time(facts)))
    if data := [
        f"{value} ({group})" for group, value in sorted(record.get("data", {}).items()) if "plugin." not in group
    ]:
        lines.append(("data", ", ".join(data)))
    lines += [("plugins", value) for value in facts.get("plugins", ())]
    counts = {name[4:].replace("_", " "): value for name, value in sorted(facts.items()) if name.startswith("num_")}
    if counts:  # of files that were left out, say
        lines.append(("files", ", ".join(f"{name} {value:,.0f}" for name, value in counts.items())))
    lines.append(("folder", f"{folder} (verbose=true prints all numbers)"))
    lines.append(("next", _next(record, folder)))
    said = facts.get("collapse", {}).get("said")
    return [*(f"{name:8s}  {text}" for name, text in lines), *([said] if said and record["outcome"] == "done" else [])]


def _outcome(record: Mapping[str, Any]) -> str:
    why = record["facts"].get("why") or (record["facts"].get("collapse", {}).get("said") or "")
    return f"{record['outcome']}: {why}" if record["outcome"] != "done" and why else str(record["outcome"])


def _judged(results: Mapping[str, float]) -> Iterable[tuple[str, str]]:
    """A line for each evaluation, `ridge  digit_top1 12.50`; the last for all that are more than MOST."""
    found: dict[str, list[str]] = {}
    for name, value in sorted(results.items()):
        kind, _, word = name.partition("/")
        if kind not in ("cost", "mask", "collapse"):
            found.setdefault(kind, []).append(f"{word} {value:.2f}")
    lines = [
        (kind, ", ".join(told[:4]) + (f" and {len(told) - 4} more" if len(told) > 4 else ""))
        for kind, told in found.items()
    ]
    return (
        lines
        if len(lines) <= MOST
        else [*lines[: MOST - 1], ("also", ", ".join(kind for kind, _ in lines[MOST - 1 :]))]
    )


def _time(facts: Mapping[str, Any]) -> str:
    told = [f"{facts['train_seconds']:,.1f} s training"]
    if "eval_seconds" in facts:
        told.append(f"{facts['eval_seconds']:,.1f} s judging")
    if "wall_seconds" in facts:
        told.append(f"{facts['wall_seconds']:,.1f} s in all")
    if "peak_memory_bytes" in facts:
        told.append(f"{facts['peak_memory_bytes'] / 2**30:.1f} GiB")
    return ", ".join(told) + (f" ({facts['device']})" if "device" in facts else "")


def _next(record: Mapping[str, Any], folder: str) -> str:
    """Judging by what the run was not judged by; of one without labels or numbers, its curves."""
    kinds = {name.partition("/")[0] for name in record["results"]}
    has_labels = any(name.endswith("_top1") for name in record["results"])
    other = next((kind for kind in OTHERS if kind not in kinds), None)
    place = shlex.quote(f"runtime.dir={folder}")
    if record["outcome"] == "done" and has_labels and other is not None:
        return f"python -m core.evaluate {place} evals=[{other}]"
    return f"tensorboard --logdir {shlex.quote(folder)}"


def whole(record: Mapping[str, Any]) -> list[str]:
    """Every number and fact of a result, a line each."""
    lines = [f"outcome  {record['outcome']}"]
    lines += [f"{f'fingerprint of {group}':32s} {value}" for group, value in sorted(record.get("data", {}).items())]
    lines += [f"{name:32s} {value:10.3f}" for name, value in sorted(record["results"].items())]
    for name, value in sorted(record["facts"].items()):
        if name == "collapse":
            continue  # last, in words
        if isinstance(value, list):  # one line each: names of files
            value = f"\n{'':33s}".join(map(str, value))
        lines.append(f"{name:32s} {value if isinstance(value, str) else f'{value:10,.1f}'}")
    if said := record["facts"].get("collapse", {}).get("said"):
        lines.append(said)
    return lines
