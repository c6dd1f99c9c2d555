"""Names that users of transformers and TRL (version 5's and 4's) type, and what to set here instead.

A name is here when its field has another name here, means something else here, or has no field on purpose.
A field of the configuration at hand comes first: a recipe may well have a ``batch_size``.
"""

_BATCH = "set global_batch_size (what one optimizer step sees, on all devices), and micro_batch_size for memory only"
_LAUNCH = "belongs to the launcher: accelerate launch --config_file FILE"
_DEVICE = _LAUNCH + "; to hide the GPUs: CUDA_VISIBLE_DEVICES="
_EVALUATE = "set eval_steps (under 1: a share of the run; 0: only at the end)"
_SAVE = "set save_steps (under 1: a share of the run)"
_LOG = "set logging_steps"
_WARMUP = "set warmup_steps (under 1: a share of all steps)"
_COMPLETE = "checkpoints here are always complete, so that a resumed run equals an unbroken one; leave it out"
_ORDER = "the order of the examples follows from seed and step alone; leave it out"
_COMPILE = "set torch_compile: true; torch's defaults choose the rest"
_EXACT = "losses are always divided by the count over all devices and micro-batches; leave it out"
_OUTPUT = "logs are written to output_dir; set that"
_RECIPE = "a recipe trains, evaluates and tests in one go; leave it out"
_GENERATE = "a recipe that generates always evaluates so; see its own settings (--help)"
_HUB = "is not a setting; set push_to_hub and hub_model_id, the rest with `hf repo`"
_TOKEN = "is not a setting, so that no secret reaches a log: set HF_TOKEN, or run `hf auth login`"
_LORA = "is not supported; set use_peft, lora_r, lora_alpha, lora_dropout, lora_target_modules"
_QUANTIZE = "is not supported; set load_in_4bit (nf4) with use_peft"
_LOADER = "is not needed: batches are planned ahead; set dataloader_num_workers"
_DISPLAY = "is not a setting: without a terminal, progress is plain lines, and only the main process prints"
_RESUME = "set resume_from_checkpoint: auto (fresh in an empty folder, else the newest checkpoint that verifies)"
_PRECISION = "set bf16: true or fp16: true (fp32 is what neither gives)"
_DTYPE = "set dtype for the weights, bf16: true for the arithmetic"
_DATASET = "set dataset_name (built-in name, Hub name, or a save_to_disk folder), or train_file"

HF_NAMES: dict[str, str] = {
    # Batches
    **dict.fromkeys(("per_device_train_batch_size", "per_gpu_train_batch_size", "gradient_accumulation_steps"), _BATCH),
    **dict.fromkeys(("train_batch_size", "batch_size", "split_batches"), _BATCH),
    **dict.fromkeys(("per_device_eval_batch_size", "per_gpu_eval_batch_size"), "set eval_batch_size"),
    "auto_find_batch_size": "set halve_on_oom: the micro-batch shrinks, the global batch stays",
    "average_tokens_across_devices": _EXACT,
    "eval_accumulation_steps": "is not needed: evaluation keeps sums, not logits; lower eval_batch_size for memory",
    "torch_empty_cache_steps": "is not supported; lower micro_batch_size or micro_batch_tokens for memory",
    # Optimizer and schedule
    "lr": "set learning_rate",
    **dict.fromkeys(("epochs", "num_epochs", "n_epochs"), "set num_train_epochs"),
    **dict.fromkeys(("num_train_steps", "max_train_steps", "num_steps"), "set max_steps"),
    **dict.fromkeys(("warmup_ratio", "num_warmup_steps"), _WARMUP),
    **dict.fromkeys(("scheduler", "lr_scheduler"), "set lr_scheduler_type"),
    "lr_scheduler_kwargs": "set min_lr_ratio and decay_steps",
    **dict.fromkeys(("optim_args", "optim_target_modules"), "set adam_beta1, adam_beta2, adam_epsilon, weight_decay"),
    **dict.fromkeys(("optimizer", "adafactor"), "set optim"),
    **dict.fromkeys(("gradient_clipping", "max_norm", "clip_grad_norm"), "set max_grad_norm (0: no clipping)"),
    "label_smoothing": "set label_smoothing_factor",
    **dict.fromkeys(("early_stopping", "patience"), "set early_stopping_patience"),
    # Arithmetic and memory
    **dict.fromkeys(("bf16_full_eval", "fp16_full_eval"), "evaluation computes as training does: set bf16 or fp16"),
    **dict.fromkeys(("mixed_precision", "half_precision_backend", "fp16_backend", "fp32"), _PRECISION),
    **dict.fromkeys(("fp16_opt_level", "use_apex"), "Apex is not used; " + _PRECISION),
    "tf32": "is not a setting: float32 stays float32, so that results agree across machines; for speed, set bf16: true",
    **dict.fromkeys(("gradient_checkpointing", "use_gradient_checkpointing"), "set activation_checkpointing"),
    **dict.fromkeys(
        ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"),
        "set activation_checkpointing; it has no options",
    ),
    **dict.fromkeys(("torch_compile_backend", "torch_compile_mode", "torchdynamo"), _COMPILE),
    "liger_kernel_config": "is not supported; use_liger_kernel chooses the kernels",
    "use_cache": "is off in training and on in generation; leave it out",
    "neftune_noise_alpha": "is not a setting of this recipe",
    # When to log, evaluate, save
    **dict.fromkeys(("evaluation_strategy", "eval_strategy", "evaluate_during_training", "eval_delay"), _EVALUATE),
    **dict.fromkeys(("eval_every", "evaluation_steps"), _EVALUATE),
    **dict.fromkeys(("save_strategy", "save_every", "checkpointing_steps"), _SAVE),
    **dict.fromkeys(("logging_strategy", "logging_first_step", "log_every"), _LOG),
    "logging_nan_inf_filter": "a loss that is not finite stops the run; max_nonfinite_steps lets some pass",
    **dict.fromkeys(("logging_dir", "log_dir"), _OUTPUT),
    **dict.fromkeys(("log_level", "log_level_replica", "log_on_each_node", "disable_tqdm", "debug"), _DISPLAY),
    **dict.fromkeys(("include_num_input_tokens_seen", "include_tokens_per_second"), "is always counted; leave it out"),
    "skip_memory_metrics": "memory is always reported; leave it out",
    **dict.fromkeys(("wandb_project", "project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"),
                    "set report_to and run_name; where a tracker writes is set in its own environment variables"),
    # Checkpoints and the Hub
    **dict.fromkeys(("save_only_model", "save_safetensors", "enable_jit_checkpoint", "save_on_each_node"), _COMPLETE),
    **dict.fromkeys(("ignore_data_skip", "restore_callback_states_from_checkpoint"), _COMPLETE),
    "overwrite_output_dir": "no run is ever overwritten: choose another output_dir, delete the old one, or "
                            "set resume_from_checkpoint",
    **dict.fromkeys(("resume", "auto_resume"), _RESUME),
    **dict.fromkeys(("hub_strategy", "hub_private_repo", "hub_always_push", "hub_revision"), _HUB),
    **dict.fromkeys(("push_to_hub_model_id", "push_to_hub_organization", "hub_id"), "set hub_model_id"),
    **dict.fromkeys(("hub_token", "push_to_hub_token", "token", "use_auth_token"), _TOKEN),
    # Randomness and the order of data
    "full_determinism": "is not a setting: set CUBLAS_WORKSPACE_CONFIG=:4096:8 and torch's deterministic algorithms",
    **dict.fromkeys(("data_seed", "length_column_name", "dataloader_in_order", "sortish_sampler"), _ORDER),
    "group_by_length": "set train_sampling_strategy group_by_length",
    "dataloader_drop_last": "no example is ever dropped; leave it out",
    **dict.fromkeys(("dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_prefetch_factor"), _LOADER),
    "dataloader_multiprocessing_context": _LOADER,
    **dict.fromkeys(("remove_unused_columns", "label_names"), "a recipe picks the columns it needs; leave it out"),
    # Devices
    **dict.fromkeys(("local_rank", "deepspeed", "fsdp", "fsdp_config", "fsdp_min_num_params"), _LAUNCH),
    **dict.fromkeys(("fsdp_transformer_layer_cls_to_wrap", "accelerator_config", "parallelism_config"), _LAUNCH),
    **dict.fromkeys(("ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers"), _LAUNCH),
    **dict.fromkeys(("ddp_static_graph", "ddp_backend", "sharded_ddp", "xpu_backend", "tpu_num_cores"), _LAUNCH),
    **dict.fromkeys(("num_processes", "num_gpus"), "is the launcher's: hftrain run RECIPE --num_processes N -- ..."),
    **dict.fromkeys(("no_cuda", "use_cpu", "use_mps_device", "use_ipex", "device"), _DEVICE),
    # What is done
    **dict.fromkeys(("do_train", "do_eval", "do_predict"), _RECIPE),
    **dict.fromkeys(("prediction_loss_only", "predict_with_generate", "generation_config"), _GENERATE),
    **dict.fromkeys(("generation_max_length", "generation_num_beams"), _GENERATE),
    **dict.fromkeys(("eval_do_concat_batches", "batch_eval_metrics", "eval_use_gather_object", "include_for_metrics"),
                    "is not needed: metrics see every example once, in order"),
    "include_inputs_for_metrics": "is not needed: metrics see every example once, in order",
    # Data
    **dict.fromkeys(("dataset_path", "dataset", "data_path", "data_dir", "data_files", "train_data"), _DATASET),
    "dataset_config": "set dataset_config_name",
    **dict.fromkeys(("valid_file", "dev_file", "eval_file"), "set validation_file"),
    "validation_split_percentage": "set validation_split (under 1: a share of the rows; 0.05 is 5 percent)",
    **dict.fromkeys(("num_proc", "dataset_num_proc", "preprocessing_num_workers"),
                    "is not needed: tokenizers use all cores by themselves, and once for all processes"),
    "num_workers": "set dataloader_num_workers",
    "overwrite_cache": "is not needed: the cache is keyed by the content of the data, the tokenizer and the code",
    # Model (transformers' example scripts, TRL's ModelConfig)
    **dict.fromkeys(("model_name", "model", "model_path", "pretrained_model_name_or_path"), "set model_name_or_path"),
    **dict.fromkeys(("tokenizer_name", "tokenizer"), "set tokenizer_name_or_path"),
    **dict.fromkeys(("config_name", "config_overrides", "model_init_kwargs"), "set model_config"),
    "revision": "set model_revision",
    "torch_dtype": _DTYPE,
    "cache_dir": "set the environment variable HF_HOME",
    "use_fast_tokenizer": "the fast tokenizer is always used; leave it out",
    **dict.fromkeys(("use_flash_attn", "use_flash_attention_2"), "set attn_implementation: flash_attention_2"),
    **dict.fromkeys(("use_lora", "peft", "lora"), "set use_peft"),
    "lora_rank": "set lora_r",
    **dict.fromkeys(("lora_task_type", "lora_modules_to_save"), _LORA),
    "lora_target_parameters": _LORA,
    "load_in_8bit": _QUANTIZE,
    **dict.fromkeys(("use_bnb_nested_quant", "bnb_4bit_quant_type", "bnb_4bit_quant_storage"), _QUANTIZE),
}  # fmt: skip
