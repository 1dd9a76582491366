//! Laws that hold whatever clients do.

use std::{collections::BTreeSet, time::Duration};

use proptest::prelude::*;

use crate::{
    auth::UserList,
    broker::{Limits, Options},
    packet::{ControlPacket, QoS},
};

use super::{
    script::{Player, generous},
    stage::{Bare, bare},
};

/// What one of a few clients does next.
pub(super) fn any_line() -> impl Strategy<Value = String> {
    let name = || prop::sample::select(vec!["a", "b", "c"]);
    let filter = || {
        prop::sample::select(vec![
            "t",
            "t/+",
            "#",
            "t/#",
            "+/u",
            "$share/g/t",
            "$share/g/#",
            "$share/h/t/u",
            "$SYS/#",
        ])
    };
    let topic = || prop::sample::select(vec!["t", "t/u", "x/u", "t/u/v"]);
    let connect = (name(), name(), 3..6_u8, any::<bool>(), 0..4_u32, 0..4_u16, 0..3_u8, 0..6_u8).prop_map(
        |(name, client, version, clean, expiry, receive, will, rest)| {
            let protocol = ["3.1", "3.1.1", "5.0"][usize::from(version) - 3];
            let mut line = format!("{name}> CONNECT {client} v={protocol} clean={clean} keep_alive=9");
            if will > 0 {
                line += &format!(" will=t/u:gone will_qos={will}");
            }
            if version == 5 {
                line += &format!(" session_expiry={} topic_alias_maximum={}", expiry * 10, receive);
                if receive > 0 {
                    line += &format!(" receive_maximum={receive}");
                }
                if will > 1 {
                    line += " will_delay=5";
                }
                match rest {
                    0 => line += " auth_method=SCRAM-SHA-256",
                    1 => line += " auth_method=SCRAM-SHA-256 auth_data=\"n,,n=u,r=x\" maximum_packet_size=99",
                    2 => line += " maximum_packet_size=30",
                    _ => {}
                }
            }
            line
        },
    );
    let publish = (name(), topic(), 0..3_u8, 1..4_u16, any::<bool>(), 0..3_u8).prop_map(
        |(name, topic, qos, id, retain, size)| {
            let id = if qos > 0 { format!(" id={id}") } else { String::new() };
            format!(
                "{name}> PUBLISH {topic} qos={qos}{id} retain={retain} \"{}\"",
                "p".repeat(usize::from(size) * 10)
            )
        },
    );
    let ack = (name(), prop::sample::select(vec!["PUBACK", "PUBREC", "PUBREL", "PUBCOMP"]), 1..5_u16)
        .prop_map(|(name, kind, id)| format!("{name}> {kind} {id}"));
    // As bytes: any version may send it.
    let auth = (name(), any::<bool>(), 0..3_u8).prop_map(|(name, again, data)| {
        let data = [format!("n,,n=u,r={}", "x".repeat(60)), "c=biws,r=x,p=AAAA".to_owned(), String::new()]
            [usize::from(data)]
        .clone();
        let method = [&b"\x15\0\x0dSCRAM-SHA-256\x16\0"[..], &[data.len() as u8], data.as_bytes()].concat();
        let code = if again { 0x19 } else { 0x18 };
        let body = [&[code, method.len() as u8][..], &method].concat();
        let hex: String = body.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{name}> bytes f0{:02x}{hex}", body.len())
    });
    prop_oneof![
        3 => connect,
        2 => auth,
        6 => publish,
        6 => ack,
        3 => (name(), filter(), 0..3_u8).prop_map(|(name, filter, qos)| format!("{name}> SUBSCRIBE 9 {filter} qos={qos}")),
        1 => (name(), filter()).prop_map(|(name, filter)| format!("{name}> UNSUBSCRIBE 9 {filter}")),
        1 => name().prop_map(|name| format!("{name}> DISCONNECT")),
        1 => name().prop_map(|name| format!("{name}> PINGREQ")),
        2 => name().prop_map(|name| format!("{name}!")),
        1 => name().prop_map(|name| format!("{name} stalls")),
        1 => name().prop_map(|name| format!("{name} reads")),
        1 => (0..12_u8).prop_map(|seconds| format!("+{seconds}s")),
        1 => (name(), prop::collection::vec(any::<u8>(), 1..6)).prop_map(|(name, bytes)| {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{name}> bytes {hex}")
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_parts_agree_after_any_operations(lines in prop::collection::vec(any_line(), 1..80)) {
        let limits = Limits {
            queue_messages: 3,
            inflight_max: 3,
            outbox_bytes: 60,
            subscriptions_per_client: 4,
            retained_messages: 2,
            ..generous()
        };
        let mut options = Options::from(limits);
        // No password: deriving keys from one takes long.
        let key = "A".repeat(43) + "=";
        let user = format!("u:SCRAM-SHA-256$4096:AAAA${key}:{key}");
        options.scram_users = UserList::parse(&user).expect("a user");
        options.sys_interval = Duration::from_secs(5);
        let mut player = bare(options);
        for line in lines {
            if player.knows(&line) {
                player.play(&line);
                player.stage.broker.assert_consistent();
            }
        }
        // Everything ends when everyone leaves and nothing expires later.
        for name in ["a", "b", "c"] {
            if player.knows(&format!("{name}!")) {
                player.play(&format!("{name}!"));
            }
        }
        player.play("+100s");
        player.stage.broker.assert_consistent();
        prop_assert!(player.stage.broker.connections.is_empty());
    }

    /// Nothing is lost, repeated or reordered between a publisher and a subscriber that comes and
    /// goes and acknowledges late and in any order, at QoS 1 and 2.
    #[test]
    fn each_message_arrives_once_and_in_order(
        steps in prop::collection::vec((0..6_u8, any::<prop::sample::Index>()), 1..120),
        receive_maximum in 1..5_u16,
        qos in 1..3_u8,
    ) {
        let mut player = bare(generous());
        let connect = format!("sub> CONNECT sub clean=false session_expiry=1000 receive_maximum={receive_maximum}");
        let mut client = Subscriber::default();
        client.play(&mut player, &connect);
        client.play(&mut player, &format!("sub> SUBSCRIBE 1 t qos={qos}"));
        client.play(&mut player, "pub> CONNECT pub");
        let (mut sent, mut connected) = (0_u32, true);
        for (step, which) in steps {
            match step {
                0..=2 => {
                    sent += 1;
                    client.play(&mut player, &format!("pub> PUBLISH t qos=2 id=1 \"{sent}\""));
                    client.play(&mut player, "pub> PUBREL 1");
                }
                3 => {
                    connected = !connected;
                    client.owed.clear();
                    client.play(&mut player, if connected { &connect } else { "sub!" });
                }
                _ if !client.owed.is_empty() => {
                    let answer = client.owed.remove(which.index(client.owed.len()));
                    client.play(&mut player, &answer);
                }
                _ => {}
            }
            let unanswered = client.owed.iter().filter(|answer| !answer.contains("PUBCOMP")).count();
            prop_assert!(unanswered <= usize::from(receive_maximum));
        }
        if !connected {
            client.play(&mut player, &connect);
        }
        while let Some(answer) = client.owed.pop() {
            client.play(&mut player, &answer);
        }
        prop_assert_eq!(client.received, (1..=sent).map(|number| number.to_string()).collect::<Vec<_>>());
        prop_assert_eq!((player.stage.broker.stats().inflight, player.stage.broker.stats().queued), (0, 0));
    }
}

/// A client that keeps the rules, whose answers may come late.
#[derive(Default)]
struct Subscriber {
    received: Vec<String>,
    /// Identifiers of messages that are not completely acknowledged.
    open: BTreeSet<u16>,
    /// Lines it has yet to send.
    owed: Vec<String>,
}

impl Subscriber {
    fn play(&mut self, player: &mut Player<Bare>, line: &str) {
        for done in ["sub> PUBACK ", "sub> PUBCOMP "] {
            if let Some(id) = line.strip_prefix(done) {
                self.open.remove(&id.parse().expect("an identifier"));
            }
        }
        for heard in player.play(line) {
            match heard.strip_prefix("sub< ").map(str::parse) {
                Some(Ok(ControlPacket::Publish(publish))) => {
                    let id = publish.packet_identifier.expect("QoS 1 at least").get();
                    if self.open.insert(id) {
                        self.received.push(String::from_utf8(publish.payload.to_vec()).expect("digits"));
                    }
                    let answer = if publish.qos == QoS::AtLeastOnce { "PUBACK" } else { "PUBREC" };
                    self.owed.push(format!("sub> {answer} {id}"));
                }
                Some(Ok(ControlPacket::Pubrel(ack))) => {
                    self.owed.push(format!("sub> PUBCOMP {}", ack.packet_identifier));
                }
                _ => {}
            }
        }
    }
}
