"""Recording whole episodes to one sealed file; stopped at any moment, the same call goes on.

While it records, `NAME.h5.parts/` holds the part files, the workers' logs and a lock; sealing writes NAME.h5 and
removes the folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

import worldmodel
from worldmodel.collect.config import parse_mix
from worldmodel.collect.policies import (
    CallablePolicy,
    Policy,
    PolicySpec,
    check_fits,
    choose,
    mix,
    spec_of,
)
from worldmodel.collect.rollout import play
from worldmodel.collect.supervisor import Supervisor
from worldmodel.data.dataset import Dataset
from worldmodel.data.files import check_free_space
from worldmodel.data.hdf5 import seal
from worldmodel.data.header import Header, PolicyRecord
from worldmodel.data.parts import PartWriter
from worldmodel.errors import UserError

IGNORED = ("code_version",)  # header fields in which a continued recording may differ


@dataclass
class Plan:
    """What a recording is: everything that decides the bytes of its file."""

    out: Path
    header: Header
    policies: tuple[PolicySpec, ...]
    env: str | Callable[[], Any]
    env_kwargs: dict[str, Any]

    @property
    def folder(self) -> Path:
        """The working folder beside the file."""
        return self.out.with_name(self.out.name + ".parts")

    def indices(self) -> range:
        """The episode numbers of this shard."""
        i, n = self.header.shard
        return range(i, self.header.num_episodes, n)


def make_header(meta: Any, policies: Sequence[PolicySpec], seed: int, episodes: int, shard: tuple[int, int]) -> Header:
    """The header of a recording of the world that `meta` (a `WorldMeta`) describes."""
    return Header(
        env=meta.id,
        env_kwargs=meta.kwargs,
        pixels=meta.pixels,
        action_space=meta.action_space,
        action_labels=tuple(meta.action_labels),
        frame_skip=meta.frame_skip,
        max_steps=meta.max_steps,
        variables=tuple(meta.variables),
        policies=tuple(
            PolicyRecord(p.name, p.hash, {"kind": p.kind, "epsilon": p.epsilon, **p.params}, p.share) for p in policies
        ),
        seed=seed,
        shard=shard,
        num_episodes=episodes,
        code_version=worldmodel.__version__,
    )


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the recording's folder for this process.

    Raises:
        UserError: another process records there, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("a")
    except OSError as error:
        raise UserError(f"cannot write {folder}: {os.strerror(error.errno or 0)}. Choose another --out.") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is recording to {folder}; wait for it or choose another --out.") from None
        yield


def estimate(header: Header, episodes: int) -> int | None:
    """Upper bound in bytes of that many episodes, None if they have no cap."""
    if header.max_steps is None:
        return None
    height, width, channels = header.pixels.frame_shape
    return episodes * (header.max_steps + 1) * (height * width * channels + 64)


def record_plan(
    plan: Plan,
    workers: int,
    *,
    env: Any = None,
    policy: Policy | None = None,
    progress: bool = True,
    force: bool = False,
    on_episode: Callable[[int, int], None] | None = None,
) -> Path:
    """Record what is missing, seal it, and remove the working folder.

    Args:
        plan: what to record.
        workers: processes; ignored where `env` is given.
        env: a `PixelWorld` of this process to play in instead.
        policy: with `env`: an object of this process that plays every episode.
        progress: show a bar on stderr.
        force: remove what stands at `plan.out` first.
        on_episode: called with (index, steps) when an episode is on disk.

    Returns:
        The path of the sealed file.

    Raises:
        UserError: another recording stands there, the disk is too small or cannot be written, a policy does not fit.
    """
    if force:
        plan.out.unlink(missing_ok=True)
        shutil.rmtree(plan.folder, ignore_errors=True)
    if plan.out.exists():
        if _same(Dataset(plan.out).header, plan.header):
            return plan.out
        raise UserError(f"{plan.out} is another recording; choose another --out, or --force to remove it.")
    with locked(plan.folder):
        saved = plan.folder / "plan.json"
        if saved.exists():
            state = json.loads(saved.read_text())
            if not _same(Header.from_json(state["header"]), plan.header):
                raise UserError(
                    f"{plan.folder} holds another recording that was stopped; choose another --out, or --force."
                )
        else:
            state = {"header": plan.header.to_json(), "token": uuid.uuid4().hex}
            temporary = saved.with_suffix(".tmp")
            temporary.write_text(json.dumps(state))
            os.replace(temporary, saved)
        _record_missing(
            plan,
            Header.from_json(state["header"]),
            state["token"],
            workers,
            env,
            policy,
            progress,
            on_episode,
        )
        seal(sorted(plan.folder.glob("part-*.bin")), plan.out, indices=plan.indices())
    shutil.rmtree(plan.folder)
    return plan.out


def _same(a: Header, b: Header) -> bool:
    left, right = a.to_json(), b.to_json()
    return all(left[k] == right[k] for k in left if k not in IGNORED)


def _record_missing(
    plan: Plan,
    header: Header,
    token: str,
    workers: int,
    env: Any,
    policy: Policy | None,
    progress: bool,
    on_episode: Callable[[int, int], None] | None,
) -> None:
    from worldmodel.envs import engines

    marks = plan.folder / "engines"
    marks.mkdir(exist_ok=True)
    engines.sweep(token, marks)
    done: set[int] = set()
    for path in sorted(plan.folder.glob("part-*.bin")):
        with PartWriter(path, header) as part:  # cuts a torn tail
            done |= set(part.indices)
    wanted = plan.indices()
    count = len(wanted) - len(done)
    kept = sum(p.stat().st_size for p in plan.folder.glob("part-*.bin"))
    coming = estimate(header, count)
    if coming is not None:
        what = f"recording {count} episodes of up to {header.max_steps} steps, with their sealed copy,"
        check_free_space(plan.out, kept + 2 * coming, what)
    missing = [e for e in wanted if e not in done]
    with tqdm(
        total=len(wanted),
        initial=len(wanted) - len(missing),
        unit="episode",
        desc="recording",
        disable=not progress,
    ) as bar:
        steps = 0

        def on_done(index: int, length: int) -> None:
            nonlocal steps
            steps += length
            rate = round(steps / max(bar.format_dict["elapsed"], 1e-9))
            bar.set_postfix(refresh=False, steps=steps, steps_per_s=rate)
            bar.update()
            if on_episode is not None:
                on_episode(index, length)

        if not missing:
            return
        if env is not None:
            _record_here(plan, header, missing, env, policy, on_done)
            return
        import cloudpickle

        job = plan.folder / "job.pkl"
        job.write_bytes(
            cloudpickle.dumps(
                {
                    "env": plan.env,
                    "env_kwargs": plan.env_kwargs,
                    "policies": plan.policies,
                    "header": header,
                    "seed": header.seed,
                    "token": token,
                    "marks": str(marks),
                    "parts": str(plan.folder),
                }
            )
        )
        Supervisor(job, plan.folder, workers, lambda: engines.sweep(token, marks)).run(missing, on_done)


def _record_here(
    plan: Plan,
    header: Header,
    missing: list[int],
    env: Any,
    policy: Policy | None,
    on_done: Callable[[int, int], None],
) -> None:
    """Record in this process, in the caller's own environment."""
    space = header.action_space
    players = [policy] if policy is not None else [spec.build(space) for spec in plan.policies]
    shares = [spec.share for spec in plan.policies]
    with PartWriter(plan.folder / "part-000.bin", header) as part:
        for index in missing:
            which = choose(shares, header.seed, index)
            episode = play(env, players[which], index=index, seed=header.seed, policy_name=plan.policies[which].name)
            part.append(episode)
            on_done(index, episode.length)


def record(
    env: Any,
    policy: Any,
    path: str | Path,
    *,
    episodes: int = 100,
    seed: int = 0,
    workers: int = 1,
    mix_with: str = "",
    epsilon: float = 0.0,
    shard: tuple[int, int] = (0, 1),
    progress: bool = True,
    force: bool = False,
    **env_kwargs: Any,
) -> Path:
    """Record whole episodes of any gymnasium environment to one dataset file.

    Called again after an interruption, it goes on; called again when done, it returns at once.

    Args:
        env: a short name or gymnasium id, a gymnasium environment, or a callable that makes one. A name or a
            callable may be recorded by several processes; an environment is played in this one.
        policy: "random", "sticky", "periodic", a policy FILE.zip, a Stable-Baselines3 model, an object with
            `begin(rng)` and `act(frame)`, or a function frame (H, W, 3) uint8 -> action.
        path: the dataset to make, NAME.h5.
        episodes: how many, over all shards.
        seed: of the whole recording; episode e is a function of (seed, e, policy).
        workers: processes; changes nothing in the file.
        mix_with: shares of episodes for other named policies, "random=0.2".
        epsilon: share of uniform random steps.
        shard: (i, n): record the episodes e with e mod n = i.
        progress: show a bar on stderr.
        force: remove another recording at `path` first.
        **env_kwargs: `size`, `crop`, `max_steps` and the environment's own arguments.

    Returns:
        The path of the sealed file.

    Raises:
        UserError: anything that the caller can mend, in one sentence.
    """
    from worldmodel import envs
    from worldmodel.envs.foreign import as_pixels

    if episodes < 1 or workers < 1:
        raise UserError(f"record: got episodes={episodes}, workers={workers}; wanted at least 1 of each.")
    named = isinstance(env, str)
    makes = callable(env) and not hasattr(env, "reset")
    if not (named or makes) and workers > 1:
        raise UserError("an environment object cannot be shared by processes: pass its id or a callable, or workers=1.")
    world = envs.make(env, **env_kwargs) if named else as_pixels(env() if makes else env, **env_kwargs)
    own_world = named or makes
    try:
        meta = world.meta
        defaults = envs.policy_defaults(env) if named else {}
        player = _player(policy)
        if isinstance(policy, str | Path):
            spec = spec_of(str(policy), meta.action_space, defaults, epsilon)
        else:
            if epsilon:
                raise UserError("epsilon wants a policy by name or file; add the randomness to your own policy.")
            spec = PolicySpec(getattr(policy, "__name__", type(policy).__name__), "object")
        shares = parse_mix(mix_with)
        if player is not None and (shares or workers > 1):
            raise UserError(
                "a policy object plays alone in this process: drop mix_with and workers, or pass a name or file."
            )
        others = [_shared(spec_of(name, meta.action_space, defaults, epsilon), s) for name, s in shares.items()]
        policies = mix(spec, others)
        for each in policies:
            check_fits(each, meta.action_space, meta.pixels.frame_shape)
        header = make_header(meta, policies, seed, episodes, shard)
        plan = Plan(Path(path), header, policies, env if own_world else "", env_kwargs)
        here = None if own_world and workers > 1 else world
        return record_plan(plan, workers, env=here, policy=player, progress=progress, force=force)
    finally:
        if own_world:
            world.close()


def _shared(spec: PolicySpec, share: float) -> PolicySpec:
    from dataclasses import replace

    return replace(spec, share=share)


def _player(policy: Any) -> Policy | None:
    """A policy object of the caller's, or None for one that is named."""
    if isinstance(policy, str | Path):
        return None
    if hasattr(policy, "begin") and hasattr(policy, "act"):
        return policy
    if hasattr(policy, "predict"):
        from worldmodel.collect.config import Learner
        from worldmodel.collect.policies import LearnedPolicy

        channels = policy.observation_space.shape
        depth = max(min(channels) // 3, 1) if channels else 1
        return LearnedPolicy(policy, Learner(frame_stack=depth))
    if callable(policy):
        return CallablePolicy(policy)
    raise UserError(
        f"policy {policy!r}: wanted a name, a FILE.zip, an SB3 model, an object with begin and act, or a function."
    )
