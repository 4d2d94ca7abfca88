//! `gladly-relay`: the operator's program.

use std::process::ExitCode;

use tokio::runtime::Runtime;

fn main() -> ExitCode {
    let Ok(runtime) = Runtime::new() else { return ExitCode::FAILURE };
    let code = runtime.block_on(cli::run(std::env::args_os()));
    // Without waiting: after Ctrl-C a thread may still read the terminal.
    runtime.shutdown_background();
    code
}
