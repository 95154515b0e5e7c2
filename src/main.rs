//! The `modelfs` command: hands the arguments to [`modelfs::cli`] and its exit code to the shell.

use std::process::ExitCode;

fn main() -> ExitCode {
    modelfs::cli::run(std::env::args_os())
}
