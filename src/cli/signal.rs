//! Ctrl-C and SIGTERM: the first asks a command to end, a second ends it at once. SIGHUP asks a server to read its settings
//! again, SIGUSR1 to write down what its flight recorder has.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::exit::Exit;

/// Whether the process was asked to end. Clones see the same.
#[derive(Clone)]
pub struct Signals {
    asked: watch::Receiver<bool>,
    /// Done before the second ends us.
    last: Arc<Mutex<Vec<LastAct>>>,
}

type LastAct = Box<dyn FnOnce() + Send>;

impl Signals {
    /// From here on signals no longer end the process by themselves.
    ///
    /// # Errors
    /// If the operating system refuses the handlers.
    pub fn install() -> std::io::Result<Self> {
        let (ask, asked) = watch::channel(false);
        let mut terminate = Terminate::new()?;
        let last: Arc<Mutex<Vec<LastAct>>> = Arc::default();
        let acts = last.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                () = terminate.recv() => {}
            }
            ask.send_replace(true);
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                () = terminate.recv() => {}
            }
            for act in acts.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
                act();
            }
            // Whatever hangs, hangs: what was flushed so far is kept all the same.
            std::process::exit(Exit::Interrupted.code().into());
        });
        Ok(Self { asked, last })
    }

    /// Has something done even where a second signal ends the process at once.
    pub fn before_exit(&self, act: impl FnOnce() + Send + 'static) {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(act));
    }

    /// For a command that sees to signals by itself: never asked.
    pub fn none() -> Self {
        Self { asked: watch::channel(false).1, last: Arc::default() }
    }

    /// As if the process had been asked to end.
    #[cfg(test)]
    pub fn given() -> Self {
        Self { asked: watch::channel(true).1, last: Arc::default() }
    }

    /// Completes once the process has been asked to end, however long ago.
    pub async fn asked(&self) {
        let mut asked = self.asked.clone();
        if asked.wait_for(|asked| *asked).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// SIGHUP, from its creation on; nothing where there is no such signal.
pub struct HangUp(#[cfg(unix)] tokio::signal::unix::Signal);

impl HangUp {
    /// # Errors
    /// If the operating system refuses the handler.
    #[cfg(unix)]
    pub fn new() -> std::io::Result<Self> {
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()).map(Self)
    }

    #[cfg(not(unix))]
    pub fn new() -> std::io::Result<Self> {
        Ok(Self())
    }

    /// Completes when it comes.
    pub async fn recv(&mut self) {
        #[cfg(unix)]
        self.0.recv().await;
        #[cfg(not(unix))]
        std::future::pending::<()>().await;
    }
}

/// SIGUSR1, from its creation on; nothing where there is no such signal.
pub struct UserSignal(#[cfg(unix)] tokio::signal::unix::Signal);

impl UserSignal {
    /// # Errors
    /// If the operating system refuses the handler.
    #[cfg(unix)]
    pub fn new() -> std::io::Result<Self> {
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::user_defined1()).map(Self)
    }

    #[cfg(not(unix))]
    pub fn new() -> std::io::Result<Self> {
        Ok(Self())
    }

    /// Completes when it comes.
    pub async fn recv(&mut self) {
        #[cfg(unix)]
        self.0.recv().await;
        #[cfg(not(unix))]
        std::future::pending::<()>().await;
    }
}

/// SIGINT, SIGTERM and SIGHUP, from their creation on, for a command that runs in our place.
pub struct Passed {
    #[cfg(unix)]
    streams: [tokio::signal::unix::Signal; 3],
}

/// What a process is told.
#[derive(Clone, Copy, Debug)]
pub struct Word {
    #[cfg(unix)]
    signal: rustix::process::Signal,
}

impl Passed {
    /// # Errors
    /// If the operating system refuses the handlers.
    #[cfg(unix)]
    pub fn install() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let [interrupt, terminate, hang_up] = kinds.map(signal);
        Ok(Self { streams: [interrupt?, terminate?, hang_up?] })
    }

    #[cfg(not(unix))]
    pub fn install() -> std::io::Result<Self> {
        Ok(Self {})
    }

    /// The next one.
    #[cfg(unix)]
    pub async fn recv(&mut self) -> Word {
        use rustix::process::Signal;
        let [interrupt, terminate, hang_up] = &mut self.streams;
        let signal = tokio::select! {
            _ = interrupt.recv() => Signal::INT,
            _ = terminate.recv() => Signal::TERM,
            _ = hang_up.recv() => Signal::HUP,
        };
        Word { signal }
    }

    /// Where consoles tell all their processes by themselves.
    #[cfg(not(unix))]
    pub async fn recv(&mut self) -> Word {
        let _ = tokio::signal::ctrl_c().await;
        Word {}
    }
}

impl Word {
    /// Says it to a process that runs. What a terminal said, it said to that as well.
    #[cfg(unix)]
    pub fn pass_to(self, pid: Option<u32>) {
        use rustix::process::{Pid, Signal, kill_process};
        if self.signal == Signal::INT && is_in_foreground() {
            return;
        }
        if let Some(pid) = pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
            // One that has ended meanwhile needs no word.
            let _ = kill_process(pid, self.signal);
        }
    }

    #[cfg(not(unix))]
    pub fn pass_to(self, _pid: Option<u32>) {}
}

/// Whether Ctrl-C on a terminal comes to us, and so to all that we run.
#[cfg(unix)]
fn is_in_foreground() -> bool {
    let Ok(terminal) = std::fs::File::open("/dev/tty") else { return false };
    rustix::termios::tcgetpgrp(terminal).is_ok_and(|group| group == rustix::process::getpgrp())
}

#[cfg(unix)]
struct Terminate(tokio::signal::unix::Signal);

#[cfg(unix)]
impl Terminate {
    fn new() -> std::io::Result<Self> {
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).map(Self)
    }

    async fn recv(&mut self) {
        self.0.recv().await;
    }
}

#[cfg(not(unix))]
struct Terminate;

#[cfg(not(unix))]
impl Terminate {
    fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn recv(&mut self) {
        std::future::pending().await
    }
}
