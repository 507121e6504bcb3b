//! Readers of what training tools leave behind that know nothing of hone: TRL and the Hugging Face `Trainer`, Axolotl,
//! LLaMA-Factory, torchtune, torchtitan, Keras, and whatever else prints, logs or saves.
//!
//! Pure readers: bytes in, values out; files are opened by [`crate::trainer::beneath`] and every read, line, record and
//! collection is bounded, since all of it is written by code that hone does not trust. What cannot be understood is
//! counted or left out, never fatal.
//!
//! Figures become [`point::Point`]s under hone's names ([`names`]), ranked by [`point::Source`]: pushed ([`push`]),
//! JSON lines ([`lines`]), TensorBoard ([`tfevents`]), the trainer's state ([`state`]), printed ([`printed`]).
//! [`safetensors`], [`shards`] and [`zip_end`] say which files of a save are whole, [`signs`] and [`elastic`] what a failure was.

mod at;
pub mod elastic;
pub mod json;
pub mod lines;
pub mod names;
pub mod point;
pub mod printed;
pub mod push;
pub mod safetensors;
pub mod shards;
pub mod signs;
pub mod state;
pub mod tfevents;
pub mod zip_end;

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod flood_tests;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(test)]
mod real_runs_tests;
