"""Record whole episodes to one sealed file; the same call continues a stopped recording.

During a recording the folder `NAME.h5.parts/` has the part files, the workers' logs and a lock. Sealing writes NAME.h5
and removes the folder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from worldmodel.collect.disk_errors import disk_errors_as_sentence
from worldmodel.collect.policies import Policy
from worldmodel.collect.policy_specs import PolicySpec, choose_policy
from worldmodel.collect.recording_folder import RecordingFolder, same_recording
from worldmodel.collect.rollout import play
from worldmodel.collect.supervisor import Supervisor
from worldmodel.collect.worker_job import WorkerJob
from worldmodel.common.errors import UserError
from worldmodel.common.files import sync_folder
from worldmodel.common.version import VERSION
from worldmodel.data.dataset import Dataset
from worldmodel.data.header import Header
from worldmodel.data.parts import PartWriter
from worldmodel.data.sealing import seal
from worldmodel.envs.process_manager import load_process_manager
from worldmodel.envs.registrations import pickle_registrations

OnEpisode = Callable[[int, int], None]  # (index, steps)


@dataclass
class RecordingPlan:
    """What to record.

    Attributes:
        out: the dataset to write.
        header: its header.
        policies: the policies, with shares that sum to 1.
        env: name or factory of the environment, for worker processes.
        env_kwargs: its keyword arguments.
        process_manager: `PixelEnv.process_manager` of the environment.
    """

    out: Path
    header: Header
    policies: tuple[PolicySpec, ...]
    env: str | Callable[[], Any]
    env_kwargs: dict[str, Any]
    process_manager: str = ""

    @property
    def folder(self) -> Path:
        """The working folder, next to the file."""
        return self.out.with_name(self.out.name + ".parts")

    def indices(self) -> range:
        """The episode numbers of this shard."""
        i, n = self.header.shard
        return range(i, self.header.num_episodes, n)


def make_header(meta: Any, policies: Sequence[PolicySpec], seed: int, episodes: int, shard: tuple[int, int]) -> Header:
    """The header of a recording of the environment that `meta` (an `EnvMeta`) describes."""
    return Header(
        env=meta.id,
        env_kwargs=meta.kwargs,
        pixels=meta.pixels,
        action_space=meta.action_space,
        action_labels=tuple(meta.action_labels),
        action_keys=meta.action_keys,
        frame_skip=meta.frame_skip,
        max_steps=meta.max_steps,
        variables=tuple(meta.variables),
        policies=tuple(policy.record() for policy in policies),
        seed=seed,
        shard=(int(shard[0]), int(shard[1])),
        num_episodes=episodes,
        code_version=VERSION,
    )


def record_plan(
    plan: RecordingPlan,
    workers: int,
    *,
    env: Any = None,
    policy: Policy | None = None,
    progress: bool = True,
    force: bool = False,
    on_episode: OnEpisode | None = None,
) -> Path:
    """Record the missing episodes, seal the file, and remove the working folder.

    Args:
        plan: the recording.
        workers: number of processes; ignored if `env` is given.
        env: a `PixelEnv`; then all episodes are played in this process.
        policy: with `env`: a policy object that plays every episode.
        progress: show a progress bar on stderr.
        force: remove an existing recording at `plan.out` first.
        on_episode: called with (index, steps) after an episode is written.

    Returns:
        The path of the sealed file.

    Raises:
        UserError: another recording exists there, or the disk is too small or cannot be written.
    """
    if force:
        plan.out.unlink(missing_ok=True)
        shutil.rmtree(plan.folder, ignore_errors=True)
    folder = RecordingFolder(plan.folder)
    if plan.out.exists():
        with Dataset(plan.out) as data:
            if not same_recording(data.header, plan.header):
                raise UserError(
                    f"{plan.out} is a different recording; choose another path, or remove it with --force (force=True)."
                )
        if plan.folder.exists():  # killed after the file was moved to its place
            with folder.locked():
                shutil.rmtree(plan.folder)
        return plan.out
    with folder.locked(), disk_errors_as_sentence(plan.folder):
        header, token = folder.resume(plan.header)
        load_process_manager(plan.process_manager).sweep(token, folder.process_records)
        recorded = folder.recorded(header)
        folder.check_space(header, len(plan.indices()) - len(recorded))
        missing = [index for index in plan.indices() if index not in recorded]
        with _progress_bar(len(plan.indices()), len(missing), progress, on_episode) as report:
            if missing and env is not None:
                _record_in_process(plan, header, missing, env, policy, report)
            elif missing:
                _record_in_workers(plan, header, missing, token, workers, report)
        # sealed inside the folder: a kill while sealing leaves no files outside
        sealed = seal(folder.parts(), plan.folder / "sealed.h5", indices=plan.indices())
        os.replace(sealed, plan.out)
        sync_folder(plan.out.parent)
    shutil.rmtree(plan.folder)
    return plan.out


@contextlib.contextmanager
def _progress_bar(total: int, missing: int, visible: bool, on_episode: OnEpisode | None) -> Iterator[OnEpisode]:
    """A progress bar of episodes and the function that advances it."""
    with tqdm(total=total, initial=total - missing, unit="episode", desc="recording", disable=not visible) as bar:
        steps = 0

        def report(index: int, length: int) -> None:
            nonlocal steps
            steps += length
            rate = round(steps / max(bar.format_dict["elapsed"], 1e-9))
            bar.set_postfix(refresh=False, steps=steps, steps_per_s=rate)
            bar.update()
            if on_episode is not None:
                on_episode(index, length)

        yield report


def _record_in_workers(
    plan: RecordingPlan, header: Header, missing: list[int], token: str, workers: int, report: OnEpisode
) -> None:
    """Record in worker processes."""
    folder = RecordingFolder(plan.folder)
    manager = load_process_manager(plan.process_manager)
    job = WorkerJob(
        env=plan.env,
        env_kwargs=plan.env_kwargs,
        process_manager=plan.process_manager,
        policies=plan.policies,
        header=header,
        token=token,
        folder=plan.folder,
        registrations=pickle_registrations(plan.env if isinstance(plan.env, str) else ""),
    )
    path = plan.folder / "job.pkl"
    path.write_bytes(job.to_bytes())
    supervisor = Supervisor(path, plan.folder, workers, lambda: manager.sweep(token, folder.process_records))
    supervisor.run(missing, report)


def _record_in_process(
    plan: RecordingPlan, header: Header, missing: list[int], env: Any, policy: Policy | None, report: OnEpisode
) -> None:
    """Record in this process, in the caller's environment."""
    built = [] if policy is not None else [spec.build(header.action_space, env) for spec in plan.policies]
    policies = built if policy is None else [policy]
    shares = [spec.share for spec in plan.policies]
    with PartWriter(RecordingFolder(plan.folder).part(0), header) as part:
        for index in missing:
            chosen = choose_policy(shares, header.seed, index)
            name = plan.policies[chosen].name
            episode = play(env, policies[chosen], index=index, seed=header.seed, policy_name=name)
            part.append(episode)
            report(index, episode.length)
