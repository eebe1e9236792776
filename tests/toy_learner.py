"""Settings of a small learner of the toy, and a policy that has not learned."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from worldmodel.collect.learner_config import LearnerConfig
from worldmodel.collect.learner_model import new_model, save_model
from worldmodel.dream import DreamLearnerEnv

LEARNER = LearnerConfig(
    num_envs=32, decisions=2_500, learning_rate=3e-3, gamma=0.97, rollout_steps=16, batch_size=256,
    checkpoint_seconds=600, width=8, frame_stack=2,
)  # fmt: skip


def untrained_policy(out: Path) -> Path:
    """A directory like that of `train policy`, with a policy of the toy that has not learned."""
    model = new_model(replace(LEARNER, num_envs=2), DreamLearnerEnv("toy", 2, frame_stack=2), 0, out, "cpu")
    save_model(model, out / "policy.zip")
    fields = {**vars(LEARNER), "view": None}
    (out / "policy.json").write_text(json.dumps({"env": "toy", "learner": fields, "result": {}}))
    return out
