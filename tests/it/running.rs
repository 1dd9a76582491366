//! A server in this process, on free loopback ports, with a store of its own.

use mockforge::{Config, Server, config::Sources};
use tokio::{
    sync::{RwLock, RwLockReadGuard, RwLockWriteGuard, oneshot},
    task::JoinHandle,
};

/// `get_broker_stats` speaks for the server started last, in the whole process: a test of it keeps
/// the others from starting one.
static STARTS: RwLock<()> = RwLock::const_new(());

pub struct RunningServer {
    mqtt_port: u16,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
    _store: tempfile::TempDir,
}

impl RunningServer {
    pub async fn start() -> Self {
        let _starts: RwLockReadGuard<'_, ()> = STARTS.read().await;
        Self::started().await
    }

    /// Holds back every other test's start until the result is dropped.
    pub async fn alone() -> Alone {
        Alone { _starts: STARTS.write().await }
    }

    pub fn mqtt_port(&self) -> u16 {
        self.mqtt_port
    }

    /// Ends the server as a signal would, and waits until it has.
    pub async fn stop(mut self) {
        let stop = self.stop.take().expect("a server is stopped once");
        stop.send(()).expect("the server is running");
        self.task.await.expect("the server ends without a panic");
    }

    async fn started() -> Self {
        let store = tempfile::tempdir().expect("a temporary folder");
        let mut config = Config::load(Sources::default()).expect("the defaults are good");
        config.mqtt.enabled = true;
        for (host, port) in [
            (&mut config.mqtt.host, &mut config.mqtt.port),
            (&mut config.http.host, &mut config.http.port),
            (&mut config.grpc.host, &mut config.grpc.port),
        ] {
            *host = "127.0.0.1".to_owned();
            *port = 0;
        }
        config.store.path = store.path().join("store");
        let server = Server::bind(config).await.expect("free ports");
        let addresses = server.addresses();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let shutdown = async {
                let _ = stopped.await;
            };
            server.run(shutdown).await.expect("the server runs");
        });
        Self {
            mqtt_port: addresses.mqtt.expect("MQTT is enabled").port(),
            stop: Some(stop),
            task,
            _store: store,
        }
    }
}

pub struct Alone {
    _starts: RwLockWriteGuard<'static, ()>,
}

impl Alone {
    pub async fn start(&self) -> RunningServer {
        RunningServer::started().await
    }
}
