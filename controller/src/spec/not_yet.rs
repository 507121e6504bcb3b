//! What the full format will hold and this release refuses, each with what to do instead; and what other tools call
//! our keys. A refusal is better than a key that does nothing.

/// What the full format will hold and this release refuses, with what to do instead.
pub(super) const KEYS: &[(&str, &str)] = &[
    ("model.id", "models from a hub: download the directory and name it with `model: ./directory`"),
    ("model.revision", "models from a hub: a local directory is named by its content already"),
    ("model.trust_remote_code", "code that comes with a model is never run"),
    ("data.test", "a third set of rows; use `data.eval`"),
    (
        "data.eval.group_by",
        "groups that stay together; split the file yourself and name it with `data.eval.path`",
    ),
    ("train.max_tokens", "a length in tokens; use `epochs` or `max_steps`"),
    (
        "train.early_stop",
        "early stopping; set `eval_every` and cancel the job when the curve turns",
    ),
    ("checkpoint.keep.best", "keeping the best checkpoint; every committed one stays in the store"),
    ("checkpoint.upload", "choosing what is uploaded; every checkpoint is"),
    ("checkpoint.resume", "choosing where to resume; the newest committed checkpoint is taken"),
    ("resources.gpus.vendor", "choosing a vendor; GPUs are NVIDIA's"),
    ("resources.gpus.share", "sharing a GPU; each is given whole"),
    ("resources.budget", "budgets; use `max_hours` and `max_attempts`"),
    ("resources.preemptible", "preemption"),
    ("evaluate.metrics", "other metrics than loss and perplexity"),
    ("evaluate.lm_eval", "evaluation harnesses"),
    ("evaluate.gate", "gates; `hone show` gives base and tuned perplexity"),
    ("serve", "serving; `hone pull JOB -o DIR` brings the package with an inference script"),
];

/// Words that the full format will know, by key, with what to do instead.
pub(super) const WORDS: &[(&str, &[&str], &str)] = &[
    ("kind", &["pretrain", "evaluate", "dpo", "sweep"], "only fine-tuning"),
    ("method.type", &["auto"], "name `lora`, `freeze` or `full`"),
    ("method.type", &["qlora"], "use `method: {type: lora, quant: {bits: 4}}`"),
    ("method.type", &["dora"], "use `method: {type: lora, lora: {dora: true}}`"),
    ("train.optimizer.name", &["adamw_8bit"], "use `adamw` with `bits: 8`"),
    ("train.optimizer.name", &["adam", "sgd", "lion", "muon"], "use `adamw` or `adafactor`"),
    (
        "train.schedule.type",
        &["polynomial", "inverse_sqrt", "wsd"],
        "use `cosine`, `linear` or `constant`",
    ),
    ("train.precision", &["fp8", "int8", "nf4"], "use `bf16`"),
    ("resources.network", &["internal"], "use `none`, or `egress` as a named relaxation"),
    (
        "export",
        &["merged", "gguf", "onnx", "awq", "gptq"],
        "export `adapter` or `model` and convert it yourself",
    ),
];

/// What other tools call a key.
pub(super) const ELSEWHERE: &[(&str, &str)] = &[
    ("base_model", "model"),
    ("model_name_or_path", "model"),
    ("dataset", "data"),
    ("datasets", "data"),
    ("learning_rate", "train.optimizer.lr"),
    ("batch_size", "train.batch.effective"),
    ("micro_batch_size", "train.batch.micro"),
    ("per_device_train_batch_size", "train.batch.micro"),
    ("gradient_accumulation_steps", "train.batch"),
    ("gradient_checkpointing", "train.activation_checkpointing"),
    ("max_length", "train.seq_len"),
    ("max_seq_len", "train.seq_len"),
    ("max_seq_length", "train.seq_len"),
    ("sequence_len", "train.seq_len"),
    ("num_epochs", "train.epochs"),
    ("num_train_epochs", "train.epochs"),
    ("warmup_ratio", "train.schedule.warmup"),
    ("lr_scheduler_type", "train.schedule.type"),
    ("max_grad_norm", "train.clip_norm"),
    ("save_steps", "checkpoint.every.steps"),
    ("save_total_limit", "checkpoint.keep.last"),
    ("lora_r", "method.lora.r"),
    ("lora_alpha", "method.lora.alpha"),
    ("lora_dropout", "method.lora.dropout"),
    ("rank", "method.lora.r"),
    ("target_modules", "method.lora.targets"),
    ("image", "trainer.image"),
];

/// Why the key at `path` is refused although the full format knows it.
pub(super) fn key(path: &str) -> Option<&'static str> {
    KEYS.iter().find(|(key, _)| *key == path).map(|(_, why)| *why)
}

/// Why `word` is refused at `path` although the full format knows it.
pub(super) fn word(path: &str, word: &str) -> Option<&'static str> {
    let found = WORDS.iter().find(|(key, words, _)| *key == path && words.contains(&word));
    found.map(|(_, _, why)| *why)
}
