//! What is published: each message follows from the seed, its publisher and its number, and whoever gets it can
//! tell which one it is.

use super::draws::Draws;

/// A message by who publishes it, and its number there, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId {
    pub publisher: u16,
    pub number: u32,
}

impl std::fmt::Display for MessageId {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "message {} of publisher {}", self.number, self.publisher)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sizes {
    /// 10 to 200 bytes.
    Short,
    /// Some of 3 KiB, a few of 100 KiB.
    Mixed,
}

/// What one publisher says.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub publisher: u16,
    pub topics: Vec<&'static str>,
    /// Drawn from.
    pub qos: &'static [u8],
    pub sizes: Sizes,
    /// Retained messages, one in four of which deletes.
    pub is_retained: bool,
}

pub struct Message {
    pub id: MessageId,
    pub topic: &'static str,
    pub qos: u8,
    pub is_retained: bool,
    /// Of a retained message that deletes, empty.
    pub payload: Vec<u8>,
}

impl Plan {
    pub fn message(&self, number: u32) -> Message {
        let id = MessageId { publisher: self.publisher, number };
        let mut draws = Draws::new(self.seed ^ u64::from(number) << 16, self.publisher.into());
        let topic = self.topics[draws.below(self.topics.len() as u64) as usize];
        let qos = self.qos[draws.below(self.qos.len() as u64) as usize];
        let length = match (self.sizes, draws.below(100)) {
            (Sizes::Mixed, 0) => 100 * 1024,
            (Sizes::Mixed, 1..20) => 3 * 1024,
            _ => HEADER + draws.below(190) as usize,
        };
        let deletes = self.is_retained && draws.once_in(4);
        let payload = if deletes { Vec::new() } else { payload(id, length) };
        Message { id, topic, qos, is_retained: self.is_retained, payload }
    }
}

/// Publisher, number, checksum of the whole.
const HEADER: usize = 10;

/// `length` bytes for `id`, or as many as the header takes.
pub fn payload(id: MessageId, length: usize) -> Vec<u8> {
    let mut payload = Vec::with_capacity(length + 8);
    payload.extend(id.publisher.to_be_bytes());
    payload.extend(id.number.to_be_bytes());
    payload.extend([0; 4]);
    let mut draws = Draws::new(id.number.into(), id.publisher.into());
    while payload.len() < length {
        payload.extend(draws.below(u64::MAX).to_le_bytes());
    }
    payload.truncate(length.max(HEADER));
    let sum = crc32fast::hash(&payload);
    payload[6..HEADER].copy_from_slice(&sum.to_be_bytes());
    payload
}

/// Which message it is of.
///
/// # Errors
/// What is wrong with it.
pub fn identify(payload: &[u8]) -> Result<MessageId, String> {
    let Some((&[p0, p1, n0, n1, n2, n3, s0, s1, s2, s3], rest)) = payload.split_first_chunk() else {
        return Err(format!("a payload of {} bytes", payload.len()));
    };
    let mut sum = crc32fast::Hasher::new();
    sum.update(&[p0, p1, n0, n1, n2, n3, 0, 0, 0, 0]);
    sum.update(rest);
    let id =
        MessageId { publisher: u16::from_be_bytes([p0, p1]), number: u32::from_be_bytes([n0, n1, n2, n3]) };
    if sum.finalize() == u32::from_be_bytes([s0, s1, s2, s3]) {
        Ok(id)
    } else {
        Err(format!("a damaged payload of {} bytes that says it is {id}", payload.len()))
    }
}

/// Whether `filter`, without `$share`, matches `topic`, which has no `$` in front.
pub fn matches(filter: &str, topic: &str) -> bool {
    let mut levels = topic.split('/');
    for wanted in filter.split('/') {
        match (wanted, levels.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (_, Some(level)) if level == wanted => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

#[test]
fn messages_are_known_by_their_payloads_and_filters_match_as_in_the_standard() {
    let plan = Plan {
        seed: 1,
        publisher: 7,
        topics: vec!["a", "b"],
        qos: &[1, 2],
        sizes: Sizes::Mixed,
        is_retained: false,
    };
    for number in 1..300 {
        let mut message = plan.message(number);
        assert_eq!(identify(&message.payload), Ok(message.id));
        *message.payload.last_mut().unwrap() ^= 1;
        assert!(identify(&message.payload).is_err());
    }
    for (filter, topic, is_match) in [
        ("a/#", "a/b/c", true),
        ("a/#", "a", true),
        ("a/+", "a/b", true),
        ("a/+", "a/b/c", false),
        ("+/b", "a/b", true),
        ("a/b", "a", false),
    ] {
        assert_eq!(matches(filter, topic), is_match, "{filter} {topic}");
    }
}
