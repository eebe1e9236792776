"""The five figures with which the demo's page opens, each with a plain sentence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

KeyFigure = tuple[str, str]  # the figure, and what it means


def key_figures(
    dream: dict[str, Any], evaluation: dict[str, Any], test_rows: list[dict[str, Any]], policy_world: str
) -> list[KeyFigure]:
    """Policy outside, length of dreams, obedience, prediction and speed; what was not measured is left out.

    Args:
        dream: the content of dream.json, with `steps_per_second` by batch size.
        evaluation: what `worldmodel.metrics.evaluate` returns.
        test_rows: rows of `eval policy`, the dream's policy first.
        policy_world: the world that the policy learned in.
    """
    found = (
        _policy(test_rows, policy_world),
        _survival(evaluation),
        _obedience(evaluation),
        _prediction(evaluation),
        _speed(dream),
    )
    return [figure for figures in found for figure in figures]


def values_of(evaluation: dict[str, Any], metric: str) -> list[dict[str, Any]]:
    """The values of one metric of an evaluation; none if it was not measured."""
    return next((s[metric]["values"] for s in evaluation["sections"].values() if metric in s), [])


def _policy(rows: list[dict[str, Any]], world: str) -> Iterator[KeyFigure]:
    random = next((row for row in rows[1:] if row["policy"] == "random"), None)
    if random is None:
        return
    gain = random["first_minus_this"]
    verdict = "better" if gain["low"] > 0 else "worse" if gain["high"] < 0 else "no significant difference"
    others = [f"{row['policy']} play {row['return_mean']:.0f}" for row in rows[1:] if row is not random]
    interval = f"{gain['low']:+.0f} to {gain['high']:+.0f}"
    yield (
        f"{rows[0]['return_mean']:.0f}",
        f"return in the real game of a policy that learned only in dreams of {world}. Random play reaches "
        f"{random['return_mean']:.0f} on the same seeds: {verdict} (difference {gain['mean']:+.0f}, 95 % interval "
        f"{interval})." + (f" For comparison: {', '.join(others)}." if others else ""),
    )


def _survival(evaluation: dict[str, Any]) -> Iterator[KeyFigure]:
    for value in values_of(evaluation, "steps_survived"):
        policy, _, steps = value["label"].rpartition(", ")
        if policy.startswith("random") and value["value"]["mean"] is not None:
            real = value["baselines"]["real"]["mean"]
            yield (
                f"{value['value']['mean']:.0f}",
                f"steps that random play survives in a dream, of {steps} at most. In recorded episodes it survives "
                f"{real:.0f}: a world whose dreams are much longer or shorter promises the wrong thing.",
            )
            return


def _obedience(evaluation: dict[str, Any]) -> Iterator[KeyFigure]:
    for value in values_of(evaluation, "nats"):
        other = value["baselines"].get("other actions")
        if other is not None and value["value"]["mean"] is not None:
            yield (
                f"{other['mean'] - value['value']['mean']:.2f}",
                f"nats per code by which frames become less likely if the world is given another clip's actions "
                f"({value['value']['mean']:.2f} with the true ones, {other['mean']:.2f} with others). 0 would mean "
                "that it ignores actions.",
            )
            return


def _prediction(evaluation: dict[str, Any]) -> Iterator[KeyFigure]:
    for value in values_of(evaluation, "psnr"):
        repeat = value["baselines"].get("repeat last")
        if value["label"].startswith("1 ahead") and repeat is not None:
            yield (
                f"{value['value']['mean']:.1f} dB",
                f"PSNR of the next frame in a dream, compared with the recorded one. Repeating the last frame gives "
                f"{repeat['mean']:.1f} dB.",
            )
            return


def _speed(dream: dict[str, Any]) -> Iterator[KeyFigure]:
    speeds = {int(batch): speed for batch, speed in dream["steps_per_second"].items()}
    if speeds:
        most, least = max(speeds), min(speeds)
        yield (
            f"{speeds[most]:,.0f}",
            f"steps of dreams per second on one thread, {most} dreams at once; {speeds[least]:,.0f} with "
            f"{'one dream' if least == 1 else f'{least} dreams'}.",
        )
