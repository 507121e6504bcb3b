//! Training tools that know nothing of hone, unmodified, in real containers: trained, killed, resumed, finished. Their
//! images hold the packages as their authors publish them, and no code of hone's.

mod hf;
mod job;
mod keras;
mod saving;
mod trl;
