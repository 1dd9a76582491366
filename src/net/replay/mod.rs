//! Replaying a recording to a broker: its messages, or all that its clients did; or to clients, as their broker.
//!
//! [`start`] runs a replay on threads of its own: one keeps the schedule and writes messages at their
//! deadlines, whatever the rest of the program does; a small runtime beside it reads the acks.

mod cast;
mod handle;
mod impersonate;
mod judge;
mod lateness;
mod mailbox;
mod outcome;
mod pair;
mod progress;
mod read_ahead;
mod remote;
mod report;
mod schedule;
mod serve;
mod spec;
mod tally;

use std::{io, net::TcpListener, sync::Arc, thread};

use tokio::{runtime::Runtime, sync::watch};

use impersonate::Impersonation;
use outcome::Ended;
use pair::{Pair, Second};
use remote::Remote;
use schedule::Stop;
use serve::Serving;

pub use handle::ReplayHandle;
pub use judge::VerifySpec;
pub use lateness::{Cause, Lateness, Quantiles};
pub use outcome::ReplayOutcome;
pub use progress::{Phase, ReplayProgress};
pub use remote::Command;
pub use report::{ReplayReport, TopicCount};
pub(crate) use report::{expiry_warning, gaps_error};
pub use serve::OnMiss;
pub use spec::{EventSource, Events, EventsError, Mode, ReplaySpec, drawn_run};

/// Starts a replay.
///
/// # Errors
/// When the address of mode server is not to be had, or the system refuses a thread.
pub fn start(spec: ReplaySpec) -> io::Result<ReplayHandle> {
    let (progress, watch_progress) = watch::channel(ReplayProgress::default());
    let (report, watch_report) = watch::channel(None);
    let tally = Arc::new(tally::Tally::default());
    tally.state().lateness.tell(spec.metrics.as_ref());
    let remote = Arc::new(Remote::new(Arc::clone(&tally)));
    let twin = spec.other_target.is_some().then(|| Arc::new(Remote::new(Arc::default())));
    if let Some(twin) = &twin {
        // Set once, here.
        let _ = remote.twin.set(twin.clone());
    }
    if spec.start_paused {
        remote.command(Command::Pause);
    }
    let listener = match spec.mode {
        Mode::Server => {
            let listener = TcpListener::bind(spec.listen)?;
            listener.set_nonblocking(true)?;
            Some(listener)
        }
        Mode::Publish | Mode::Client => None,
    };
    let address = listener.as_ref().and_then(|listener| listener.local_addr().ok());
    let told = Arc::clone(&remote);
    let thread = thread::Builder::new().name("replay".to_owned()).spawn(move || {
        let blank = ReplayReport::blank(&spec);
        let ended = match io_runtime() {
            Ok(runtime) => {
                let part = Part { runtime, remote: told, progress, blank };
                part.play(&spec, tally, listener, twin)
            }
            Err(error) => Ended::new(blank, Some(Stop::Events(error.into()))),
        };
        report.send_replace(Some(Arc::new(ended.judged(&spec))));
    })?;
    // Set once, here.
    let _ = remote.thread.set(thread.thread().clone());
    Ok(ReplayHandle { progress: watch_progress, report: watch_report, remote, address })
}

/// What every mode takes.
struct Part {
    runtime: Runtime,
    remote: Arc<Remote>,
    progress: watch::Sender<ReplayProgress>,
    blank: ReplayReport,
}

impl Part {
    fn play(
        self,
        spec: &ReplaySpec,
        tally: Arc<tally::Tally>,
        listener: Option<TcpListener>,
        twin: Option<Arc<Remote>>,
    ) -> Ended {
        let Self { runtime, remote, progress, blank } = self;
        let spec = spec.clone();
        match (listener, twin, spec.other_target.clone()) {
            (Some(listener), ..) => Serving::new(spec, runtime, remote, progress, blank).run(listener),
            (None, Some(twin), Some(target)) => match io_runtime() {
                Ok(other) => {
                    let second = Second { target, runtime: other, remote: twin };
                    Pair::new(spec, second, runtime, remote, progress, blank).run()
                }
                Err(error) => Ended::new(blank, Some(Stop::Events(error.into()))),
            },
            _ if spec.mode == Mode::Client => {
                Impersonation::new(spec, runtime, remote, progress, blank).run()
            }
            _ => schedule::Run::new(spec, runtime, remote, tally, progress, blank).run(),
        }
    }
}

/// Of its own, so that acks are read whatever the caller's runtime is busy with.
fn io_runtime() -> io::Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).thread_name("replay-io").enable_all().build()
}
