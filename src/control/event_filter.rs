//! Which events of a recording a request means.

use super::{fields::Fields, pb};
use crate::{
    packet::PacketType,
    recording::{ClientSample, Direction, EventFilter, NamePattern},
};

/// What `filter`, the field `path` of a request, means; all events if it is absent.
pub fn event_filter(fields: &mut Fields, path: &str, filter: Option<&pb::EventFilter>) -> EventFilter {
    let Some(filter) = filter else { return EventFilter::default() };
    let at = |field: &str| format!("{path}.{field}");
    let types: Vec<pb::PacketType> = fields.choices(&at("types"), &filter.types);
    let has_client = |client: &&String| !client.is_empty();
    let sample = (filter.sample != 0.0).then(|| ClientSample::new(filter.sample));
    let (start, until) = (
        fields.duration(&at("start"), filter.start.as_ref()),
        fields.duration(&at("until"), filter.until.as_ref()),
    );
    if start.zip(until).is_some_and(|(start, until)| start >= until) {
        fields.refuse(at("until"), "is not behind `start`");
    }
    EventFilter {
        topics: fields.filters(&at("topics"), &filter.topics),
        clients: filter.clients.iter().filter(has_client).map(NamePattern::new).collect(),
        types: types.into_iter().filter_map(packet_type).collect(),
        connections: filter.connections.clone(),
        direction: fields.choice(&at("direction"), filter.direction).and_then(direction),
        start,
        until,
        sample: sample.and_then(|sample| fields.keep(at("sample"), sample)),
    }
}

/// Both have the standard's numbers.
fn packet_type(packet_type: pb::PacketType) -> Option<PacketType> {
    PacketType::ALL.into_iter().find(|kind| *kind as i32 == packet_type as i32)
}

fn direction(direction: pb::Direction) -> Option<Direction> {
    match direction {
        pb::Direction::Unspecified => None,
        pb::Direction::ClientToServer => Some(Direction::ClientToServer),
        pb::Direction::ServerToClient => Some(Direction::ServerToClient),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::ControlError;

    fn complaints(filter: &pb::EventFilter) -> String {
        let mut fields = Fields::new();
        event_filter(&mut fields, "filter", Some(filter));
        fields.finish().unwrap_err().to_string()
    }

    #[test]
    fn what_is_wrong_is_said_with_its_path() -> Result<(), ControlError> {
        let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        let bad = pb::EventFilter {
            topics: vec!["a/#/b".to_owned()],
            types: vec![99],
            start: seconds(2),
            until: seconds(1),
            sample: 1.5,
            ..Default::default()
        };
        expect_test::expect!["filter.types[0]: has no value 99; filter.until: is not behind `start`; filter.topics[0]: filter \"a/#/b\": level 1: '#' stands alone and last; filter.sample: a share of clients is above 0 and at most 1, not 1.5"].assert_eq(&complaints(&bad));
        let mut fields = Fields::new();
        let filter = event_filter(&mut fields, "filter", Some(&pb::EventFilter::default()));
        assert!(filter.is_everything());
        fields.finish()
    }
}
