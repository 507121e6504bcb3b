//! Training tools that know nothing of hone: TRL, plain HF Trainer scripts, Axolotl, LLaMA-Factory, and any other
//! program. What they need is rendered, what they leave is turned into what hone's own trainer would have left, and so
//! the reconciler treats all jobs alike.
//!
//! [`job`] is what the spec says of the tool, [`push`] takes what it posts, [`workers`] finds the processes that hold the work, [`verdict`] decides
//! how a run ended.

pub mod complete;
pub mod config;
pub mod job;
pub mod keep;
pub mod push;
pub mod ranks;
pub mod render;
pub mod stopping;
pub mod verdict;
pub mod versions;
pub mod workers;
