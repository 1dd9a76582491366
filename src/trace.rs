//! Whose trace a message belongs to: W3C Trace Context in MQTT 5 User Properties, and who is told of messages that have one.

use std::{fmt, time::Instant};

use crate::packet::{Properties, QoS};

/// The User Property, and the header of HTTP and gRPC.
pub const TRACEPARENT: &str = "traceparent";
/// What vendors add to it, passed on as it is.
pub const TRACESTATE: &str = "tracestate";

/// A place in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// Not all zero.
    pub trace_id: [u8; 16],
    /// The span that this is a child of. Not all zero.
    pub span_id: [u8; 8],
    /// Whether whoever came before kept its span.
    pub is_sampled: bool,
}

/// A message with a place in a trace that was routed.
pub struct Traced<'a> {
    pub context: TraceContext,
    pub topic: &'a str,
    /// Of who published it; empty for nobody.
    pub client_identifier: &'a str,
    pub qos: QoS,
    pub retain: bool,
    /// Bytes.
    pub payload_size: usize,
    /// Who was sent it or has it queued; `None` where that is another server's to know.
    pub receivers: Option<usize>,
    /// When it came.
    pub at: Instant,
}

/// Is told of messages that were routed. Called on hot paths: must not block.
pub trait Tracer: Send {
    fn routed(&mut self, message: &Traced<'_>);
}

impl fmt::Debug for dyn Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tracer")
    }
}

impl TraceContext {
    /// Reads `00-<trace id>-<span id>-<flags>`, and what later versions may have behind it. `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let (version, rest) = (hex::<1>(text.get(..2)?)?[0], text.get(2..)?);
        let bytes = rest.as_bytes();
        let is_whole = match bytes.len() {
            53 => true,
            54.. => version > 0 && bytes[53] == b'-',
            _ => false,
        };
        if version == 0xff || !is_whole || [0, 33, 50].iter().any(|dash| bytes[*dash] != b'-') {
            return None;
        }
        let trace_id = hex(rest.get(1..33)?)?;
        let span_id = hex(rest.get(34..50)?)?;
        let [flags] = hex(rest.get(51..53)?)?;
        let is_valid = trace_id != [0; 16] && span_id != [0; 8];
        is_valid.then_some(Self { trace_id, span_id, is_sampled: flags & 1 == 1 })
    }

    /// That of a message with these properties, as MQTT 5 encodes them, without their length.
    pub fn of_encoded(properties: &[u8]) -> Option<Self> {
        let name = TRACEPARENT.as_bytes();
        // Most messages have none, and that is told without decoding.
        let may_have = properties.windows(name.len()).any(|window| window == name);
        if may_have { Self::of(&Properties::of_publish(properties)) } else { None }
    }

    pub fn of(properties: &Properties) -> Option<Self> {
        Self::parse(user_property(properties, TRACEPARENT)?)
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("00-")?;
        self.trace_id.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("-")?;
        self.span_id.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        write!(f, "-{:02x}", u8::from(self.is_sampled))
    }
}

/// The first of that name.
pub fn user_property<'p>(properties: &'p Properties, name: &str) -> Option<&'p str> {
    let mut all = properties.user_properties();
    all.find(|(found, _)| found.as_str() == name).map(|(_, value)| value.as_str())
}

/// Lower-case digits, as the specification has them.
fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = digit(digits[0])? << 4 | digit(digits[1])?;
    }
    (text.len() == 2 * N).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_is_read_and_written() {
        let context = TraceContext::parse(GOOD).expect("it is good");
        assert_eq!((context.trace_id[0], context.span_id[7], context.is_sampled), (0x4b, 0xb7, true));
        assert_eq!(context.to_string(), GOOD);
        let later = GOOD.replacen("00", "01", 1) + "-more";
        assert_eq!(TraceContext::parse(&later), Some(context));
        assert!(!TraceContext::parse(&GOOD.replace("-01", "-02")).expect("it is good").is_sampled);
    }

    #[test]
    fn what_is_no_traceparent_is_none() {
        for bad in [
            "",
            "00",
            &GOOD[..54],
            &GOOD.replacen("00", "ff", 1),
            &GOOD.to_uppercase(),
            &GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &format!("{GOOD}-more"),
            &GOOD.replacen('-', "_", 2),
            &GOOD.replace("4bf9", "4b\u{e9}"),
        ] {
            assert_eq!(TraceContext::parse(bad), None, "{bad}");
        }
    }
}
