//! A client that keeps its half of a session over connections, as the standard demands.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use super::{
    draws::Draws,
    ledger::{ClientNumber, Ledger, Micros, What},
    plan::{Message, MessageId, identify},
    verdict::Promise,
    wire::{Ack, Connect, Connection, Packet, Protocol, Publish, Will},
};

/// What all clients of a trial share.
pub struct World {
    pub seed: u64,
    pub promise: Promise,
    pub ledger: Ledger,
    pub topics: HashSet<&'static str>,
    server: Mutex<Option<Address>>,
    changed: Condvar,
    /// When runs were killed.
    kills: Mutex<HashMap<u32, Micros>>,
    /// Wills that were delivered.
    wills: Mutex<HashSet<MessageId>>,
    /// When the subscription to Wills was granted.
    witness: Mutex<Option<(u32, Micros)>>,
    /// Nothing new is begun, and everybody comes back.
    pub is_draining: AtomicBool,
    pub is_over: AtomicBool,
    /// Something was seen that ends the trial early.
    pub is_failed: AtomicBool,
}

#[derive(Clone, Copy)]
pub struct Address {
    pub run: u32,
    pub port: u16,
}

impl World {
    pub fn new(seed: u64, promise: Promise, topics: HashSet<&'static str>) -> Self {
        Self {
            seed,
            promise,
            ledger: Ledger::new(),
            topics,
            server: Mutex::default(),
            changed: Condvar::new(),
            kills: Mutex::default(),
            wills: Mutex::default(),
            witness: Mutex::default(),
            is_draining: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            is_failed: AtomicBool::new(false),
        }
    }

    pub fn set_server(&self, address: Option<Address>) {
        *lock(&self.server) = address;
        self.changed.notify_all();
    }

    pub fn address(&self) -> Option<Address> {
        *lock(&self.server)
    }

    /// Where the server is, once it is there; None when all is over.
    pub fn server(&self) -> Option<Address> {
        let mut server = lock(&self.server);
        loop {
            if self.is_over.load(SeqCst) {
                return None;
            }
            if let Some(address) = *server {
                return Some(address);
            }
            let wait = Duration::from_millis(100);
            server = self.changed.wait_timeout(server, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub fn set_killed(&self, run: u32, at: Micros) {
        lock(&self.kills).insert(run, at);
    }

    /// Whether what was acknowledged then is promised to be there still.
    fn is_sure(&self, (run, at): (u32, Micros)) -> bool {
        let Some(killed) = lock(&self.kills).get(&run).copied() else { return true };
        match self.promise {
            Promise::Strict => true,
            Promise::Relaxed(interval) => at + interval <= killed,
            Promise::Empty => false,
        }
    }

    fn has_come(&self, will: MessageId) -> bool {
        lock(&self.wills).contains(&will)
    }

    /// Since when Wills are seen for certain.
    pub fn witness(&self) -> Option<Micros> {
        lock(&self.witness).filter(|moment| self.is_sure(*moment)).map(|(_, at)| at)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What one of the main thread's looks at a client tells it.
#[derive(Default)]
pub struct Presence {
    /// The run it is connected to; [`AWAY`] if it does not want to be.
    pub run: AtomicU32,
    /// It waits for nothing.
    pub is_idle: AtomicBool,
}

pub const AWAY: u32 = u32::MAX;

/// What a client does of its own accord.
pub trait Role: Send {
    fn is_away(&mut self, _client: &Client) -> bool {
        false
    }

    /// What its next CONNECT says, and which message that will be.
    fn will(&mut self, _client: &Client) -> Option<(MessageId, Will)> {
        None
    }

    /// Its CONNACK came.
    fn connected(&mut self, _client: &mut Client) {}

    /// Called on each turn of a connection.
    fn step(&mut self, client: &mut Client) -> Step;

    /// Whether it has nothing left to do once no more is begun.
    fn is_done(&self, _client: &Client) -> bool {
        true
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Stay,
    /// Closes the Network Connection without a DISCONNECT.
    Cut,
}

/// How one is made.
pub struct Character {
    pub name: String,
    pub number: ClientNumber,
    pub protocol: Protocol,
    pub receive_maximum: u16,
    /// Packet Identifiers are taken in turn, not the lowest free one.
    pub takes_ids_in_turn: bool,
    /// How late it acknowledges at most.
    pub lateness: Duration,
    /// Now and then it closes its connection by itself.
    pub is_cutting: bool,
}

pub struct Client {
    pub character: Character,
    pub world: Arc<World>,
    presence: Arc<Presence>,
    draws: Draws,
    pub run: u32,
    connection: Option<Connection>,
    pub outgoing: VecDeque<Outgoing>,
    /// QoS 2 messages that were delivered and not yet released, by Packet Identifier.
    known: HashMap<u16, MessageId>,
    wishes: BTreeMap<&'static str, Wish>,
    /// Acknowledgements in order, with the time they are due.
    acks: VecDeque<(Instant, Ack, u16)>,
    next_id: u16,
    server_receive_maximum: u16,
    /// When the connection is to be cut.
    cut_at: Option<Instant>,
    farewell: Option<u8>,
    /// A CONNACK of this session, by run and time.
    created: Option<(u32, Micros)>,
    /// It has outlasted a kill.
    is_lasting: bool,
}

/// A message of ours in flight.
pub struct Outgoing {
    id: u16,
    message: Message,
    /// PUBREC came.
    is_released: bool,
}

/// What it wants of a Topic Filter, and how far that is.
struct Wish {
    qos: u8,
    identifier: u8,
    on: bool,
    state: WishState,
}

#[derive(Clone, Copy)]
enum WishState {
    Open,
    Asked(u16),
    Granted((u32, Micros)),
}

impl Client {
    pub fn new(character: Character, world: Arc<World>, presence: Arc<Presence>) -> Self {
        let draws = Draws::new(world.seed, 1000 + u64::from(character.number));
        Self {
            character,
            world,
            presence,
            draws,
            run: 0,
            connection: None,
            outgoing: VecDeque::new(),
            known: HashMap::new(),
            wishes: BTreeMap::new(),
            acks: VecDeque::new(),
            next_id: 1,
            server_receive_maximum: u16::MAX,
            cut_at: None,
            farewell: None,
            created: None,
            is_lasting: false,
        }
    }

    /// Until all is over.
    pub fn live(mut self, mut role: Box<dyn Role>) {
        while let Some(address) = self.world.server() {
            self.presence.is_idle.store(self.is_idle(role.as_ref()), SeqCst);
            if role.is_away(&self) {
                self.presence.run.store(AWAY, SeqCst);
                std::thread::sleep(Duration::from_millis(3));
                continue;
            }
            self.presence.run.store(0, SeqCst);
            self.run = address.run;
            let Ok(connection) = Connection::open(address.port, self.character.protocol) else {
                std::thread::sleep(Duration::from_millis(2));
                continue;
            };
            self.connection = Some(connection);
            let ended = self.attend(role.as_mut());
            self.presence.run.store(0, SeqCst);
            self.connection = None;
            if let Err(error) = &ended
                && error.kind() == io::ErrorKind::InvalidData
            {
                self.broken(error.to_string());
            }
            let reason = self.farewell.take();
            self.note(What::Ended { is_own: ended.is_ok(), reason });
        }
    }

    pub fn note(&self, what: What) {
        self.world.ledger.note(self.run, self.character.number, what);
    }

    fn broken(&self, text: impl Into<String>) {
        self.note(What::Broken { text: text.into() });
        self.world.is_failed.store(true, SeqCst);
    }

    pub fn is_draining(&self) -> bool {
        self.world.is_draining.load(SeqCst)
    }

    pub fn has_come(&self, will: MessageId) -> bool {
        self.world.has_come(will)
    }

    pub fn is_sure(&self, moment: (u32, Micros)) -> bool {
        self.world.is_sure(moment)
    }

    fn is_idle(&self, role: &dyn Role) -> bool {
        let is_granted = |wish: &Wish| matches!(wish.state, WishState::Granted(_));
        self.outgoing.is_empty()
            && self.acks.is_empty()
            && self.wishes.values().all(is_granted)
            && role.is_done(self)
    }

    fn connection(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("it is connected")
    }

    /// One Network Connection; Ok if we closed it.
    fn attend(&mut self, role: &mut dyn Role) -> io::Result<()> {
        self.acks.clear();
        self.connect(role)?;
        self.presence.run.store(self.run, SeqCst);
        loop {
            if self.world.is_over.load(SeqCst) {
                self.connection().disconnect();
                return self.connection().flush().or(Ok(()));
            }
            let now = Instant::now();
            let is_time = self.cut_at.is_some_and(|at| at <= now) && !self.is_draining();
            if role.step(self) == Step::Cut || is_time {
                // What was put is sent or not, as it happens.
                if self.draws.once_in(2) {
                    let _ = self.connection().flush();
                }
                return Ok(());
            }
            self.ask();
            self.send_acks(now);
            if let Err(error) = self.connection().flush() {
                // What the server sent before is there all the same.
                while let Some(packet) = self.connection().read(Duration::from_millis(1))? {
                    self.handle(packet)?;
                }
                return Err(error);
            }
            let mut wait = Duration::from_millis(4);
            while let Some(packet) = self.connection().read(wait)? {
                self.handle(packet)?;
                if !self.connection().has_buffered() {
                    break;
                }
                wait = Duration::ZERO;
            }
            self.presence.is_idle.store(self.is_idle(role), SeqCst);
        }
    }

    fn connect(&mut self, role: &mut dyn Role) -> io::Result<()> {
        let will = role.will(self);
        if let Some((message, will)) = &will {
            let (topic, qos) = (will.topic, will.qos);
            self.note(What::Sent { message: *message, topic, qos, deletes: false });
        }
        self.note(What::Connecting);
        let client_id = self.character.name.clone();
        let receive_maximum = self.character.receive_maximum;
        self.connection().connect(&Connect {
            client_id: &client_id,
            is_clean: false,
            session_expiry_secs: 7200,
            receive_maximum,
            will: will.as_ref().map(|(_, will)| will),
        });
        self.connection().flush()?;
        let (is_present, receive_maximum) = match self.connection().await_packet()? {
            Packet::Connack { is_present, reason: 0, receive_maximum } => (is_present, receive_maximum),
            other => return Err(invalid(format!("{other:?} in answer to CONNECT"))),
        };
        // A port may be another run's by now.
        if self.world.address().is_none_or(|address| address.run != self.run) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        self.note(What::Connected { is_present });
        if let Some((message, _)) = &will {
            self.note(What::Acknowledged { message: *message });
            self.note(What::Completed { message: *message });
        }
        role.connected(self);
        let now = (self.run, self.world.ledger.now());
        self.server_receive_maximum = receive_maximum;
        self.cut_at = (self.character.is_cutting && self.draws.once_in(6))
            .then(|| Instant::now() + Duration::from_millis(self.draws.below(150)));
        for wish in self.wishes.values_mut() {
            let is_kept = is_present
                && matches!(wish.state, WishState::Granted(moment) if moment.0 == self.run || self.world.is_sure(moment));
            if !is_kept {
                wish.state = WishState::Open;
            }
        }
        if is_present {
            self.is_lasting |= self.created.is_some_and(|moment| moment.0 < self.run);
            self.resend();
            return Ok(());
        }
        let is_sure = |moment: (u32, Micros)| moment.0 == self.run || self.world.is_sure(moment);
        if self.is_lasting && self.world.promise != Promise::Empty || self.created.is_some_and(is_sure) {
            self.world.is_failed.store(true, SeqCst);
        }
        self.is_lasting = false;
        self.created = Some(now);
        self.outgoing.clear();
        self.known.clear();
        self.wishes.retain(|_, wish| wish.on);
        Ok(())
    }

    /// In the order in which they were sent first [MQTT-4.6.0-1].
    fn resend(&mut self) {
        let connection = self.connection.as_mut().expect("it is connected");
        for Outgoing { id, message, is_released } in &self.outgoing {
            if *is_released {
                connection.ack(Ack::Pubrel, *id);
            } else {
                put_publish(connection, message, *id, true);
            }
        }
    }

    /// Whether one more message may be in flight.
    pub fn has_room(&self, window: usize) -> bool {
        self.outgoing.len() < window.min(self.server_receive_maximum.into())
    }

    pub fn publish(&mut self, message: Message) {
        let id = self.free_id();
        let deletes = message.payload.is_empty();
        self.note(What::Sent { message: message.id, topic: message.topic, qos: message.qos, deletes });
        put_publish(self.connection(), &message, id, false);
        self.outgoing.push_back(Outgoing { id, message, is_released: false });
    }

    /// Is asked for as soon as it can be, and again until it is granted.
    pub fn wish(&mut self, filter: &'static str, qos: u8, identifier: u8, on: bool) {
        self.wishes.insert(filter, Wish { qos, identifier, on, state: WishState::Open });
    }

    pub fn has_wish(&self, filter: &'static str) -> bool {
        self.wishes.get(filter).is_some_and(|wish| wish.on)
    }

    /// Whether all it asked for was granted.
    pub fn is_content(&self) -> bool {
        self.wishes.values().all(|wish| matches!(wish.state, WishState::Granted(_)))
    }

    fn ask(&mut self) {
        let open = self.wishes.iter().filter(|(_, wish)| matches!(wish.state, WishState::Open));
        for filter in open.map(|(filter, _)| *filter).collect::<Vec<_>>() {
            let id = self.free_id();
            let wish = self.wishes.get_mut(filter).expect("it is wished for");
            wish.state = WishState::Asked(id);
            let Wish { qos, identifier, on, .. } = *wish;
            self.note(What::Asked { filter, qos, on });
            if on {
                self.connection().subscribe(id, filter, qos, identifier);
            } else {
                self.connection().unsubscribe(id, filter);
            }
        }
    }

    fn free_id(&mut self) -> u16 {
        let asked = self.wishes.values().filter_map(|wish| match wish.state {
            WishState::Asked(id) => Some(id),
            _ => None,
        });
        let used: HashSet<u16> = self.outgoing.iter().map(|outgoing| outgoing.id).chain(asked).collect();
        let mut id = if self.character.takes_ids_in_turn { self.next_id } else { 1 };
        while used.contains(&id) || id == 0 {
            id = id.wrapping_add(1);
        }
        self.next_id = id.wrapping_add(1).max(1);
        id
    }

    fn send_acks(&mut self, now: Instant) {
        while let Some(&(_, ack, id)) = self.acks.front().filter(|(due, ..)| *due <= now) {
            self.acks.pop_front();
            self.connection().ack(ack, id);
        }
    }

    /// Late if that is the client's way, but always in order [MQTT-4.6.0-2].
    fn acknowledge(&mut self, ack: Ack, id: u16) {
        let mut due = Instant::now();
        let latest = self.character.lateness.as_millis() as u64;
        if latest > 0 && ack != Ack::Pubcomp {
            due += Duration::from_millis(self.draws.below(latest));
        }
        if let Some((last, ..)) = self.acks.back() {
            due = due.max(*last);
        }
        self.acks.push_back((due, ack, id));
    }

    fn handle(&mut self, packet: Packet) -> io::Result<()> {
        match packet {
            Packet::Publish { topic, payload, qos, is_retained, is_dup: _, id } => {
                self.handle_publish(&topic, &payload, qos, is_retained, id)
            }
            Packet::Ack { ack, id, reason } => self.handle_ack(ack, id, reason),
            Packet::Suback { id, reasons } | Packet::Unsuback { id, reasons } => {
                let is_it = |wish: &Wish| matches!(wish.state, WishState::Asked(asked) if asked == id);
                let Some((filter, wish)) = self.wishes.iter_mut().find(|(_, wish)| is_it(wish)) else {
                    return Err(invalid(format!("an answer to a request {id} that nobody made")));
                };
                if reasons.iter().any(|reason| *reason >= 0x80 || wish.on && *reason != wish.qos) {
                    return Err(invalid(format!("reasons {reasons:x?} for {filter}")));
                }
                wish.state = WishState::Granted((self.run, self.world.ledger.now()));
                let (filter, on) = (*filter, wish.on);
                self.note(What::Granted { filter, on });
                if filter == WILLS && self.world.witness().is_none() {
                    *lock(&self.world.witness) = Some((self.run, self.world.ledger.now()));
                }
                Ok(())
            }
            Packet::Disconnect { reason } => {
                self.farewell = Some(reason);
                Ok(())
            }
            other => Err(invalid(format!("an unexpected {other:?}"))),
        }
    }

    fn handle_publish(
        &mut self,
        topic: &str,
        payload: &[u8],
        qos: u8,
        is_retained: bool,
        id: u16,
    ) -> io::Result<()> {
        let message = identify(payload).map_err(|wrong| invalid(format!("{wrong} on {topic}")))?;
        let Some(topic) = self.world.topics.get(topic).copied() else {
            return Err(invalid(format!("{message} on {topic}, which is nobody's topic")));
        };
        if is_retained || qos == 0 {
            return Err(invalid(format!("{message} on {topic} at QoS {qos}, retained {is_retained}")));
        }
        let ack = if qos == 1 { Ack::Puback } else { Ack::Pubrec };
        // A PUBLISH whose identifier is known is a repetition, whatever it says [MQTT-4.3.3-10].
        let known = if qos == 2 { self.known.get(&id) } else { None };
        match known {
            Some(known) if *known != message => self.broken(format!(
                "Packet Identifier {id} came with {message} before the PUBREL of {known}: it is taken for that and lost"
            )),
            Some(_) => {}
            None => {
                self.note(What::Delivered { message, topic, qos });
                if topic.starts_with("w/") {
                    lock(&self.world.wills).insert(message);
                }
                if qos == 2 {
                    self.known.insert(id, message);
                }
            }
        }
        self.acknowledge(ack, id);
        Ok(())
    }

    fn handle_ack(&mut self, ack: Ack, id: u16, reason: u8) -> io::Result<()> {
        if ack == Ack::Pubrel {
            if let Some(message) = self.known.remove(&id) {
                self.note(What::Settled { message });
            }
            self.acknowledge(Ack::Pubcomp, id);
            return Ok(());
        }
        if reason >= 0x80 && (ack, reason) != (Ack::Pubcomp, PACKET_IDENTIFIER_NOT_FOUND) {
            return Err(invalid(format!("{ack:?} of {id} with reason {reason:#x}")));
        }
        let is_next = |outgoing: &Outgoing| match ack {
            Ack::Puback => outgoing.message.qos == 1,
            Ack::Pubrec => outgoing.message.qos == 2 && !outgoing.is_released,
            _ => outgoing.id == id && outgoing.is_released,
        };
        let Some(index) =
            self.outgoing.iter().position(is_next).filter(|index| self.outgoing[*index].id == id)
        else {
            return Err(invalid(format!("{ack:?} of {id}, whose turn it is not")));
        };
        let message = self.outgoing[index].message.id;
        match ack {
            Ack::Pubrec => {
                self.note(What::Acknowledged { message });
                self.outgoing[index].is_released = true;
                self.connection().ack(Ack::Pubrel, id);
            }
            _ => {
                if ack == Ack::Puback {
                    self.note(What::Acknowledged { message });
                }
                self.note(What::Completed { message });
                self.outgoing.remove(index);
            }
        }
        Ok(())
    }
}

fn put_publish(connection: &mut Connection, message: &Message, id: u16, is_dup: bool) {
    connection.publish(&Publish {
        topic: message.topic,
        payload: &message.payload,
        qos: message.qos,
        is_retained: message.is_retained,
        is_dup,
        id,
    });
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// The Topic Filter of Wills.
pub const WILLS: &str = "w/#";

/// Reason Code of a PUBCOMP, which only says that a PUBREL was sent once more.
const PACKET_IDENTIFIER_NOT_FOUND: u8 = 0x92;
