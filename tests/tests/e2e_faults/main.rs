//! A real fleet under faults: its agent, its controller or a trainer killed, its link cut, watchers gone, bad specs. Each case uses the real
//! binaries, the real engine and the real trainer.
//!
//! `HONE_CUT_SECONDS=120` makes the cut as long as the product promises to bear; `HONE_KEEP_FLEETS=1` keeps the
//! fleet's folder with its logs in `target/test-fleets`.

mod agent;
mod controller;
mod cut;
mod specs;
mod trainer;
mod watchers;
