//! `gladly-relay`: the operator's program.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    cli::run(std::env::args_os()).await
}
