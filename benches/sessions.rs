//! Ten million changes of what is kept of sessions: how fast they become durable, and how much room they
//! take, on disk and in memory, while it goes on.
//!
//! ```text
//! cargo bench --bench sessions -- [changes] [folder]
//! ```
//! Messages that are queued and delivered, and retained ones that replace others, each with a thousand, a
//! hundred thousand and a million of them there at a time, 500 changes a batch. On Linux only.

use std::{
    collections::VecDeque,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, mpsc::sync_channel},
    time::Instant,
};

use bytes::Bytes;
use mockforge::{
    broker::{Batch, DeliveryRecord, DeliveryStage, RetainedRecord, SessionRecord},
    packet::{ProtocolVersion, QoS},
    session::{Delivery, MessageRef, NEVER, Payload, Standing, StoredMessage},
    store::SessionStore,
};

const SESSIONS: u64 = 100;
const BATCH: usize = 500;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let changes = arguments.next().map_or(10_000_000, |text| text.parse().expect("a number of changes"));
    let parent = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    for (name, kind) in [("queued", Kind::Queued), ("retained", Kind::Retained)] {
        for live in [1_000, 100_000, 1_000_000] {
            let folder = tempfile::tempdir_in(&parent).expect("a folder");
            println!("{live} messages {name}");
            run(folder.path(), kind, live, changes);
            load(folder.path());
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Queued,
    Retained,
}

/// Draws that are the same each time.
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

fn message(draws: &mut Draws) -> Arc<StoredMessage> {
    let bytes: Vec<u8> = (0..15).flat_map(|_| draws.next().to_le_bytes()).collect();
    let payload = Bytes::from(bytes);
    let message = MessageRef {
        topic: b"plant/hall-3/press-17/temperature",
        properties: &[],
        payload: Payload::of(&payload),
        qos: QoS::AtLeastOnce,
        retain: false,
        expires_at: None,
        packet: None,
    };
    Arc::new(message.store())
}

fn session(number: u64) -> SessionRecord {
    SessionRecord {
        client_identifier: format!("client-{number}").into(),
        protocol: ProtocolVersion::V5,
        username: None,
        standing: Standing::Claimed,
        clean_start: false,
        keep_alive: 60,
        expiry: NEVER,
        is_connected: true,
        ends_at: None,
        will_at: None,
        will: None,
    }
}

fn queued(session: u64, record: u64, message: Arc<StoredMessage>) -> DeliveryRecord {
    let delivery = Delivery {
        message,
        qos: QoS::AtLeastOnce,
        retain: false,
        subscription_identifiers: Default::default(),
        share: None,
        record,
    };
    DeliveryRecord { session, share: None, stage: DeliveryStage::Queued(delivery) }
}

fn run(folder: &Path, kind: Kind, live: usize, changes: usize) {
    let (store, _) = SessionStore::open(folder).expect("a store");
    let (done, is_done) = sync_channel(1);
    let commit = |batch: Batch| {
        let done = done.clone();
        store.commit(batch, move || done.send(()).expect("somebody waits"));
        is_done.recv().expect("it is durable");
    };
    commit(Batch {
        sessions: (1..=SESSIONS).map(|number| (number, session(number))).collect(),
        ..Batch::default()
    });
    let mut draws = Draws(1);
    let (mut queue, mut retained) = (VecDeque::new(), Vec::new());
    let (mut number, mut count, mut reported) = (0, 0, 0);
    let mut since = Instant::now();
    let cpu_before = cpu_seconds();
    while count < changes {
        let mut batch = Batch::default();
        let end = count + BATCH;
        while count < end {
            number += 1;
            count += 1;
            let message = message(&mut draws);
            if kind == Kind::Queued {
                let session = 1 + draws.next() % SESSIONS;
                batch.deliveries.put(number, queued(session, number, message));
                queue.push_back((session, number));
                if queue.len() > live {
                    let (session, record) = queue.pop_front().expect("it is not empty");
                    batch.deliveries.end(record, session);
                    count += 1;
                }
            } else {
                batch.retained.push((number, Some(RetainedRecord { message, publisher: None })));
                if retained.len() < live {
                    retained.push(number);
                } else {
                    let any = draws.next() as usize % live;
                    batch.retained.push((std::mem::replace(&mut retained[any], number), None));
                    count += 1;
                }
            }
        }
        commit(batch);
        if count - reported >= changes / 10 {
            let rate = (count - reported) as f64 / since.elapsed().as_secs_f64();
            println!(
                "  {:>5.1} million changes, {:>7.0} a second, {:>5} MB on disk, {:>4} MB in memory",
                count as f64 / 1e6,
                rate,
                on_disk(folder) >> 20,
                in_memory() >> 20
            );
            (reported, since) = (count, Instant::now());
        }
    }
    println!(
        "  {:.1} µs of CPU a change, the making of it included",
        (cpu_seconds() - cpu_before) * 1e6 / count as f64
    );
    let closing = Instant::now();
    store.close().expect("everything is kept");
    println!("  closed in {:.2} s", closing.elapsed().as_secs_f64());
}

fn load(folder: &Path) {
    let began = Instant::now();
    let (_store, restored) = SessionStore::open(folder).expect("a store");
    let deliveries: usize = restored.sessions.iter().map(|session| session.deliveries.len()).sum();
    println!(
        "  {} messages loaded in {:.2} s, {} MB in memory",
        deliveries + restored.retained.len(),
        began.elapsed().as_secs_f64(),
        in_memory() >> 20
    );
}

fn on_disk(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder.join("sessions")).expect("a folder");
    entries.filter_map(|entry| entry.ok()?.metadata().ok()).map(|metadata| metadata.len()).sum()
}

fn in_memory() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

fn cpu_seconds() -> f64 {
    let text = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let behind_name = text.rsplit(')').next().unwrap_or_default();
    let ticks: f64 =
        behind_name.split(' ').skip(12).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum();
    ticks / 100.0
}
