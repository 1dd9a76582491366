//! An action that was checked, and what is drawn for it.

use std::time::Duration;

use super::{
    ActionSpec, Capabilities, CorruptPart, CorruptSpec, DisconnectMode, DisconnectSpec, DurationSpec, Effect,
    LatencyDraw, LatencySpec, ReasonSpec, Seen, target::Target,
};
use crate::{
    delay::{DELAY_MAX, Delay},
    draws::Draws,
    field::Checks,
    likeness::nearest,
    packet::{ProtocolVersion, ReasonCode},
};

/// Copies, packets that overtake, and bytes that are changed: what more of them would show, so many do.
pub const COUNT_MAX: u32 = 1_000;

/// At 10 every third lognormal draw is more than 20,000 times, or less than that part of, the median.
const SIGMA_MAX: f64 = 10.0;

/// One action of a rule.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Latency(Delay),
    Drop,
    Duplicate { count: u32 },
    Reorder { window: u32, max_wait: Duration, violate: bool },
    Corrupt(CorruptSpec),
    Truncate { bytes: u32, reframe: bool },
    WithholdAck,
    DelayAck(Delay),
    DuplicateAck { count: u32 },
    ReasonCode(ReasonCode),
    Disconnect { mode: DisconnectMode, at_byte: Option<u32>, will: bool, reason: Option<ReasonCode> },
    RefuseConnect(ReasonCode),
    Blackhole { duration: Option<Duration> },
    Bandwidth { bytes_per_s: u64 },
    Slice { size: u32, delay: Duration },
    LoseSession,
    Takeover,
    Capabilities(Capabilities),
    SlowSubscriber { every: Duration },
}

impl Action {
    /// # Errors
    /// Every detail that is wrong, its path from the action's name on.
    pub fn new(spec: &ActionSpec) -> Result<Self, Checks> {
        let mut checks = Checks::default();
        let made = match spec {
            ActionSpec::Latency(latency) => read_latency(&mut checks, *latency).map(Self::Latency),
            ActionSpec::Drop => Some(Self::Drop),
            ActionSpec::Duplicate(spec) => {
                checks.range("count", spec.count, 1, COUNT_MAX);
                Some(Self::Duplicate { count: spec.count })
            }
            ActionSpec::Reorder(spec) => {
                checks.range("window", spec.window, 1, COUNT_MAX);
                let max_wait = read_milliseconds(&mut checks, "max_ms", spec.max_ms);
                max_wait.map(|max_wait| Self::Reorder {
                    window: spec.window,
                    max_wait,
                    violate: spec.violate,
                })
            }
            ActionSpec::Corrupt(spec) => {
                checks.range("bytes", spec.bytes, 1, COUNT_MAX);
                Some(Self::Corrupt(*spec))
            }
            ActionSpec::Truncate(spec) => {
                if spec.bytes == 0 {
                    checks.refuse("bytes", "is at least 1");
                }
                Some(Self::Truncate { bytes: spec.bytes, reframe: spec.reframe })
            }
            ActionSpec::WithholdAck => Some(Self::WithholdAck),
            ActionSpec::DelayAck(latency) => read_latency(&mut checks, *latency).map(Self::DelayAck),
            ActionSpec::DuplicateAck(spec) => {
                checks.range("count", spec.count, 1, COUNT_MAX);
                Some(Self::DuplicateAck { count: spec.count })
            }
            ActionSpec::ReasonCode(reason) => checks.keep("", read_reason(reason)).map(Self::ReasonCode),
            ActionSpec::Disconnect(spec) => read_disconnect(&mut checks, spec),
            ActionSpec::RefuseConnect(spec) => {
                let reason = match &spec.reason {
                    None => Ok(ReasonCode::SERVER_UNAVAILABLE),
                    Some(reason) => read_reason(reason).and_then(refusing),
                };
                checks.keep("reason", reason).map(Self::RefuseConnect)
            }
            ActionSpec::Blackhole(spec) => {
                let duration =
                    spec.duration.as_ref().and_then(|said| checks.keep("duration", read_duration(said)));
                if duration.is_some_and(|duration| duration.is_zero()) {
                    checks.refuse("duration", "is above 0");
                }
                Some(Self::Blackhole { duration })
            }
            ActionSpec::Bandwidth(spec) => {
                if spec.bytes_per_s == 0 {
                    checks.refuse("bytes_per_s", "is at least 1");
                }
                Some(Self::Bandwidth { bytes_per_s: spec.bytes_per_s })
            }
            ActionSpec::Slice(spec) => {
                if spec.size == 0 {
                    checks.refuse("size", "is at least 1");
                }
                let delay = spec.delay.as_ref().map_or(Ok(Duration::ZERO), read_duration);
                checks.keep("delay", delay).map(|delay| Self::Slice { size: spec.size, delay })
            }
            ActionSpec::LoseSession => Some(Self::LoseSession),
            ActionSpec::Takeover => Some(Self::Takeover),
            ActionSpec::Capabilities(spec) => {
                check_capabilities(&mut checks, spec);
                Some(Self::Capabilities(spec.clone()))
            }
            ActionSpec::SlowSubscriber(spec) => read_milliseconds(&mut checks, "delay_ms", spec.delay_ms)
                .map(|every| Self::SlowSubscriber { every }),
        };
        match made {
            Some(action) if checks.is_empty() => Ok(action),
            _ => Err(checks),
        }
    }

    pub fn target(&self) -> Target {
        match self {
            Self::Latency(_)
            | Self::Drop
            | Self::Duplicate { .. }
            | Self::Reorder { .. }
            | Self::Corrupt(_)
            | Self::Truncate { .. }
            | Self::Disconnect { .. }
            | Self::Blackhole { .. }
            | Self::Bandwidth { .. }
            | Self::Slice { .. } => Target::Any,
            Self::Takeover => Target::Connected,
            Self::WithholdAck | Self::DelayAck(_) | Self::DuplicateAck { .. } => Target::Acknowledgement,
            Self::ReasonCode(_) => Target::ReasonCode,
            Self::RefuseConnect(_) | Self::LoseSession => Target::Connect,
            Self::Capabilities(capabilities) => capabilities.target(),
            Self::SlowSubscriber { .. } => Target::Delivery,
        }
    }

    /// What it comes to for a packet; `None` where the packet has nothing that it could be done to.
    pub fn draw(&self, seen: &Seen<'_>, mut draws: Draws) -> Option<Effect> {
        Some(match *self {
            Self::Latency(delay) => Effect::Latency { delay: delay.draw(&mut draws) },
            Self::Drop => Effect::Drop {},
            Self::Duplicate { count } => Effect::Duplicate { count },
            Self::Reorder { window, max_wait, violate } => {
                Effect::Reorder { behind: draws.between(1, window.into()) as u32, max_wait, violate }
            }
            Self::Corrupt(CorruptSpec { bytes, part }) => {
                let from = match part {
                    CorruptPart::Body => seen.header_len(),
                    CorruptPart::Payload => seen.payload_at?,
                    CorruptPart::Packet => 0,
                };
                return corrupt(from, seen.size, bytes, &mut draws);
            }
            Self::Truncate { bytes, reframe } => {
                let most = seen.truncation_max(reframe);
                if most == 0 {
                    return None;
                }
                Effect::Truncate { bytes: bytes.min(most), reframe }
            }
            Self::WithholdAck => Effect::WithholdAck {},
            Self::DelayAck(delay) => Effect::DelayAck { delay: delay.draw(&mut draws) },
            Self::DuplicateAck { count } => Effect::DuplicateAck { count },
            Self::ReasonCode(code) => Effect::ReasonCode { code: code.0 },
            Self::Disconnect { mode, at_byte, will, reason } => {
                Effect::Disconnect { mode, at_byte, will, reason: reason.map(|reason| reason.0) }
            }
            Self::RefuseConnect(code) => Effect::RefuseConnect { code: code.0 },
            Self::Blackhole { duration } => Effect::Blackhole { duration },
            Self::Bandwidth { bytes_per_s } => Effect::Bandwidth { bytes_per_s },
            Self::Slice { size, delay } => Effect::Slice { size, delay },
            Self::LoseSession => Effect::LoseSession {},
            Self::Takeover => Effect::Takeover {},
            Self::Capabilities(ref capabilities) => Effect::Capabilities(capabilities.clone()),
            Self::SlowSubscriber { every } => Effect::SlowSubscriber { every },
        })
    }
}

/// Changes `bytes` of those from `from` on, or all if there are fewer.
fn corrupt(from: usize, end: usize, bytes: u32, draws: &mut Draws) -> Option<Effect> {
    let (from, end) = (u32::try_from(from).ok()?, u32::try_from(end).ok()?);
    let there = end.checked_sub(from).filter(|there| *there > 0)?;
    // Floyd's way of drawing different ones: what is drawn twice stands for the last that could be.
    let mut positions = std::collections::BTreeSet::new();
    for last in there - bytes.min(there)..there {
        let drawn = draws.between(0, last.into()) as u32;
        positions.insert(if positions.contains(&drawn) { last } else { drawn });
    }
    let changes = positions.into_iter().map(|position| (from + position, draws.between(1, 255) as u8));
    Some(Effect::Corrupt { changes: changes.collect() })
}

/// What is wrong is told by key, as far as it is one.
pub fn read_latency(checks: &mut Checks, spec: LatencySpec) -> Option<Delay> {
    const FORMS: &str = "is a number of milliseconds, or one of {ms}, {min_ms, max_ms}, {mean_ms, sd_ms} and {median_ms, sigma}";
    let draw = match spec {
        LatencySpec::Fixed(ms) => {
            checks.range("", ms, 0.0, longest());
            return Some(Delay::Fixed(ms));
        }
        LatencySpec::Drawn(draw) => draw,
    };
    let LatencyDraw { ms, min_ms, max_ms, mean_ms, sd_ms, median_ms, sigma } = draw;
    let pairs = [
        (("min_ms", min_ms), ("max_ms", max_ms)),
        (("mean_ms", mean_ms), ("sd_ms", sd_ms)),
        (("median_ms", median_ms), ("sigma", sigma)),
    ];
    let forms = usize::from(ms.is_some())
        + pairs.iter().filter(|((_, one), (_, other))| one.is_some() || other.is_some()).count();
    if forms != 1 {
        checks.refuse("", FORMS);
        return None;
    }
    for (one, other) in pairs {
        for ((there, value), (missing, none)) in [(one, other), (other, one)] {
            if value.is_some() && none.is_none() {
                checks.refuse(missing, format_args!("is missing beside {there}"));
            }
        }
    }
    for (name, value) in [
        ("ms", ms),
        ("min_ms", min_ms),
        ("max_ms", max_ms),
        ("mean_ms", mean_ms),
        ("sd_ms", sd_ms),
        ("median_ms", median_ms),
    ] {
        if let Some(value) = value {
            checks.range(name, value, 0.0, longest());
        }
    }
    if let Some(sigma) = sigma {
        checks.range("sigma", sigma, 0.0, SIGMA_MAX);
    }
    match (ms, min_ms.zip(max_ms), mean_ms.zip(sd_ms), median_ms.zip(sigma)) {
        (Some(ms), ..) => Some(Delay::Fixed(ms)),
        (_, Some((min, max)), ..) => {
            if min > max {
                checks.refuse("min_ms", format_args!("is {min}, more than max_ms, which is {max}"));
            }
            Some(Delay::Uniform { min, max })
        }
        (_, _, Some((mean, sd)), _) => Some(Delay::Normal { mean, sd }),
        (.., Some((median, sigma))) => Some(Delay::Lognormal { median, sigma }),
        _ => None,
    }
}

/// Milliseconds that may be a part of one, but not none.
fn read_milliseconds(checks: &mut Checks, path: &str, milliseconds: f64) -> Option<Duration> {
    if milliseconds > 0.0 && milliseconds <= longest() {
        return Some(Duration::from_secs_f64(milliseconds / 1000.0));
    }
    checks.refuse(path, format_args!("is above 0, at most {}, not {milliseconds}", longest()));
    None
}

fn read_duration(spec: &DurationSpec) -> Result<Duration, String> {
    let duration = match spec {
        DurationSpec::Milliseconds(milliseconds) => {
            if !(0.0..=longest()).contains(milliseconds) {
                return Err(format!("is 0 to {} milliseconds, not {milliseconds}", longest()));
            }
            Duration::from_secs_f64(milliseconds / 1000.0)
        }
        DurationSpec::Text(text) => text
            .trim()
            .parse::<jiff::SignedDuration>()
            .ok()
            .and_then(|duration| Duration::try_from(duration).ok())
            .ok_or_else(|| format!("{text:?} is no duration such as 250ms, 5s or 1m30s"))?,
    };
    if duration > DELAY_MAX {
        return Err(format!("is a day at most, not {duration:?}"));
    }
    Ok(duration)
}

fn read_reason(spec: &ReasonSpec) -> Result<ReasonCode, String> {
    let name = match spec {
        ReasonSpec::Code(code) => return Ok(ReasonCode(*code)),
        ReasonSpec::Name(name) => name.trim(),
    };
    // A number in quotes, as JSON has to write 0x97.
    let number = match name.strip_prefix("0x").or_else(|| name.strip_prefix("0X")) {
        Some(digits) => u8::from_str_radix(digits, 16),
        None => name.parse(),
    };
    if let Ok(code) = number {
        return Ok(ReasonCode(code));
    }
    if let Some(code) = ReasonCode::from_name(name) {
        return Ok(code);
    }
    let one_way = |name: &str| name.to_lowercase().replace([' ', '-'], "_");
    let known: Vec<String> = ReasonCode::NAMES.iter().map(|name| one_way(name)).collect();
    Err(match nearest(&one_way(name), known.iter().map(String::as_str)) {
        Some(nearest) => format!("unknown Reason Code {name:?}; did you mean {nearest:?}?"),
        // There are too many to list.
        None => format!(
            "is a number from 0 to 255 or the name of a Reason Code, such as quota_exceeded, not {name:?}"
        ),
    })
}

/// One that a CONNACK refuses with.
fn refusing(code: ReasonCode) -> Result<ReasonCode, String> {
    if code.is_error() {
        return Ok(code);
    }
    Err(format!(
        "is 0x80 or above, not {code}; clients before MQTT 5 are told the return code that comes nearest"
    ))
}

fn read_disconnect(checks: &mut Checks, spec: &DisconnectSpec) -> Option<Action> {
    let DisconnectSpec { mode, at_byte, will, reason } = spec;
    let reason = match (mode, reason) {
        (DisconnectMode::Mqtt5, None) => Some(ReasonCode::SERVER_SHUTTING_DOWN),
        (DisconnectMode::Mqtt5, Some(reason)) => checks.keep("reason", read_reason(reason)),
        (_, None) => None,
        (_, Some(_)) => {
            checks.refuse("reason", "is for mode: mqtt5 alone");
            None
        }
    };
    Some(Action::Disconnect { mode: *mode, at_byte: *at_byte, will: *will, reason })
}

fn check_capabilities(checks: &mut Checks, spec: &Capabilities) {
    if *spec == Capabilities::default() {
        checks.refuse("", "says nothing, so a CONNACK would stay as it is");
    }
    if let Some(qos) = spec.maximum_qos {
        checks.range("maximum_qos", qos, 0, 2);
    }
    if spec.receive_maximum == Some(0) {
        checks.refuse("receive_maximum", "is at least 1");
    }
    if spec.maximum_packet_size == Some(0) {
        checks.refuse("maximum_packet_size", "is at least 1");
    }
}

impl Capabilities {
    pub(super) fn target(&self) -> Target {
        let since = if self.session_present.is_some() { ProtocolVersion::V311 } else { ProtocolVersion::V5 };
        Target::Connack { since }
    }
}

/// Milliseconds.
fn longest() -> f64 {
    DELAY_MAX.as_millis() as f64
}
