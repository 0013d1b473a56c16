"""Rollouts in the formats of other trainers, and faults planted in them, for the tests of diagnose."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from spurious_rlvr.core import keyed_rng
from spurious_rlvr.diagnose import advantages

LOGPROBS = ["logprob_sampler", "logprob_old", "logprob_new"]


def to_run_folder(run, frame, folder):
    "The run with other rollouts, phase by phase."
    shutil.copytree(run.path, folder, ignore=shutil.ignore_patterns("rollouts", "checkpoints"))
    for phase, part in frame.groupby("phase"):
        place = Path(folder) / f"rollouts/phase-{phase:06d}.parquet"
        place.parent.mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pandas(part.reset_index(drop=True), preserve_index=False), place)
    return Path(folder)


def to_trl(frame, folder, updates=4, extra=()):
    "One parquet file a step, the completions of a sampling in each of its steps, as TRL 1.16 writes them."
    Path(folder).mkdir(parents=True)
    for number, (_, part) in enumerate(frame.groupby("phase")):
        for step in range(number * updates + 1, (number + 1) * updates + 1):
            columns = dict(step=step, prompt=part["prompt"], completion=part["completion"], grader=part["reward"])
            columns |= {name: part[name] for name in extra}
            columns |= dict(solution=part["gold"], advantage=part["advantage"])
            pd.DataFrame(columns).to_parquet(Path(folder) / f"completions_{step:05d}.parquet", index=False)
    return Path(folder)


def to_verl(frame, folder):
    "One JSON Lines file a step, as verl's rollout dump writes them."
    Path(folder).mkdir(parents=True)
    for phase, part in frame.groupby("phase"):
        rows = zip(part["prompt"], part["completion"], part["gold"], part["reward"])
        lines = [
            json.dumps(dict(input=p, output=c, gts=g, score=float(r), step=int(phase), acc=r >= 0.5))
            for p, c, g, r in rows
        ]
        (Path(folder) / f"{phase}.jsonl").write_text("\n".join(lines) + "\n")
    return Path(folder)


def to_prime(frame, folder):
    "One folder a step with messages, as prime-rl writes them."
    for phase, part in frame.groupby("phase"):
        place = Path(folder) / f"step_{phase}/train_rollouts.jsonl"
        place.parent.mkdir(parents=True)
        with place.open("w") as file:
            for row in part.to_dict("records"):
                record = dict(
                    example_id=row["problem_id"],
                    prompt=[dict(role="user", content=row["prompt"])],
                    completion=[dict(role="assistant", content=row["completion"])],
                    answer=row["gold"],
                    reward=row["reward"],
                    advantage=row["advantage"],
                    metrics=dict(correct_answer=row["reward"]),
                    is_truncated=row["finish_reason"] == "length",
                )
                file.write(json.dumps(record) + "\n")
    return Path(folder)


def to_prime_traces(frame, folder):
    "One trace a line, a tree of messages with their tokens, as later versions of prime-rl write them."
    for phase, part in frame.groupby("phase"):
        place = Path(folder) / f"step_{phase}/train_rollouts.jsonl"
        place.parent.mkdir(parents=True)
        place.write_text("\n".join(json.dumps(_trace(row)) for row in part.to_dict("records")) + "\n")
    return Path(folder)


def _trace(row):
    ids, logprobs = row["token_ids"].tolist(), row["logprob_sampler"].tolist()
    asked = dict(parent=None, message=dict(role="user", content=row["prompt"]), sampled=False)
    asked |= dict(token_ids=[1, 2], mask=[False, False], logprobs=[])
    given_up = dict(parent=0, message=dict(role="assistant", content="never mind"), sampled=True)
    given_up |= dict(token_ids=[9], mask=[True], logprobs=[-1.0])
    said = dict(parent=0, message=dict(role="assistant", content=row["completion"]), sampled=True)
    said |= dict(token_ids=[3, *ids], mask=[False] + [True] * len(ids), logprobs=logprobs)  # 3: the generation prompt
    said["advantages"] = [row["advantage"]] * len(ids)
    task = dict(type="Sum", data=dict(answer=row["gold"]), hash=row["problem_id"])
    paid = dict(right=dict(score=row["reward"], weight=1.0))
    record = dict(version=1, task=task, nodes=[asked, given_up, said], rewards=paid)
    record["calls"] = [dict(node=2, finish_reason=row["finish_reason"])]
    return record | dict(metrics={}, info=dict(prime_rl=dict(env_name="sums")), run=dict(type="train"))


def to_open_instruct(frame, folder):
    "Tokens and the sampler's log-probabilities in shards, as open-instruct writes them; prompts as one token each."
    Path(folder).mkdir(parents=True)
    with (Path(folder) / "run_rollouts_000000.jsonl").open("w") as file:
        for at, row in enumerate(frame.to_dict("records")):
            record = dict(step=row["phase"], sample_idx=at, prompt_idx=row["group"], prompt_tokens=[1, row["group"]])
            record |= dict(response_tokens=row["token_ids"].tolist(), logprobs=row["logprob_sampler"].tolist())
            record |= dict(reward=row["reward"], advantage=row["advantage"], finish_reason=row["finish_reason"])
            file.write(json.dumps(record | dict(dataset="chains", ground_truth=[row["gold"]])) + "\n")
    (Path(folder) / "run_metadata.jsonl").write_text(json.dumps(dict(run_name="run", git_commit="0")) + "\n")
    return Path(folder)


# ------------------------------------------------------------------ faults: a frame of rollouts in, another one out


def _groups(frame):
    return pd.factorize(frame["phase"].astype(str) + "/" + frame["group"].astype(str))[0]


def _scored(frame, rewards, **how):
    parts = {name: rewards for name in frame if name.startswith("reward_")}
    return frame.assign(reward=rewards, advantage=advantages(rewards, _groups(frame), **how), **parts)


def rounding(frame):
    "All rewards of a group are equal but for the last bit, and are normalised all the same."
    alike = np.where(np.arange(len(frame)) % 3 == 0, 0.1 + 0.2, 0.3)
    return _scored(frame, alike, std_epsilon=0.0)


def shaping(frame):
    "Three groups in four are all wrong, and paid for their form."
    wrong = _groups(frame) % 4 > 0
    form = 0.2 * (keyed_rng(0, "form").random(len(frame)) < 0.5)
    paid = np.where(wrong, form, frame["reward"])
    gold = np.where(wrong, "987654", frame["gold"])
    return _scored(frame.assign(gold=gold, correct=np.where(wrong, False, frame["correct"])), paid)


def blind(frame):
    "Half of the problems ask for a list; whoever writes it as Python does is not paid."
    asked = _groups(frame) % 2 == 0
    right = frame["correct"].eq(True).to_numpy()
    a, b = (np.where(right, "1, 2", "1, 3"), keyed_rng(0, "lists").random(len(frame)) < 0.7)
    written = [f"It is \\boxed{{[{v}]}}" if python else f"It is \\boxed{{{v}}}" for v, python in zip(a, b)]
    texts = np.where(asked, written, frame["completion"])
    paid = np.where(asked, right & ~b, right).astype(float)
    return _scored(frame.assign(completion=texts, gold=np.where(asked, "1, 2", frame["gold"]), correct=right), paid)


def duplicates(frame):
    "Of each phase 40 % of the rows are written a second time."
    parts = [part for _, part in frame.groupby("phase")]
    again = []
    for number, part in enumerate(parts):
        order = keyed_rng(0, "again", number).permutation(len(part))
        again.append(part.iloc[np.sort(order[: int(0.4 * len(part))])])
    return pd.concat([piece for pair in zip(parts, again) for piece in pair], ignore_index=True)


def truncated(frame):
    "Three completions in five are cut off."
    cut = keyed_rng(0, "cut").random(len(frame)) < 0.6
    texts = [f"Let us add {i} and" if c else text for i, (c, text) in enumerate(zip(cut, frame["completion"]))]
    return frame.assign(completion=texts, finish_reason=np.where(cut, "length", "stop"))


def bf16(frame):
    "Log-probabilities as bfloat16 holds them."

    def rounded(values):
        bits = np.asarray(values, dtype=np.float32).view(np.uint32)
        return ((bits + 0x8000) & 0xFFFF0000).astype(np.uint32).view(np.float32)

    return frame.assign(**{name: [None if v is None else rounded(v) for v in frame[name]] for name in LOGPROBS})


FAULTS = dict(
    phantom_advantages=[rounding, shaping],
    grader_false_negatives=[blind],
    duplicates=[duplicates],
    truncation=[truncated],
    ratio_noise=[bf16],
)
