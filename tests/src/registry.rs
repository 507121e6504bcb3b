//! A registry for one image, as small as the engine lets it be: answers over plain HTTP on loopback, which engines accept
//! without any setting.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, bail};

/// What a path answers: its content type and its bytes.
type Pages = HashMap<String, (&'static str, Vec<u8>)>;

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// A registry that serves until the process ends.
#[derive(Debug)]
pub struct Registry {
    /// `127.0.0.1:port/team/guest`.
    pub repository: String,
    /// The manifest's digest.
    pub digest: String,
    /// The image's id: the digest of its configuration.
    pub image_id: String,
}

impl Registry {
    /// Serves an image that holds `program` and runs it. With `lie`, the layer's bytes are not what its digest says.
    ///
    /// # Errors
    /// When the image cannot be put together or no port is free.
    pub fn serve(program: &Path, lie: bool) -> Result<Self> {
        let dir = program.parent().context("the program lies in a directory")?;
        let name =
            program.file_name().and_then(|name| name.to_str()).context("the program has a name")?;
        let tar = pipe(Command::new("tar").arg("-C").arg(dir).args(["-c", name]), &[])?;
        let mut layer = pipe(Command::new("gzip").args(["-1", "-n"]), &tar)?;
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux",
            "config": {"Entrypoint": [format!("/{name}")]},
            "rootfs": {"type": "layers", "diff_ids": [digest(&tar)?]},
        });
        let config = serde_json::to_vec(&config)?;
        let (config_digest, layer_digest) = (digest(&config)?, digest(&layer)?);
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "size": config.len(), "digest": config_digest},
            "layers": [{"mediaType": LAYER, "size": layer.len(), "digest": layer_digest}],
        });
        let manifest = serde_json::to_vec(&manifest)?;
        let manifest_digest = digest(&manifest)?;
        if lie {
            layer[20] ^= 1;
        }
        let base = "/v2/team/guest";
        let pages = Pages::from([
            ("/v2/".to_owned(), ("application/json", b"{}".to_vec())),
            (format!("{base}/manifests/{manifest_digest}"), (MANIFEST, manifest)),
            (format!("{base}/blobs/{config_digest}"), (CONFIG, config)),
            (format!("{base}/blobs/{layer_digest}"), (LAYER, layer)),
        ]);
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let repository = format!("{}/team/guest", listener.local_addr()?);
        let pages = Arc::new(pages);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let pages = Arc::clone(&pages);
                std::thread::spawn(move || answer(stream, &pages));
            }
        });
        Ok(Self { repository, digest: manifest_digest, image_id: config_digest })
    }
}

/// Answers requests on one connection until it closes or says something that is not HTTP, such as a TLS greeting.
fn answer(stream: TcpStream, pages: &Pages) -> Option<()> {
    let mut writer = stream.try_clone().ok()?;
    let mut lines = BufReader::new(stream).lines();
    loop {
        let request = lines.next()?.ok()?;
        let mut words = request.split(' ');
        let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
        while !lines.next()?.ok()?.is_empty() {}
        let (status, (kind, body)) = match pages.get(&path) {
            Some((kind, body)) => ("200 OK", (*kind, body.as_slice())),
            None => ("404 Not Found", ("application/json", &b"{}"[..])),
        };
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\
             Docker-Distribution-Api-Version: registry/2.0\r\n\r\n"
        );
        writer.write_all(head.as_bytes()).ok()?;
        if method != "HEAD" {
            writer.write_all(body).ok()?;
        }
    }
}

fn digest(bytes: &[u8]) -> Result<String> {
    let sum = String::from_utf8(pipe(&mut Command::new("sha256sum"), bytes)?)?;
    let hex = sum.split(' ').next().context("sha256sum prints a digest")?;
    Ok(format!("sha256:{hex}"))
}

/// What a command prints when `input` is its input.
fn pipe(command: &mut Command, input: &[u8]) -> Result<Vec<u8>> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().context("the command has an input")?;
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output()
    })?;
    if !output.status.success() {
        bail!("{command:?} failed");
    }
    Ok(output.stdout)
}
