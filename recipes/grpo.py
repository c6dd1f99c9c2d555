"""GRPO: reinforcement learning of answers, handed over to TRL's GRPOTrainer with hftrain's data and settings.

    pip install trl
    accelerate launch recipes/grpo.py --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct --use_peft \\
        --train_file prompts.jsonl --reward_funcs my_rewards.py:ends_in_a_number

A row is a prompt (prompt, question, instruction and input, or messages up to the first answer); its other columns reach
the rewards. A reward is a function in a file (file.py:name, called as TRL does: name(prompts, completions, **columns)
-> a number each), or a reward model that recipes/reward.py has trained.

Generating inside training is a loop of its own, which is TRL's and not ours: so are its batches and its log, and what
the other recipes promise of cuts, checkpoints and resuming does not hold here. Settings that TRL does not get are
refused.

Seen: SmolLM2-135M-Instruct with LoRA, rewards for short whole sentences: a mean reward of 0.17 over the first 3 steps
of 8 answers, in 77 seconds of one CPU thread, loading included: a try that it runs, too short to learn. docs/log.md:
"What a recipe reaches, and how long it takes".
"""

from typing import Any

from hftrain import run
from hftrain.tasks import chat, preference
from hftrain.tasks.preference import GrpoConfig


def main(config: GrpoConfig) -> dict[str, Any]:
    # imported here, so that a mistake in the settings is reported before torch is loaded
    from hftrain.config.defaults import describe
    from hftrain.tasks.preference.online import load_prompts, reward_function, trl_arguments
    from hftrain.train.inspect import inspecting

    if inspecting():
        raise ValueError("what TRL will see, hftrain inspect cannot show: its own loop makes the examples")
    config.reopen()  # what an earlier run chose for this config is chosen again
    prompts = load_prompts(config)
    handed_over = trl_arguments(config, len(prompts))
    from trl import GRPOConfig, GRPOTrainer  # trl_arguments has checked that TRL is installed

    template = chat.load_template(config)
    model = preference.load_policy(config, template)
    rewards: list[Any] = [reward_function(name) for name in config.reward_funcs]
    trainer = GRPOTrainer(
        model,
        rewards,
        GRPOConfig(**handed_over),
        train_dataset=prompts,
        processing_class=template.tokenizer,
    )
    if trainer.is_world_process_zero():
        print(*describe(config), sep="\n")
        print("handed over to TRL's GRPOTrainer: the steps, the log and the weights are its own from here on")
    results = trainer.train().metrics
    trainer.save_model(config.output_dir)
    return results


if __name__ == "__main__":
    run(main, GrpoConfig)
