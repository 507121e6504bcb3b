//! A preview for people, in 80 columns.

use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, Table, presets};
use hone_proto::inventory::{
    CgroupVersion, Disk, DiskSpeed, EngineFacts, Gpu, GpuSupport, Inventory, Limits, Nvml,
};
use hone_proto::quantity::Bytes;
use hone_proto::sample::GpuState;

use super::Preview;

/// What every terminal shows.
const WIDTH: u16 = 80;

/// The preview as text.
#[must_use]
pub fn render(preview: &Preview) -> String {
    let Preview { inventory, .. } = preview;
    let mut parts = vec![facts(&machine(preview)), disks(inventory)];
    if !inventory.gpus.is_empty() {
        parts.push(gpus(&inventory.gpus));
    }
    parts.push(offer(preview));
    parts.push(facts(&policy(preview)));
    parts.join("\n\n") + "\n"
}

fn machine(preview: &Preview) -> Vec<(&'static str, String)> {
    let Preview { inventory, .. } = preview;
    let cpu = &inventory.cpu;
    let physical = cpu.physical_cores.map(|n| format!(" ({n} physical)")).unwrap_or_default();
    let engine = match &preview.engine_absent {
        Some(why) => format!("none: {why}; no job can run here until an engine does"),
        None => engine(&inventory.engine),
    };
    let speed = inventory.disks.iter().find(|disk| disk.holds_state).map(|disk| disk.measured);
    vec![
        ("machine", format!("{}, {}, {}", inventory.hostname, inventory.os, inventory.arch)),
        (
            "fleet",
            preview.joined_as.as_ref().map_or_else(
                || "none: this machine has not joined one".to_owned(),
                |id| format!("joined as {id}"),
            ),
        ),
        ("kernel", inventory.kernel.clone()),
        ("processor", format!("{} cores{physical}, {}", cpu.logical_cores, cpu.model)),
        ("memory", format!("{}, swap {}", inventory.ram, inventory.swap)),
        ("engine", engine),
        ("NVIDIA driver", driver(inventory)),
        ("disk speed", speed.map_or_else(|| "unknown".to_owned(), disk_speed)),
    ]
}

fn engine(facts: &EngineFacts) -> String {
    let gpus = match facts.gpu {
        GpuSupport::None => "no sign of GPU support",
        GpuSupport::Nvidia => "GPUs through NVIDIA's runtime",
        GpuSupport::Cdi => "GPUs through CDI",
    };
    let cgroup = match facts.cgroup_version {
        Some(CgroupVersion::V1) => "cgroup v1",
        Some(CgroupVersion::V2) => "cgroup v2",
        None => "unknown cgroup",
    };
    format!("{} {}, {}, {cgroup}, {gpus}", facts.name, facts.version, facts.storage_driver)
}

fn driver(inventory: &Inventory) -> String {
    let unknown = || "unknown".to_owned();
    let silent = match inventory.silent_gpus.len() {
        0 => String::new(),
        n => format!("; {n} more of its GPUs do not say who they are"),
    };
    match &inventory.nvml {
        Nvml::Absent { why } => format!("none, so no GPU is offered: {why}"),
        Nvml::Present { driver, cuda } => format!(
            "{}, CUDA {}{silent}",
            driver.clone().unwrap_or_else(unknown),
            cuda.clone().unwrap_or_else(unknown)
        ),
    }
}

fn disk_speed(speed: Option<DiskSpeed>) -> String {
    let Some(speed) = speed else {
        return "not measured yet; the first `hone-agent run` does".to_owned();
    };
    format!(
        "{}/s read, {}/s write, {} µs to read 4 KiB, {} µs to write it",
        speed.read_per_second,
        speed.write_per_second,
        speed.read_latency_us,
        speed.write_latency_us
    )
}

fn disks(inventory: &Inventory) -> String {
    let row = |disk: &Disk| {
        let holds = match (disk.holds_state, disk.holds_engine) {
            (true, true) => "jobs, images",
            (true, false) => "jobs",
            (false, true) => "images",
            (false, false) => "",
        };
        vec![
            disk.mount.clone(),
            disk.kind.name().to_owned(),
            disk.file_system.clone(),
            disk.total.to_string(),
            disk.free.to_string(),
            holds.to_owned(),
        ]
    };
    let rows: Vec<_> = inventory.disks.iter().map(row).collect();
    table(&["DISK", "KIND", "TYPE", ">SIZE", ">FREE", "HOLDS"], &rows)
}

fn gpus(gpus: &[Gpu]) -> String {
    let row = |gpu: &Gpu| {
        vec![
            gpu.index.to_string(),
            gpu.name.clone().unwrap_or_default(),
            size(gpu.vram),
            gpu.compute_capability.map(|version| version.to_string()).unwrap_or_default(),
            state(&gpu.state).to_owned(),
            gpu.id.to_string(),
        ]
    };
    let rows: Vec<_> = gpus.iter().map(row).collect();
    table(&[">GPU", "NAME", ">VRAM", "CC", "STATE", "!ID"], &rows)
}

fn state(state: &GpuState) -> &str {
    match state {
        GpuState::Ok => "ok",
        GpuState::Lost => "lost",
        GpuState::NeedsReset => "needs a reset",
        GpuState::NoAnswer => "no answer",
        GpuState::Failed { why } => why,
    }
}

fn size(bytes: Option<Bytes>) -> String {
    bytes.map_or_else(|| "-".to_owned(), |bytes| bytes.to_string())
}

/// What there is, what is kept back, and what is left: why the last column is what it is.
fn offer(preview: &Preview) -> String {
    let Preview { inventory, limits, used_by_others: others, allocatable, .. } = preview;
    let disk = inventory.disks.iter().find(|disk| disk.holds_state).map(|disk| disk.total);
    let max = |max: Option<String>| max.unwrap_or_else(|| "-".to_owned());
    let row = |cells: [String; 6]| cells.to_vec();
    let mut rows = vec![
        row([
            "processor cores".to_owned(),
            inventory.cpu.logical_cores.to_string(),
            limits.reserve_cpu.to_string(),
            "shared".to_owned(),
            max(limits.max_cpu.map(|cpu| cpu.to_string())),
            allocatable.cpu.to_string(),
        ]),
        row([
            "memory".to_owned(),
            inventory.ram.to_string(),
            limits.reserve_ram.to_string(),
            others.ram.to_string(),
            max(limits.max_ram.map(|ram| ram.to_string())),
            allocatable.ram.to_string(),
        ]),
        row([
            "disk for jobs".to_owned(),
            size(disk),
            limits.reserve_disk.to_string(),
            others.disk.to_string(),
            max(limits.max_disk.map(|disk| disk.to_string())),
            allocatable.disk.to_string(),
        ]),
    ];
    for gpu in &inventory.gpus {
        let offered = allocatable.gpus.iter().find(|offered| offered.id == gpu.id);
        let offered = offered.map_or_else(|| withheld(gpu, limits), |gpu| gpu.vram.to_string());
        rows.push(row([
            format!("VRAM of GPU {}", gpu.index),
            size(gpu.vram),
            limits.reserve_vram.to_string(),
            others.vram.get(&gpu.id).copied().unwrap_or_default().to_string(),
            max(limits.max_vram.map(|vram| vram.to_string())),
            offered,
        ]));
    }
    table(&["OFFER", ">HAS", ">RESERVED", ">OTHERS USE", ">AT MOST", ">OFFERED"], &rows)
}

/// Why a GPU is not offered.
fn withheld(gpu: &Gpu, limits: &Limits) -> String {
    let allowed = limits.gpus.as_ref().is_none_or(|allowed| allowed.contains(&gpu.id));
    let why = match (&gpu.state, allowed) {
        (_, false) => "not in policy.gpus",
        (GpuState::Ok, true) => "memory unknown",
        (broken, true) => state(broken),
    };
    format!("no: {why}")
}

fn policy(preview: &Preview) -> Vec<(&'static str, String)> {
    let listed = |list: &[String], empty: &str| {
        if list.is_empty() { empty.to_owned() } else { list.join(", ") }
    };
    vec![
        ("images", listed(&preview.images, "every image that is named by its digest")),
        ("relaxations", listed(&preview.allow, "none: containers are closed")),
    ]
}

/// Names and values, wrapped at words.
fn facts(pairs: &[(&'static str, String)]) -> String {
    let mut table = plain();
    for (name, value) in pairs {
        table.add_row([Cell::new(name), Cell::new(value)]);
    }
    if let Some(names) = table.column_mut(0) {
        names.set_constraint(ColumnConstraint::ContentWidth);
    }
    finish(table)
}

/// A header's mark says how its column behaves: `>` is a number, `!` must stay whole to be copied.
fn table(headers: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = plain();
    table.set_header(headers.iter().map(|header| header.trim_start_matches(['>', '!'])));
    table.add_rows(rows.iter().map(|row| row.iter().map(Cell::new)));
    for (column, header) in table.column_iter_mut().zip(headers) {
        if header.starts_with('>') {
            column.set_cell_alignment(CellAlignment::Right);
        }
        if header.starts_with(['>', '!']) {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    finish(table)
}

fn plain() -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(WIDTH);
    table
}

fn finish(mut table: Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let text = table.to_string();
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}
