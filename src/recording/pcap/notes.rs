//! What of a capture was left out, lost or assumed.

use std::{collections::BTreeMap, time::Duration};

use super::segment::NoSegment;
use crate::amount::counted;

#[derive(Debug, Default)]
pub struct Notes {
    pub frames: u64,
    other: u64,
    fragments: u64,
    unreadable: u64,
    /// By the number of their link type.
    links: BTreeMap<u16, u64>,
    /// Segments that the capture cut.
    pub cut: u64,
    pub ahead: u64,
    pub again: u64,
    pub astray: u64,
    pub holes: u64,
    pub missing: u64,
    pub joined: u64,
    /// Connections on which something else was said, by what it was.
    foreign: BTreeMap<&'static str, u64>,
    /// Connections to it that were left out though others to it were of MQTT.
    ports: BTreeMap<u16, u64>,
    pub too_many: u64,
    pub too_large: u64,
    pub ends_unseen: u64,
    pub passwords: u64,
    /// Bytes that do not parse in which something was overwritten.
    pub overwritten: u64,
    backwards: u64,
    furthest_back: Duration,
    pub truncated: Option<String>,
}

impl Notes {
    pub fn no_segment(&mut self, why: NoSegment) {
        match why {
            NoSegment::Other => self.other += 1,
            NoSegment::Fragment => self.fragments += 1,
            NoSegment::Unreadable => self.unreadable += 1,
        }
    }

    pub fn unknown_link(&mut self, number: u16) {
        *self.links.entry(number).or_default() += 1;
    }

    /// A connection turned out to be none of MQTT by what the client said first.
    pub fn foreign(&mut self, start: &[u8]) {
        let what = match start {
            [0x16, 3, ..] => "of TLS",
            [b'A'..=b'Z', b'A'..=b'Z', b'A'..=b'Z', ..] => "of text (perhaps WebSocket)",
            [] => "without a word of the client",
            _ => "of another protocol",
        };
        *self.foreign.entry(what).or_default() += 1;
    }

    /// A connection that was open before the capture began, to a port that was not known for MQTT then.
    pub fn left_out_of_port(&mut self, port: u16) {
        *self.ports.entry(port).or_default() += 1;
    }

    pub fn went_back(&mut self, by: Duration) {
        self.backwards += 1;
        self.furthest_back = self.furthest_back.max(by);
    }

    /// In sentences, what matters most first.
    pub fn texts(&self) -> Vec<String> {
        let mut texts: Vec<String> = self.truncated.iter().cloned().collect();
        let mut say = |count: u64, one: &str, many: &str, rest: &str| match count {
            0 => {}
            1 => texts.push(format!("1 {one}{rest}")),
            _ => texts.push(format!("{count} {many}{rest}")),
        };
        let gaps =
            format!(" in the TCP streams, {} in all: there is a GAP for each", counted(self.missing, "byte"));
        say(self.holes, "hole", "holes", &gaps);
        say(self.cut, "segment was", "segments were", " cut short: capture with a larger snap length");
        let joined = " open before the capture began: the client identifier is not known";
        say(self.joined, "connection was", "connections were", joined);
        for (port, count) in &self.ports {
            let rest = format!(
                " open before the capture began, to port {port}, and left out, though others to it are MQTT: \
                 --port {port} takes such connections"
            );
            say(*count, "connection was", "connections were", &rest);
        }
        let foreign: u64 = self.foreign.values().sum();
        let kinds: Vec<String> = self.foreign.iter().map(|(what, count)| format!("{count} {what}")).collect();
        let kinds = format!(" not MQTT and left out: {}", kinds.join(", "));
        say(foreign, "TCP connection is", "TCP connections are", &kinds);
        for (link, count) in &self.links {
            say(*count, "frame is", "frames are", &format!(" of link type {link}, which is not read here"));
        }
        say(self.other, "frame is", "frames are", " not TCP and left out");
        say(self.fragments, "IP fragment was", "IP fragments were", " left out: they are not put together");
        say(self.unreadable, "frame has", "frames have", " headers that are cut or make no sense");
        say(self.ahead, "segment", "segments", " came out of order");
        say(self.again, "segment", "segments", " came again");
        say(self.astray, "segment is", "segments are", " far from where the connection was: left out");
        say(self.too_many, "connection was", "connections were", " left out: too many at once");
        let large = " more than there is room for: kept as bytes";
        say(self.too_large, "connection held", "connections held", large);
        let unseen = " no end in the capture: closed as `timeout` where the client used the port again";
        say(self.ends_unseen, "connection has", "connections have", unseen);
        say(self.passwords, "password was", "passwords were", " replaced");
        let overwritten = " of bytes that do not parse and may hold a password: overwritten there";
        say(self.overwritten, "piece", "pieces", overwritten);
        let back = format!(
            " earlier than the frame before, by up to {:.6} s; taken as simultaneous",
            self.furthest_back.as_secs_f64()
        );
        say(self.backwards, "frame is", "frames are", &back);
        texts
    }
}
