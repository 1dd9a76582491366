//! Ctrl-C and SIGTERM: the first asks a command to end, a second ends it at once. SIGHUP asks a server to read its settings
//! again, SIGUSR1 to write down what its flight recorder has.

use tokio::sync::watch;

use super::exit::Exit;

/// Whether the process was asked to end. Clones see the same.
#[derive(Clone)]
pub struct Signals {
    asked: watch::Receiver<bool>,
}

impl Signals {
    /// From here on signals no longer end the process by themselves.
    ///
    /// # Errors
    /// If the operating system refuses the handlers.
    pub fn install() -> std::io::Result<Self> {
        let (ask, asked) = watch::channel(false);
        let mut terminate = Terminate::new()?;
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
            // Whatever hangs, hangs: what was flushed so far is kept all the same.
            std::process::exit(Exit::Interrupted.code().into());
        });
        Ok(Self { asked })
    }

    /// As if the process had been asked to end.
    #[cfg(test)]
    pub fn given() -> Self {
        Self { asked: watch::channel(true).1 }
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
