//! Who is compared, and how each is configured so that the comparison is fair: on loopback, without
//! logs or files, without limits that the load would reach.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    str::FromStr,
};

use anyhow::{Context, Result};

use super::process::{Process, free_port};

/// nginx forwards TCP only with this.
const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

#[derive(Clone, Debug)]
pub struct Peer {
    pub name: String,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Mockforge {
        records: bool,
        durability: &'static str,
    },
    Mosquitto(PathBuf, Saving),
    Haproxy(PathBuf),
    Nginx(PathBuf),
    /// A program and its arguments, which get the port appended.
    Other(Vec<String>),
}

/// When mosquitto writes its database.
#[derive(Clone, Copy, Debug)]
enum Saving {
    Never,
    /// By default each half an hour, and when it ends.
    Default,
    EachSecond,
}

impl Peer {
    pub fn mockforge() -> Self {
        Self { name: "mockforge".to_owned(), kind: Kind::Mockforge { records: false, durability: "none" } }
    }

    /// Us with each durability, the most careful first.
    pub fn durabilities() -> Vec<Self> {
        ["strict", "relaxed", "none"]
            .map(|durability| Self {
                name: format!("mockforge {durability}"),
                kind: Kind::Mockforge { records: false, durability },
            })
            .into()
    }

    /// Those and mosquitto, whose acknowledgements promise nothing of the disk.
    pub fn persistent_brokers() -> Vec<Self> {
        let mut peers = Self::durabilities();
        if let Some(mosquitto) =
            Self::installed("mosquitto", |program| Kind::Mosquitto(program, Saving::Default))
        {
            let mut saving = mosquitto.clone();
            if let Kind::Mosquitto(_, saved) = &mut saving.kind {
                *saved = Saving::EachSecond;
            }
            "mosquitto autosave 1 s".clone_into(&mut saving.name);
            peers.extend([mosquitto, saving]);
        }
        peers
    }

    /// Us and the brokers that are installed; those that are not are named on stderr.
    pub fn brokers() -> Vec<Self> {
        let mut peers = vec![Self::mockforge()];
        peers.extend(Self::installed("mosquitto", |program| Kind::Mosquitto(program, Saving::Never)));
        peers
    }

    /// The same for what forwards connections.
    pub fn proxies() -> Vec<Self> {
        let recording = Self {
            name: "mockforge --record".to_owned(),
            kind: Kind::Mockforge { records: true, durability: "none" },
        };
        let mut peers = vec![Self::mockforge(), recording];
        if Path::new(NGINX_STREAM).exists() {
            peers.extend(Self::installed("nginx", Kind::Nginx));
        } else {
            eprintln!("nginx is left out: there is no {NGINX_STREAM}");
        }
        peers.extend(Self::installed("haproxy", Kind::Haproxy));
        peers
    }

    fn installed(name: &str, kind: impl FnOnce(PathBuf) -> Kind) -> Option<Self> {
        // Daemons live outside the path of most users.
        let folders = env::var_os("PATH").unwrap_or_default();
        let found = [PathBuf::from("/usr/sbin")]
            .into_iter()
            .chain(env::split_paths(&folders))
            .map(|folder| folder.join(name))
            .find(|program| program.is_file());
        if found.is_none() {
            eprintln!("{name} is left out: it is not installed");
        }
        found.map(|program| Self { name: name.to_owned(), kind: kind(program) })
    }

    pub fn is_ours(&self) -> bool {
        matches!(self.kind, Kind::Mockforge { .. })
    }

    /// What the program says about itself; of ours and of unknown ones nothing is asked.
    pub fn version(&self) -> Option<String> {
        let (program, flag) = match &self.kind {
            Kind::Mosquitto(program, _) => (program, "-h"),
            Kind::Haproxy(program) | Kind::Nginx(program) => (program, "-v"),
            Kind::Mockforge { .. } | Kind::Other(_) => return None,
        };
        let output = Command::new(program).arg(flag).output().ok()?;
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        // What follows are dates and addresses of maintainers.
        Some(text.lines().next()?.split(" 20").next()?.trim().to_owned())
    }

    /// Starts it on a free port; a proxy is told the port of the broker behind it.
    pub fn start(&self, upstream: Option<u16>) -> Result<Process> {
        let port = free_port()?;
        let folder = tempfile::tempdir().context("creating a folder")?;
        let settings = folder.path().join("settings");
        let upstream_port = upstream.unwrap_or_default();
        let command = match &self.kind {
            Kind::Mockforge { records, durability } => mockforge(port, upstream, *records, durability),
            Kind::Mosquitto(program, saving) => {
                fs::write(&settings, mosquitto_settings(port, *saving, folder.path()))?;
                let mut command = Command::new(program);
                command.arg("-c").arg(&settings);
                command
            }
            Kind::Haproxy(program) => {
                fs::write(&settings, haproxy_settings(port, upstream_port))?;
                let mut command = Command::new(program);
                command.arg("-db").arg("-f").arg(&settings);
                command
            }
            Kind::Nginx(program) => {
                fs::write(&settings, nginx_settings(port, upstream_port, folder.path()))?;
                let mut command = Command::new(program);
                command.arg("-p").arg(folder.path()).arg("-c").arg(&settings);
                command
            }
            Kind::Other(words) => {
                let mut command = Command::new(&words[0]);
                command.args(&words[1..]).arg(port.to_string());
                command.args(upstream.map(|port| port.to_string()));
                command
            }
        };
        Process::start(command, port, folder)
    }
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, command) = text.split_once('=').ok_or("expected NAME=COMMAND")?;
        let words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
        if name.is_empty() || words.is_empty() {
            return Err("expected NAME=COMMAND".to_owned());
        }
        Ok(Self { name: name.to_owned(), kind: Kind::Other(words) })
    }
}

fn mockforge(port: u16, upstream: Option<u16>, records: bool, durability: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mockforge"));
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("MOCKFORGE_") {
            command.env_remove(name);
        }
    }
    command
        .env("MOCKFORGE_MQTT_MAX_PACKET_SIZE", "1048576")
        .env("MOCKFORGE_MQTT_MAX_CONNECTIONS", "20000")
        .env("MOCKFORGE_MQTT_SYS_INTERVAL_SECS", "0")
        .env("MOCKFORGE_MQTT_LIMITS_SUBSCRIPTIONS_PER_CLIENT", "1000000")
        .env("MOCKFORGE_MQTT_LIMITS_RETAINED_BYTES", "1073741824")
        .args(["--log", "warn", "serve", "--mqtt", "--mqtt-host", "127.0.0.1"])
        .args(["--http-port", "0", "--grpc-port", "0", "--mqtt-port", &port.to_string()])
        .args(["--durability", durability]);
    if let Some(upstream) = upstream {
        command.args(["--upstream", &format!("mqtt://127.0.0.1:{upstream}")]);
    }
    if records {
        command.args(["--record", "bench"]);
    }
    command
}

/// It keeps every message, as we do within our limits; `$SYS` is off.
fn mosquitto_settings(port: u16, saving: Saving, folder: &Path) -> String {
    let folder = folder.display();
    // It would not be let into the folder as the user it chooses itself.
    let persistent = format!("persistence true\npersistence_location {folder}/\nuser root\n");
    let persistence = match saving {
        Saving::Never => "persistence false\n".to_owned(),
        Saving::Default => persistent,
        Saving::EachSecond => format!("{persistent}autosave_interval 1\nautosave_on_changes false\n"),
    };
    format!(
        "listener {port} 127.0.0.1\n\
         allow_anonymous true\n\
         set_tcp_nodelay true\n\
         {persistence}\
         sys_interval 0\n\
         log_dest none\n\
         connection_messages false\n\
         max_inflight_messages 32767\n\
         max_inflight_bytes 0\n\
         max_queued_messages 0\n\
         max_queued_bytes 0\n"
    )
}

fn haproxy_settings(port: u16, upstream: u16) -> String {
    format!(
        "global\n  maxconn 8000\n\
         defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n\
         listen mqtt\n  bind 127.0.0.1:{port}\n  server broker 127.0.0.1:{upstream}\n"
    )
}

fn nginx_settings(port: u16, upstream: u16, folder: &Path) -> String {
    let pid = folder.join("pid");
    format!(
        "load_module {NGINX_STREAM};\n\
         daemon off;\n\
         worker_processes auto;\n\
         pid {};\n\
         error_log stderr crit;\n\
         events {{ worker_connections 16000; }}\n\
         stream {{\n\
           tcp_nodelay on;\n\
           server {{ listen 127.0.0.1:{port} reuseport; proxy_pass 127.0.0.1:{upstream}; proxy_timeout 1h; }}\n\
         }}\n",
        pid.display()
    )
}
