//! How often rules fire, and what is drawn when they do, over many packets.
//!
//! Seeds are fixed, so a test that passes once passes always; the bounds say what a right implementation keeps to with
//! any seed but one in a million or so. Each check also has to tell the rate from one that is a fifth off.

use super::*;

/// What is passed with probability 10⁻⁶, by a normal distribution, on both sides.
const Z: f64 = 4.9;

/// Whether `k` of `n` may be a rate of `p`: the standard deviation of a binomial is √(n·p·(1−p)).
fn fits(k: u64, n: u64, p: f64) -> bool {
    let (k, n) = (k as f64, n as f64);
    (k - n * p).abs() <= Z * (n * p * (1.0 - p)).sqrt()
}

fn check_rate(what: &str, k: u64, n: u64, p: f64) {
    assert!(fits(k, n, p), "{what}: {k} of {n} is no rate of {p}");
    assert!(!fits(k, n, 0.8 * p) && !fits(k, n, 1.2 * p), "{what}: {n} are too few to tell");
}

/// The statistic of Kolmogorov and Smirnov: how far the samples are from a distribution, times √n.
fn distance(samples: &mut [f64], cdf: impl Fn(f64) -> f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    let n = samples.len() as f64;
    let gap = |(index, sample): (usize, &f64)| {
        let expected = cdf(*sample);
        (expected - index as f64 / n).abs().max(((index + 1) as f64 / n - expected).abs())
    };
    samples.iter().enumerate().map(gap).fold(0.0, f64::max) * n.sqrt()
}

/// √(−ln(α/2)/2) for α = 10⁻⁶.
const DISTANCE_MAX: f64 = 2.7;

fn check_distribution(what: &str, samples: &mut [f64], cdf: impl Fn(f64) -> f64) {
    let found = distance(samples, &cdf);
    assert!(found < DISTANCE_MAX, "{what}: {found}");
    for scale in [0.8, 1.2] {
        let found = distance(samples, |value| cdf(value * scale));
        assert!(found > DISTANCE_MAX, "{what}: {found} does not tell {scale} times as much");
    }
}

/// Pearson's statistic, against what χ² of one degree of freedom less than there are counts exceeds once in a million
/// times (Wilson and Hilferty).
fn check_even(what: &str, counts: &[u64]) {
    let expected = counts.iter().sum::<u64>() as f64 / counts.len() as f64;
    let found: f64 = counts.iter().map(|count| (*count as f64 - expected).powi(2) / expected).sum();
    let freedom = counts.len() as f64 - 1.0;
    let part = 2.0 / (9.0 * freedom);
    let most = freedom * (1.0 - part + 4.75 * part.sqrt()).powi(3);
    assert!(found < most, "{what}: {found} is above {most}: {counts:?}");
}

/// Abramowitz and Stegun 7.1.26, within 1.5·10⁻⁷.
fn normal_cdf(z: f64) -> f64 {
    let x = z.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.3275911 * x);
    let poly = [1.061_405_429, -1.453_152_027, 1.421_413_741, -0.284_496_736, 0.254_829_592];
    let tail = poly.iter().fold(0.0, |sum, factor| (sum + factor) * t) * (-x * x).exp();
    if z > 0.0 { 1.0 - tail / 2.0 } else { tail / 2.0 }
}

/// Effects on `n` packets.
fn effects(chaos: &Chaos, client: &str, seen: &Seen<'_>, n: u64) -> Vec<Decision> {
    let mut judge = chaos.judge(client);
    (0..n).flat_map(|_| judge.judge(seen).decisions).collect()
}

fn settings(yaml: &str) -> Chaos {
    let chaos = chaos("[]");
    chaos.set(&serde_saphyr::from_str(yaml).expect("settings")).expect("good settings");
    chaos
}

fn delays(effects: &[Decision]) -> Vec<f64> {
    let of = |decision: &Decision| match decision.effect {
        Effect::Latency { delay } | Effect::DelayAck { delay } => Some(delay.as_secs_f64() * 1e3),
        _ => None,
    };
    effects.iter().filter_map(of).collect()
}

#[test]
fn the_guides_rates_are_kept() {
    let chaos =
        settings("disconnect_probability: 0.05\npacket_loss: 0.01\nlatency: {min_ms: 10, max_ms: 100}");
    for direction in [UP, DOWN] {
        let n = 200_000;
        let effects = effects(&chaos, "a", &publish(direction, "t"), n);
        let count = |rule: &str| effects.iter().filter(|decision| *decision.rule == *rule).count() as u64;
        let lost = count("packet_loss");
        check_rate("loss", lost, n, 0.01);
        // Of those that are lost nobody asks further.
        check_rate("disconnects", count("disconnect_probability"), n - lost, 0.05);
        if direction == UP {
            assert_eq!(count("latency"), 0);
            continue;
        }
        let mut delays = delays(&effects);
        assert_eq!(delays.len() as u64, n - lost);
        assert!(delays.iter().all(|delay| (10.0..=100.0).contains(delay)));
        // The standard deviation of the distribution is 90/√12.
        let mean = delays.iter().sum::<f64>() / delays.len() as f64;
        let deviation = 90.0 / (12.0 * delays.len() as f64).sqrt();
        assert!((mean - 55.0).abs() < Z * deviation, "{mean}");
        check_distribution("latency", &mut delays, |delay| ((delay - 10.0) / 90.0).clamp(0.0, 1.0));
    }
    assert_eq!(effects(&chaos, "a", &other(UP, PacketType::Pingreq), 1_000), []);
}

#[test]
fn rates_are_kept_from_rare_to_always() {
    for (p, n) in [(0.005, 300_000), (0.02, 50_000), (0.3, 10_000), (0.5, 10_000), (0.7, 10_000)] {
        let chaos = chaos(&format!("- {{id: x, when: {{probability: {p}}}, actions: [duplicate]}}"));
        let fired = effects(&chaos, "a", &publish(UP, "t"), n).len() as u64;
        check_rate("probability", fired, n, p);
    }
    for (p, expected) in [(0.0, 0), (1.0, 10_000)] {
        let chaos = chaos(&format!("- {{id: x, when: {{probability: {p}}}, actions: [duplicate]}}"));
        assert_eq!(effects(&chaos, "a", &publish(UP, "t"), 10_000).len(), expected);
    }
}

#[test]
fn a_rate_is_kept_over_many_clients_with_few_packets_each() {
    let chaos = chaos("- {id: x, when: {probability: 0.1}, actions: [duplicate]}");
    let few = (0..10_000).map(|n| effects(&chaos, &format!("sensor-{n}"), &publish(UP, "t"), 2).len() as u64);
    check_rate("probability", few.sum(), 20_000, 0.1);
}

#[test]
fn delays_have_the_distribution_asked_for() {
    let drawn = |latency: &str, action: &str| {
        let chaos =
            chaos(&format!("- {{id: x, match: {{types: PUBACK}}, actions: [{{{action}: {latency}}}]}}"));
        delays(&effects(&chaos, "a", &other(DOWN, PacketType::Puback), 20_000))
    };
    for action in ["latency", "delay_ack"] {
        let mut uniform = drawn("{min_ms: 0, max_ms: 50}", action);
        check_distribution("uniform", &mut uniform, |delay| (delay / 50.0).clamp(0.0, 1.0));
        let mut normal = drawn("{mean_ms: 100, sd_ms: 20}", action);
        check_distribution("normal", &mut normal, |delay| normal_cdf((delay - 100.0) / 20.0));
        let mut lognormal = drawn("{median_ms: 150, sigma: 0.35}", action);
        check_distribution("lognormal", &mut lognormal, |delay| normal_cdf((delay / 150.0).ln() / 0.35));
        assert!(drawn("7.5", action).iter().all(|delay| *delay == 7.5));
    }
}

#[test]
fn whole_numbers_are_drawn_evenly() {
    let chaos = chaos(
        "- {id: x, match: {types: PUBLISH}, actions: [{reorder: {window: 3}}, {corrupt: {bytes: 2, part: payload}}]}",
    );
    let (mut behind, mut pairs, mut changed) = ([0; 3], [0; 28], [0; 255]);
    for decision in effects(&chaos, "a", &publish(DOWN, "t"), 20_000) {
        match decision.effect {
            Effect::Reorder { behind: count, .. } => behind[count as usize - 1] += 1,
            Effect::Corrupt { changes } => {
                let [(one, _), (other, _)] = changes[..] else { panic!("{changes:?}") };
                assert!((12..other).contains(&one) && other < 20, "{changes:?}");
                let (one, other) = (one as usize - 12, other as usize - 12);
                // The pairs of 8 positions in the order 01, 02, 12, 03 and so on.
                pairs[other * (other - 1) / 2 + one] += 1;
                changes.iter().for_each(|(_, with)| changed[usize::from(*with) - 1] += 1);
            }
            other => panic!("{other:?}"),
        }
    }
    check_even("packets that overtake", &behind);
    check_even("pairs of positions", &pairs);
    check_even("what bytes are changed with", &changed);
}

/// Whether `x` fires for each of 10,000 packets, or the delay it draws is short.
fn flips(seed: u64, rule: &str, client: &str, seen: &Seen<'_>, by_delay: bool) -> Vec<bool> {
    let when = if by_delay { "" } else { "when: {probability: 0.5}, " };
    let chaos = chaos(&format!("- {{id: {rule}, {when}actions: [{{latency: {{min_ms: 0, max_ms: 1}}}}]}}"));
    chaos.set_seed(seed);
    let mut judge = chaos.judge(client);
    let flip = |_| {
        let decisions = judge.judge(seen).decisions;
        let Some(Decision { effect: Effect::Latency { delay }, .. }) = decisions.first() else {
            return false;
        };
        !by_delay || delay.as_secs_f64() < 0.0005
    };
    (0..10_000).map(flip).collect()
}

#[test]
fn draws_say_nothing_about_each_other() {
    let up = publish(UP, "t");
    let base = flips(7, "x", "a", &up, false);
    let next = [&base[1..], &base[..1]].concat();
    let others = [
        ("the next packet", next),
        ("another seed", flips(8, "x", "a", &up, false)),
        ("another rule", flips(7, "y", "a", &up, false)),
        ("another client", flips(7, "x", "b", &up, false)),
        ("no client", flips(7, "x", "", &up, false)),
        ("the other direction", flips(7, "x", "a", &publish(DOWN, "t"), false)),
        ("another type", flips(7, "x", "a", &other(UP, PacketType::Puback), false)),
        ("another draw for the same packet", flips(7, "x", "a", &up, true)),
        // Where one name ends and the next begins makes a difference.
        ("another cut", flips(7, "xa", "", &up, false)),
    ];
    for (what, other) in others {
        let mut counts = [0; 4];
        for (one, other) in base.iter().zip(&other) {
            counts[usize::from(*one) * 2 + usize::from(*other)] += 1;
        }
        check_even(what, &counts);
    }
}
