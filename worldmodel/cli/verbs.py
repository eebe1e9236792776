"""The table of verbs, and the help page that lists them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Verb:
    """One verb.

    Attributes:
        config: its config dataclass, "module:name"; imported when the verb is called.
        function: takes an instance of the config and does the work, "module:name".
        help: what it does, one line.
    """

    config: str
    function: str
    help: str


VERBS: dict[str, Verb] = {
    "demo": Verb(
        "worldmodel.cli.demo:Demo",
        "worldmodel.cli.demo:demo",
        "all stages on real take-cover, with an HTML report",
    ),
    "loop": Verb(
        "worldmodel.cli.rounds_config:RoundsConfig",
        "worldmodel.cli.loop_command:loop",
        "rounds of recording, learning the world, learning a policy in it, testing it outside",
    ),
    "envs": Verb(
        "worldmodel.cli.env_commands:Envs",
        "worldmodel.cli.env_commands:envs",
        "table of the registered environments",
    ),
    "collect": Verb(
        "worldmodel.collect.collect_config:Collect",
        "worldmodel.collect.collect_command:collect",
        "record episodes of an environment as a dataset",
    ),
    "data info": Verb(
        "worldmodel.cli.data_commands:DataInfo",
        "worldmodel.cli.data_commands:data_info",
        "summary of a dataset: counts, histograms, sizes",
    ),
    "data verify": Verb(
        "worldmodel.cli.data_commands:DataVerify",
        "worldmodel.cli.data_commands:data_verify",
        "check every checksum, offset and split",
    ),
    "data audit": Verb(
        "worldmodel.cli.audit_command:DataAudit",
        "worldmodel.cli.audit_command:data_audit",
        "look for shifted rewards and ends, dead frames, repeats",
    ),
    "data preview": Verb(
        "worldmodel.cli.data_commands:DataPreview",
        "worldmodel.cli.data_commands:data_preview",
        "contact sheet and GIF of a dataset",
    ),
    "data seal": Verb(
        "worldmodel.cli.data_commands:DataSeal",
        "worldmodel.cli.data_commands:data_seal",
        "make a dataset from the part files of a stopped recording",
    ),
    "data merge": Verb(
        "worldmodel.cli.data_commands:DataMerge",
        "worldmodel.cli.data_commands:data_merge",
        "join datasets in one file without copying",
    ),
    "data convert": Verb(
        "worldmodel.cli.data_commands:DataConvert",
        "worldmodel.cli.data_commands:data_convert",
        "make a dataset of videos or of another format",
    ),
    "train policy": Verb(
        "worldmodel.collect.collect_config:TrainPolicy",
        "worldmodel.collect.policy_training:train_policy",
        "train a policy with Stable-Baselines3",
    ),
    "train clone": Verb(
        "worldmodel.collect.clone_config:TrainClone",
        "worldmodel.collect.cloning:train_clone",
        "imitate recorded policies: behaviour cloning",
    ),
    "improve policy": Verb(
        "worldmodel.collect.improve_config:ImprovePolicy",
        "worldmodel.collect.policy_improvement:improve_policy",
        "compare a policy's actions in dreams and move it to the better ones",
    ),
    "train world": Verb(
        "worldmodel.cli.train_commands:TrainWorld",
        "worldmodel.cli.train_commands:train_world",
        "train a world on a dataset",
    ),
    "train tokenizer": Verb(
        "worldmodel.cli.train_commands:TrainTokenizer",
        "worldmodel.cli.train_commands:train_tokenizer",
        "the first half of 'train world': the tokenizer",
    ),
    "train prior": Verb(
        "worldmodel.cli.train_commands:TrainPrior",
        "worldmodel.cli.train_commands:train_prior",
        "the second half of 'train world': the prior on a tokenizer's codes",
    ),
    "train clip": Verb(
        "worldmodel.cli.clip_commands:TrainClip",
        "worldmodel.cli.clip_commands:train_clip",
        "train a model of whole clips, with a class or actions as condition",
    ),
    "ablate": Verb(
        "worldmodel.cli.ablate_command:Ablate",
        "worldmodel.cli.ablate_command:ablate",
        "the rows of an ablation table of the VideoGPT paper, with intervals over seeds",
    ),
    "train border": Verb(
        "worldmodel.cli.border_command:TrainBorder",
        "worldmodel.cli.border_command:train_border",
        "give a world of cropped frames the whole frames of its environment",
    ),
    "compress": Verb(
        "worldmodel.cli.compress_command:Compress",
        "worldmodel.cli.compress_command:compress",
        "a smaller copy of a world: bfloat16, fewer starts",
    ),
    "export": Verb(
        "worldmodel.cli.export_command:Export",
        "worldmodel.cli.export_command:export",
        "export a world to ONNX: faster on a CPU, and without torch",
    ),
    "eval policy": Verb(
        "worldmodel.collect.collect_config:EvalPolicy",
        "worldmodel.collect.eval_policy_command:eval_policy",
        "run policies on fixed test seeds, with intervals",
    ),
    "eval plan": Verb(
        "worldmodel.cli.eval_plan:EvalPlan",
        "worldmodel.cli.eval_plan:eval_plan",
        "plan in a learned world and act in the environment, compared with policies",
    ),
    "eval world": Verb(
        "worldmodel.cli.eval_world:EvalWorld",
        "worldmodel.cli.eval_world:eval_world",
        "evaluate a world: free runs, likelihood, prediction",
    ),
    "eval video": Verb(
        "worldmodel.cli.eval_video:EvalVideo",
        "worldmodel.cli.eval_video:eval_video",
        "compare two sets of clips: FVD, LPIPS, PSNR and others",
    ),
    "predict": Verb(
        "worldmodel.cli.predict_command:Predict",
        "worldmodel.cli.predict_command:predict",
        "dream on from a recorded frame, compared with the recording",
    ),
    "sample": Verb(
        "worldmodel.cli.sample_command:Sample",
        "worldmodel.cli.sample_command:sample",
        "several dreams of one sequence of actions",
    ),
    "sample clips": Verb(
        "worldmodel.cli.clip_commands:SampleClips",
        "worldmodel.cli.clip_commands:sample_clips",
        "clips of a clip model, given a class or actions",
    ),
    "assets": Verb(
        "worldmodel.cli.assets_command:Assets",
        "worldmodel.cli.assets_command:assets",
        "list and fetch files from elsewhere (maps, weights)",
    ),
    "bench loader": Verb(
        "worldmodel.cli.bench_commands:BenchLoader",
        "worldmodel.cli.bench_commands:bench_loader",
        "clips read per second, compared with h5py",
    ),
    "bench collect": Verb(
        "worldmodel.cli.bench_commands:BenchCollect",
        "worldmodel.cli.bench_commands:bench_collect",
        "steps recorded per second, compared with no recorder",
    ),
    "bench tokenizer": Verb(
        "worldmodel.cli.bench_commands:BenchTokenizer",
        "worldmodel.cli.bench_commands:bench_tokenizer",
        "frames encoded, decoded and trained per second, compared with strided convolutions",
    ),
    "bench prior": Verb(
        "worldmodel.cli.bench_commands:BenchPrior",
        "worldmodel.cli.bench_commands:bench_prior",
        "codes trained, frames scored and frames sampled per second, compared with other samplers",
    ),
    "bench dream": Verb(
        "worldmodel.cli.bench_commands:BenchDream",
        "worldmodel.cli.bench_commands:bench_dream",
        "whole steps of dreams per second, alone and in batches",
    ),
}

FORMER_VERBS = {"eval clips": "eval video"}  # still accepted, also in saved configs


def usage() -> str:
    """The help page of the whole command."""
    width = max(len(name) for name in VERBS)
    rows = "\n".join(f"  {name:<{width}}  {verb.help}" for name, verb in VERBS.items())
    return (
        "usage: worldmodel VERB [options]\n\n"
        "Record an agent in a real game, learn the world from its pixels and actions, step that world.\n\n"
        f"{rows}\n\n"
        "worldmodel VERB --help     the options of one verb, with an example\n"
        "worldmodel VERB --config FILE     run a saved config again (flags after it override)\n"
        "worldmodel VERB --preset NAME     begin from a named config\n"
        "worldmodel --version"
    )
