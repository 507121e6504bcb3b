//! A real fleet under faults: its agent, its controller or a trainer killed, its link cut, watchers gone, bad specs. Each
//! case uses the real binaries, the real engine and the real trainer.
//!
//! `HONE_CUT_SECONDS` sets another length of the cut; `HONE_KEEP_FLEETS=1` keeps the fleet's folder with its logs in
//! `target/test-fleets`.

mod agent;
mod behind_a_cut;
mod controller;
mod specs;
mod telemetry;
mod trainer;
mod watchers;
