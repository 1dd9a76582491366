//! A server, or a `Control` without one, in this process.

use std::{
    fs,
    path::{self, Path},
};

use tokio::{sync::oneshot, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{
    exit::{Exit, Failure},
    place::Place,
    record,
    transport::Transport,
};
use crate::{
    config::Config,
    control::{
        Control, ControlParts,
        pb::{GetServerInfoRequest, Recording, ServerInfo, StartRecordingRequest},
    },
    server::{BindError, Server},
    store::StoreOptions,
};

/// A server of our own that runs until it is stopped.
pub struct Host {
    control: Control,
    transport: Transport,
    info: ServerInfo,
    /// Cancelled when MQTT has ended.
    ended: CancellationToken,
    /// Ends MQTT; `None` once it was asked to.
    stop_traffic: Option<oneshot::Sender<()>>,
    /// Ends the rest.
    stop: oneshot::Sender<()>,
    run: JoinHandle<anyhow::Result<()>>,
}

impl Host {
    /// `first` is done before the first client.
    ///
    /// # Errors
    /// [`Exit::Usage`] when an address can't be bound, and those of `first`.
    pub async fn start<T>(
        config: Config,
        first: impl AsyncFnOnce(&Control) -> Result<T, Failure>,
    ) -> Result<(Self, T), Failure> {
        let bound = Server::bind(config).await;
        let server = bound.map_err(|error| Failure::new(Exit::Usage, error))?;
        let done = first(server.control()).await?;
        Ok((Self::run(server).await?, done))
    }

    /// With a recording that misses nothing: it is there before the first client.
    ///
    /// # Errors
    /// Those of [`start`](Self::start) and of StartRecording.
    pub async fn start_recording(
        config: Config,
        request: StartRecordingRequest,
    ) -> Result<(Self, Recording), Failure> {
        let record = async |control: &Control| record::start(&Transport::to_server(control), request).await;
        Self::start(config, record).await
    }

    async fn run(server: Server) -> Result<Self, Failure> {
        let control = server.control().clone();
        let transport = Transport::to_server(&control);
        let ended = CancellationToken::new();
        let (stop_traffic, traffic_stopped) = oneshot::channel::<()>();
        let (stop, stopped) = oneshot::channel::<()>();
        let traffic_ended = ended.clone();
        let run = tokio::spawn(async move {
            let shutdown = async {
                // Sent or dropped, it means the same.
                let _ = traffic_stopped.await;
            };
            let server = server.run_traffic(shutdown).await;
            traffic_ended.cancel();
            let _ = stopped.await;
            Ok(server.close().await?)
        });
        let info = transport.admin().get_server_info(GetServerInfoRequest {}).await?.into_inner();
        Ok(Self { control, transport, info, ended, stop_traffic: Some(stop_traffic), stop, run })
    }

    pub fn control(&self) -> &Control {
        &self.control
    }

    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    pub fn info(&self) -> &ServerInfo {
        &self.info
    }

    /// Completes when MQTT has ended: by [`stop_traffic`](Self::stop_traffic), or by itself because
    /// an operator told it to over the API, or because it failed.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Disconnects the clients, and returns when nothing is sent or received any more. Recordings
    /// go on, and requests are answered, until [`stop`](Self::stop).
    pub async fn stop_traffic(&mut self) {
        // Gone if the server ended before.
        if let Some(stop) = self.stop_traffic.take() {
            let _ = stop.send(());
        }
        self.ended().await;
    }

    /// # Errors
    /// What made the server fail.
    pub async fn stop(mut self) -> Result<(), Failure> {
        self.stop_traffic().await;
        let _ = self.stop.send(());
        match self.run.await {
            Ok(ran) => Ok(ran?),
            Err(panic) => Err(Failure::new(Exit::Failed, panic)),
        }
    }
}

/// Says which flags take another port, where that helps.
pub fn name_port_flags(failure: Failure, flags: &str) -> Failure {
    match failure.error.downcast_ref::<BindError>() {
        Some(error) if error.is_about_a_port() => {
            Failure::new(failure.exit, anyhow::anyhow!("{error}; choose another port with {flags}"))
        }
        _ => failure,
    }
}

/// The running server that the settings name, else the store's folder, for what is in it.
pub async fn find_or_store_alone(config: &Config) -> Result<(Transport, Place), Failure> {
    find_or_store(config, true).await
}

/// The same for adding to it: goes on with a new store where there is a damaged one.
pub async fn find_or_store_to_add(config: &Config) -> Result<(Transport, Place), Failure> {
    find_or_store(config, false).await
}

async fn find_or_store(config: &Config, for_reading: bool) -> Result<(Transport, Place), Failure> {
    let named = &config.store.path;
    match Transport::find(config).await? {
        Some((_, info)) if names_another_store(named, &info.store_path) => eprintln!(
            "mockforge: note: this is the store in {}, which the settings name; the server that runs has another, in {} \
             (--server ADDR asks it)",
            named.display(),
            info.store_path
        ),
        Some((transport, info)) => return Ok((transport, Place::Server { store: info.store_path })),
        None => {}
    }
    let store = StoreOptions { for_reading, ..store_options(config) };
    let folder = path::absolute(named).unwrap_or_else(|_| named.clone());
    let place = if store.is_there() { Place::Folder(folder) } else { Place::Nowhere(folder) };
    Ok((Transport::alone(Control::new(ControlParts::alone(store))), place))
}

/// Whether the settings name a store, and one that is not the server's.
fn names_another_store(named: &Path, of_server: &str) -> bool {
    let is_usual = named == Config::default().store.path;
    let place = |path: &Path| fs::canonicalize(path).or_else(|_| path::absolute(path)).ok();
    // A server that says nothing may have any.
    !is_usual && !of_server.is_empty() && place(named) != place(Path::new(of_server))
}

/// A `Control` without a server. It opens the store once it is asked for something in it.
pub fn alone(config: &Config) -> Control {
    Control::new(ControlParts::alone(store_options(config)))
}

fn store_options(config: &Config) -> StoreOptions {
    StoreOptions {
        flush_interval: config.store.flush_interval,
        recorder_memory: config.recorder.memory_bytes,
        retention: config.store.retention,
        ..StoreOptions::new(&config.store.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_the_settings_name_is_the_servers_or_another_one() {
        let folder = tempfile::tempdir().unwrap();
        let (here, there) = (folder.path().join("here"), folder.path().join("there"));
        fs::create_dir(&here).unwrap();
        let of_server = here.display().to_string();
        // Without a word about it, the server's is meant.
        assert!(!names_another_store(&Config::default().store.path, &of_server));
        assert!(!names_another_store(&here, &of_server));
        assert!(!names_another_store(&folder.path().join("here/../here"), &of_server));
        assert!(names_another_store(&there, &of_server));
        assert!(!names_another_store(&there, &there.display().to_string()));
        assert!(!names_another_store(&there, ""));
    }
}
