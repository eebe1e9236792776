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

from worldmodel.collect.policies import Policy
from worldmodel.collect.policy_specs import PolicySpec, choose
from worldmodel.collect.rollout import play
from worldmodel.collect.supervisor import Supervisor
from worldmodel.common.errors import UserError
from worldmodel.common.files import check_free_space, sync_folder
from worldmodel.common.version import VERSION
from worldmodel.data.dataset import Dataset
from worldmodel.data.header import Header, PolicyRecord
from worldmodel.data.parts import PartWriter
from worldmodel.data.sealing import seal

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
    """The header of a recording of the world that `meta` (a `EnvMeta`) describes."""
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
        code_version=VERSION,
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
        env: a `PixelEnv` of this process to play in instead.
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
            if plan.folder.exists():  # killed after the file was in place
                with locked(plan.folder):
                    shutil.rmtree(plan.folder)
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
        # sealed inside the folder, so that a kill while sealing leaves nothing beside it
        sealed = seal(sorted(plan.folder.glob("part-*.bin")), plan.folder / "sealed.h5", indices=plan.indices())
        os.replace(sealed, plan.out)
        sync_folder(plan.out.parent)
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
    from worldmodel.envs import doom_processes as engines

    for leftover in plan.folder.glob(".sealed*"):
        leftover.unlink()
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
