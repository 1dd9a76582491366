//! Relays that somebody intercepts messages on, in memory: what their clients and their servers see, and when answers
//! may be sent.

use std::{rc::Rc, task::Poll};

use tokio::task::{LocalSet, yield_now};

use super::*;
use crate::{
    interceptor::{Interception, Interceptor, Interest, Offered, Party, Verdict},
    net::{
        JournalHandle, MockHandle, MockOptions, ProxyEvent, ProxyOptions,
        asking::Asking,
        pipe::{End, Pipe, Valve},
        proxy::RelayThread,
        webhooks::{WebhookHandle, WebhookOptions},
    },
    relay::RelayLimits,
    session::ConnectionId,
};

pub(super) const CONNECT: &[u8] = b"\x10\x0f\x00\x04MQTT\x04\x02\x00\x3c\x00\x03dev";
pub(super) const CONNACK: &[u8] = b"\x20\x02\x00\x00";
const REFUSED: &[u8] = b"\x20\x02\x00\x05";
const KEPT: &[u8] = b"\x32\x0a\x00\x04keep\x00\x01hi";
const OPEN: &[u8] = b"\x32\x0a\x00\x04open\x00\x02hi";
const PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

type Noted = Arc<Mutex<Vec<String>>>;

/// Intercepts messages whose topics begin with `keep`.
struct Keeper(Noted);

impl Interceptor for Keeper {
    fn ask(&mut self, _: Instant, _: &Offered<'_>) -> Verdict {
        unreachable!("a relay asks ahead")
    }

    fn ask_ahead(&mut self, _: Instant, connection: ConnectionId, offered: &Offered<'_>) -> Verdict {
        self.0.lock().expect("no panic").push(format!("{} asks {}", connection.0, offered.topic));
        if offered.topic.starts_with("keep") { Verdict::Intercept } else { Verdict::Route }
    }

    fn passed(&mut self, connection: ConnectionId) {
        self.0.lock().expect("no panic").push(format!("{} passed", connection.0));
    }
}

pub(super) struct Relays {
    thread: Rc<RelayThread>,
    /// The servers' ends.
    servers: Arc<Mutex<Vec<Pipe>>>,
    noted: Noted,
    events: Arc<Mutex<Vec<ProxyEvent>>>,
}

impl Relays {
    pub(super) fn new() -> Self {
        let (noted, interest) = (Noted::default(), Interest::default());
        interest.set(Party::Mocks, true);
        let told = noted.clone();
        Self::asking(noted, move || Interception::new(Box::new(Keeper(told.clone())), interest.clone()))
    }

    fn asking(noted: Noted, interception: impl Fn() -> Interception + Send + Sync + 'static) -> Self {
        let (servers, events) = (Arc::<Mutex<Vec<Pipe>>>::default(), Arc::<Mutex<Vec<_>>>::default());
        let (connecting, told) = (servers.clone(), events.clone());
        let options = ProxyOptions {
            chaos: no_chaos(),
            upstream: "mqtt://server.in.memory".parse().expect("an address"),
            admission: Admission::new(Default::default()),
            upstream_timeout: PATIENCE,
            connect_timeout: PATIENCE,
            threads: 1,
            limits: RelayLimits { hold: 64, record: 1 << 20 },
            guests: None,
            gate: Gate::open_already(),
            tap: Tap::new(),
            metrics: Arc::new(Metrics::new()),
            interception: Box::new(interception),
            on_event: Box::new(move |event| told.lock().expect("no panic").push(event)),
        };
        let thread = RelayThread::in_memory(options, move || {
            let (ours, theirs) = Pipe::pair(PIPE_BYTES);
            connecting.lock().expect("no panic").push(theirs);
            ours
        });
        Self { thread, servers, noted, events }
    }

    /// A client, and the number of its server's end.
    pub(super) async fn open(&self) -> (Pipe, usize) {
        let (ours, theirs) = Pipe::pair(PIPE_BYTES);
        self.thread.open(theirs, PEER);
        settle().await;
        (ours, self.servers.lock().expect("no panic").len() - 1)
    }

    async fn connected(&self) -> (Pipe, usize) {
        let (client, server) = self.open().await;
        client.send(CONNECT);
        settle().await;
        assert_eq!(self.taken(server), CONNECT);
        self.answer(server, CONNACK).await;
        assert_eq!(taken(&client), CONNACK);
        (client, server)
    }

    fn taken(&self, server: usize) -> Vec<u8> {
        taken(&self.servers.lock().expect("no panic")[server])
    }

    pub(super) async fn answer(&self, server: usize, bytes: &[u8]) {
        self.servers.lock().expect("no panic")[server].send(bytes);
        settle().await;
    }

    /// Of what is written to a server.
    fn valve(&self, server: usize) -> Valve {
        self.servers.lock().expect("no panic")[server].valve()
    }

    fn noted(&self) -> Vec<String> {
        std::mem::take(&mut self.noted.lock().expect("no panic"))
    }

    fn events(&self) -> Vec<ProxyEvent> {
        std::mem::take(&mut self.events.lock().expect("no panic"))
    }
}

fn taken(pipe: &Pipe) -> Vec<u8> {
    pipe.take().0.to_vec()
}

pub(super) async fn send(pipe: &Pipe, bytes: &[u8]) {
    pipe.send(bytes);
    settle().await;
}

/// Lets every task run until nothing more happens by itself.
pub(super) async fn settle() {
    for _ in 0..50 {
        yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_connection_is_asked_about_passes_by_itself() {
    let test = async {
        let relays = Relays::new();
        let ((one, first), (other, second)) = (relays.connected().await, relays.connected().await);
        let valve = relays.valve(first);
        valve.set_stalled(true);
        send(&one, OPEN).await;
        assert_eq!(relays.noted(), ["1 asks open"]);
        send(&other, OPEN).await;
        assert_eq!(relays.noted(), ["2 asks open", "2 passed"]);
        // The server's bytes pass, which says nothing of the client's.
        relays.answer(first, b"\xd0\x00").await;
        assert_eq!(relays.noted(), [""; 0]);
        valve.set_stalled(false);
        settle().await;
        assert_eq!(relays.noted(), ["1 passed"]);
        assert_eq!((relays.taken(first), relays.taken(second)), (OPEN.to_vec(), OPEN.to_vec()));
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_ends_before_a_message_has_passed_lets_its_answers_go() {
    let test = async {
        let relays = Relays::new();
        let (client, server) = relays.connected().await;
        relays.valve(server).set_stalled(true);
        send(&client, OPEN).await;
        assert_eq!(relays.noted(), ["1 asks open"]);
        let (_, outgoing) = relays.servers.lock().expect("no panic").remove(server).split();
        outgoing.reset();
        settle().await;
        assert_eq!(relays.noted(), ["1 passed"]);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test(start_paused = true)]
async fn a_long_message_has_passed_with_its_last_piece() {
    let test = async {
        let relays = Relays::new();
        let (client, server) = relays.connected().await;
        let long = [&b"\x30\xaf\x02\x00\x01a"[..], &[b'x'; 300]].concat();
        let (start, end) = long.split_at(200);
        send(&client, start).await;
        assert_eq!(relays.noted(), [""; 0]);
        send(&client, end).await;
        assert_eq!(relays.noted(), ["1 asks a", "1 passed"]);
        assert_eq!(relays.taken(server), long);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test(start_paused = true)] // [MQTT-3.2.0-1]
async fn nothing_comes_before_the_connack_and_nobody_fires_for_a_client_that_is_refused() {
    let test = async {
        for (connack, is_half_closed) in
            [(CONNACK, false), (CONNACK, true), (REFUSED, false), (REFUSED, true)]
        {
            let relays = Relays::new();
            let (client, server) = relays.open().await;
            let (incoming, outgoing) = client.split();
            let all = [CONNECT, KEPT, OPEN].concat();
            outgoing.try_write(&[std::io::IoSlice::new(&all)]).expect("there is room");
            if is_half_closed {
                outgoing.finish();
            }
            settle().await;
            assert_eq!(relays.taken(server), CONNECT);
            assert_eq!((relays.noted(), relays.events()), (vec![], vec![]));
            relays.answer(server, connack).await;
            let heard = async {
                let mut space = [0; 100];
                let mut buffer = tokio::io::ReadBuf::new(&mut space);
                let read = std::future::poll_fn(|context| match incoming.poll_read(context, &mut buffer) {
                    Poll::Pending => Poll::Ready(false),
                    Poll::Ready(read) => Poll::Ready(read.is_ok()),
                });
                read.await;
                buffer.filled().to_vec()
            };
            let is_in = connack == CONNACK;
            let (bytes, end) = relays.servers.lock().expect("no panic")[server].take();
            assert_eq!(end, is_half_closed.then_some(End::Fin));
            if is_in {
                assert_eq!(bytes, OPEN);
                assert_eq!(heard.await, [CONNACK, b"\x40\x02\x00\x01"].concat());
                assert_eq!(relays.noted(), ["1 asks keep", "1 asks open", "1 passed"]);
                assert!(matches!(relays.events()[..], [ProxyEvent::ClientConnected { .. }]));
            } else {
                assert_eq!(bytes, [KEPT, OPEN].concat());
                assert_eq!(heard.await, REFUSED);
                assert_eq!((relays.noted(), relays.events()), (vec![], vec![]));
            }
            relays.servers.lock().expect("no panic").clear();
            drop((incoming, outgoing));
            settle().await;
            assert_eq!(relays.events().len(), usize::from(is_in));
        }
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_ends_without_a_connack_gets_what_waited_for_it() {
    let test = async {
        let relays = Relays::new();
        let (client, server) = relays.open().await;
        send(&client, &[CONNECT, OPEN].concat()).await;
        assert_eq!(relays.taken(server), CONNECT);
        let (incoming, outgoing) = relays.servers.lock().expect("no panic").remove(server).split();
        outgoing.finish();
        settle().await;
        let mut space = [0; 100];
        let mut buffer = tokio::io::ReadBuf::new(&mut space);
        std::future::poll_fn(|context| incoming.poll_read(context, &mut buffer)).await.expect("bytes");
        assert_eq!((buffer.filled(), relays.noted()), (OPEN, vec![]));
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test(start_paused = true)]
async fn answers_of_mocks_wait_for_the_message_of_their_own_connection() {
    let test = async {
        let interest = Interest::default();
        let mocks = MockOptions { interest: interest.clone(), ..MockOptions::default() };
        let mocks = MockHandle::new(mocks, Box::new(|_| {}));
        let webhooks = WebhookHandle::start(WebhookOptions {
            template_steps: 1_000_000,
            queue_bytes: 1 << 20,
            runtime: tokio::runtime::Handle::current(),
            environment: Default::default(),
            folder: Default::default(),
            state: mocks.shared_state(),
            seed: 1,
            interest: interest.clone(),
            on_event: Box::new(|_| {}),
        });
        let mock = r#"{"topic":"open","response":{"topic":"answer","payload":"{{client_id}}"}}"#;
        mocks.create(serde_json::from_str(mock).expect("a spec")).expect("a good one");
        let asking =
            Asking { interest, mocks: mocks.clone(), webhooks, journal: JournalHandle::off(), tracer: None };
        let sent = Arc::new(Mutex::new(0));
        let (count, stop) = (sent.clone(), tokio_util::sync::CancellationToken::new());
        let answering = mocks.answer(stop.clone(), move |messages| {
            *count.lock().expect("no panic") += messages.len();
            let outcomes: Vec<Result<(), String>> = messages.iter().map(|_| Ok(())).collect();
            std::future::ready(std::future::ready(outcomes))
        });
        let answering = tokio::task::spawn_local(answering);
        let sent = || *sent.lock().expect("no panic");

        let relays = Relays::asking(Noted::default(), move || asking.interception(None));
        let ((one, first), (other, _)) = (relays.connected().await, relays.connected().await);
        relays.valve(first).set_stalled(true);
        send(&one, OPEN).await;
        assert_eq!(sent(), 0);
        send(&other, OPEN).await;
        assert_eq!(sent(), 1);
        let (_, outgoing) = relays.servers.lock().expect("no panic").remove(first).split();
        outgoing.reset();
        settle().await;
        assert_eq!(sent(), 2);
        stop.cancel();
        answering.await.expect("no panic");
    };
    LocalSet::new().run_until(test).await;
}
