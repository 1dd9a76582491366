//! The flags that say which events of a recording are meant: the same for every command.

use std::time::Duration;

use super::duration;
use crate::{
    control::pb,
    packet::{PacketType, TopicFilter},
    recording::ClientSample,
};

#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Which events")]
pub struct EventFilterArgs {
    /// Only messages whose topic matches, and their acknowledgements; may be given more than once
    ///
    /// A new recording keeps packets without a topic, too, such as SUBSCRIBE: --type leaves them out.
    #[arg(long = "topic", value_name = "FILTER", value_parser = TopicFilter::parse)]
    topics: Vec<TopicFilter>,
    /// Only these client identifiers, `*` for any characters; may be given more than once
    #[arg(long = "client", value_name = "GLOB")]
    clients: Vec<String>,
    /// Only packets of this type, such as publish; may be given more than once
    #[arg(long = "type", value_name = "TYPE", value_delimiter = ',', value_parser = parse_type)]
    types: Vec<pb::PacketType>,
    /// Only this connection, by its number; may be given more than once
    #[arg(long = "connection", value_name = "N")]
    connections: Vec<u32>,
    /// Only what clients sent (c2s), or what they were sent (s2c)
    #[arg(long, value_name = "c2s|s2c", value_parser = parse_direction)]
    direction: Option<pb::Direction>,
    /// Leave out what came before, counted from the recording's beginning
    #[arg(long, allow_hyphen_values = true, value_parser = duration::parse)]
    start: Option<Duration>,
    /// Leave out what came then and later, counted from the recording's beginning
    #[arg(long, allow_hyphen_values = true, value_parser = duration::parse)]
    until: Option<Duration>,
    /// Only this share of all clients, such as 0.1: the same ones each time
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true, value_parser = parse_share)]
    sample: Option<f64>,
}

impl EventFilterArgs {
    /// `None` if all events are meant.
    pub fn filter(self) -> Option<pb::EventFilter> {
        let Self { topics, clients, types, connections, direction, start, until, sample } = self;
        let filter = pb::EventFilter {
            topics: topics.iter().map(|filter| filter.as_str().to_owned()).collect(),
            types: types.into_iter().map(Into::into).collect(),
            connections,
            direction: direction.unwrap_or_default().into(),
            clients,
            start: start.map(duration::to_proto),
            until: until.map(duration::to_proto),
            sample: sample.unwrap_or_default(),
        };
        (filter != pb::EventFilter::default()).then_some(filter)
    }
}

/// The name of a packet type, in any case.
pub fn parse_type(text: &str) -> Result<pb::PacketType, String> {
    let found = PacketType::from_name(&text.to_ascii_uppercase());
    let found = found.and_then(|kind| pb::PacketType::try_from(kind as i32).ok());
    found.ok_or_else(|| {
        let names = PacketType::ALL.map(|kind| kind.name().to_ascii_lowercase());
        format!("expected one of {}", names.join(", "))
    })
}

/// A share of clients, above 0 and at most 1.
pub fn parse_share(text: &str) -> Result<f64, String> {
    let share = text.parse().map_err(|_| "expected a number such as 0.1".to_owned())?;
    ClientSample::new(share).map(ClientSample::share).map_err(|error| error.to_string())
}

fn parse_direction(text: &str) -> Result<pb::Direction, String> {
    match text.to_ascii_lowercase().as_str() {
        "c2s" => Ok(pb::Direction::ClientToServer),
        "s2c" => Ok(pb::Direction::ServerToClient),
        _ => Err("expected c2s or s2c".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        filter: EventFilterArgs,
    }

    fn filter(words: &str) -> Result<Option<pb::EventFilter>, String> {
        let line = Line::try_parse_from(["x"].into_iter().chain(words.split_whitespace()));
        line.map(|line| line.filter.filter()).map_err(|error| error.to_string())
    }

    #[test]
    fn flags_say_what_is_meant() {
        assert_eq!(filter(""), Ok(None));
        let said = filter(
            "--topic a/# --topic b --client dev-* --type publish --type PubAck --connection 3 --direction s2c \
             --start 1s --until 1m --sample 0.5",
        );
        let expected = pb::EventFilter {
            topics: vec!["a/#".to_owned(), "b".to_owned()],
            types: vec![pb::PacketType::Publish.into(), pb::PacketType::Puback.into()],
            connections: vec![3],
            direction: pb::Direction::ServerToClient.into(),
            clients: vec!["dev-*".to_owned()],
            start: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
            until: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
            sample: 0.5,
        };
        assert_eq!(said, Ok(Some(expected)));
    }

    #[test]
    fn what_is_no_filter_is_said_at_once() {
        assert!(filter("--type message").unwrap_err().contains("connect, connack, publish"));
        assert!(filter("--sample 0").unwrap_err().contains("above 0"));
        assert!(filter("--direction up").unwrap_err().contains("c2s or s2c"));
        assert!(filter("--topic a/#/b").unwrap_err().contains("level 1"));
    }
}
