//! Arguments, one command, error to exit code.

use std::{io, process::ExitCode};

use clap::Parser;
use mockforge::cli::{Arguments, Exit, run};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let json = arguments.asks_for_json();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("mockforge: {error}");
            return Exit::Failed.into();
        }
    };
    let outcome = runtime.block_on(run(arguments));
    // A blocked read of standard input must not keep the process.
    runtime.shutdown_background();
    match outcome {
        Ok(exit) => exit.into(),
        // Who read our output has enough: `mockforge mqtt subscribe '#' | head -1`.
        Err(failure) if is_broken_pipe(&failure.error) => Exit::Passed.into(),
        Err(failure) => {
            eprintln!("{}", failure.told(json));
            failure.exit.into()
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
