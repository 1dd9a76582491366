//! A broker as a process of its own, over a folder that outlives it.

use std::{
    fs::{self, OpenOptions},
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use super::{disk::Disk, draws::Draws, wire::PATIENCE};

/// Which broker it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broker {
    /// With that `--durability`; None says nothing of it.
    Mockforge(Option<&'static str>),
    Mosquitto,
}

/// Where a broker lives.
pub struct Home {
    pub broker: Broker,
    folder: tempfile::TempDir,
    /// Of a broker that can't say where it listens.
    port: u16,
    /// Of which there may be a power cut.
    disk: Option<Disk>,
    /// More arguments.
    arguments: Vec<&'static str>,
}

impl Home {
    pub fn new(broker: Broker) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let port = match broker {
            Broker::Mockforge(_) => 0,
            Broker::Mosquitto => free_port(),
        };
        Self { broker, folder, port, disk: None, arguments: Vec::new() }
    }

    /// Watches what is written; a lying disk forgets what it was told to sync.
    pub fn watch_disk(&mut self, is_lying: bool) {
        let mut disk = Disk::new(&self.store(), self.folder.path());
        disk.is_lying = is_lying;
        self.disk = Some(disk);
    }

    /// Cuts the power of a server that has ended, if its disk is watched.
    pub fn cut_power(&mut self, draws: &mut Draws) {
        if let Some(disk) = &mut self.disk {
            disk.cut(draws).expect("a disk to try this on");
        }
    }

    /// Whether all that a server did was seen which ended by itself.
    pub fn is_accounted_for(&mut self) -> bool {
        self.disk.as_mut().is_none_or(|disk| disk.is_accounted_for().expect("a disk to try this on"))
    }

    pub fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// What all runs wrote to standard error.
    pub fn log(&self) -> String {
        fs::read(self.log_path()).map(|log| String::from_utf8_lossy(&log).into_owned()).unwrap_or_default()
    }

    /// Keeps the folder for whoever looks into a failure.
    pub fn keep(self) -> PathBuf {
        if let Some(disk) = &self.disk {
            disk.keep_earlier(self.folder.path()).expect("a writable folder");
        }
        self.folder.keep()
    }

    pub fn start(&self, run: u32) -> Server {
        let mut log = OpenOptions::new().create(true).append(true).open(self.log_path()).expect("a log");
        writeln!(log, "--- run {run}").expect("a log");
        let mut command = match self.broker {
            Broker::Mockforge(durability) => mockforge(self.folder.path(), &self.store(), durability),
            Broker::Mosquitto => mosquitto(self.folder.path(), self.port),
        };
        command.args(&self.arguments);
        if let Some(disk) = &self.disk {
            disk.preload(&mut command);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().expect("the broker runs");
        let port = match self.broker {
            Broker::Mockforge(_) => Port::Said(said_port(&mut child)),
            Broker::Mosquitto => Port::Known(self.port),
        };
        Server { child, port }
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("it is bound").port()
}

fn mockforge(folder: &Path, store: &Path, durability: Option<&str>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mockforge"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MOCKFORGE_")) {
        command.env_remove(name);
    }
    command
        .current_dir(folder)
        .args(["serve", "--mqtt", "--mqtt-port", "0", "--mqtt-host", "127.0.0.1", "-o", "json", "--store"])
        .arg(store)
        .env("MOCKFORGE_GRPC_ENABLED", "false")
        .env("MOCKFORGE_HTTP_ENABLED", "false")
        .env("MOCKFORGE_MQTT_MAX_PACKET_SIZE", "1048576")
        // Nothing is dropped because a client was away for long.
        .env("MOCKFORGE_MQTT_LIMITS_QUEUE_MESSAGES", "1000000")
        .env("MOCKFORGE_MQTT_LIMITS_QUEUE_BYTES", "1073741824")
        .env("MOCKFORGE_MQTT_LIMITS_WAITING_BYTES", "4294967296");
    if let Some(durability) = durability {
        command.args(["--durability", durability]);
    }
    command
}

fn mosquitto(folder: &Path, port: u16) -> Command {
    let settings = format!(
        "listener {port} 127.0.0.1\nallow_anonymous true\nuser root\npersistence true\npersistence_location {}/\n\
         autosave_interval 0\nmax_queued_messages 0\nlog_dest stderr\nlog_type warning\nlog_type error\n",
        folder.display()
    );
    let path = folder.join("mosquitto.conf");
    fs::write(&path, settings).expect("a writable folder");
    let mut command = Command::new("mosquitto");
    command.arg("-c").arg(path);
    command
}

enum Port {
    Said(mpsc::Receiver<u16>),
    Known(u16),
}

/// Reads the line that says where it listens, and passes over what comes then.
fn said_port(child: &mut Child) -> mpsc::Receiver<u16> {
    let (say, said) = mpsc::channel();
    let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let info: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            let address = info["mqtt_address"].as_str().unwrap_or_default();
            if let Some(port) = address.rsplit(':').next().and_then(|port| port.parse().ok()) {
                let _ = say.send(port);
            }
        }
    });
    said
}

/// One run of a broker. Killed when dropped.
pub struct Server {
    child: Child,
    port: Port,
}

impl Server {
    /// Its port, once it listens.
    ///
    /// # Errors
    /// If it ends before, or takes too long.
    pub fn port(&mut self) -> Result<u16, String> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            match &self.port {
                Port::Said(said) => {
                    if let Ok(port) = said.recv_timeout(Duration::from_millis(20)) {
                        return Ok(port);
                    }
                }
                Port::Known(port) => {
                    if TcpStream::connect((Ipv4Addr::LOCALHOST, *port)).is_ok() {
                        return Ok(*port);
                    }
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
            if let Some(status) = self.ended() {
                return Err(format!("it ended with {status} before it listened"));
            }
        }
        Err(format!("it does not listen after {PATIENCE:?}"))
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child of ours")
    }

    pub fn kill(&mut self) {
        self.child.kill().expect("a child of ours");
        self.child.wait().expect("a child of ours");
    }

    /// Asks it to end; how it did.
    ///
    /// # Errors
    /// If it takes longer than `bound`.
    pub fn terminate(&mut self, bound: Duration) -> Result<ExitStatus, String> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a child of ours");
        let deadline = Instant::now() + bound;
        while Instant::now() < deadline {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Err(format!("it has not ended {bound:?} after SIGTERM"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether mosquitto can be run here.
pub fn has_mosquitto() -> bool {
    let found = Command::new("mosquitto").arg("-h").stdout(Stdio::null()).stderr(Stdio::null()).status();
    found.is_ok()
}

#[test]
fn a_watched_disk_accounts_for_all_that_is_written() {
    let mut home = Home::new(Broker::Mockforge(None));
    home.watch_disk(false);
    for name in ["first", "second"] {
        home.arguments = vec!["--record", name];
        let mut server = home.start(1);
        server.port().expect("it listens");
        assert!(server.terminate(PATIENCE).expect("it ends").success(), "{}", home.log());
        assert!(home.store().join("store").is_dir());
        assert!(home.is_accounted_for());
    }
}
