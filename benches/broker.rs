//! What a message costs from a decoded PUBLISH to its subscribers' outboxes: matching, sessions,
//! encoding. No sockets.

use std::{collections::BTreeMap, io::IoSlice, path::PathBuf, time::Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mockforge::{
    broker::{Broker, Limits, Output},
    interceptor::Interest,
    mock::MockSpec,
    net::{Asking, JournalHandle, MockHandle, MockOptions, WebhookHandle, WebhookOptions},
    packet::ControlPacket,
    session::{ConnectionId, Peer},
};

/// A broker with clients that have connected.
struct Stage {
    broker: Broker,
    now: Instant,
}

impl Stage {
    fn new(clients: u64) -> Self {
        let limits = Limits {
            subscriptions_per_client: usize::MAX,
            inflight_max: u16::MAX,
            queue_messages: usize::MAX,
            queue_bytes: usize::MAX,
            ..Limits::default()
        };
        let now = Instant::now();
        let mut stage = Self { broker: Broker::new(now, limits, 1), now };
        for id in 0..clients {
            stage.broker.handle_open(
                now,
                ConnectionId(id),
                Peer { address: None, transport: "tcp", identity: None },
            );
            stage.send(id, format!("CONNECT c{id} v=3.1.1").parse().expect("a CONNECT"));
        }
        stage
    }

    fn send(&mut self, client: u64, packet: ControlPacket) {
        self.broker.handle_packet(self.now, ConnectionId(client), packet);
        self.write();
    }

    fn subscribe(&mut self, client: u64, filter: &str, qos: u8) {
        self.send(client, format!("SUBSCRIBE 1 {filter} qos={qos}").parse().expect("a SUBSCRIBE"));
    }

    /// Does as a shell whose sockets take everything.
    fn write(&mut self) {
        while let Some(output) = self.broker.poll_output() {
            let Output::Flush(id) = output else { continue };
            let Some(outbox) = self.broker.outbox(id) else { continue };
            while !outbox.is_empty() {
                let mut slices = [IoSlice::new(&[]); 16];
                let filled = outbox.chunks(&mut slices);
                let count = slices[..filled].iter().map(|slice| slice.len()).sum();
                outbox.advance(count);
            }
            self.broker.handle_flushed(self.now, id);
        }
    }
}

fn publish(topic: &str, qos: u8) -> ControlPacket {
    let identifier = if qos > 0 { " id=1" } else { "" };
    let text = format!("PUBLISH {topic} qos={qos}{identifier} \"{}\"", "x".repeat(64));
    text.parse().expect("a PUBLISH")
}

fn messages(criterion: &mut Criterion) {
    let mut stage = Stage::new(2);
    stage.subscribe(1, "fleet/d42/temp", 0);
    let message = publish("fleet/d42/temp", 0);
    criterion.bench_function("one subscriber, QoS 0", |bencher| {
        bencher.iter(|| stage.send(0, message.clone()));
    });

    let mut stage = Stage::new(2);
    stage.subscribe(1, "fleet/d42/temp", 1);
    let message = publish("fleet/d42/temp", 1);
    // The server numbers its messages one after the other.
    let acknowledgements = (1..=u16::MAX)
        .map(|id| format!("PUBACK {id}").parse().expect("a PUBACK"))
        .collect::<Vec<ControlPacket>>();
    let mut next = acknowledgements.iter().cycle();
    criterion.bench_function("one subscriber, QoS 1, acknowledged", |bencher| {
        bencher.iter(|| {
            stage.send(0, message.clone());
            stage.send(1, next.next().expect("a cycle").clone());
        });
    });

    let mut stage = Stage::new(201);
    for subscriber in 1..=200 {
        stage.subscribe(subscriber, "fleet/#", 0);
    }
    let message = publish("fleet/d42/temp", 0);
    let mut group = criterion.benchmark_group("200 subscribers, QoS 0");
    group.throughput(Throughput::Elements(200));
    group.bench_function("fan-out", |bencher| bencher.iter(|| stage.send(0, message.clone())));
    group.finish();
}

fn matching(criterion: &mut Criterion) {
    for count in [1_000, 100_000] {
        let mut stage = Stage::new(2);
        for number in 0..count {
            stage.subscribe(1, &format!("fleet/d{number}/+/value"), 0);
        }
        let topics: Vec<_> = (0..1_000)
            .map(|number| publish(&format!("fleet/d{}/t/value", number * (count / 1_000)), 0))
            .collect();
        let mut next = topics.iter().cycle();
        criterion.bench_function(&format!("{count} wildcard filters"), |bencher| {
            bencher.iter(|| stage.send(0, next.next().expect("a cycle").clone()));
        });
    }
}

/// Messages that no mock is for, with so many mocks beside them.
fn mocks(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    for count in [0, 1, 10_000] {
        let interest = Interest::default();
        let options = MockOptions { interest: interest.clone(), ..MockOptions::default() };
        let mocks = MockHandle::new(options, Box::new(|_| {}));
        let webhooks = WebhookHandle::start(WebhookOptions {
            runtime: runtime.handle().clone(),
            environment: BTreeMap::new(),
            folder: PathBuf::new(),
            state: mocks.shared_state(),
            seed: 1,
            queue_bytes: 16 << 20,
            template_steps: 1_000_000,
            interest: interest.clone(),
            on_event: Box::new(|_| {}),
        });
        let mock = |number| MockSpec { topic: format!("devices/d{number}/+/cmd"), ..MockSpec::default() };
        mocks.set((0..count).map(mock).collect()).expect("good mocks");
        let mut stage = Stage::new(2);
        stage.subscribe(1, "fleet/#", 0);
        let journal = JournalHandle::off();
        let asking = Asking { interest, mocks, webhooks, journal, tracer: None };
        stage.broker.set_interception(asking.interception(None));
        for topics in [1, 5_000] {
            let messages: Vec<_> =
                (0..topics).map(|number| publish(&format!("fleet/d{number}/t/value"), 0)).collect();
            let mut next = messages.iter().cycle();
            criterion.bench_function(&format!("{count} mocks, {topics} other topics"), |bencher| {
                bencher.iter(|| stage.send(0, next.next().expect("a cycle").clone()));
            });
        }
    }
}

criterion_group!(benches, messages, matching, mocks);
criterion_main!(benches);
