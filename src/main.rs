//! The binary: everything is in the library.

use std::process::ExitCode;

// A watcher of a few servers needs two threads: one can be busy decoding while
// the other answers a scrape.
#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    snowpit::cli::main().await
}
