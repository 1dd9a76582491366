//! Scripts of a few clients that mostly keep the rules, each from a number.

use std::collections::BTreeMap;

/// What happens next in a script.
#[derive(Clone, Debug)]
pub enum Step {
    /// Lines of a transcript, of which only what they lead to together is compared.
    Lines(Vec<String>),
    /// The client acknowledges everything that it has received and not acknowledged.
    Acknowledge(&'static str),
}

const NAMES: [&str; 3] = ["a", "b", "c"];

/// Draws from a number.
struct Draw(u64);

impl Draw {
    /// 0 to `end - 1`.
    fn below(&mut self, end: u64) -> u64 {
        // SplitMix64, which is plenty for scripts.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ bits >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        (bits ^ bits >> 31) % end
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// True in `percent` of all cases.
    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

struct Generator {
    draw: Draw,
    number: u64,
    /// Which filters its subscriptions have.
    style: Style,
    /// Clients with a connection, and whether it is of MQTT 5.
    connected: BTreeMap<&'static str, bool>,
}

/// Filters of a script. Brokers do so many different things where they overlap, all of them allowed,
/// that most scripts have none that do.
#[derive(Clone, Copy)]
enum Style {
    Topics,
    Everything,
    Levels,
    Branches,
    Overlapping,
}

/// The script of a number: the same each time.
pub fn script(number: u64) -> Vec<Step> {
    let mut draw = Draw(number);
    let style =
        draw.pick(&[Style::Topics, Style::Everything, Style::Levels, Style::Branches, Style::Overlapping]);
    let mut generator = Generator { draw, number, style, connected: BTreeMap::new() };
    let len = 6 + generator.draw.below(24);
    (0..len).map(|_| generator.step()).collect()
}

impl Generator {
    fn step(&mut self) -> Step {
        let name = self.draw.pick(&NAMES);
        let Some(&v5) = self.connected.get(name) else { return Step::Lines(vec![self.connect(name, name)]) };
        Step::Lines(vec![match self.draw.below(100) {
            0..30 => return Step::Lines(self.publish(name, v5)),
            30..50 => self.subscribe(name, v5),
            50..55 => {
                let filter = self.filter();
                format!("{name}> UNSUBSCRIBE {} {filter}", 1 + self.draw.below(3))
            }
            55..72 => return Step::Acknowledge(name),
            72..73 => format!("{name}> PUBREL {}", 1 + self.draw.below(3)),
            73..84 => {
                self.connected.remove(name);
                format!("{name}!")
            }
            84..88 => {
                self.connected.remove(name);
                let with_will = if v5 && self.draw.chance(40) { " 0x04" } else { "" };
                format!("{name}> DISCONNECT{with_will}")
            }
            88..91 => {
                // Another connection takes the client identifier over.
                let other = self.draw.pick(&NAMES);
                if other == name {
                    return Step::Lines(vec![format!("{name}!"), self.connect(name, name)]);
                }
                self.connected.remove(name);
                return Step::Lines(vec![format!("{other}!"), self.connect(other, name)]);
            }
            91..93 => format!("{name}> PINGREQ"),
            _ => self.break_a_rule(name, v5),
        }])
    }

    /// CONNECT of `name` with the client identifier of `client`.
    fn connect(&mut self, name: &'static str, client: &str) -> String {
        let v5 = self.draw.chance(60);
        self.connected.insert(name, v5);
        let clean = self.draw.chance(40);
        let mut line = format!(
            "{name}> CONNECT s{}{client} v={} clean={clean}",
            self.number,
            if v5 { "5.0" } else { "3.1.1" }
        );
        if self.draw.chance(30) {
            let qos = self.draw.below(3);
            let retain = self.draw.chance(30);
            line += &format!(" will={}:gone will_qos={qos} will_retain={retain}", self.topic());
            if v5 && self.draw.chance(50) {
                line += " will_user=k:v will_content_type=text";
            }
        }
        if self.draw.chance(10) {
            line += " username=u password=p";
        }
        if !v5 {
            return line;
        }
        if self.draw.chance(70) {
            line += " session_expiry=1000";
        }
        if !matches!(self.style, Style::Overlapping) && self.draw.chance(30) {
            line += &format!(" receive_maximum={}", 1 + self.draw.below(3));
        }
        if self.draw.chance(10) {
            line += " maximum_packet_size=40";
        }
        if self.draw.chance(20) {
            line += " topic_alias_maximum=2";
        }
        line
    }

    /// A PUBLISH and, for QoS 2, its PUBREL with it: a server may pass the message on at either.
    fn publish(&mut self, name: &str, v5: bool) -> Vec<String> {
        let qos = self.draw.below(3);
        let id = 1 + self.draw.below(3);
        let alias = v5 && self.draw.chance(15);
        let topic = if alias && self.draw.chance(30) { "\"\"".to_owned() } else { self.topic() };
        let mut line = format!("{name}> PUBLISH {topic} qos={qos} retain={}", self.draw.chance(25));
        if qos > 0 {
            line += &format!(" id={id}");
        }
        if v5 && self.draw.chance(40) {
            for property in [
                "user=a:1 user=b:2 user=a:0",
                "content_type=text/plain",
                "response_topic=answers correlation_data=\"\\x00id\"",
                "expiry=1000",
                "payload_format=1",
            ] {
                if self.draw.chance(40) {
                    line += &format!(" {property}");
                }
            }
        }
        if alias {
            line += &format!(" alias={}", 1 + self.draw.below(3));
        }
        let payload = self.draw.pick(&["", "1", "22", "a longer payload"]);
        let mut lines = vec![line + &format!(" \"{payload}\"")];
        if qos == 2 {
            lines.push(format!("{name}> PUBREL {id}"));
        }
        lines
    }

    fn subscribe(&mut self, name: &str, v5: bool) -> String {
        let mut line = format!("{name}> SUBSCRIBE {}", 1 + self.draw.below(3));
        if v5 && self.draw.chance(30) {
            line += &format!(" sub_id={}", 1 + self.draw.below(3));
        }
        for index in 0..1 + self.draw.below(2) {
            // Which member of a group gets a message is each broker's own choice.
            let filter = if name == "a" { self.filter() } else { self.filter_of_ones_own() };
            let comma = if index > 0 { "," } else { "" };
            line += &format!("{comma} {filter} qos={}", self.draw.below(3));
            if v5 && self.draw.chance(30) {
                // No Local on a shared subscription has a place of its own below.
                let no_local = !filter.starts_with("$share") && self.draw.chance(50);
                line += &format!(" nl={no_local} rap={} rh={}", self.draw.chance(50), self.draw.below(3));
            }
        }
        line
    }

    fn break_a_rule(&mut self, name: &'static str, v5: bool) -> String {
        let number = self.number;
        let lines = [
            format!("{name}> PUBACK 9"),
            format!("{name}> PUBREC 9"),
            format!("{name}> PUBREL 9"),
            format!("{name}> PUBCOMP 9"),
            format!("{name}> CONNECT s{number}{name} v={}", if v5 { "5.0" } else { "3.1.1" }),
            format!("{name}> SUBACK 1 0x00"),
            format!("{name}> UNSUBACK 1 0x00"),
            format!("{name}> PINGRESP"),
            format!("{name}> CONNACK"),
            format!("{name}> bytes 00 00"),
            format!("{name}> bytes c1 00"),
            format!("{name}> bytes e1 00"),
            format!("{name}> bytes 60 02 00 01"),
            format!("{name}> bytes 82 02 00 01"),
            format!("{name}> bytes a2 02 00 01"),
            format!("{name}> bytes 36 05 00 01 61 00 01"),
            format!("{name}> bytes 30 03 00 01 ff"),
            format!("{name}> bytes 30 05 00 03 61 2f 23"),
            format!("{name}> bytes 40 02 00 00"),
        ];
        let lines_v5 = [
            format!("{name}> AUTH 0x18 auth_method=X"),
            format!("{name}> SUBSCRIBE 1 $share/g/s{number}/t nl=true"),
            format!("{name}> PUBLISH s{number}/t sub_id=1 \"x\""),
            format!("{name}> PUBLISH \"\" \"x\""),
            format!("{name}> PUBLISH s{number}/t alias=99 \"x\""),
            format!("{name}> PUBLISH s{number}/t payload_format=1 \"\\xff\""),
            format!("{name}> DISCONNECT 0x8e"),
            format!("{name}> bytes 82 0f 0001 00 0009 2473686172652f2f74 00"),
            format!("{name}> bytes 82 07 0001 00 0001 61 c0"),
            format!("{name}> bytes 82 07 0001 00 0001 61 30"),
            format!("{name}> bytes 30 06 0001 61 02 0102"),
            format!("{name}> bytes 30 0e 0001 61 0a 0200000001 0200000001"),
        ];
        let all = lines.len() as u64 + if v5 { lines_v5.len() as u64 } else { 0 };
        let index = self.draw.below(all) as usize;
        lines.iter().chain(&lines_v5).nth(index).expect("counted").clone()
    }

    fn topic(&mut self) -> String {
        let rest = self.draw.pick(&["t", "t/u", "x/u", "t/u/v", "t//u", "$t/u"]);
        match rest.strip_prefix('$') {
            Some(rest) => format!("$s{}/{rest}", self.number),
            None => format!("s{}/{rest}", self.number),
        }
    }

    fn filter(&mut self) -> String {
        let number = self.number;
        match self.draw.below(14) {
            0 => format!("$share/g/s{number}/t"),
            1 => format!("$share/g{number}/s{number}/#"),
            _ => self.filter_of_ones_own(),
        }
    }

    /// A filter of a subscription that is not shared.
    fn filter_of_ones_own(&mut self) -> String {
        let pattern = match self.style {
            Style::Topics => return self.topic(),
            Style::Everything => self.draw.pick(&["s/#", "$s/#"]),
            Style::Levels => self.draw.pick(&["s/+", "s/+/u", "s/t/u/v", "s/t//u", "$s/+/u"]),
            Style::Branches => self.draw.pick(&["s/t/#", "s/x/+", "$s/t/u"]),
            Style::Overlapping => {
                self.draw.pick(&["s/#", "s/+", "s/t/#", "s/+/u", "$s/#", "s/t", "s/t/u", "s/x/u", "$s/t/u"])
            }
        };
        pattern.replacen('s', &format!("s{}", self.number), 1)
    }
}
