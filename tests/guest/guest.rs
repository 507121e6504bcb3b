//! The program inside the test image: one static binary that does what its first argument says.
//!
//! It is compiled by the test itself, without any crate, so that the image needs nothing else.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| args.get(at).and_then(|text| text.parse::<usize>().ok()).unwrap_or(0);
    match args.first().map(String::as_str) {
        Some("sleep") => std::thread::sleep(Duration::from_secs(600)),
        Some("exit") => std::process::exit(i32::try_from(number(1)).unwrap_or(1)),
        Some("probe") => probe(),
        Some("eat") => eat(number(1)),
        Some("lines") => lines(number(1)),
        Some("say") => say(&args[1..]),
        _ => std::process::exit(2),
    }
}

/// What this process is and may do, one `key=value` a line.
fn probe() {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    for key in ["CapEff", "CapBnd", "CapPrm", "NoNewPrivs", "Seccomp", "Uid", "Gid"] {
        let value = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        println!("{key}={}", value.unwrap_or("").split_whitespace().collect::<Vec<_>>().join(" "));
    }
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap_or("");
    println!("core={}", core.split_whitespace().skip(4).take(2).collect::<Vec<_>>().join(" "));
    for place in ["/x", "/etc/x", "/tmp/x", "/volume/x", "/hone/output/x", "/hone/input/x"] {
        println!("write {place}={}", fs::write(place, "x").is_ok());
    }
    println!("first={}", fs::read_to_string("/proc/1/comm").unwrap_or_default().trim());
    println!("loopback={}", listens_on_loopback());
    let interfaces = fs::read_dir("/sys/class/net").map(|dir| dir.count()).unwrap_or(0);
    println!("interfaces={interfaces}");
    println!("socket={}", fs::metadata("/var/run/docker.sock").is_ok());
    for (name, value) in std::env::vars() {
        println!("env {name}={value}");
    }
}

fn listens_on_loopback() -> bool {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| TcpStream::connect(listener.local_addr()?))
        .is_ok()
}

/// Touches memory until there is none left.
fn eat(mebibytes: usize) {
    let mut held = Vec::new();
    for _ in 0..mebibytes {
        held.push(vec![1_u8; 1 << 20]);
    }
    println!("held {}", held.len());
}

/// Numbered lines of 100 characters on stdout, as fast as they go.
fn lines(count: usize) {
    let out = std::io::stdout();
    let mut out = out.lock();
    for n in 0..count {
        if writeln!(out, "{n:08} {}", "x".repeat(91)).is_err() {
            return;
        }
    }
}

/// Writes each argument to the stream that its first letter names, byte for byte.
fn say(parts: &[String]) {
    for part in parts {
        let (stream, text) = part.split_at(1);
        if stream == "e" {
            eprint!("{text}");
        } else {
            print!("{text}");
            let _ = std::io::stdout().flush();
        }
    }
}
