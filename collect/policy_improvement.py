"""`worldmodel improve policy`: compare actions in dreams, then move the policy towards the better ones.

Policy iteration by rollouts (Tesauro and Galperin 1996; Lagoudakis and Parr 2003), with two changes: the dreams of a
state share their random numbers, and the policy climbs its expected advantage under the comparisons instead of
imitating the best action, which would follow their noise.

Shapes: N states, A actions, B batch, C h w of an observation.
"""

from __future__ import annotations

import json
import math
import shutil
import time
import zlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.collect.action_comparison import Comparisons, action_probabilities, compare_actions
from worldmodel.collect.improve_config import ImprovePolicy
from worldmodel.collect.learner_config import LearnerConfig
from worldmodel.collect.learner_envs import check_world, dream_keywords
from worldmodel.collect.learner_model import save_model
from worldmodel.collect.policy_files import file_hash, find_policy_file
from worldmodel.common.errors import UserError
from worldmodel.common.files import expand_path, write_json_atomic
from worldmodel.common.mirroring import action_mirror
from worldmodel.common.run_info import check_same_run, load_run_info, remove_run, save_run_info
from worldmodel.common.spaces import Discrete, from_gymnasium
from worldmodel.common.torch_state import isolated_torch_state
from worldmodel.data import Dataset
from worldmodel.metrics.statistics import ratio
from worldmodel.world.hub import find_world
from worldmodel.world.world_model import WorldModel

BATCHES = 16  # of comparisons in a file
HELD_OUT = 10  # every tenth file, from the second on, begins in validation episodes and measures the gain


@dataclass(frozen=True)
class Examples:
    """Comparisons as tensors.

    Attributes:
        observations: (N, C, h, w) uint8.
        advantages: (N, A) float32, returns minus their mean over the actions, divided by their deviation.
        probabilities: (N, A) float32, of the old policy.
    """

    observations: Tensor
    advantages: Tensor
    probabilities: Tensor


def improve_policy(config: ImprovePolicy) -> Path:
    """Run `worldmodel improve policy`: run, continue a stopped run, or print the result of a finished one.

    Args:
        config: the resolved config.

    Returns:
        The path of policy.zip.

    Raises:
        UserError: no such policy or world, a policy that has no policy.json or whose actions are not Discrete, or
            another run at `config.out`.
    """
    starts_from = tuple(expand_path(path) for path in config.starts_from)
    config = replace(config, policy=expand_path(config.policy), out=expand_path(config.out), starts_from=starts_from)
    out = config.out
    if config.force:
        remove_run(out)
    check_same_run(out / "run.json", out, config)
    if not (out / "policy.zip").exists():
        _improve(config)
    result = json.loads((out / "policy.json").read_text())["result"]
    if config.json:
        print(json.dumps({"policy": str(out / "policy.zip"), **result}))
    else:
        interval = "{mean:+.5f} [{low:+.5f}, {high:+.5f}]".format(**result["gain"])
        print(
            f"{out / 'policy.zip'}: {result['states']} states compared in {result['minutes']:.1f} min; "
            f"gain in return from one decision by the new policy in held-out dreams: {interval}."
        )
    return out / "policy.zip"


@isolated_torch_state()
def _improve(config: ImprovePolicy) -> None:
    file = find_policy_file(config.policy, "policy")
    settings = file.with_name("policy.json")
    if not settings.exists():
        raise UserError(f"{config.policy}: wanted a directory with policy.json, as `train policy` writes it.")
    saved = json.loads(settings.read_text())
    learner = LearnerConfig.from_json(saved["learner"])
    if learner.algo not in ("ppo", "a2c"):
        raise UserError(f"{config.policy} was trained by {learner.algo}; wanted a policy of ppo or a2c.")
    check_world(config.world, config.out)
    model = load_model(file, learner.algo)
    world = WorldModel.from_pretrained(find_world(config.world), "cpu")
    hashes = {
        "policy_sha256": file_hash(file),
        "world_sha256": file_hash(find_world(config.world) / "model.safetensors"),
        "data_fingerprints": [_fingerprint(path, world) for path in config.starts_from],
    }
    _check_inputs(config.out, hashes)
    config.out.mkdir(parents=True, exist_ok=True)
    save_run_info(config.out / "run.json", "improve policy", config, **hashes)
    parts, minutes = _compare(config, learner, world, model)
    mirrored = _mirrored_actions(config, learner, world)
    begin = time.monotonic()
    result = fit(model, parts, config, mirrored)
    result |= {"minutes": minutes, "fit_minutes": (time.monotonic() - begin) / 60}
    write_json_atomic(config.out / "policy.json", {**saved, "learner": asdict(learner), "result": result})
    save_model(model, config.out / "policy.zip", exclude=("tensorboard_log",))
    shutil.rmtree(config.out / "labels", ignore_errors=True)


def _fingerprint(path: Path, world: WorldModel) -> str:
    with Dataset.open_cropped(path, world.spec.pixels) as data:
        return data.fingerprint


def _check_inputs(out: Path, hashes: dict[str, Any]) -> None:
    """Refuse to continue comparisons of another policy, world or recording.

    Raises:
        UserError: an input has changed since the run was stopped.
    """
    if not (out / "run.json").exists():
        return
    before = load_run_info(out / "run.json")
    for name, value in hashes.items():
        if before.get(name, value) != value:
            raise UserError(
                f"{out} was begun with another {name.split('_')[0]}: its {name} was {before[name]}, is {value}. Give "
                "--force to remove what was compared, or another --out."
            )


def load_model(file: Path, algo: str) -> Any:
    """The SB3 model of a file, on the CPU.

    Raises:
        UserError: its actions are not Discrete.
    """
    import stable_baselines3

    model = getattr(stable_baselines3, algo.upper()).load(file, device="cpu")
    require_discrete(model, file)
    return model


def require_discrete(model: Any, name: str | Path) -> None:
    """Refuse an SB3 model whose actions cannot be compared one by one.

    Raises:
        UserError: its actions are not Discrete, or it has no distribution of them.
    """
    space = from_gymnasium(model.action_space)
    if not isinstance(space, Discrete) or not hasattr(model.policy, "get_distribution"):
        raise UserError(
            f"{name} is a {type(model).__name__} with actions {space}; wanted PPO or A2C with a Discrete action space, "
            "whose actions can be compared."
        )


def _compare(
    config: ImprovePolicy, learner: LearnerConfig, world: WorldModel, model: Any
) -> tuple[list[Comparisons], float]:
    """The files of comparisons, those of a stopped run first, until the minutes are used or there are enough states.

    A file whose states are held out (`_is_held_out`) begins in validation episodes, the others in training episodes.
    """
    from tqdm import tqdm

    from worldmodel.dream import DreamLearnerEnv

    folder = config.out / "labels"
    folder.mkdir(exist_ok=True)
    loaded = [Comparisons.load(path) for path in sorted(folder.glob("*.npz"))]
    parts, minutes = [part for part, _ in loaded], sum(spent for _, spent in loaded)
    num_actions = int(model.action_space.n)
    settings = replace(
        learner,
        horizon=None,
        mirror=False,
        disagreement_penalty=0.0,
        temperature=config.temperature,
        start_before_end=config.start_before_end,
        backend=config.backend,
    )
    rows = num_actions * max(1, config.num_envs // num_actions)
    dreams: dict[str, Any] = {}
    with tqdm(initial=sum(map(len, parts)), unit="state", desc="comparing") as bar:
        while len(parts) < 2 or (minutes < config.minutes and sum(map(len, parts)) < (config.states or math.inf)):
            split = "validation" if _is_held_out(len(parts)) else "train"
            if split not in dreams:  # the encoding of the starts is not part of the budget
                options = {**dream_keywords(settings), "num_starts": config.num_starts, "seed": config.seed}
                dreams[split] = DreamLearnerEnv(
                    world, rows, **options, starts_from=config.starts_from, starts_split=split
                )
                check_spaces(config.policy, config.world, model, dreams[split])
            begin, batches = time.monotonic(), []
            for i in range(BATCHES):
                seed = (config.seed, len(parts), i)
                batches.append(compare_actions(dreams[split], model, config.decisions, learner.gamma, seed))
                bar.update(len(batches[-1]))
            part, spent = Comparisons.concatenate(batches), (time.monotonic() - begin) / 60
            part.save(folder / f"{len(parts):05d}.npz", spent)
            parts.append(part)
            minutes += spent
            bar.set_postfix(minutes=f"{minutes:.1f}/{config.minutes:g}")
    return parts, minutes


def _is_held_out(number: int) -> bool:
    """Whether the states of a file of comparisons, numbered from 0, are not learned from."""
    return number % HELD_OUT == 1


def check_spaces(policy: str | Path, world: str | Path, model: Any, dreams: Any) -> None:
    """Refuse a world that the policy was not trained for.

    Raises:
        UserError: the policy has other observations or actions than the dreams.
    """
    for name in ("observation_space", "action_space"):
        own, dreamed = getattr(model, name), getattr(dreams, name)
        if own != dreamed:
            raise UserError(
                f"{policy} has {name} {own}, in dreams of {world} it would be {dreamed}; give the world "
                "of the environment that the policy was trained for."
            )


def _mirrored_actions(config: ImprovePolicy, learner: LearnerConfig, world: WorldModel) -> np.ndarray | None:
    """(A,) int64, the action that each becomes in a mirror; None if flipped frames are not used."""
    spec, view = world.spec, learner.view
    width = spec.pixels.size[1]
    if not config.mirror or learner.last_action or (view is not None and view[2] + view[3] != width):
        return None
    try:
        mirror = action_mirror(spec.env, spec.action_space, spec.action_labels, spec.pixels)
    except UserError:  # the environment declares none
        return None
    num_actions = spec.action_space.n  # type: ignore[union-attr]
    return mirror.rows(np.arange(num_actions), np.ones(num_actions, bool))


def fit(model: Any, parts: list[Comparisons], config: ImprovePolicy, mirrored: np.ndarray | None) -> dict[str, Any]:
    """Move a policy towards the better actions; its value network is not trained.

    Args:
        model: the policy, changed in place.
        parts: at least two; the second and every tenth after it are held out.
        config: epochs, batch_size, learning_rate, kl_weight, entropy and seed.
        mirrored: (A,) int64, see `_mirrored_actions`; None for none.

    Returns:
        "states"; "gain", the mean over held-out states of what the new policy expects to return more than the old
        one in one decision, with its 95 % interval; "changed", the share of them whose most likely action changed.
    """
    from tqdm import tqdm

    train, test = (
        Comparisons.concatenate([part for i, part in enumerate(parts) if _is_held_out(i) == held_out])
        for held_out in (False, True)
    )
    examples = _examples(train)
    if mirrored is not None:
        examples = _with_mirrored(model, examples, torch.from_numpy(mirrored))
    size = len(examples.advantages)
    steps = config.epochs * -(-size // config.batch_size)
    weights = list(model.policy.parameters())
    optimiser = torch.optim.AdamW(weights, config.learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.learning_rate, total_steps=max(2, steps))
    generator = torch.Generator().manual_seed(config.seed)
    with tqdm(total=steps, unit="step", desc="learning") as bar, torch.enable_grad():
        for _ in range(config.epochs):
            for rows in torch.randperm(size, generator=generator).split(config.batch_size):
                loss = _loss(model, examples, rows, config)
                optimiser.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(weights, 1.0)
                optimiser.step()
                schedule.step()
                bar.update()
    return {"states": len(train) + len(test), **_gain(model, test)}


def _examples(comparisons: Comparisons) -> Examples:
    returns = torch.from_numpy(comparisons.returns)
    advantages = returns - returns.mean(1, keepdim=True)
    deviation = advantages.square().mean().sqrt().clamp_min(1e-8)
    return Examples(
        torch.from_numpy(comparisons.observations), advantages / deviation, torch.from_numpy(comparisons.probabilities)
    )


def _with_mirrored(model: Any, examples: Examples, mirrored: Tensor) -> Examples:
    """The examples and their mirror images."""
    flipped = examples.observations.flip(-1)
    probabilities = [action_probabilities(model, part.numpy()) for part in flipped.split(256)]
    return Examples(
        torch.cat([examples.observations, flipped]),
        torch.cat([examples.advantages, examples.advantages[:, mirrored]]),
        torch.cat([examples.probabilities, torch.from_numpy(np.concatenate(probabilities))]),
    )


def _loss(model: Any, examples: Examples, rows: Tensor, config: ImprovePolicy) -> Tensor:
    """Minus the expected advantage and the entropy bonus, plus the divergence from the old policy."""
    log_probs = model.policy.get_distribution(examples.observations[rows]).distribution.logits  # (B, A), normalized
    probs = log_probs.exp()
    old = examples.probabilities[rows].clamp_min(1e-6).log()
    value = (probs * examples.advantages[rows]).sum(1)
    entropy, divergence = -(probs * log_probs).sum(1), (probs * (log_probs - old)).sum(1)
    return (config.kl_weight * divergence - value - config.entropy * entropy).mean()


def _gain(model: Any, test: Comparisons) -> dict[str, Any]:
    """The gain on held-out states, see `fit`."""
    parts = np.array_split(np.arange(len(test)), -(-len(test) // 256))
    new = np.concatenate([action_probabilities(model, test.observations[rows]) for rows in parts])
    gains = ((new - test.probabilities) * test.returns).sum(1)
    states = np.array([zlib.crc32(observation.tobytes()) for observation in test.observations])
    gain = ratio(gains, np.ones(len(gains)), units=states)  # a state may be compared several times
    changed = float((new.argmax(1) != test.probabilities.argmax(1)).mean())
    return {"gain": gain.to_json(), "changed": changed}
