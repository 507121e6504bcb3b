//! What a node has, as text: its machine, its GPUs and its disks.

use hone_proto::inventory::{DiskKind, Inventory, Nvml};
use hone_proto::wire;

use super::state;
use crate::cli::render::human::{UNKNOWN, one_line};
use crate::cli::render::table::{Kind, facts, table};

/// What a node has, in paragraphs; none when it cannot be read.
#[must_use]
pub fn inventory(has: &wire::Inventory, width: usize) -> Vec<String> {
    let Ok(has) = Inventory::try_from(has.clone()) else { return Vec::new() };
    let has = &has;
    let engine = &has.engine;
    let physical = has.cpu.physical_cores.map(|cores| format!(", {cores} physical"));
    let nvml = match &has.nvml {
        Nvml::Present { driver, cuda } => {
            let known =
                |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".to_owned());
            format!("driver {}, CUDA up to {}", known(driver), known(cuda))
        }
        Nvml::Absent { why } => format!("none: {}", one_line(why)),
    };
    let pairs = [
        ("system", format!("{}, kernel {}, {}", has.os, has.kernel, has.arch)),
        (
            "processor",
            format!(
                "{}, {} cores{}",
                has.cpu.model,
                has.cpu.logical_cores,
                physical.unwrap_or_default()
            ),
        ),
        ("memory", format!("{}, {} swap", has.ram, has.swap)),
        (
            "engine",
            format!(
                "{} {} (API {}), {}, GPUs through {}",
                engine.name,
                engine.version,
                engine.api_version,
                engine.storage_driver,
                engine.gpu.name()
            ),
        ),
        ("nvidia", nvml),
    ];
    let mut parts = vec![facts(&pairs, width)];
    if !has.gpus.is_empty() || !has.silent_gpus.is_empty() {
        parts.push(gpus(has, width));
    }
    if !has.disks.is_empty() {
        parts.push(disks(has, width));
    }
    parts
}

fn gpus(has: &Inventory, width: usize) -> String {
    let columns = [
        ("GPU", Kind::Number),
        ("NAME", Kind::Text),
        ("MEMORY", Kind::Number),
        ("CC", Kind::Fixed),
        ("STATE", Kind::Text),
        ("ID", Kind::Text),
    ];
    let known = |text: Option<String>| text.unwrap_or_else(|| UNKNOWN.to_owned());
    let told = has.gpus.iter().map(|gpu| {
        vec![
            gpu.index.to_string(),
            known(gpu.name.clone()),
            known(gpu.vram.map(|vram| vram.to_string())),
            known(gpu.compute_capability.map(|cc| cc.to_string())),
            state(&gpu.state),
            gpu.id.to_string(),
        ]
    });
    let silent = has.silent_gpus.iter().map(|gpu| {
        let mut row = vec![UNKNOWN.to_owned(); columns.len()];
        row[0] = gpu.index.to_string();
        row[4] = state(&gpu.state);
        row
    });
    table(&columns, &told.chain(silent).collect::<Vec<_>>(), width)
}

fn disks(has: &Inventory, width: usize) -> String {
    let columns = [
        ("DISK", Kind::Text),
        ("KIND", Kind::Fixed),
        ("FREE", Kind::Number),
        ("SIZE", Kind::Number),
        ("READ/s", Kind::Number),
        ("WRITE/s", Kind::Number),
        ("LATENCY", Kind::Number),
    ];
    let rows: Vec<_> = has
        .disks
        .iter()
        .map(|disk| {
            let unknown = || UNKNOWN.to_owned();
            let kind = match disk.kind {
                DiskKind::Unknown => unknown(),
                kind => kind.name().to_owned(),
            };
            let mut row =
                vec![disk.mount.clone(), kind, disk.free.to_string(), disk.total.to_string()];
            match &disk.measured {
                Some(speed) => row.extend([
                    speed.read_per_second.to_string(),
                    speed.write_per_second.to_string(),
                    // Of a durable write: what a checkpoint waits for.
                    format!("{} µs", speed.write_latency_us),
                ]),
                None => row.extend([unknown(), unknown(), unknown()]),
            }
            row
        })
        .collect();
    table(&columns, &rows, width)
}
