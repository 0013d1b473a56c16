"The training that the tests of the trainer share: random weights, short completions, big steps."

import copy
import dataclasses

from spurious_rlvr.rollout import TransformersEngine
from spurious_rlvr.train import PRESETS

SMALL = dataclasses.replace(
    PRESETS["organism"],
    phases=3,
    prompts_per_phase=4,
    num_generations=8,
    minibatch_size=8,
    max_completion_length=6,
    max_prompt_length=100,
    learning_rate=20.0,
    checkpoint_every=1,
)


class OwnWeights(TransformersEngine):
    "Samples with weights of its own, as servers do."

    samples_beside = True

    def __init__(self, policy):
        super().__init__(dataclasses.replace(policy, model=copy.deepcopy(policy.model)))
