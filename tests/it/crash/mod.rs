//! What clients were promised by a server that is killed and started again, over and over.
//!
//! Clients with sessions of their own publish and subscribe while the process is ended at moments that are drawn; what was
//! sent, acknowledged and delivered goes into a [`ledger`], and a [`verdict`] on that says which promises were broken.
//! Each test has a few rounds; `MOCKFORGE_CRASH_ROUNDS=200` asks for more, and `MOCKFORGE_CRASH_SEED` for other ones.

mod client;
mod disk;
mod draws;
mod ledger;
mod plan;
mod roles;
mod server;
mod trial;
mod verdict;
mod wire;

use std::time::Duration;

use server::Broker;
use trial::{Ending, Trial};
use verdict::{Kind, Promise};

#[test]
fn a_server_that_keeps_nothing_is_found_to_lose_sessions() {
    let mut trial = Trial::new(Broker::Mockforge(None), Promise::Strict, Ending::Kill);
    (trial.rounds, trial.patience) = (3, Duration::from_secs(3));
    let kinds = trial.run().kinds();
    assert!(kinds.contains_key(&Kind::SessionLost), "{kinds:?}");
}

#[test]
fn a_server_that_keeps_nothing_begins_empty() {
    Trial::new(Broker::Mockforge(None), Promise::Empty, Ending::Kill).run().expect_none();
}

#[test]
fn mosquitto_loses_what_it_had_when_it_is_killed() {
    if !server::has_mosquitto() {
        println!("there is no mosquitto to try this with");
        return;
    }
    let mut trial = Trial::new(Broker::Mosquitto, Promise::Strict, Ending::Kill);
    (trial.rounds, trial.patience) = (3, Duration::from_secs(3));
    let kinds = trial.run().kinds();
    assert!(kinds.contains_key(&Kind::SessionLost), "{kinds:?}");
}

#[test]
fn mosquitto_keeps_what_it_had_when_it_is_asked_to_end() {
    if !server::has_mosquitto() {
        println!("there is no mosquitto to try this with");
        return;
    }
    let outcome = Trial::new(Broker::Mosquitto, Promise::Strict, Ending::Terminate).run();
    outcome.without(Kind::NoDisconnect).expect_none();
}

/// What `relaxed` may lose.
const INTERVAL: Promise = Promise::Relaxed(250_000);

#[test]
fn strict_loses_nothing_that_was_acknowledged() {
    Trial::new(Broker::Mockforge(Some("strict")), Promise::Strict, Ending::Kill).run().expect_none();
}

#[test]
fn relaxed_loses_no_more_than_its_interval() {
    Trial::new(Broker::Mockforge(Some("relaxed")), INTERVAL, Ending::Kill).run().expect_none();
}

#[test]
fn strict_and_relaxed_lose_nothing_when_they_are_asked_to_end() {
    for durability in ["strict", "relaxed"] {
        let broker = Broker::Mockforge(Some(durability));
        Trial::new(broker, Promise::Strict, Ending::TerminateThenPowerCut).run().expect_none();
    }
}

#[test]
fn strict_loses_nothing_that_was_acknowledged_by_a_power_cut() {
    Trial::new(Broker::Mockforge(Some("strict")), Promise::Strict, Ending::PowerCut).run().expect_none();
}

#[test]
fn relaxed_loses_no_more_than_its_interval_by_a_power_cut() {
    Trial::new(Broker::Mockforge(Some("relaxed")), INTERVAL, Ending::PowerCut).run().expect_none();
}

#[test]
fn a_disk_that_syncs_nothing_is_found_to_lose_what_was_acknowledged() {
    let mut trial =
        Trial::new(Broker::Mockforge(Some("strict")), Promise::Strict, Ending::PowerCutOfLyingDisk);
    trial.patience = Duration::from_secs(3);
    let kinds = trial.run().kinds();
    assert!([Kind::SessionLost, Kind::Lost].iter().any(|kind| kinds.contains_key(kind)), "{kinds:?}");
}
