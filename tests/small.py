"The training that the tests of the trainer share: random weights, short completions, big steps."

import dataclasses

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
