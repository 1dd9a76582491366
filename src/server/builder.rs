//! A server inside another program: what is said of it, call by call.

use std::{io, path::PathBuf, thread};

use tokio::{runtime, sync::oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    BindError, Server,
    running::{Link, RunningServer},
};
use crate::{
    config::{Config, ConfigError, ConfigFile, Flag, Sources, setting_key},
    control::{Addresses, ControlError},
    fault::RuleSpec,
    mock::MockSpec,
};

/// For what its runtime has still to do when the server has ended: tasks that block.
const RUNTIME_GRACE: std::time::Duration = std::time::Duration::from_secs(2);

/// All that ends with a server has a limit; this is beyond all of them together.
const END_MAX: std::time::Duration = std::time::Duration::from_secs(20);

/// As whose [flag](Flag) a value is shown.
const ORIGIN: &str = "Server::builder()";

/// What a server in this process is to be, for [`start`](Self::start).
///
/// What is said here wins over a [settings file](Self::config_file), and that over the builder's own defaults: MQTT on
/// `127.0.0.1` at a free port, neither HTTP nor gRPC, and a store in a temporary folder that goes with the server. The
/// environment is not read, so a test depends on nothing but itself.
#[derive(Clone, Debug, Default)]
#[must_use = "a server is made by `start`"]
pub struct ServerBuilder {
    file: ConfigFile,
    /// Keys and values, as in the environment; of the same key the last.
    settings: Vec<(String, String)>,
    mocks: Vec<MockSpec>,
    rules: Vec<RuleSpec>,
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A mock or a rule that the builder was given is not good; the error names its field.
    #[error("{what} {position} of the builder: {error}")]
    Refused { what: &'static str, position: usize, error: Box<ControlError> },
    #[error("cannot start a thread or make a folder: {0}")]
    System(#[from] io::Error),
}

impl ServerBuilder {
    /// Port of the MQTT listener; 0, which is the default, takes a free one.
    pub fn port(self, port: u16) -> Self {
        self.set("mqtt.port", port)
    }

    /// Address of the MQTT listener: `127.0.0.1` unless said.
    pub fn host(self, host: &str) -> Self {
        self.set("mqtt.host", host)
    }

    /// Serves REST, metrics and gRPC on this port of `127.0.0.1`, too; 0 takes a free one.
    pub fn http_port(self, port: u16) -> Self {
        self.set("http.enabled", true).set("http.port", port)
    }

    /// Serves gRPC on this port of `127.0.0.1`, too; 0 takes a free one.
    pub fn grpc_port(self, port: u16) -> Self {
        self.set("grpc.enabled", true).set("grpc.port", port)
    }

    /// Is a proxy before this broker, `mqtt://host:port`, instead of a broker.
    pub fn upstream(self, url: &str) -> Self {
        self.set("mqtt.upstream", url)
    }

    /// What random values and chaos are drawn from, so that they are the same again.
    pub fn seed(self, seed: u64) -> Self {
        self.set("mqtt.seed", seed)
    }

    /// Folder of the recordings, which stays; without it they go with the server.
    pub fn store(self, folder: impl Into<PathBuf>) -> Self {
        let folder: PathBuf = folder.into();
        self.set("store.path", folder.to_string_lossy())
    }

    /// A mock that is there for the first client; more can come and go [later](RunningServer::mocks).
    pub fn mock(mut self, mock: MockSpec) -> Self {
        self.mocks.push(mock);
        self
    }

    /// A rule of chaos that is there for the first client; more can come and go [later](RunningServer::chaos).
    pub fn chaos_rule(mut self, rule: RuleSpec) -> Self {
        self.rules.push(rule);
        self
    }

    /// Any setting of `mockforge.yaml` by its key, such as `mqtt.limits.maximum_qos`, with a value spelled as in a variable of
    /// the environment. [`start`](Self::start) says if there is no such key, or the value is not good.
    pub fn set(mut self, key: &str, value: impl ToString) -> Self {
        self.settings.push((key.to_owned(), value.to_string()));
        self
    }

    /// Settings as they stand in `mockforge.yaml`, in place of a file.
    pub fn config_text(mut self, yaml: &str) -> Self {
        self.file = ConfigFile::Text { name: "config_text".to_owned(), text: yaml.to_owned() };
        self
    }

    /// Settings of this file. Paths in it start at its folder.
    pub fn config_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = ConfigFile::At(path.into());
        self
    }

    /// Starts the server and answers when it listens: whoever connects from then on is served.
    ///
    /// It runs on threads of its own, so it does not matter which runtime asks, or whether that one is busy.
    ///
    /// # Errors
    /// A setting that is not good, an address that cannot be listened on, or a mock or a rule that is refused; nothing runs
    /// then.
    pub async fn start(self) -> Result<RunningServer, StartError> {
        let (started, running) = self.launch()?;
        running.ready(started.await)
    }

    /// As [`start`](Self::start), for programs and tests without a runtime.
    ///
    /// # Errors
    /// As `start`.
    ///
    /// # Panics
    /// When called by a task of an asynchronous runtime, which would stand still: they have `start`.
    pub fn start_blocking(self) -> Result<RunningServer, StartError> {
        let (started, running) = self.launch()?;
        running.ready(started.blocking_recv())
    }

    fn launch(self) -> Result<(oneshot::Receiver<Started>, Launched), StartError> {
        let temporary = tempfile::Builder::new().prefix("mockforge-").tempdir()?;
        let config = self.config(temporary.path())?;
        let (mocks, rules) = (self.mocks, self.rules);
        let stop = CancellationToken::new();
        let (say_started, started) = oneshot::channel();
        let (say_ended, ended) = oneshot::channel();
        let (stopped, end) = (stop.clone(), stop.clone());
        let thread = thread::Builder::new().name("mockforge".to_owned()).spawn(move || {
            let made = runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .thread_name("mockforge")
                .enable_all()
                .build();
            let runtime = match made {
                Ok(runtime) => runtime,
                Err(error) => {
                    // Nobody waits any more if the one who asked has gone; here and below.
                    let _ = say_started.send(Err(error.into()));
                    return;
                }
            };
            let outcome = runtime.block_on(async move {
                let prepared = async {
                    let server = Server::bind(config).await?;
                    prepare(&server, mocks, rules)?;
                    Ok::<_, StartError>(server)
                };
                let server = match prepared.await {
                    Ok(server) => server,
                    Err(error) => {
                        let _ = say_started.send(Err(error));
                        return Ok(());
                    }
                };
                let link = Link::new(server.control().clone(), runtime::Handle::current());
                let _ = say_started.send(Ok((link, server.addresses())));
                let too_late = async {
                    end.cancelled().await;
                    tokio::time::sleep(END_MAX).await;
                };
                tokio::select! {
                    outcome = server.run(stopped.cancelled_owned()) => outcome,
                    () = too_late => Err(io::Error::other("it did not end in time")),
                }
            });
            runtime.shutdown_timeout(RUNTIME_GRACE);
            drop(temporary);
            let _ = say_ended.send(outcome);
        })?;
        let guard = stop.clone().drop_guard();
        Ok((started, Launched { stop, guard, ended, thread }))
    }

    fn config(&self, temporary: &std::path::Path) -> Result<Config, StartError> {
        let flag = |key: &str, value: &str| {
            Ok::<_, ConfigError>(Flag {
                key: setting_key(key, ORIGIN)?,
                name: ORIGIN,
                value: value.to_owned(),
            })
        };
        let said: Result<Vec<Flag>, ConfigError> =
            self.settings.iter().map(|(key, value)| flag(key, value)).collect();
        let mut flags = said?;
        // What else would it be for?
        flags.push(flag("mqtt.enabled", "true")?);
        let sources = |flags| Sources { file: self.file.clone(), environment: Vec::new(), flags };
        let read = Config::load(sources(flags.clone()))?;
        let store = temporary.join("store");
        for (key, value) in [
            ("mqtt.host", "127.0.0.1"),
            ("mqtt.port", "0"),
            ("http.enabled", "false"),
            ("grpc.enabled", "false"),
            ("store.path", &store.to_string_lossy()),
        ] {
            if !read.is_said(key) {
                flags.push(flag(key, value)?);
            }
        }
        Ok(Config::load(sources(flags))?)
    }
}

/// What a server that has started says.
type Started = Result<(Link, Addresses), StartError>;

/// A server that is being started.
struct Launched {
    stop: CancellationToken,
    /// Ends it if nobody waits for it any more.
    guard: DropGuard,
    ended: oneshot::Receiver<io::Result<()>>,
    thread: thread::JoinHandle<()>,
}

impl Launched {
    fn ready(self, started: Result<Started, oneshot::error::RecvError>) -> Result<RunningServer, StartError> {
        let Self { stop, guard, ended, thread } = self;
        let (link, addresses) = started.map_err(|_| io::Error::other("the server's thread panicked"))??;
        guard.disarm();
        Ok(RunningServer::new(link, addresses, stop, ended, thread))
    }
}

/// Puts into force what clients are to find.
fn prepare(server: &Server, mocks: Vec<MockSpec>, rules: Vec<RuleSpec>) -> Result<(), StartError> {
    for (position, mock) in mocks.into_iter().enumerate() {
        server.control().add_mock(mock).map_err(|error| StartError::Refused {
            what: "mock",
            position,
            error: Box::new(error),
        })?;
    }
    for (position, rule) in rules.into_iter().enumerate() {
        server.control().add_rule(rule).map_err(|error| StartError::Refused {
            what: "rule",
            position,
            error: Box::new(error),
        })?;
    }
    Ok(())
}
