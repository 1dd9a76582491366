//! Waiting for messages while others write them.

use std::{
    sync::{
        Arc, Barrier,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use futures_util::future::join_all;

use crate::{
    draws::Draws,
    interceptor::{Interest, Offered, Publisher, Verdict},
    journal::{Count, Expectation, JournalLimits, MatchSpec, MessageMatch, OneOrMoreTopics},
    metrics::Value,
    net::{JournalHandle, TooManyWaiters, WAITERS_MAX, journal::JournalWriter},
    packet::QoS,
    session::Payload,
};

/// Whoever waits so long has been overlooked.
const FOR_EVER: Duration = Duration::from_secs(60);

fn journal(limits: JournalLimits) -> JournalHandle {
    JournalHandle::new(limits, &Interest::default())
}

fn on(topic: &str) -> MessageMatch {
    let topic = Some(OneOrMoreTopics::One(topic.to_owned()));
    MessageMatch::new(&MatchSpec { topic, ..MatchSpec::default() }).expect("a topic filter")
}

fn note(writer: &mut JournalWriter, topic: &str, payload: &str) {
    let offered = Offered {
        topic,
        payload: Payload::Copied(payload.as_bytes()),
        qos: QoS::AtMostOnce,
        retain: false,
        properties: &[],
        expiry: None,
        from: Publisher::Client { identifier: "dev-1", username: None },
        is_will: false,
        may_be_kept: true,
    };
    writer.note(Instant::now(), &offered, Verdict::Route);
}

fn write(writer: &mut JournalWriter, topic: &str, payload: &str) {
    note(writer, topic, payload);
    writer.settle();
}

/// Calls that wait.
fn waiting(journal: &JournalHandle) -> u64 {
    let family = journal.families().into_iter().find(|family| family.name == "mqtt_journal_waiters");
    match family.expect("it is there").samples[0].value {
        Value::Count(count) => count,
        _ => unreachable!("they are counted"),
    }
}

/// How many times a wait and a publication meet; `MOCKFORGE_RACES` says another number.
fn races() -> u64 {
    std::env::var("MOCKFORGE_RACES").map_or(2_000, |number| number.parse().expect("a number of races"))
}

/// Each at another moment: a message comes before, while or after somebody begins to wait for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_comes_at_any_moment_around_a_wait_is_never_overlooked() {
    let journal = journal(JournalLimits::default());
    let draws = Draws::new(11).of("races");
    let races = races();
    let (go, turns) = mpsc::sync_channel::<u64>(0);
    let mut writer = journal.writer();
    let (barrier, opened) = (Arc::new(Barrier::new(2)), Arc::new(AtomicU64::new(0)));
    let (gate, open) = (Arc::clone(&barrier), Arc::clone(&opened));
    let publisher = thread::spawn(move || {
        while let Ok(race) = turns.recv() {
            gate.wait();
            // Up to some ten microseconds, which is what entering takes.
            let spins = draws.nth(race).between(0, 4_000);
            for _ in 0..spins {
                std::hint::spin_loop();
            }
            open.fetch_add(1, Ordering::Relaxed);
            // Together with others, or alone.
            if race % 3 == 0 {
                note(&mut writer, "other", "x");
            }
            write(&mut writer, &format!("race/{race}"), &race.to_string());
        }
    });
    let began = Instant::now();
    let mut was_there = 0;
    for race in 0..races {
        let since = journal.cursor();
        let meant = on(&format!("race/{race}"));
        go.send(race).expect("the publisher runs");
        barrier.wait();
        was_there += u64::from(opened.load(Ordering::Relaxed) > race);
        let waited = journal.wait(&meant, Count::at_least(1), FOR_EVER, Some(since)).await.expect("a place");
        assert!(waited.is_satisfied, "race {race} of {races}: {waited:?}");
        assert_eq!(waited.entries[0].payload, race.to_string().as_bytes());
        assert_eq!((waited.found, waited.seen.missed), (1, 0));
        assert!(waited.seen.cursor > waited.entries[0].sequence);
    }
    drop(go);
    publisher.join().expect("no panic");
    println!("{races} races in {:?}, {was_there} of them begun late", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_wait_each_for_its_own_while_others_come() {
    let journal = journal(JournalLimits::default());
    let waits: Vec<_> = (0..1_000)
        .map(|number| {
            let journal = journal.clone();
            tokio::spawn(async move {
                journal.wait(&on(&format!("to/{number}/+")), Count::at_least(2), FOR_EVER, None).await
            })
        })
        .collect();
    while waiting(&journal) < 1_000 {
        tokio::task::yield_now().await;
    }
    let mut writer = journal.writer();
    // More than the journal keeps: who waits lives by what is looked at for it.
    for round in 0..2 {
        for number in 0..1_000 {
            for _ in 0..20 {
                note(&mut writer, "noise", "x");
            }
            write(&mut writer, &format!("to/{number}/{round}"), &number.to_string());
        }
    }
    for (number, wait) in waits.into_iter().enumerate() {
        let waited = wait.await.expect("no panic").expect("a place");
        assert!(waited.is_satisfied, "{number}: {waited:?}");
        assert_eq!((waited.found, waited.seen.missed), (2, 0));
        assert!(waited.entries.iter().all(|entry| entry.payload == number.to_string().as_bytes()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_from_ahead_of_the_journal_leaves_out_what_comes_before() {
    let journal = journal(JournalLimits::default());
    let mut writer = journal.writer();
    write(&mut writer, "a", "old");
    let since = journal.cursor() + 2;
    let (waits, meant) = (journal.clone(), on("a"));
    let ahead =
        tokio::spawn(async move { waits.wait(&meant, Count::at_least(1), FOR_EVER, Some(since)).await });
    while waiting(&journal) == 0 {
        tokio::task::yield_now().await;
    }
    for payload in ["too early", "early", "due"] {
        write(&mut writer, "a", payload);
    }
    let waited = ahead.await.expect("no panic").expect("a place");
    assert_eq!((waited.found, waited.entries[0].sequence), (1, since));
    assert_eq!(waited.entries[0].payload, &b"due"[..]);
    let seen = journal.wait(&on("a"), Count::at_least(1), Duration::ZERO, Some(since + 5)).await;
    let waited = seen.expect("a place");
    assert_eq!((waited.found, waited.seen.cursor, waited.seen.missed), (0, since + 5, 0));
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_is_over_says_what_came_and_what_came_near() {
    let journal = journal(JournalLimits::default());
    let mut writer = journal.writer();
    write(&mut writer, "a/b", "1");
    write(&mut writer, "a/c", "2");
    let waited = journal.wait(&on("a/b"), Count::at_least(2), Duration::from_secs(5), None).await;
    let waited = waited.expect("a place");
    assert!(!waited.is_satisfied);
    assert_eq!((waited.found, waited.entries.len(), waited.seen.cursor), (1, 1, 3));
    let (nearness, entry) = &waited.nearest[0];
    assert_eq!(entry.topic, "a/c");
    assert_eq!(nearness.differences, [r#"the topic is "a/c", not "a/b""#]);
    // What was told of is not told again.
    let since = Some(waited.seen.cursor);
    let (found, seen) = journal.count(on("#"), since).await;
    assert_eq!((found, seen.cursor), (0, 3));
}

#[tokio::test]
async fn places_are_few_and_given_up_by_whoever_leaves() {
    let journal = journal(JournalLimits::default());
    let waits: Vec<_> = (0..WAITERS_MAX)
        .map(|_| {
            let journal = journal.clone();
            Box::pin(async move { journal.wait(&on("never"), Count::at_least(1), FOR_EVER, None).await })
        })
        .collect();
    let mut all = Box::pin(join_all(waits));
    assert!(futures_util::poll!(&mut all).is_pending());
    let refused = journal.wait(&on("a"), Count::at_least(1), FOR_EVER, None).await;
    assert_eq!(refused.expect_err("all places are taken"), TooManyWaiters);
    drop(all);
    let mut writer = journal.writer();
    write(&mut writer, "a", "x");
    let waited = journal.wait(&on("a"), Count::at_least(1), FOR_EVER, None).await.expect("a place");
    assert!(waited.is_satisfied);
    assert_eq!(waiting(&journal), 0);
}

#[tokio::test]
async fn what_left_the_journal_is_counted() {
    let journal = journal(JournalLimits { messages: 10, bytes: 1 << 20 });
    let mut writer = journal.writer();
    let since = journal.cursor();
    for number in 0..25 {
        write(&mut writer, "a", &number.to_string());
    }
    let waited = journal.wait(&on("a"), Count::at_least(1), FOR_EVER, Some(since)).await.expect("a place");
    assert_eq!((waited.found, waited.seen.missed), (10, 15));
    let (found, seen) = journal.count(on("a"), None).await;
    assert_eq!((found, seen.missed), (10, 15));
    assert_eq!(journal.reset(), 10);
    // After a clean start nothing is missing.
    let (found, seen) = journal.count(on("a"), None).await;
    assert_eq!((found, seen.missed, seen.cursor), (0, 0, 26));
}

#[tokio::test]
async fn pages_go_both_ways_and_leave_nothing_out() {
    let journal = journal(JournalLimits::default());
    let mut writer = journal.writer();
    for number in 0..50 {
        write(&mut writer, if number % 2 == 0 { "even" } else { "odd" }, &number.to_string());
    }
    let even: Vec<u64> = (0..50).filter(|number| number % 2 == 0).map(|number| number + 1).collect();
    let (mut since, mut sequences) = (None, Vec::new());
    loop {
        let found = journal.find(on("even"), since, None, 7, false).await;
        sequences.extend(found.entries.iter().map(|entry| entry.sequence));
        assert_eq!(found.seen.missed, 0);
        since = found.next;
        if since.is_none() {
            break;
        }
        // What comes meanwhile is behind.
        note(&mut writer, "odd", "x");
    }
    assert_eq!(sequences, even);
    writer.settle();
    let (mut until, mut backwards) = (None, Vec::new());
    loop {
        let found = journal.find(on("even"), Some(5), until, 7, true).await;
        backwards.extend(found.entries.iter().map(|entry| entry.sequence));
        until = found.next;
        if until.is_none() {
            break;
        }
    }
    let wanted: Vec<u64> = even.iter().rev().copied().filter(|sequence| *sequence >= 5).collect();
    assert_eq!(backwards, wanted);
}

#[tokio::test]
async fn expectations_that_are_not_met_say_what_came_near() {
    let journal = journal(JournalLimits::default());
    let mut writer = journal.writer();
    write(&mut writer, "order/1/paid", r#"{"sum": 5}"#);
    let expectations = vec![
        Expectation { meant: on("order/1/paid"), count: Count::at_least(1) },
        Expectation { meant: on("order/1/payed"), count: Count::at_least(1) },
    ];
    let (verified, seen) = journal.verify(expectations, false, None).await;
    assert!(verified[0].judgement.has_passed && verified[0].nearest.is_empty());
    assert_eq!(verified[0].entries[0].topic, "order/1/paid");
    assert!(!verified[1].judgement.has_passed);
    assert_eq!(verified[1].nearest[0].1.topic, "order/1/paid");
    assert_eq!(seen.cursor, 2);
}
