//! Threads that serve what they accept as tasks of their own.

use std::{io, net::TcpListener, sync::mpsc, thread};

use tokio::runtime::{Builder, Runtime};

/// Starts a thread that runs `serve` with a single-threaded runtime of its own, at which `listeners`
/// are registered. `serve` is dropped unrun when the thread cannot start.
///
/// # Errors
/// When the system refuses a thread, or an event queue for it.
pub(super) fn start(
    name: String,
    listeners: Vec<TcpListener>,
    serve: impl FnOnce(Runtime, Vec<tokio::net::TcpListener>) + Send + 'static,
) -> io::Result<()> {
    let (started, has_started) = mpsc::sync_channel(1);
    thread::Builder::new().name(name).spawn(move || match prepare(listeners) {
        Ok((runtime, listeners)) => {
            // Who started this thread waits for it.
            let _ = started.send(Ok(()));
            serve(runtime, listeners);
        }
        Err(error) => {
            let _ = started.send(Err(error));
        }
    })?;
    has_started.recv().map_err(io::Error::other)?
}

fn prepare(listeners: Vec<TcpListener>) -> io::Result<(Runtime, Vec<tokio::net::TcpListener>)> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let context = runtime.enter();
    let listeners: io::Result<_> = listeners.into_iter().map(tokio::net::TcpListener::from_std).collect();
    drop(context);
    Ok((runtime, listeners?))
}
