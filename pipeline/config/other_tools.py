"""Flags of earlier versions and of other tools -> what to type here."""

import re
from collections.abc import Collection

from pipeline.errors import did_you_mean

# Flags of transformers 4, of the example script, of tutorials, and of earlier versions -> what to type instead.
REMOVED = {
    "evaluation_strategy": "use --eval_strategy",
    "warmup_ratio": "use --warmup_steps: a value below 1 is a fraction of all steps",
    "no_cuda": "use --use_cpu",
    "logging_dir": "set the environment variable TENSORBOARD_LOGGING_DIR",
    "overwrite_output_dir": "use another --output_dir, or remove the old folder",
    "save_safetensors": "remove it: weights are always saved as safetensors",
    "group_by_length": "remove it: images have no length",
    "use_mps_device": "remove it: the device is detected",
    "fp16_backend": "use --precision fp16",
    "half_precision_backend": "use --precision fp16",
    "per_gpu_train_batch_size": "use --per_device_train_batch_size",
    "per_gpu_eval_batch_size": "use --per_device_eval_batch_size",
    "push_to_hub_token": "log in with `hf auth login`, or set HF_TOKEN",
    "push_to_hub_model_id": "use --hub_model_id OWNER/NAME",
    "push_to_hub_organization": "use --hub_model_id OWNER/NAME",
    "include_inputs_for_metrics": "remove it: metrics need no inputs",
    "ignore_mismatched_sizes": "remove it: a head of another size is always replaced, and nothing else",
    "zero_head": "use --head_init zero",
    "recipe": "use --auto",
    "soup": "use --ema_decay 0.99 to average weights",
    "compile": "use --torch_compile",
    "train_dir": "use --dataset_name FOLDER, with the class folders in FOLDER/train",
    "train_data_dir": "use --dataset_name FOLDER, with the class folders in FOLDER/train",
    "validation_dir": "use --dataset_name FOLDER, with the class folders in FOLDER/validation",
    "train_val_split": "use --validation_fraction",
    "max_predict_samples": "use --max_test_samples",
    "max_val_samples": "use --max_eval_samples",
    "trust_remote_code": "remove it: code from the Hub is never run",
    "token": "log in with `hf auth login`, or set HF_TOKEN",
    "use_auth_token": "log in with `hf auth login`, or set HF_TOKEN",
}

# Flags of timm, Ultralytics, AutoTrain, torchvision's references and Lightning: what to type here, and their names. A
# line is used by the verbs that have its first flag.
OTHER_TOOLS = (
    (
        "use --model_name_or_path",
        "model model_name model_id base_model backbone arch checkpoint weights pretrained_model_name_or_path",
    ),
    ("use --model", "model_name_or_path model_name model_id checkpoint weights run run_dir"),
    ("use --dataset_name FOLDER", "data d data_dir data_path dataset dataset_dir root source input train_split"),
    ("use --learning_rate", "lr lr0 base_lr max_lr initial_lr blr"),
    (
        "use --per_device_train_batch_size, or --global_batch_size for all devices together",
        "batch batch_size b bs train_batch train_batch_size",
    ),
    ("use --per_device_eval_batch_size", "eval_batch_size val_batch_size validation_batch_size"),
    ("use --num_train_epochs", "epochs epoch num_epochs n_epochs max_epochs"),
    ("use --max_steps", "steps num_steps total_steps train_steps"),
    ("use --image_size", "imgsz img_size img image_resolution resolution input_size"),
    ("use --dataloader_num_workers", "workers num_workers j nw"),
    ("use --early_stopping_patience", "patience early_stopping"),
    ("use --output_dir", "name project save_dir output out_dir outdir save_path experiment exist_ok"),
    ("use --output FILE.csv", "output_dir save_csv out_file save_dir"),
    ("use --weight_decay", "wd decay"),
    ("use --optim", "opt optimizer"),
    ("use --optim sgd --optim_args momentum=0.9", "momentum nesterov"),
    ("use --adam_beta1 and --adam_beta2", "beta1 betas opt_betas"),
    ("use --lr_scheduler_type", "sched scheduler lr_scheduler lr_schedule cos_lr"),
    ("use --warmup_steps 0.1", "warmup warmup_epochs warmup_lr warmup_proportion"),
    ("use --max_grad_norm", "clip clip_grad clip_grad_norm gradient_clip gradient_clip_val"),
    ("use --precision", "amp half mixed_precision dtype amp_dtype"),
    ("use --label_smoothing_factor", "smoothing label_smoothing"),
    ("use --augmentation", "aa auto_augment randaugment trivial_augment"),
    ("use --hflip", "fliplr horizontal_flip"),
    ("use --random_erasing", "reprob random_erase erasing"),
    ("use --crop_scale", "scale random_resized_crop"),
    ("use --mixup", "mixup_alpha"),
    ("use --cutmix", "cutmix_alpha"),
    ("use --patch_drop_rate", "drop_path drop_path_rate drop dropout"),
    ("use --freeze_blocks, or --strategy head", "freeze freeze_layers"),
    ("use --strategy head", "freeze_backbone linear_probe"),
    ("use --strategy lora", "lora peft use_peft"),
    ("use --lora_rank", "lora_r"),
    ("use --layer_decay", "layer_decay_rate layerwise_lr_decay llrd"),
    ("use --ema_decay 0.999", "ema model_ema model_ema_decay"),
    ("use --validation_fraction", "val_split validation_split split_ratio test_size"),
    ("use --seed", "random_state manual_seed"),
    ("use --image_column_name", "image_column image_col"),
    ("use --label_column_name", "label_column label_col target_column"),
    ("use --gradient_accumulation_steps", "gradient_accumulation grad_accum_steps accum_iter"),
    ("use --activation_checkpointing", "grad_checkpointing"),
    ("use --save_strategy epoch", "save_period checkpoint_interval"),
    ("use --logging_steps", "log_interval print_freq"),
    ("use --report_to", "log tracker log_wandb tb"),
    ("use --class_weights balanced", "balance class_weight weighted_loss"),
    ("use --max_train_samples", "max_samples limit fraction"),
    ("use --top_k", "topk k"),
    ("use --hub_model_id OWNER/NAME", "repo_id repo hub_repo"),
    ("use --hub_private_repo", "private hub_private"),
    ("use --use_cpu, or set CUDA_VISIBLE_DEVICES", "device gpu gpus gpu_id accelerator"),
    ("set CUDA_VISIBLE_DEVICES", "device gpu gpus gpu_id accelerator"),
    ("repeat the same command, which resumes from the newest checkpoint", "resume resume_from"),
    ("remove it, because the classes are those of the data", "num_classes nc num_labels classes"),
    ("remove it, because weights are pre-trained unless you add --from_scratch", "pretrained"),
    ("remove it", "val plots verbose cache save task mode"),
)


def explain_unknown_flag(name: str, known: Collection[str]) -> str:
    """Return one line for a flag that a verb does not have: what to type instead, or the nearest flag.

    Args:
        name: The flag without dashes, with underscores.
        known: The flags of the verb.
    """
    if name in REMOVED:
        return f"--{name} does not exist any more: {REMOVED[name]}"
    for hint, names in OTHER_TOOLS:
        first = re.search(r"--(\w+)", hint)
        if name in names.split() and (first is None or first[1] in known):
            return f"{'-' if len(name) == 1 else '--'}{name} is not a flag here: {hint}"
    return f"unknown flag --{name}{did_you_mean(f'--{name}', [f'--{flag}' for flag in known])}"
