//! The binary: everything is in the library.

use std::process::ExitCode;
use std::time::Duration;

/// How long threads may take to end when the work is done. One that resolves a
/// name cannot be told to stop, and a dead name server holds it for ten seconds
/// and more: the process ends without it.
const LAST_THREADS: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    // A watcher of a few servers needs two threads: one can be busy decoding
    // while the other answers a scrape.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => {
            let status = runtime.block_on(snowpit::cli::main());
            runtime.shutdown_timeout(LAST_THREADS);
            status
        }
        Err(error) => {
            snowpit::cli::complain(format_args!("snowpit: no thread could be started: {error}"));
            ExitCode::FAILURE
        }
    }
}
