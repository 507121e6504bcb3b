//! `docs/spec.md`, written from the table of keys.

use std::fmt::Write as _;

use super::keys::KEYS;
use super::not_yet::{KEYS as NOT_YET, WORDS};

/// The page, whole.
#[must_use]
pub fn markdown() -> String {
    let mut page = String::from(INTRODUCTION);
    page.push_str("| key | takes | default | meaning |\n|---|---|---|---|\n");
    for key in KEYS {
        let (takes, default) = (key.shape.takes(), key.absent.shown());
        // Writing to a String cannot fail.
        let _ = writeln!(page, "| `{}` | {takes} | {default} | {} |", key.path, key.meaning);
    }
    page.push_str(NOT_SUPPORTED);
    for (key, why) in NOT_YET {
        let _ = writeln!(page, "- `{key}`: {why}");
    }
    for (key, words, why) in WORDS {
        let words: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
        let _ = writeln!(page, "- `{key}` as {}: {why}", words.join(", "));
    }
    page
}

const INTRODUCTION: &str = "\
<!-- Generated from controller/src/spec/keys.rs: HONE_BLESS=1 cargo test -p hone-controller --lib spec -->
# The job spec

One YAML file holds one job. The least that a job needs:

```yaml
model: ./model
data: ./train.jsonl
```

`deploy/examples/full.yaml` shows every key. Rules that hold everywhere:

- An unknown key is an error, which names its line and the nearest key. All problems of a file are reported at once.
- Paths are relative to the spec's own directory.
- Sizes need a unit: `GB` is 10⁹ bytes and `GiB` is 2³⁰.
- Only `true` and `false` are truth values; `yes` and `no` are text.
- `null` means the default. Anchors work within bounds; merge keys (`<<`) do not.
- What text means (`1.10`, `007`) is kept by quotes.

## Keys

";

const NOT_SUPPORTED: &str = "
## Not supported yet

These are refused, with what to do instead; nothing is ignored.

";
