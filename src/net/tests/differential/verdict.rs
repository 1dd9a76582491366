//! The classes of differences, as `tests/data/differences.md` judges them.

use std::collections::{BTreeMap, BTreeSet};

use super::{Difference, Told};

macro_rules! classes {
    ($($class:ident)*) => {
        /// One kind of difference; its name is a heading of the file.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Class { $($class),* }
        use Class::*;
        /// In the order in which they are looked for.
        pub const CLASSES: &[Class] = &[$($class),*];
    };
}

classes! {
    NoMatchingSubscribers
    UnknownRelease
    UnknownUnsubscribe
    Tolerated
    ReasonOfAServer
    SilentClose
    OtherReasonCode
    WillAtTakeOver
    WillToOneself
    RefusedCleanStart
    RetainedToShared
    RetainedToOneself
    RetainedOrder
    OldNoLocal
    QuotaForNothing
    QuotaOnResume
    QuotaOfTooLarge
    OverMaximumPacketSize
    SmallerByAlias
    OverlappingCopies
}

/// The file's headings, by class.
pub fn verdicts() -> BTreeMap<String, Verdict> {
    let text = include_str!("../../../../tests/data/differences.md");
    let headings = text.lines().filter_map(|line| line.strip_prefix("## "));
    let entry = |heading: &str| {
        let (class, verdict) = heading.split_once(": ").expect("a class and a verdict");
        let verdict = match verdict {
            "both are allowed" => Verdict::Both,
            "mosquitto is wrong" => Verdict::Theirs,
            _ => panic!("no verdict: {heading}"),
        };
        (class.to_owned(), verdict)
    };
    headings.map(entry).collect()
}

/// Whose behaviour the standard does not back. Where it was ours, we have changed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    Both,
    Theirs,
}

/// Classes that one step may show at a time.
const AT_ONCE: usize = 4;

/// What has to be refused, and mosquitto does not.
const TOLERATED: [&str; 11] = [
    "> SUBACK ",
    "> UNSUBACK ",
    "> PINGRESP",
    "> CONNACK",
    "> bytes c1 00",
    "> bytes 30 06 0001 61 02 0102",
    "> bytes 30 0e 0001 61 0a 0200000001 0200000001",
    "> bytes 82 0f 0001 00 0009 2473686172652f2f74 00",
    " nl=true",
    " payload_format=1 \"\\xff\"",
    " sub_id=1 \"x\"",
];

/// Reason Codes of a DISCONNECT, ours and theirs.
const OTHER_CODES: [(&str, &str); 3] = [("0x90", "0x81"), ("0x81", "0x82"), ("0x82", "0x81")];

/// The name in front of a line.
fn name_of(line: &str) -> &str {
    line.split(['>', ' ', '!']).next().unwrap_or_default()
}

impl Class {
    /// Whether what follows cannot be compared any more.
    pub fn parts_for_good(self) -> bool {
        matches!(
            self,
            Tolerated
                | ReasonOfAServer
                | WillAtTakeOver
                | RefusedCleanStart
                | RetainedToShared
                | RetainedToOneself
                | RetainedOrder
                | OldNoLocal
                | QuotaForNothing
                | QuotaOnResume
                | QuotaOfTooLarge
                | OverMaximumPacketSize
                | SmallerByAlias
                | OverlappingCopies
        )
    }

    /// The fewest classes that together make up `difference`; `None` if something is left.
    pub fn all_of(difference: &Difference) -> Option<Vec<Self>> {
        let told = (difference.step().1.clone(), difference.theirs.clone());
        (1..=AT_ONCE).find_map(|count| Self::some_of(difference, &told, CLASSES, count))
    }

    /// No more than `count` of `classes`, in their order.
    fn some_of(
        difference: &Difference,
        told: &(Told, Told),
        classes: &[Self],
        count: usize,
    ) -> Option<Vec<Self>> {
        if told.0 == told.1 {
            return Some(Vec::new());
        }
        if count == 0 {
            return None;
        }
        classes.iter().enumerate().find_map(|(index, class)| {
            let (mut ours, mut theirs) = told.clone();
            class.make_equal(difference, &mut ours, &mut theirs);
            let is_of_class = (&ours, &theirs) != (&told.0, &told.1);
            let rest = || Self::some_of(difference, &(ours, theirs), &classes[index + 1..], count - 1);
            let mut found = is_of_class.then(rest).flatten()?;
            found.insert(0, *class);
            Some(found)
        })
    }

    /// Takes what is of this class out of both.
    fn make_equal(self, difference: &Difference, ours: &mut Told, theirs: &mut Told) {
        let cause = difference.step().0.as_str();
        let is_closed = |told: &Told, name: &str| told.contains(&format!("{name} closed"));
        match self {
            NoMatchingSubscribers => drop_code(ours, theirs, &["PUBACK", "PUBREC"], " 0x10", ""),
            UnknownRelease => {
                drop_code(ours, theirs, &["PUBCOMP"], " 0x92", "");
                let (code, other) = (" 0x92 of what was never sent", " 0x00 of what was never sent");
                drop_code(ours, theirs, &["PUBREL"], code, other);
            }
            UnknownUnsubscribe => drop_code(ours, theirs, &["UNSUBACK"], " 0x11", " 0x00"),
            Tolerated => {
                let name = name_of(cause);
                let is_wrong = TOLERATED.iter().any(|what| cause.contains(what));
                if is_wrong && is_closed(ours, name) && !is_closed(theirs, name) {
                    ours.clone_from(theirs);
                }
            }
            SilentClose => {
                let is_silent = |name: &str| {
                    let said = format!("{name} DISCONNECT ");
                    is_closed(theirs, name) && !theirs.iter().any(|line| line.starts_with(&said))
                };
                ours.retain(|line| line.split_once(" DISCONNECT ").is_none_or(|(name, _)| !is_silent(name)));
            }
            OtherReasonCode => {
                for line in ours {
                    for (code, other) in OTHER_CODES {
                        let other = format!(" DISCONNECT {other}");
                        let as_theirs = line.replace(&format!(" DISCONNECT {code}"), &other);
                        if theirs.contains(&as_theirs) {
                            *line = as_theirs;
                        }
                    }
                }
            }
            ReasonOfAServer => {
                if cause.contains("> DISCONNECT 0x8e") {
                    ours.retain(|line| !line.contains(" DISCONNECT ") && !line.contains("\"gone\""));
                }
            }
            WillAtTakeOver => {
                // One that is retained may show later.
                let took_over = |(line, told): &(String, Told)| {
                    line.contains("> CONNECT ") && told.iter().any(|line| line.ends_with(" closed"))
                };
                if difference.ours.iter().any(took_over) {
                    let only_ours = |line: &&String| line.contains("\"gone\"") && !theirs.contains(line);
                    let wills: Vec<_> = ours.iter().filter(only_ours).cloned().collect();
                    ours.retain(|line| !wills.contains(line));
                    // What they have retained in its place.
                    let topics =
                        wills.iter().map(|line| line.splitn(4, ' ').take(3).collect::<Vec<_>>().join(" "));
                    let topics: Vec<_> = topics.map(|topic| topic + " ").collect();
                    theirs.retain(|line| {
                        let is_retained = line.contains(" retain=true") && !line.contains(" dup=true");
                        !is_retained || !topics.iter().any(|topic| line.starts_with(topic))
                    });
                }
            }
            WillToOneself => {
                let ending = theirs.clone();
                theirs.retain(|line| {
                    let is_will = line.contains("\"gone\"") && !ours.contains(line);
                    !is_will || !is_closed(&ending, name_of(line))
                });
            }
            RefusedCleanStart => {
                let was_refused = |(line, told): &(String, Told)| {
                    line.contains("> CONNECT ") && is_closed(told, name_of(line))
                };
                if difference.ours.iter().any(was_refused) {
                    let (present, absent) = ("session_present=true", "session_present=false");
                    drop_code(ours, theirs, &["CONNACK"], present, absent);
                    // What had waited is gone with the session.
                    if cause.contains("> CONNECT ") {
                        drop_surplus(ours, theirs, |line| line.contains(" PUBLISH "));
                    }
                    // Nobody is left to hear it.
                    drop_code(theirs, ours, &["PUBACK", "PUBREC"], " 0x10", "");
                }
            }
            RetainedToShared => {
                // Maybe not before there is room.
                let name = name_of(cause);
                let shares = |(line, _): &(String, Told)| name_of(line) == name && line.contains(" $share/");
                if difference.ours.iter().any(shares) {
                    drop_surplus(theirs, ours, |line| line.contains(" retain=true"));
                }
            }
            RetainedToOneself => {
                if cause.contains("> SUBSCRIBE ") && cause.contains(" nl=true") {
                    drop_surplus(theirs, ours, |line| line.contains(" retain=true"));
                }
            }
            RetainedOrder => {
                let name = name_of(cause);
                if cause.contains("> SUBSCRIBE ") && has_limit(difference, name, "receive_maximum") {
                    for told in [ours, theirs] {
                        told.retain(|line| name_of(line) != name || !line.contains(" retain=true"));
                    }
                }
            }
            OldNoLocal => {
                let name = name_of(cause);
                let asked = |(line, _): &(String, Told)| name_of(line) == name && line.contains(" nl=true");
                // Its Will shows when it is back.
                let may_show = cause.contains("> PUBLISH ") || cause.contains("> CONNECT ");
                if may_show && difference.ours.iter().any(asked) {
                    let own = format!("{name} PUBLISH ");
                    let before = ours.clone();
                    drop_surplus(ours, theirs, |line| line.starts_with(&own));
                    drop_surplus(theirs, &before, |line| line.starts_with(&own));
                }
            }
            QuotaForNothing => {
                let acknowledged_nothing = |name: &str| {
                    let wrong = ["PUBACK", "PUBREC", "PUBCOMP"].map(|packet| format!("{name}> {packet} 9"));
                    difference.ours.iter().any(|(line, _)| wrong.contains(line))
                };
                drop_surplus(theirs, ours, |line| takes_a_slot(line) && acknowledged_nothing(name_of(line)));
            }
            QuotaOnResume => {
                let has_resumed = |name: &str| {
                    let connack = format!("{name} CONNACK session_present=true");
                    has_limit(difference, name, "receive_maximum")
                        && difference.ours.iter().any(|(_, told)| told.contains(&connack))
                };
                drop_surplus(theirs, ours, |line| takes_a_slot(line) && has_resumed(name_of(line)));
            }
            QuotaOfTooLarge => drop_surplus(ours, theirs, |line| {
                let has = |limit| has_limit(difference, name_of(line), limit);
                takes_a_slot(line) && has("maximum_packet_size") && has("receive_maximum")
            }),
            SmallerByAlias => drop_surplus(ours, theirs, |line| {
                let has = |limit| has_limit(difference, name_of(line), limit);
                line.contains(" PUBLISH ") && has("maximum_packet_size") && has("topic_alias_maximum")
            }),
            OverMaximumPacketSize => drop_surplus(theirs, ours, |line| {
                line.contains(" PUBLISH ") && has_limit(difference, name_of(line), "maximum_packet_size")
            }),
            OverlappingCopies => {
                *ours = merged(ours);
                *theirs = merged(theirs);
            }
        }
    }
}

/// Takes those lines away that are `of_class` and the others were not told.
fn drop_surplus(told: &mut Told, others: &Told, of_class: impl Fn(&str) -> bool) {
    told.retain(|line| others.contains(line) || !of_class(line));
}

/// Whether it is a message that counts against the client's Receive Maximum.
fn takes_a_slot(line: &str) -> bool {
    line.contains(" PUBLISH ") && line.contains(" qos=")
}

/// Whether the client set the limit of that name in its last CONNECT.
fn has_limit(difference: &Difference, name: &str, limit: &str) -> bool {
    let connect = format!("{name}> CONNECT ");
    let mut lines = difference.ours.iter().rev().map(|(line, _)| line);
    lines.find(|line| line.contains(&connect)).is_some_and(|line| line.contains(limit))
}

/// Writes the end of answers of ours as theirs.
fn drop_code(ours: &mut Told, theirs: &Told, packets: &[&str], end: &str, other: &str) {
    for line in ours {
        let Some(start) = line.strip_suffix(end) else { continue };
        let as_theirs = format!("{start}{other}");
        let is_one = packets.iter().any(|packet| line.contains(&format!(" {packet} ")));
        if is_one && theirs.contains(&as_theirs) {
            *line = as_theirs;
        }
    }
}

/// One copy of each message to each client, whatever subscriptions it was sent for.
fn merged(told: &Told) -> Told {
    let mut copies = BTreeSet::new();
    for line in told {
        let is_message = line.contains(" PUBLISH ") || line.contains(" PUBREL ");
        let mut words: Vec<_> = line.split(' ').collect();
        if is_message {
            words.retain(|word| !["qos=", "sub_id=", "retain="].iter().any(|start| word.starts_with(start)));
        }
        copies.insert((words.join(" "), if is_message { 0 } else { copies.len() }));
    }
    copies.into_iter().map(|(line, _)| line).collect()
}
