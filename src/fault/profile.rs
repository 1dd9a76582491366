//! Networks and servers that are bad in known ways.
//!
//! Delays are one way, half of a round trip, and lognormal, as delays in networks are: most are near the median, and some
//! take several times as long. What is lost below TCP is sent again by TCP, so to MQTT a bad network is slow; only a bad
//! server, or a connection that ends, loses anything.

use super::{
    ActionSpec, BandwidthSpec, DisconnectMode, DisconnectSpec, LatencyDraw, LatencySpec, MatchSpec,
    ReasonSpec, RefuseConnectSpec, RuleSpec, WhenSpec,
};
use crate::{likeness::unknown, recording::Direction};

use Direction::{ClientToServer as Up, ServerToClient as Down};

/// A list of rules that has a name.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    pub name: &'static str,
    /// What it is like, for people.
    pub about: &'static str,
    pub rules: Vec<RuleSpec>,
}

/// Every profile's name.
pub const PROFILES: [&str; 5] = ["3g", "edge", "satellite", "lossy-wifi", "flaky-broker"];

/// # Errors
/// Which name is meant, for people.
pub fn profile(name: &str) -> Result<Profile, String> {
    let (name, about, rules) = match name.trim() {
        "3g" => three_g(),
        "edge" => edge(),
        "satellite" => satellite(),
        "lossy-wifi" => lossy_wifi(),
        "flaky-broker" => flaky_broker(),
        other => return Err(unknown("profile", other, PROFILES)),
    };
    Ok(Profile { name, about, rules })
}

type Parts = (&'static str, &'static str, Vec<RuleSpec>);

/// 300 ms of round trip, 1.6 Mbit/s down and 768 kbit/s up are what WebPageTest calls "Mobile 3G". Delay spreads by the
/// scheduling of the cell: with sigma 0.35 one packet in twenty takes 1.8 times the median.
fn three_g() -> Parts {
    let about = "a phone in a UMTS cell: 300 ms of round trip, 1.6 Mbit/s down, 768 kbit/s up";
    let rules = vec![
        rule("3g-latency", None, latency(lognormal(150.0, 0.35))),
        rule("3g-down", Some(Down), bandwidth(200_000)),
        rule("3g-up", Some(Up), bandwidth(96_000)),
    ];
    ("3g", about, rules)
}

/// 840 ms of round trip, 240 kbit/s down and 200 kbit/s up are WebPageTest's "Mobile Edge". Its radio link repeats what is
/// lost, and stands still while a phone changes cells, for seconds.
fn edge() -> Parts {
    let about =
        "a modem in a GSM cell: 840 ms of round trip, 240 kbit/s down, 200 kbit/s up, now and then a stall";
    let rules = vec![
        rule("edge-latency", None, latency(lognormal(420.0, 0.4))),
        RuleSpec { when: of_each(0.005), ..rule("edge-stall", None, latency(uniform(2_000.0, 8_000.0))) },
        rule("edge-down", Some(Down), bandwidth(30_000)),
        rule("edge-up", Some(Up), bandwidth(25_000)),
    ];
    ("edge", about, rules)
}

/// Up to a geostationary satellite and down again are at least 2 · 35,786 km, 239 ms by light, 280 ms at the rim of its
/// footprint; what the modem's turns take makes it about 300 ms. That hardly spreads. 25 Mbit/s down and 3 Mbit/s up are
/// common offers; rain takes the link away for seconds.
fn satellite() -> Parts {
    let about =
        "a geostationary satellite: 600 ms of round trip, 25 Mbit/s down, 3 Mbit/s up, now and then a fade";
    let rules = vec![
        rule("satellite-latency", None, latency(normal(300.0, 15.0))),
        RuleSpec { when: of_each(0.002), ..rule("satellite-fade", None, latency(uniform(1_000.0, 5_000.0))) },
        rule("satellite-down", Some(Down), bandwidth(3_125_000)),
        rule("satellite-up", Some(Up), bandwidth(375_000)),
    ];
    ("satellite", about, rules)
}

/// A few milliseconds that spread widely, because stations share the channel. What Wi-Fi's own repetitions do not save TCP
/// sends again, after 200 ms at the earliest (Linux's least retransmission timeout), and twice that for a second time.
/// Roaming to another access point takes up to some seconds; once in a while the connection does not survive it.
fn lossy_wifi() -> Parts {
    let about =
        "a crowded Wi-Fi: 3 ms that spread widely, 3 % wait for TCP to send again, rare stalls and breaks";
    let rules = vec![
        rule("lossy-wifi-latency", None, latency(lognormal(3.0, 1.0))),
        RuleSpec {
            when: of_each(0.03),
            ..rule("lossy-wifi-retransmission", None, latency(uniform(200.0, 600.0)))
        },
        RuleSpec {
            when: of_each(0.002),
            ..rule("lossy-wifi-roaming", None, latency(uniform(1_000.0, 3_000.0)))
        },
        RuleSpec {
            matches: MatchSpec { types: types(&["PUBLISH"]), ..MatchSpec::default() },
            when: of_each(0.001),
            ..rule("lossy-wifi-break", None, ActionSpec::Disconnect(DisconnectSpec::default()))
        },
    ];
    ("lossy-wifi", about, rules)
}

/// What a server under too much load does, each of it often enough to be met in a test of minutes: it refuses one client in
/// ten and has lost the Session of one in twenty, answers late (median 50 ms, one in twenty 250 ms), leaves one in a
/// hundred acknowledgements out, refuses one message in fifty, and disconnects a client once in five hundred messages.
fn flaky_broker() -> Parts {
    let about = "an overloaded server: refuses, forgets Sessions, acknowledges late, with an error or not at all, disconnects";
    let acks = || MatchSpec {
        direction: Some(Down.name().to_owned()),
        types: types(&["PUBACK", "PUBREC", "PUBCOMP", "SUBACK", "UNSUBACK"]),
        ..MatchSpec::default()
    };
    let named = |name: &str| Some(ReasonSpec::Name(name.to_owned()));
    let refusal = RefuseConnectSpec { reason: named("server_unavailable") };
    let disconnect = DisconnectSpec {
        mode: DisconnectMode::Mqtt5,
        reason: named("server_busy"),
        ..DisconnectSpec::default()
    };
    let quota = ReasonSpec::Name("quota_exceeded".to_owned());
    let rules = vec![
        RuleSpec {
            when: of_each(0.1),
            ..rule("flaky-broker-refusal", None, ActionSpec::RefuseConnect(refusal))
        },
        RuleSpec { when: of_each(0.05), ..rule("flaky-broker-session", None, ActionSpec::LoseSession) },
        RuleSpec {
            matches: acks(),
            when: of_each(0.01),
            ..rule("flaky-broker-silence", None, ActionSpec::WithholdAck)
        },
        RuleSpec {
            matches: MatchSpec { types: types(&["PUBACK", "PUBREC"]), ..acks() },
            when: of_each(0.02),
            ..rule("flaky-broker-quota", None, ActionSpec::ReasonCode(quota))
        },
        RuleSpec {
            matches: acks(),
            ..rule("flaky-broker-ack", None, ActionSpec::DelayAck(lognormal(50.0, 1.0)))
        },
        RuleSpec {
            matches: MatchSpec {
                direction: Some(Up.name().to_owned()),
                types: types(&["PUBLISH"]),
                ..MatchSpec::default()
            },
            when: of_each(0.002),
            ..rule("flaky-broker-disconnect", None, ActionSpec::Disconnect(disconnect))
        },
    ];
    ("flaky-broker", about, rules)
}

fn rule(id: &str, direction: Option<Direction>, action: ActionSpec) -> RuleSpec {
    let direction = direction.map(|direction| direction.name().to_owned());
    RuleSpec {
        id: id.to_owned(),
        matches: MatchSpec { direction, ..MatchSpec::default() },
        actions: vec![action],
        ..RuleSpec::default()
    }
}

fn of_each(probability: f64) -> WhenSpec {
    WhenSpec { probability: Some(probability), ..WhenSpec::default() }
}

fn types(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn latency(spec: LatencySpec) -> ActionSpec {
    ActionSpec::Latency(spec)
}

fn bandwidth(bytes_per_s: u64) -> ActionSpec {
    ActionSpec::Bandwidth(BandwidthSpec { bytes_per_s })
}

fn uniform(min_ms: f64, max_ms: f64) -> LatencySpec {
    LatencySpec::Drawn(LatencyDraw { min_ms: Some(min_ms), max_ms: Some(max_ms), ..LatencyDraw::default() })
}

fn normal(mean_ms: f64, sd_ms: f64) -> LatencySpec {
    LatencySpec::Drawn(LatencyDraw { mean_ms: Some(mean_ms), sd_ms: Some(sd_ms), ..LatencyDraw::default() })
}

fn lognormal(median_ms: f64, sigma: f64) -> LatencySpec {
    LatencySpec::Drawn(LatencyDraw {
        median_ms: Some(median_ms),
        sigma: Some(sigma),
        ..LatencyDraw::default()
    })
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use expect_test::expect;

    use super::*;
    use crate::fault::Rule;

    #[test]
    fn profiles_are_good_and_named_as_their_rules() {
        let mut table = String::new();
        for name in PROFILES {
            let profile = profile(name).expect("a profile");
            assert_eq!(profile.name, name);
            _ = writeln!(table, "{name}: {}", profile.about);
            for spec in profile.rules {
                assert!(spec.id.starts_with(&format!("{name}-")), "{}", spec.id);
                _ = writeln!(table, "  {}", serde_json::to_string(&spec).expect("it can be written"));
                Rule::new(spec).expect("a good rule");
            }
        }
        expect![[r#"
            3g: a phone in a UMTS cell: 300 ms of round trip, 1.6 Mbit/s down, 768 kbit/s up
              {"id":"3g-latency","actions":[{"latency":{"median_ms":150.0,"sigma":0.35}}]}
              {"id":"3g-down","match":{"direction":"s2c"},"actions":[{"bandwidth":{"bytes_per_s":200000}}]}
              {"id":"3g-up","match":{"direction":"c2s"},"actions":[{"bandwidth":{"bytes_per_s":96000}}]}
            edge: a modem in a GSM cell: 840 ms of round trip, 240 kbit/s down, 200 kbit/s up, now and then a stall
              {"id":"edge-latency","actions":[{"latency":{"median_ms":420.0,"sigma":0.4}}]}
              {"id":"edge-stall","when":{"probability":0.005},"actions":[{"latency":{"min_ms":2000.0,"max_ms":8000.0}}]}
              {"id":"edge-down","match":{"direction":"s2c"},"actions":[{"bandwidth":{"bytes_per_s":30000}}]}
              {"id":"edge-up","match":{"direction":"c2s"},"actions":[{"bandwidth":{"bytes_per_s":25000}}]}
            satellite: a geostationary satellite: 600 ms of round trip, 25 Mbit/s down, 3 Mbit/s up, now and then a fade
              {"id":"satellite-latency","actions":[{"latency":{"mean_ms":300.0,"sd_ms":15.0}}]}
              {"id":"satellite-fade","when":{"probability":0.002},"actions":[{"latency":{"min_ms":1000.0,"max_ms":5000.0}}]}
              {"id":"satellite-down","match":{"direction":"s2c"},"actions":[{"bandwidth":{"bytes_per_s":3125000}}]}
              {"id":"satellite-up","match":{"direction":"c2s"},"actions":[{"bandwidth":{"bytes_per_s":375000}}]}
            lossy-wifi: a crowded Wi-Fi: 3 ms that spread widely, 3 % wait for TCP to send again, rare stalls and breaks
              {"id":"lossy-wifi-latency","actions":[{"latency":{"median_ms":3.0,"sigma":1.0}}]}
              {"id":"lossy-wifi-retransmission","when":{"probability":0.03},"actions":[{"latency":{"min_ms":200.0,"max_ms":600.0}}]}
              {"id":"lossy-wifi-roaming","when":{"probability":0.002},"actions":[{"latency":{"min_ms":1000.0,"max_ms":3000.0}}]}
              {"id":"lossy-wifi-break","match":{"types":"PUBLISH"},"when":{"probability":0.001},"actions":["disconnect"]}
            flaky-broker: an overloaded server: refuses, forgets Sessions, acknowledges late, with an error or not at all, disconnects
              {"id":"flaky-broker-refusal","when":{"probability":0.1},"actions":[{"refuse_connect":{"reason":"server_unavailable"}}]}
              {"id":"flaky-broker-session","when":{"probability":0.05},"actions":["lose_session"]}
              {"id":"flaky-broker-silence","match":{"direction":"s2c","types":["PUBACK","PUBREC","PUBCOMP","SUBACK","UNSUBACK"]},"when":{"probability":0.01},"actions":["withhold_ack"]}
              {"id":"flaky-broker-quota","match":{"direction":"s2c","types":["PUBACK","PUBREC"]},"when":{"probability":0.02},"actions":[{"reason_code":"quota_exceeded"}]}
              {"id":"flaky-broker-ack","match":{"direction":"s2c","types":["PUBACK","PUBREC","PUBCOMP","SUBACK","UNSUBACK"]},"actions":[{"delay_ack":{"median_ms":50.0,"sigma":1.0}}]}
              {"id":"flaky-broker-disconnect","match":{"direction":"c2s","types":"PUBLISH"},"when":{"probability":0.002},"actions":[{"disconnect":{"mode":"mqtt5","reason":"server_busy"}}]}
        "#]].assert_eq(&table);
        assert_eq!(
            profile("lossy-wlan").unwrap_err(),
            "unknown profile \"lossy-wlan\"; did you mean \"lossy-wifi\"?"
        );
    }
}
