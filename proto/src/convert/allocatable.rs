//! Offers of nodes on the wire.

use super::WireError;
use super::bounds::MAX_GPUS;
use crate::inventory::{Allocatable, AllocatableGpu};
use crate::quantity::{Bytes, MilliCpu};
use crate::wire;

impl From<Allocatable> for wire::Allocatable {
    fn from(offer: Allocatable) -> Self {
        Self {
            gpus: offer
                .gpus
                .into_iter()
                .map(|gpu| wire::AllocatableGpu {
                    uuid: gpu.id.to_string(),
                    vram_bytes: gpu.vram.get(),
                })
                .collect(),
            milli_cpu: offer.cpu.get(),
            ram_bytes: offer.ram.get(),
            disk_bytes: offer.disk.get(),
        }
    }
}

impl TryFrom<wire::Allocatable> for Allocatable {
    type Error = WireError;
    fn try_from(wire: wire::Allocatable) -> Result<Self, WireError> {
        if wire.gpus.len() > MAX_GPUS {
            let text = format!("{}: at most {MAX_GPUS} are taken", wire.gpus.len());
            return Err(WireError::new("allocatable.gpus", text));
        }
        let gpus = wire
            .gpus
            .into_iter()
            .map(|gpu| {
                let id = gpu
                    .uuid
                    .parse()
                    .map_err(|error| super::malformed("allocatable.gpus.uuid", error))?;
                Ok(AllocatableGpu { id, vram: Bytes::new(gpu.vram_bytes) })
            })
            .collect::<Result<_, WireError>>()?;
        Ok(Self {
            gpus,
            cpu: MilliCpu::new(wire.milli_cpu),
            ram: Bytes::new(wire.ram_bytes),
            disk: Bytes::new(wire.disk_bytes),
        })
    }
}
