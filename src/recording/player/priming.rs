//! What stands where playing begins, for whoever brings it about first.

use std::collections::HashMap;

use super::acts::KEEP_ALIVE;
use crate::{
    packet::{
        Connect, ControlPacket, Properties, Property, ProtocolVersion, Publish, Subscribe, TopicName,
        Utf8String,
    },
    recording::{ConnectionInfo, EventKind},
};

/// Seconds that the session of a client which was away outlives its priming.
const AWAY_EXPIRY: u32 = 3600;

/// Retained messages, clients that are connected, and sessions of clients that are not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Priming {
    pub retained: Vec<Publish>,
    pub connected: Vec<StandIn>,
    /// They connect, subscribe and leave; their sessions stay.
    pub away: Vec<StandIn>,
    /// Subscriptions and retained messages that there was no room to remember.
    pub left_out: u64,
}

/// A client and what it has subscribed to.
#[derive(Clone, Debug, PartialEq)]
pub struct StandIn {
    /// Of the recording; 0 for a client that is away.
    pub connection: u32,
    /// As recorded, or as it may have been, with a clean start wherever that does not end the session with the
    /// connection.
    pub connect: Connect,
    /// Whether a session that the server may have has to be ended first: before MQTT 5 a clean start cannot say it.
    pub wipes: bool,
    pub subscribes: Vec<Subscribe>,
}

impl Priming {
    pub fn is_empty(&self) -> bool {
        self.retained.is_empty() && self.connected.is_empty() && self.away.is_empty() && self.left_out == 0
    }

    /// Of `events`, which say what stands; `connects` are those of connections whose CONNECT was seen,
    /// `subscribing` what was asked for and not answered yet.
    pub(super) fn new(
        events: Vec<(u32, EventKind)>,
        mut connects: HashMap<u32, Connect>,
        mut subscribing: HashMap<u32, Vec<Subscribe>>,
        has_client: impl Fn(Option<&str>) -> bool,
        has_topic: impl Fn(&TopicName) -> bool,
    ) -> Self {
        let mut priming = Self::default();
        for (connection, kind) in events {
            match kind {
                EventKind::Open(info) => {
                    let connect = connects.remove(&connection);
                    let stand_in = StandIn::connected(connection, &info, connect);
                    if let Some(stand_in) = stand_in
                        && has_client(Some(stand_in.connect.client_identifier.as_str()))
                    {
                        priming.connected.push(stand_in);
                    }
                }
                EventKind::State(in_force) => match (in_force.decode(), in_force.client_identifier) {
                    (Some(ControlPacket::Publish(publish)), _)
                        if publish.topic.as_ref().is_some_and(&has_topic) =>
                    {
                        priming.retained.push(publish);
                    }
                    (Some(ControlPacket::Subscribe(subscribe)), Some(client))
                        if has_client(Some(&client)) =>
                    {
                        priming.subscribes(&client, subscribe);
                    }
                    _ => {}
                },
                _ => {}
            }
        }
        // It will have been granted, or refused again.
        for one in &mut priming.connected {
            one.subscribes.extend(subscribing.remove(&one.connection).unwrap_or_default());
        }
        priming
    }

    fn subscribes(&mut self, client: &str, subscribe: Subscribe) {
        let is_called = |one: &&mut StandIn| one.connect.client_identifier.as_str() == client;
        // Those of one client come one behind the other.
        let known = self.connected.iter_mut().rev().find(is_called);
        if let Some(known) = known.or_else(|| self.away.last_mut().filter(is_called)) {
            known.subscribes.push(subscribe);
            return;
        }
        let properties = Properties(vec![Property::SessionExpiryInterval(AWAY_EXPIRY)]);
        let connect = Connect { properties, ..guessed(client, ProtocolVersion::V5) };
        self.away.push(StandIn { connection: 0, connect, wipes: false, subscribes: vec![subscribe] });
    }
}

impl StandIn {
    /// `None` for a client that has not said who it is.
    fn connected(connection: u32, info: &ConnectionInfo, connect: Option<Connect>) -> Option<Self> {
        let mut connect = match connect {
            Some(connect) => connect,
            None => guessed(info.client_identifier.as_deref().unwrap_or_default(), info.protocol?),
        };
        let wipes = connect.protocol != ProtocolVersion::V5 && !connect.clean_start;
        connect.clean_start = !wipes;
        Some(Self { connection, connect, wipes, subscribes: Vec::new() })
    }
}

/// How a client may have connected whose CONNECT is not known.
pub fn guessed(client: &str, protocol: ProtocolVersion) -> Connect {
    Connect {
        protocol,
        clean_start: true,
        keep_alive: KEEP_ALIVE,
        properties: Properties::new(),
        client_identifier: Utf8String::new(client.to_owned()).unwrap_or_default(),
        will: None,
        username: None,
        password: None,
    }
}
