//! What never makes a difference to a decision.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;

/// Draws of every kind, and none that depends on a count over several types.
const DRAWN: &str = "
- {id: some, when: {probability: 0.5}, actions: [duplicate]}
- {id: ack, match: {types: [PUBACK, PINGRESP]}, actions: [{delay_ack: {median_ms: 5, sigma: 1}}]}
- {id: late, match: {client: [a, c]}, actions: [{latency: {mean_ms: 50, sd_ms: 10}}, {corrupt: {part: packet, bytes: 2}}]}
- {id: lost, match: {types: PUBLISH}, when: {probability: 0.3, after_n: 1, max_count: 3}, actions: [drop]}
- {id: last, match: {direction: s2c}, when: {probability: 0.4}, actions: [reorder]}";

/// Counts over several types of packets, pings among them.
const COUNTED: &str = "
- {id: third, when: {every_nth: 3}, actions: [{latency: {min_ms: 1, max_ms: 2}}]}
- {id: few, when: {after_n: 2, max_count: 2, probability: 0.7}, actions: [duplicate]}
- {id: first, when: {first_n: 4}, actions: [{corrupt: {part: packet}}]}";

const PACKETS: [(Direction, PacketType); 6] = [
    (UP, PacketType::Publish),
    (DOWN, PacketType::Publish),
    (UP, PacketType::Puback),
    (DOWN, PacketType::Puback),
    (UP, PacketType::Pingreq),
    (DOWN, PacketType::Pingresp),
];

/// A packet, its client, and whether the client connects anew before it.
type Move = (&'static str, Direction, PacketType, bool);

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let packet = proptest::sample::select(&PACKETS[..]);
    let client = proptest::sample::select(vec!["a", "b", ""]);
    let step = (client, packet, proptest::bool::weighted(0.1));
    proptest::collection::vec(
        step.prop_map(|(client, (way, packet), anew)| (client, way, packet, anew)),
        0..120,
    )
}

type Place = (&'static str, Direction, PacketType, u64);

fn seen(direction: Direction, packet: PacketType) -> Seen<'static> {
    match packet {
        PacketType::Publish => publish(direction, "t"),
        _ => other(direction, packet),
    }
}

/// What is decided, by client, direction, packet type and number.
fn decide(chaos: &Chaos, moves: &[Move]) -> BTreeMap<String, Vec<Decision>> {
    let mut judges: BTreeMap<&str, Judge> = BTreeMap::new();
    let mut decided = BTreeMap::new();
    for (client, direction, packet, anew) in moves {
        if *anew {
            judges.remove(client);
        }
        let judge = judges.entry(client).or_insert_with(|| chaos.judge(client));
        let Decisions { nth, decisions } = judge.judge(&seen(*direction, *packet));
        let place: Place = (client, *direction, *packet, nth);
        assert!(decided.insert(format!("{place:?}"), decisions.to_vec()).is_none(), "{place:?} twice");
    }
    decided
}

fn only(moves: &[Move], stays: impl Fn(&Move) -> bool) -> Vec<Move> {
    moves.iter().filter(|step| stays(step)).copied().collect()
}

fn drawn() -> &'static [RuleSpec] {
    static RULES: LazyLock<Vec<RuleSpec>> = LazyLock::new(|| specs(DRAWN));
    &RULES
}

fn counted() -> &'static [RuleSpec] {
    static RULES: LazyLock<Vec<RuleSpec>> = LazyLock::new(|| specs(COUNTED));
    &RULES
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn packets_of_others_other_directions_and_other_types_shift_nothing(moves in moves()) {
        let together = decide(&chaos_of(drawn(), 7), &moves);
        let mut alone = BTreeMap::new();
        for client in ["a", "b", ""] {
            for packet in PACKETS {
                let own = only(&moves, |step| (step.0, (step.1, step.2)) == (client, packet));
                alone.extend(decide(&chaos_of(drawn(), 7), &own));
            }
        }
        prop_assert_eq!(together, alone);
    }

    #[test]
    fn pings_others_and_the_other_direction_shift_no_count(moves in moves()) {
        let is_ping = |step: &Move| matches!(step.2, PacketType::Pingreq | PacketType::Pingresp);
        let together = decide(&chaos_of(counted(), 7), &moves);
        let mut alone = BTreeMap::new();
        for client in ["a", "b", ""] {
            for direction in [UP, DOWN] {
                for pings in [false, true] {
                    let is_own = |step: &Move| (step.0, step.1, is_ping(step)) == (client, direction, pings);
                    alone.extend(decide(&chaos_of(counted(), 7), &only(&moves, is_own)));
                }
            }
        }
        prop_assert_eq!(together, alone);
    }

    #[test]
    fn connecting_anew_shifts_nothing(moves in moves()) {
        let lasting: Vec<Move> = moves.iter().map(|step| (step.0, step.1, step.2, false)).collect();
        for rules in [drawn(), counted()] {
            prop_assert_eq!(decide(&chaos_of(rules, 7), &moves), decide(&chaos_of(rules, 7), &lasting));
        }
    }

    #[test]
    fn other_rules_shift_nothing(moves in moves(), before in any::<bool>()) {
        let others = specs(
            "- {id: other, when: {probability: 0.5}, actions: [{latency: {min_ms: 0, max_ms: 9}}]}
             - {id: another, when: {every_nth: 2}, actions: [{corrupt: {part: packet}}]}",
        );
        let rules = if before { [&others, counted()].concat() } else { [counted(), &others].concat() };
        let mut decided = decide(&chaos_of(&rules, 7), &moves);
        for decisions in decided.values_mut() {
            decisions.retain(|decision| !["other", "another"].contains(&&*decision.rule));
        }
        prop_assert_eq!(decided, decide(&chaos_of(counted(), 7), &moves));
    }

    #[test]
    fn the_same_seed_decides_the_same_and_another_one_something_else(moves in moves(), seed in any::<u64>()) {
        let with = |seed: u64| decide(&chaos_of(drawn(), seed), &moves);
        prop_assert_eq!(with(seed), with(seed));
        // Of `a`'s packets each has a delay.
        if moves.iter().any(|step| step.0 == "a") {
            prop_assert_ne!(with(seed), with(seed.wrapping_add(1)));
        }
    }

    #[test]
    fn what_was_recorded_is_decided_again(moves in moves(), seed in any::<u64>()) {
        for rules in [drawn(), counted()] {
            let chaos = chaos_of(rules, seed);
            let mut faults = Vec::new();
            let mut judges: BTreeMap<&str, Judge> = BTreeMap::new();
            for (client, direction, packet, _) in &moves {
                let judge = judges.entry(client).or_insert_with(|| chaos.judge(client));
                let Decisions { nth, decisions } = judge.judge(&seen(*direction, *packet));
                faults.extend(decisions.into_iter().map(|Decision { rule, effect }| {
                    let (action, detail) = effect.to_parts();
                    FaultInjected {
                        rule: rule.to_string(),
                        action,
                        detail,
                        client_identifier: (*client).to_owned(),
                        direction: *direction,
                        packet_type: *packet,
                        nth,
                        topic: String::new(),
                        received: None,
                        sent: None,
                    }
                }));
            }
            chaos.set_seed(seed);
            let decided = decide(&chaos, &moves);
            chaos.reset();
            chaos.load_script(faults).expect("what was decided can be loaded");
            prop_assert_eq!(decided, decide(&chaos, &moves));
        }
    }
}

#[test]
fn threads_shift_nothing() {
    let client = |n: usize| format!("client-{n}");
    let judge = |chaos: &Chaos, n: usize| {
        let mut judge = chaos.judge(&client(n));
        (0..2_000).map(|_| judge.judge(&publish(UP, "t"))).collect::<Vec<_>>()
    };
    let one = chaos(COUNTED);
    let in_turn: Vec<_> = (0..4).map(|n| judge(&one, n)).collect();
    let other = chaos(COUNTED);
    let at_once: Vec<_> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..4)
            .map(|n| {
                scope.spawn({
                    let other = &other;
                    move || judge(other, n)
                })
            })
            .collect();
        running.into_iter().map(|thread| thread.join().expect("a thread")).collect()
    });
    assert_eq!(in_turn, at_once);
}

#[test]
fn changes_while_clients_send_lose_no_packet() {
    let chaos = chaos(COUNTED);
    let (changes, packets) = (300, 20_000);
    std::thread::scope(|scope| {
        let run = || {
            // Two connections of one client each.
            let mut judge = chaos.judge("a");
            (0..packets).map(|_| judge.judge(&publish(UP, "t")).nth).max()
        };
        let running = [scope.spawn(run), scope.spawn(run)];
        for n in 0..changes {
            let rule = specs("- {id: more, actions: [duplicate]}").remove(0);
            chaos.create(rule).expect("a good rule");
            if n % 100 == 0 {
                chaos.apply_profile("edge").expect("a profile");
            }
            chaos.delete("more").expect("it is there");
        }
        let last = running.map(|thread| thread.join().expect("a thread"));
        assert_eq!(last.into_iter().max(), Some(Some(2 * packets)));
    });
    // Each epoch begins at 1 for both of them, and neither goes back to the one before.
    std::thread::scope(|scope| {
        let run = || {
            let mut judge = chaos.judge("b");
            (0..packets).map(|_| judge.judge(&publish(UP, "t")).nth).collect::<Vec<_>>()
        };
        let running = [scope.spawn(run), scope.spawn(run)];
        let mut epochs = 1;
        while running.iter().any(|thread| !thread.is_finished()) {
            chaos.set_seed(epochs);
            epochs += 1;
        }
        let seen = running.map(|thread| thread.join().expect("a thread"));
        let ones = seen.iter().flatten().filter(|nth| **nth == 1).count() as u64;
        assert!(ones <= epochs, "{ones} in {epochs}");
        for nths in &seen {
            let breaks = nths.windows(2).filter(|pair| pair[1] <= pair[0]).count() as u64;
            assert!(breaks <= epochs, "{breaks} in {epochs}");
        }
    });
}
