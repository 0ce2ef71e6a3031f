"""`analysis.numbers.agreement` in words: the page `tables/agreement.md` and sentences over all tables of a scale."""

from __future__ import annotations

import math
from collections.abc import Sequence

from analysis.numbers.agreement import FEWEST_ROWS, Comparison, Summary, counted
from analysis.numbers.stats import CONFIDENCE, widening
from analysis.tables.render import escape_markdown
from sweeps.study.metric_words import metric_words

_HEADER = ("table", "printed", "ours", "rows", "seeds", "Kendall's τ_b", "Spearman's ρ", "same sign", "of clear ones")


def markdown(summaries: Sequence[Summary]) -> str:
    """The page `tables/agreement.md`."""
    lines = [
        "# Agreement with the papers",
        "",
        "Written by `python -m analysis.report`; do not edit.",
    ]
    if not summaries:
        return "\n".join([*lines, "", "No table has two rows with all their seeds that the paper prints too.", ""])
    lines += ["", "![rank correlation and agreement of signs, a line a table](../figures/agreement.svg)"]
    for summary in summaries:
        found = [f"- {text}".replace("τ_b", "τ\\_b") for text in totals(summary)]
        lines += ["", f"## Scale {summary.scale}", "", *found, ""]
        lines += ["| " + " | ".join(map(escape_markdown, _HEADER)) + " |", "|:--|:--|:--|--:|--:|--:|--:|--:|--:|"]
        lines += [_line(comparison) for comparison in summary.comparisons]
        if summary.not_compared:
            names = escape_markdown(", ".join(summary.not_compared))
            lines += ["", f"Fewer than two whole rows that the paper prints: {names}."]
        lines += ["", "What differs from the papers beside the scale:", ""]
        seen = dict.fromkeys((c.study, c.place, c.differs) for c in summary.comparisons)
        lines += [f"- {escape_markdown(f'{study}: printed {place}; ours {ours}')}" for study, place, ours in seen]
        digests = dict.fromkeys(f"{c.study} {c.digest}" for c in summary.comparisons)
        lines += ["", f"<sub>database digests: {escape_markdown(', '.join(digests))}</sub>"]
    return "\n".join([*lines, "", "\n\n".join(NOTES).replace("τ_b", "τ\\_b"), ""])


NOTES = (
    "τ_b and ρ compare the order of our rows with the printed one, with the baseline, without the random "
    "initialisation: 1 is the same order, −1 the reverse, 0 what chance gives. In brackets the 95 % interval, about "
    "the value itself: as wide as it varies over resamples of the runs' seeds (Rubin's Bayesian bootstrap, one draw "
    "for all tables, as they share runs), and by how far these are pulled towards 0, as the value was by its own "
    "noise. So few seeds make a bootstrap too narrow: each resample's distance from the "
    f"means is taken {widening(3):.1f} times for three seeds, as much as a t-interval is wider. Two rows have only 1 "
    "and −1 and are left out of the mean over tables, as is a table of the same configurations as one before it; rows "
    "that lack a number are left out and named. Where rows differ by less than half of what their seeds do, noise "
    "orders them, and the mean's interval holds that of the true means in fewer than 95 % "
    "(`python -m benchmarks.agreement_coverage`).",
    "The mean gain over random initialisation has rliable's stratified bootstrap as it is defined, which three seeds a "
    "recipe make about a fifth too narrow.",
    "Same sign: of the rows that the paper prints above or below its baseline, how many lie on that side here. Of "
    "clear ones: the same among those whose interval, as their table has it, excludes zero. Over all tables a pair of "
    "our configurations counts once. By chance alone half would agree. What coins give is of independent ones, which "
    "differences to one baseline are not: chance reaches somewhat further.",
)


def by_chance(num: int) -> tuple[int, int]:
    """How many of `num` coins show heads in 95 of 100 tries: the fewest and the most."""
    tail, seen, low = (1 - CONFIDENCE) / 2, 0.0, 0
    for heads in range(num + 1):
        seen += math.comb(num, heads) / 2**num
        if seen > tail:
            low = heads
            break
    return low, num - low


def beside_chance(num: int) -> str:
    """`by chance 41.5; coins give 33 to 50`; of so few that coins may well all fall alike, that they are too few."""
    low, high = by_chance(num)
    return f"by chance {num / 2:g}; coins give {low} to {high}" if low else "too few to tell from chance"


def totals(summary: Summary) -> list[str]:
    """What is said over all tables of a scale, in sentences."""
    signs = counted(summary.comparisons)
    clear = [sign for sign in signs if sign.is_clear]
    same, clear_same = sum(sign.is_same for sign in signs), sum(sign.is_same for sign in clear)
    lines = []
    if signs:
        lines.append(
            f"{same} of {len(signs)} differences to the baseline have the printed sign ({beside_chance(len(signs))}), "
            f"each pair of configurations counted once; of the {len(clear)} of ours that are clear of zero, "
            f"{clear_same} ({beside_chance(len(clear))})."
        )
    if summary.tau:
        lines.append(
            f"Interquartile mean of τ_b over {summary.tau.num_seeds} tables of {FEWEST_ROWS} rows or more: "
            f"{with_interval(summary.tau.mean, summary.tau.low, summary.tau.high)}; chance gives 0."
        )
    if summary.gain:
        gain = summary.gain
        lines.append(
            f"Interquartile mean of what pretraining gains over random initialisation, {gain.num_seeds} seeds of "
            f"{summary.num_recipes} default recipes: {gain.mean:.1f} points of top-1 [{gain.low:.1f}, {gain.high:.1f}]."
        )
    return [line.replace("-0.", "−0.") for line in lines]


def _line(comparison: Comparison) -> str:
    c = comparison
    rows = f"{len(c.rows)}" + (f" (without {', '.join(c.left_out)})" if c.left_out else "")
    fields = [
        f"[{escape_markdown(c.study)}]({c.study}.md)",
        escape_markdown(c.quantity or c.place),
        escape_markdown(metric_words(c.metric)),
        escape_markdown(rows),
        str(c.num_seeds),
        with_interval(c.tau, *c.tau_interval),
        with_interval(c.rho, *c.rho_interval),
        f"{c.num_same} of {c.num_signs}" if c.num_signs else "–",
        f"{c.num_clear_same} of {c.num_clear}" if c.num_clear else "–",
    ]
    return "| " + " | ".join(fields) + " |"


def with_interval(value: float, low: float, high: float) -> str:
    """`0.67 [0.33, 1.00]`; a dash where there is no value, no brackets where there is no interval."""
    if not math.isfinite(value):
        return "–"
    text = f"{value:.2f}" + (f" [{low:.2f}, {high:.2f}]" if math.isfinite(low) else "")
    return text.replace("-", "−")
