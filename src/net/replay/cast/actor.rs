//! One stand-in: a recorded connection that is made again.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use super::super::lateness::Cause;
use crate::{
    net::client::{Client, ClientSession, Publisher},
    recording::player::{Act, After},
};

pub(super) struct Actor {
    /// As it introduces itself.
    pub client_identifier: String,
    /// Of the recording; 0 for one that only helps to bring about what stands.
    pub connection: u32,
    pub stage: Stage,
    pub queue: VecDeque<Pending>,
    pub delivered: u64,
    /// Acts in the queue that let go of a message.
    pub releases: usize,
    /// Of its CONNECT.
    pub connect_seq: u64,
    /// When that was due, and what held it up.
    pub connect_due: (Option<Instant>, Cause),
    /// When something that was asked for was last answered.
    pub heard_at: Option<Instant>,
    /// QoS 0 messages without a sign that they were handled: the PINGREQ whose answer is one.
    pub unconfirmed: HashMap<u64, u64>,
    /// The PINGREQ whose answer shows that all was handled; 0 if nothing was sent.
    pub confirming: u64,
    /// When that was asked for.
    pub asked_at: Option<Instant>,
    /// Bytes that the kernel had taken when it was last looked at that.
    pub written: u64,
    /// When it had taken more.
    pub wrote_at: Instant,
    /// When its half was closed, while the server's is open.
    pub leaving_since: Option<Instant>,
    pub has_disconnected: bool,
    /// The client's next connections, which wait until it has done what came before them.
    pub followers: Vec<usize>,
}

pub(super) enum Stage {
    Waiting,
    Connecting,
    Live(Client, Publisher),
    /// The server has ended it, for the reason that is given.
    Closed(ClientSession, String),
    Over,
}

/// An act that is due.
pub(super) struct Pending {
    pub seq: u64,
    pub at: Duration,
    /// `None` where lateness means nothing.
    pub deadline: Option<Instant>,
    pub act: Act,
    /// Of its message, in bytes.
    pub size: usize,
    pub held_up_by: Cause,
    /// Whether all has come that has to come before.
    pub is_free: bool,
    /// For what it is already registered as waiting.
    pub waits_for: Option<After>,
    /// Since when it waits for that, or for room.
    pub waits_since: Option<Instant>,
    /// When it is looked at what it waits for.
    pub give_up_at: Option<Instant>,
}

impl Actor {
    pub fn new(client_identifier: &str, connection: u32) -> Self {
        Self {
            client_identifier: client_identifier.to_owned(),
            connection,
            stage: Stage::Waiting,
            queue: VecDeque::new(),
            delivered: 0,
            releases: 0,
            connect_seq: 0,
            connect_due: (None, Cause::Scheduler),
            heard_at: None,
            unconfirmed: HashMap::new(),
            confirming: 0,
            asked_at: None,
            written: 0,
            wrote_at: Instant::now(),
            leaving_since: None,
            has_disconnected: false,
            followers: Vec::new(),
        }
    }

    /// How people know it.
    pub fn name(&self) -> String {
        match &*self.client_identifier {
            "" => format!("connection {}", self.connection),
            name => name.to_owned(),
        }
    }

    /// Whether it only helps to bring about what stands: nobody is told of it.
    pub fn is_hidden(&self) -> bool {
        self.connection == 0
    }

    pub fn publisher(&self) -> Option<&Publisher> {
        match &self.stage {
            Stage::Live(_, publisher) => Some(publisher),
            Stage::Waiting | Stage::Connecting | Stage::Closed(..) | Stage::Over => None,
        }
    }

    /// Something was sent whose handling nothing shows yet.
    pub fn has_sent(&mut self) {
        if let Some(ticket) = self.publisher().map(|publisher| publisher.pings_sent() + 1) {
            self.confirming = ticket;
        }
    }

    /// Whether the server has shown that it has handled all that was sent, or cannot any more; asks it otherwise.
    pub fn is_confirmed(&mut self) -> bool {
        let ticket = self.confirming;
        let Some(publisher) = self.publisher() else { return true };
        if publisher.is_answered(ticket) {
            self.asked_at = None;
            return true;
        }
        if publisher.pings_sent() < ticket {
            // Where the connection has ended, we are about to be told so, and why.
            let _ = publisher.send_ping();
        }
        self.asked_at.get_or_insert_with(Instant::now);
        false
    }

    /// It is not waited any longer for a sign that all was handled.
    pub fn give_up_confirming(&mut self) {
        (self.confirming, self.asked_at) = (0, None);
    }

    /// Whether the kernel has taken bytes since this was last asked.
    pub fn has_written(&mut self) -> bool {
        let written = self.publisher().map_or(0, Publisher::written);
        std::mem::replace(&mut self.written, written) != written
    }
}
