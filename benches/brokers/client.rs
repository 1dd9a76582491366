//! One client that waits for its answers: how every connection begins, and all that the retained
//! messages need.

use std::{
    io::Write,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::wire::{self, Frame, Session};

/// Longest wait for an answer: to subscribe, mosquitto needs a while with a million filters.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// Longest that a client is used so: an end for those who are answered, but never done.
const LIFE_MAX: Duration = Duration::from_secs(60);

pub struct Client {
    pub stream: TcpStream,
    /// The beginning of a packet whose end was not read yet.
    pub rest: Vec<u8>,
    scratch: Vec<u8>,
    opened: Instant,
}

impl Client {
    /// With a Session that was not there before.
    pub fn connect(port: u16, identifier: &str, session: Session) -> Result<Self> {
        let mut client = Self {
            stream: open(port)?,
            rest: Vec::new(),
            scratch: vec![0; wire::SCRATCH_BYTES],
            opened: Instant::now(),
        };
        client.send(&wire::connect(identifier, session))?;
        client.await_frame(|frame| {
            ensure!(frame.kind() == wire::CONNACK && frame.body == [0, 0], "the broker refused a client");
            Ok(())
        })?;
        Ok(client)
    }

    /// One SUBSCRIBE, granted.
    pub fn subscribe(&mut self, filters: &[String], qos: u8) -> Result<()> {
        self.send(&wire::subscribe(filters, qos))?;
        self.await_frame(|frame| {
            let granted = frame
                .body
                .get(2..)
                .is_some_and(|codes| codes.len() == filters.len() && codes.iter().all(|&code| code == qos));
            ensure!(frame.kind() == wire::SUBACK && granted, "the broker refused a subscription");
            Ok(())
        })
    }

    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).context("writing to the broker")
    }

    /// Waits until something arrives and calls `each` for every packet of it.
    pub fn receive(&mut self, each: impl FnMut(Frame<'_>) -> Result<()>) -> Result<()> {
        let read = wire::read_frames(&mut self.stream, &mut self.rest, &mut self.scratch, each)?;
        ensure!(self.opened.elapsed() < LIFE_MAX, "not done after {LIFE_MAX:?}");
        ensure!(read, "nothing heard from the broker for {ANSWER_TIMEOUT:?}");
        Ok(())
    }

    /// Waits for one packet more, which may arrive in pieces.
    pub fn await_frame(&mut self, mut check: impl FnMut(Frame<'_>) -> Result<()>) -> Result<()> {
        let mut is_there = false;
        while !is_there {
            self.receive(|frame| {
                is_there = true;
                check(frame)
            })?;
        }
        Ok(())
    }
}

/// A connection on which nothing was said yet.
pub fn open(port: u16) -> Result<TcpStream> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let stream = TcpStream::connect_timeout(&address, ANSWER_TIMEOUT).context("connecting to the broker")?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    Ok(stream)
}
