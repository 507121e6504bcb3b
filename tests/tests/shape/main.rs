//! The repository's own rules, held by the machine: which modules are pure, what the top level holds, how long a file is.

mod layout;
mod purity;
mod source;
