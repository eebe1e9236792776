"""What the recording processes of one recording receive: environment, policies, header and folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldmodel.collect.policy_specs import PolicySpec
from worldmodel.common.errors import UserError
from worldmodel.data.header import Header
from worldmodel.envs.registrations import restore_registrations


@dataclass(frozen=True)
class WorkerJob:
    """The job of all workers of a recording.

    Attributes:
        env: name or factory of the environment.
        env_kwargs: its keyword arguments.
        process_manager: `PixelEnv.process_manager` of the environment.
        policies: the policies, with their shares of episodes.
        header: header of the dataset.
        token: run token for the process manager.
        folder: the working folder of the recording.
        registrations: environments that the caller registered, from `pickle_registrations`.
    """

    env: str | Callable[[], Any]
    env_kwargs: dict[str, Any]
    process_manager: str
    policies: tuple[PolicySpec, ...]
    header: Header
    token: str
    folder: Path
    registrations: bytes

    def to_bytes(self) -> bytes:
        """Pickle the job; functions and classes of the caller's script are pickled by value.

        Raises:
            UserError: the environment cannot be pickled.
        """
        import cloudpickle

        try:
            return cloudpickle.dumps(self)
        except Exception as error:  # the errors of pickle are of many types
            raise UserError(
                f"the environment cannot be sent to other processes ({type(error).__name__}: {error}). Make it inside "
                "the function that is passed, or use workers=1."
            ) from error

    @staticmethod
    def from_bytes(data: bytes) -> WorkerJob:
        """The inverse of `to_bytes`."""
        import cloudpickle

        job: WorkerJob = cloudpickle.loads(data)
        return job

    def make_env(self) -> Any:
        """The environment, a `PixelEnv`."""
        from worldmodel import envs

        restore_registrations(self.registrations)
        if isinstance(self.env, str):
            return envs.make(self.env, **self.env_kwargs)
        return envs.as_pixels(self.env, **self.env_kwargs)
