//! Where an attack takes place: a server, an innocent pair, and what is measured.

use std::{
    fmt,
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use super::{
    attacks::Attack,
    innocents::Innocents,
    process::{Process, cpu_of_this, free_port},
    wire,
};

/// How long the server gets to notice that attackers have gone.
const AFTERMATH: Duration = Duration::from_secs(3);

/// Addresses of attackers, so that none runs out of ports.
const SOURCES: u64 = 200;

/// How long an attacker waits for an answer.
const ANSWER_WAIT: Duration = Duration::from_secs(30);

pub struct Siege {
    /// Where plain MQTT is served.
    pub target: SocketAddr,
    /// With TLS, and over WebSocket, if the attack's settings turn them on.
    pub tls: SocketAddr,
    pub web_socket: SocketAddr,
    pub time: Duration,
    pub counts: Counts,
    server: Process,
    innocents: Innocents,
    at_rest: Histogram<u64>,
    rss_before: u64,
    next_source: AtomicU64,
}

/// What attackers came across.
#[derive(Default)]
pub struct Counts {
    /// Connections tried.
    pub tried: AtomicU64,
    /// Let in by CONNACK.
    pub admitted: AtomicU64,
    /// Told so by CONNACK.
    pub refused: AtomicU64,
    /// Ended by the server without a word.
    pub cut: AtomicU64,
    /// Messages sent.
    pub sent: AtomicU64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tried, admitted, refused, cut, sent } = self;
        let parts = [
            (tried, "tried"),
            (admitted, "admitted"),
            (refused, "refused"),
            (cut, "cut off"),
            (sent, "messages"),
        ];
        let parts: Vec<_> = parts
            .iter()
            .filter(|(count, _)| count.load(Relaxed) > 0)
            .map(|(count, what)| format!("{} {what}", count.load(Relaxed)))
            .collect();
        f.write_str(&parts.join(", "))
    }
}

pub struct Figures {
    pub at_rest: Histogram<u64>,
    pub attacked: Histogram<u64>,
    pub sent: u64,
    pub lost: u64,
    pub attackers: String,
    /// Before, at the end of the attack, and after it.
    pub rss: [u64; 3],
    /// At the end of the attack, and after it.
    pub descriptors: [usize; 2],
    /// Of one processor.
    pub server_cpu: f64,
    pub other_cpu: f64,
}

impl Siege {
    pub fn begin(program: &Path, attack: &Attack, time: Duration) -> Result<Self> {
        let [port, tls, web_socket, both] = [free_port()?, free_port()?, free_port()?, free_port()?];
        let mut command = Command::new(program);
        command.args(["serve", "--mqtt", "--mqtt-port", &port.to_string(), "--log", "error"]);
        command.env_clear();
        for (key, value) in [("HTTP_ENABLED", "false"), ("GRPC_ENABLED", "false"), ("MQTT_HOST", "127.0.0.1")]
            .iter()
            .chain(attack.settings)
        {
            command.env(format!("MOCKFORGE_{key}"), value);
        }
        for (key, port) in [("TLS_PORT", tls), ("WEBSOCKET_PORT", web_socket), ("WEBSOCKET_TLS_PORT", both)] {
            command.env(format!("MOCKFORGE_MQTT_{key}"), port.to_string());
        }
        let server = Process::start(command, port, tempfile::tempdir()?)?;
        let [target, tls, web_socket] =
            [port, tls, web_socket].map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let innocents = Innocents::start(target)?;
        thread::sleep(Duration::from_secs(1));
        innocents.take();
        thread::sleep(time);
        Ok(Self {
            target,
            tls,
            web_socket,
            time,
            counts: Counts::default(),
            at_rest: innocents.take(),
            rss_before: server.rss()?,
            server,
            innocents,
            next_source: AtomicU64::new(0),
        })
    }

    /// Measures while `attack` goes on, for the time that there is; what it holds is dropped at the end.
    pub async fn measure(self, attack: impl AsyncFnOnce(&Self)) -> Result<Figures> {
        self.innocents.take();
        let (began, server_before, before) = (Instant::now(), self.server.cpu()?, cpu_of_this()?);
        let (rss, descriptors) = {
            let mut attack = std::pin::pin!(attack(&self));
            // An attack that has nothing more to do still holds what it holds.
            let _ = timeout(self.time, async {
                attack.as_mut().await;
                std::future::pending::<()>().await;
            })
            .await;
            (self.server.rss()?, self.descriptors()?)
        };
        let seconds = began.elapsed().as_secs_f64();
        let server_cpu = (self.server.cpu()? - server_before).as_secs_f64() / seconds;
        let other_cpu = (cpu_of_this()? - before).as_secs_f64() / seconds;
        let attacked = self.innocents.take();
        tokio::time::sleep(AFTERMATH).await;
        let rss = [self.rss_before, rss, self.server.rss()?];
        let descriptors = [descriptors, self.descriptors()?];
        let (sent, lost) = self.innocents.finish();
        let attackers = self.counts.to_string();
        Ok(Figures {
            at_rest: self.at_rest,
            attacked,
            sent,
            lost,
            attackers,
            rss,
            descriptors,
            server_cpu,
            other_cpu,
        })
    }

    fn descriptors(&self) -> Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.server.id())).context("reading /proc")?.count())
    }

    /// A connection, from one address after the other.
    pub async fn dial(&self) -> std::io::Result<TcpStream> {
        self.dial_with(self.target, |_| Ok(())).await
    }

    pub async fn dial_to(&self, address: SocketAddr) -> std::io::Result<TcpStream> {
        self.dial_with(address, |_| Ok(())).await
    }

    pub async fn dial_with(
        &self,
        address: SocketAddr,
        prepare: impl FnOnce(&TcpSocket) -> std::io::Result<()>,
    ) -> std::io::Result<TcpStream> {
        self.counts.tried.fetch_add(1, Relaxed);
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        prepare(&socket)?;
        let source = self.next_source.fetch_add(1, Relaxed) % SOURCES;
        socket.bind((Ipv4Addr::new(127, 0, 1, source as u8 + 1), 0).into())?;
        socket.connect(address).await
    }

    /// Sends CONNECT and counts what comes of it; the connection, if it was let in.
    pub async fn login<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        mut stream: S,
        name: &str,
        keep_alive: u16,
    ) -> Option<S> {
        stream.write_all(&wire::connect(name, keep_alive)).await.ok()?;
        let mut connack = [0; 4];
        let answer = timeout(ANSWER_WAIT, stream.read_exact(&mut connack)).await;
        let count = match answer {
            Ok(Ok(_)) if connack[3] == 0 => &self.counts.admitted,
            Ok(Ok(_)) => &self.counts.refused,
            _ => &self.counts.cut,
        };
        count.fetch_add(1, Relaxed);
        (connack == [0x20, 2, 0, 0]).then_some(stream)
    }

    /// Reads until the server ends the connection.
    pub async fn until_cut(&self, stream: &mut TcpStream) {
        let mut scratch = [0; 4096];
        while matches!(stream.read(&mut scratch).await, Ok(1..)) {}
        self.counts.cut.fetch_add(1, Relaxed);
    }
}

/// Does `work` for each number, with so many at a time.
pub async fn at_once<F: Future>(count: usize, limit: usize, work: impl Fn(usize) -> F) -> Vec<F::Output> {
    use futures_util::stream::{self, StreamExt};
    stream::iter(0..count).map(work).buffer_unordered(limit).collect().await
}
