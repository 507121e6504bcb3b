//! `hone`: the operator's command, and `hone serve`, the controller.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(hone_controller::cli::main())
}
