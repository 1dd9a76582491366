//! A publisher and a subscriber that want nothing but their messages, and how long those take.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;

use super::wire;

/// Between two messages, of QoS 0 and 1 in turn.
const PACE: Duration = Duration::from_millis(5);

/// Nanoseconds; longer ones count as so long.
const LATENCY_MAX: u64 = 60_000_000_000;

/// How long the last messages may take to arrive.
const DRAIN: Duration = Duration::from_secs(10);

pub struct Innocents {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    began: Instant,
    /// Nanoseconds.
    latency: Mutex<Histogram<u64>>,
    sent: AtomicU64,
    received: AtomicU64,
    is_over: AtomicBool,
}

impl Innocents {
    pub fn start(address: SocketAddr) -> Result<Self> {
        let shared = Arc::new(Shared {
            began: Instant::now(),
            latency: Mutex::new(Histogram::new_with_bounds(1, LATENCY_MAX, 3).context("a histogram")?),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
        });
        let mut subscriber = login(address, "innocent-subscriber")?;
        subscriber.write_all(&wire::subscribe("innocent/#", 1))?;
        let mut suback = [0; 5];
        subscriber.read_exact(&mut suback).context("reading SUBACK")?;
        let publisher = login(address, "innocent-publisher")?;
        let (listening, sending) = (Arc::clone(&shared), Arc::clone(&shared));
        let mut acks = publisher.try_clone()?;
        let threads = vec![
            // Whatever fails shows as messages that are lost.
            thread::spawn(move || _ = listening.listen(subscriber)),
            thread::spawn(move || _ = sending.send(publisher)),
            thread::spawn(move || while matches!(acks.read(&mut [0; 4096]), Ok(1..)) {}),
        ];
        Ok(Self { shared, threads })
    }

    /// Latencies since this was last called.
    pub fn take(&self) -> Histogram<u64> {
        let mut latency = self.shared.latency.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = latency.clone();
        latency.reset();
        taken
    }

    /// How many messages were sent, and how many of them never arrived.
    pub fn finish(self) -> (u64, u64) {
        self.shared.is_over.store(true, Relaxed);
        let start = Instant::now();
        let counts = || (self.shared.sent.load(Relaxed), self.shared.received.load(Relaxed));
        while counts().0 > counts().1 && start.elapsed() < DRAIN {
            thread::sleep(Duration::from_millis(10));
        }
        let (sent, received) = counts();
        // Their sockets end with the server.
        drop(self.threads);
        (sent, sent.saturating_sub(received))
    }
}

fn login(address: SocketAddr, name: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address).context("connecting")?;
    stream.set_nodelay(true)?;
    stream.write_all(&wire::connect(name, 0))?;
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).context("reading CONNACK")?;
    ensure!(connack[3] == 0, "{name} is refused");
    Ok(stream)
}

impl Shared {
    fn send(&self, mut stream: TcpStream) -> std::io::Result<()> {
        for number in 1.. {
            let due = PACE * number;
            thread::sleep(due.saturating_sub(self.began.elapsed()));
            if self.is_over.load(Relaxed) {
                break;
            }
            let identifier = (number % 2 == 0).then_some(number as u16 | 1);
            let stamp = due.as_nanos() as u64;
            stream.write_all(&wire::publish("innocent/message", identifier, &stamp.to_be_bytes()))?;
            self.sent.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    fn listen(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut bytes = Vec::new();
        let mut scratch = [0; 64 << 10];
        loop {
            let count = stream.read(&mut scratch)?;
            if count == 0 {
                return Ok(());
            }
            bytes.extend_from_slice(&scratch[..count]);
            let mut at = 0;
            while let Some((size, _)) = wire::size(&bytes[at..])
                && at + size <= bytes.len()
            {
                let packet = &bytes[at..at + size];
                at += size;
                if packet[0] >> 4 != 3 {
                    continue;
                }
                let stamp = u64::from_be_bytes(*packet.last_chunk().expect("our messages have one"));
                let latency = (self.began.elapsed().as_nanos() as u64).saturating_sub(stamp);
                self.latency.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(latency);
                self.received.fetch_add(1, Relaxed);
                if packet[0] & 0x06 != 0 {
                    let identifier = [packet[size - 10], packet[size - 9]];
                    stream.write_all(&wire::puback(identifier))?;
                }
            }
            bytes.drain(..at);
        }
    }
}
