//! The checked-in code is what the `.proto` files say. `HONE_BLESS=1 cargo test -p hone-codegen` rewrites it, and the
//! descriptor set that later releases are compared with. A crate of its own, so that code which does not compile yet
//! can be written.

#![cfg(test)]

mod compat;

use std::fs;
use std::path::{Path, PathBuf};

use prost::Message as _;

const FILES: [&str; 7] = ["common", "enrol", "inventory", "link", "bulk", "manifest", "operator"];

/// Views that `-o json` prints: they serialise as they are.
const SERIALISED: [&str; 2] = ["hone/v1/operator.proto", "hone/v1/inventory.proto"];

/// Messages that carry a secret: their `Debug` is written by hand (`src/wire/secrets.rs`) and leaves it out.
const SECRET: [&str; 2] = [".hone.v1.EnrolRequest", ".hone.v1.TokenReply"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn generate(out: &Path) -> Vec<u8> {
    let files: Vec<_> =
        FILES.iter().map(|f| root().join(format!("proto/hone/v1/{f}.proto"))).collect();
    let descriptors =
        protox::compile(files, [root().join("proto")]).expect("the .proto files compile");
    let bytes = descriptors.encode_to_vec();
    let mut config = tonic_prost_build::configure()
        .out_dir(out)
        .bytes(".hone.v1.UploadFrame.data")
        .bytes(".hone.v1.DownloadFrame.data")
        .skip_debug(SECRET)
        .btree_map(".");
    for file in descriptors.file.iter().filter(|f| SERIALISED.contains(&f.name())) {
        for message in &file.message_type {
            let oneofs = message.oneof_decl.len();
            let synthetic = message.field.iter().filter(|f| f.proto3_optional()).count();
            if oneofs > synthetic {
                continue;
            }
            let name = format!(".hone.v1.{}", message.name());
            config = config.type_attribute(&name, "#[derive(serde::Serialize)]");
            for field in &message.field {
                if field.r#type() == prost_types::field_descriptor_proto::Type::Bytes {
                    let path = format!("{name}.{}", field.name());
                    config = config.field_attribute(
                        path,
                        "#[serde(serialize_with = \"crate::wire::as_hex\")]",
                    );
                }
            }
        }
    }
    config.compile_fds(descriptors).expect("code is generated");
    bytes
}

#[test]
fn checked_in_code_is_current() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let descriptors = generate(scratch.path());
    let fresh = fs::read_to_string(scratch.path().join("hone.v1.rs")).expect("generated code");
    let kept = root().join("src/generated/hone.v1.rs");
    let kept_descriptors = root().join("src/generated/hone.v1.binpb");
    if std::env::var_os("HONE_BLESS").is_some() {
        fs::write(&kept, &fresh).expect("the generated code is written");
        fs::write(&kept_descriptors, &descriptors).expect("the descriptor set is written");
    }
    let current = fs::read_to_string(&kept).unwrap_or_default();
    assert!(
        current == fresh,
        "src/generated is stale: run `HONE_BLESS=1 cargo test -p hone-codegen`"
    );
    let current = fs::read(&kept_descriptors).unwrap_or_default();
    assert!(
        current == descriptors,
        "the descriptor set is stale: run `HONE_BLESS=1 cargo test -p hone-codegen`"
    );
}
