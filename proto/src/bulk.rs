//! What agent and CLI share to move bulk data: reading a source safely and cutting it into chunks.

pub mod source;
