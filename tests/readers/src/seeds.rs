//! Bytes to begin with: what real runs left behind (`tests/fixtures/trainer`), the examples of specs, and by hand what
//! neither has.

use std::path::PathBuf;

use crate::{growing, printed};

/// A file of the repository.
fn file(path: &str) -> Vec<u8> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join(path);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn fixture(name: &str) -> Vec<u8> {
    file(&format!("tests/fixtures/trainer/{name}"))
}

fn each(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

pub(crate) fn json() -> Vec<Vec<u8>> {
    let mut all = each(&[
        r#"{"a": NaN, "b":[-Infinity,Infinity], "c": "NaN \" Infinity", "d":-1.5}"#,
        r#"{"loss": "nan", "n": 18446744073709551615, "m": -9223372036854775808}"#,
    ]);
    all.push(fixture("hf5-trl-lora/checkpoint-40/adapter_config.json"));
    all
}

pub(crate) fn names() -> Vec<Vec<u8>> {
    each(&[
        "loss=2.5\neval_loss=NaN\nstep=20\nepoch=0.5\nnum_input_tokens_seen=7\n",
        "tokens/total=1\nnum_tokens=2\ntokens/trainable=3\ntotal_tokens=4\nval_accuracy=1\n",
        "train/lr=1\nlr=2\nlearning_rate=3\neval/=inf\npredict_loss=-inf\nmax_steps=9\n",
    ])
}

pub(crate) fn lines() -> Vec<Vec<u8>> {
    each(&[
        concat!(
            r#"{"current_steps": 5, "total_steps": 40, "loss": 2.5, "lr": 0.0001, "epoch": 0.12, "percentage": 12.5, "elapsed_time": "0:00:05", "throughput": 120.5, "total_tokens": 640}"#,
            "\n",
            r#"{"current_steps": 10, "total_steps": 40, "eval_loss": NaN, "epoch": 0.25}"#,
            "\n",
            r#"{"current_steps": 15, "total_steps": 40, "loss": Infinity, "lr": 0.0, "epoch": 0.37}"#,
            "\n",
        ),
        "{\"step\": 1, \"loss\": 2.0, \"tokens_per_second_per_gpu\": 9}\n\n{\"step\": 2, \"x\": [1, {\"a\": 2}]}\njunk\n{\"step\": 3",
    ])
}

pub(crate) fn states() -> Vec<Vec<u8>> {
    let mut all = each(&[
        r#"{"global_step": 3, "max_steps": 3, "epoch": 1.0, "best_metric": NaN, "best_model_checkpoint": "/o/checkpoint-2", "best_global_step": 2, "stateful_callbacks": {"EarlyStoppingCallback": {"args": {"early_stopping_patience": 2}, "attributes": {"early_stopping_patience_counter": 2}}}, "log_history": [{"step": 1, "loss": 1.0}, {"step": 1, "eval_loss": 2.0}, {"step": 3, "loss": Infinity, "x": null}]}"#,
    ]);
    all.push(fixture("hf5-trl-lora/checkpoint-40/trainer_state.json"));
    all.push(fixture("hf5-ddp2-checkpoint-20/trainer_state.json"));
    all
}

pub(crate) fn bodies() -> Vec<Vec<u8>> {
    let posts = String::from_utf8(fixture("hf5-trl-lora/kubeflow-posts.txt")).expect("text");
    let bodies: Vec<_> =
        posts.lines().filter_map(|line| line.find('{').map(|at| &line[at..])).collect();
    let mut all = each(&bodies);
    all.push(bodies.join("\n").into_bytes());
    let now = |figures: &str| {
        format!(
            r#"{{"trainerStatus":{{"metrics":[{{"name":"current_step","value":"50"}},{{"name":"total_steps","value":"100"}},{{"name":"current_epoch","value":"0.5"}}{figures}]}}}}"#
        )
    };
    let evaluated = r#",{"name":"eval_loss","value":"nan"},{"name":"epoch","value":"0.5"}"#;
    let trained = r#",{"name":"loss","value":2},{"name":"epoch","value":"0.4"}"#;
    all.push(format!("{}\n{}", now(trained), now(evaluated)).into_bytes());
    all
}

fn event_file() -> Vec<u8> {
    fixture("hf5-trl-lora/tb/events.out.tfevents.1795451049.vm.11120.0")
}

pub(crate) fn events() -> Vec<Vec<u8>> {
    let whole = event_file();
    vec![whole[..whole.len() / 4].to_vec(), whole]
}

pub(crate) fn records() -> Vec<Vec<u8>> {
    // Wall time 10 s, a step, and one value: as TensorFlow's `event.proto` has them.
    let value = |step: u8, tag: &str| {
        let inner = [&[0x0a, length(tag)][..], tag.as_bytes(), &[0x15, 0, 0, 0x80, 0x3f]].concat();
        let summary = [&[0x0a, length(&inner)][..], &inner].concat();
        let payload =
            [&b"\x09\0\0\0\0\0\0\x24\x40\x10"[..], &[step, 0x2a, length(&summary)], &summary]
                .concat();
        [&[length(&payload), 0][..], &payload].concat()
    };
    let keras = [
        value(12, "evaluation_loss_vs_iterations"),
        value(0, "epoch_loss"),
        value(24, "evaluation_loss_vs_iterations"),
        value(1, "epoch_loss"),
        value(24, "batch_loss"),
    ];
    let whole = growing::payloads(&event_file());
    vec![whole[..whole.len() / 8].to_vec(), whole, keras.concat()]
}

fn length(bytes: impl AsRef<[u8]>) -> u8 {
    u8::try_from(bytes.as_ref().len()).expect("short")
}

pub(crate) fn tensors() -> Vec<Vec<u8>> {
    let header =
        r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let small = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 4]].concat();
    vec![small, fixture("hf5-trl-lora/checkpoint-40/adapter_model.safetensors")]
}

pub(crate) fn archives() -> Vec<Vec<u8>> {
    let mut end = b"PK\x05\x06".to_vec();
    end.resize(22, 0);
    let mut long = vec![0; 10];
    long.extend(b"PK\x06\x06");
    long.resize(10 + 56 + 20, 0);
    (long[10 + 40], long[10 + 48]) = (4, 6);
    long.extend(b"PK\x05\x06");
    long.resize(10 + 76 + 22, 0);
    long[10 + 76 + 12..10 + 76 + 20].fill(0xff);
    vec![end, long, fixture("hf5-trl-lora/checkpoint-40/scheduler.pt")]
}

pub(crate) fn indexes() -> Vec<Vec<u8>> {
    each(&[
        r#"{"metadata": {"total_size": 9}, "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#,
        r#"{"weight_map": {"a": "mod\u0065l.safetensors"}, "x": [[], {}]}"#,
    ])
}

pub(crate) fn errors() -> Vec<Vec<u8>> {
    each(&[
        r#"{"message": {"message": "OutOfMemoryError: CUDA out of memory.", "errorCode": -9, "extraInfo": {"py_callstack": "Traceback (most recent call last):\n  x\nValueError: y\n", "timestamp": "1700000000"}}}"#,
        r#"{"message": "\u001b[31mSignal 11 (SIGSEGV) received by PID 7\n"}"#,
        r#"{"message": {"message": "x", "errorCode": "3"}}"#,
    ])
}

pub(crate) fn last_lines() -> Vec<Vec<u8>> {
    let mut all = each(&[
        "NCCL watchdog timeout\ntorch.OutOfMemoryError: CUDA out of memory.\ntorch.distributed.elastic.multiprocessing.errors.ChildFailedError:\n",
        "OSError: [Errno 28] No space left on device\nKeyError: 'messages'\nNVRM: Xid (PCI:0000:3b:00): 79\n",
    ]);
    all.push(fixture("stderr-resume-incomplete.txt"));
    all
}

/// What was printed, in both orders of the two outputs, and what other tools print.
pub(crate) fn printed() -> Vec<Vec<u8>> {
    let (stdout, stderr) =
        (fixture("hf5-trl-lora/stdout.txt"), fixture("hf5-trl-lora/stderr-tqdm.txt"));
    let turn = [printed::TURN];
    let mut all = vec![
        [&stdout[..], &turn, &stderr].concat(),
        [&turn[..], &stderr, &turn, &stdout].concat(),
        [&turn[..], &stderr[..stderr.len() / 2]].concat(),
    ];
    all.extend(each(&[
        "1|1|Loss: 2.5:   0%|   | 0/9 [x]\r1|1|Loss: 2.5:  11%|   | 1/9 [x]\r1|2|Loss: inf:  22%|   | 2/9 [x]\n",
        "Epoch 1/3\n60/100 - 1s 5ms/step - accuracy: 0.5 - loss: 4.0\n100/100 - 3s - loss: 3.0 - val_loss: nan\nEpoch 2/3\n100/100 - 3s - 30ms/step - loss: 2.0\n",
        "[rank0]:[titan] 2025-06-01 10:00:00,123 - root - INFO - step: 10  loss:  8.1309  grad_norm:  1.2  memory:  1.50GiB(1.90%)  tps: 12,345  tflops: 1.21  mfu: 3.40%\n[titan] x - root - INFO - validate step: 20  loss:  nan  tps: 5\n",
        "\r  0%|   | 0/40 [x]\r          \r{'loss': 3.0, 'epoch': 0.05}\n\r 12%|   | 5/40 [x]\r          \r{'loss': '2.0', 'epoch': '0.1'}\n\r 25%|   | 10/40 [x]\n",
        "Traceback (most recent call last):\n  File \"x.py\", line 1, in <module>\n    y()\nValueError: z\nmore\n",
    ]));
    all
}

/// The same as an engine keeps it, and what an engine's file holds after a power cut.
pub(crate) fn logs() -> Vec<Vec<u8>> {
    let mut all: Vec<_> = printed().iter().map(|bytes| printed::engine(bytes)).collect();
    all.push([&all[3][..], b"\0\0\0\0\n{\"log\":\"x", &all[4]].concat());
    all
}

pub(crate) fn specs() -> Vec<Vec<u8>> {
    let names = ["axolotl", "custom-keras", "full", "hf", "llamafactory", "quickstart", "trl"];
    names.iter().map(|name| file(&format!("deploy/examples/{name}.yaml"))).collect()
}

pub(crate) fn configs() -> Vec<Vec<u8>> {
    each(&[
        "base_model: x\nadapter: lora\ndatasets:\n  - path: a\n    type: chat_template\nlora_r: 8\n",
        r#"{"stage": "sft", "finetuning_type": "lora", "lora_target": ["q", "v"], "x": 1e3}"#,
        "- a\n- b\n",
        "a: &x [1, 2]\nb: *x\n",
    ])
}
