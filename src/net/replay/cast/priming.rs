//! Bringing about what stands where playing begins: first what is retained, then sessions of clients that are away, then
//! clients that are connected, with their subscriptions.

use std::collections::VecDeque;

use super::Cast;
use crate::{
    packet::{Connect, ControlPacket, Disconnect, Properties, ProtocolVersion, QoS, ReasonCode},
    recording::player::{Act, After, Doing, End, Priming, StandIn, guessed},
};

/// Sequence numbers of what no recording has.
const FIRST_SEQ: u64 = 1 << 63;

/// What is still to be brought about.
pub(super) struct Preparation {
    /// One behind the other, each at once.
    stages: VecDeque<Vec<Task>>,
    next_seq: u64,
}

/// What one of our connections does.
struct Task {
    connection: u32,
    connect: Connect,
    packets: Vec<ControlPacket>,
    stays: bool,
}

impl Preparation {
    /// `newest` is the version that the target is sure to speak.
    fn new(priming: Priming, run: &str, newest: ProtocolVersion) -> Self {
        let Priming { retained, connected, away, .. } = priming;
        let mut first: Vec<Task> =
            connected.iter().filter(|one| one.wipes).map(|one| Task::wiping(&one.connect)).collect();
        if !retained.is_empty() {
            let connect = guessed(run, newest);
            let packets = retained.into_iter().map(ControlPacket::Publish).collect();
            first.push(Task { connection: 0, connect, packets, stays: false });
        }
        let mut absent = Vec::new();
        for mut one in away {
            if newest != ProtocolVersion::V5 {
                first.push(Task::wiping(&Connect { protocol: newest, ..one.connect.clone() }));
                one.connect.protocol = newest;
                (one.connect.clean_start, one.connect.properties) = (false, Properties::new());
            }
            absent.push(Task::standing(one, false));
        }
        let connected = connected.into_iter().map(|one| Task::standing(one, true)).collect();
        let mut stages = VecDeque::from([first, absent, connected]);
        stages.retain(|stage| !stage.is_empty());
        Self { stages, next_seq: FIRST_SEQ }
    }

    fn next_seq(&mut self) -> u64 {
        self.next_seq += 1;
        self.next_seq
    }
}

impl Task {
    /// Ends a session that the server may have.
    fn wiping(connect: &Connect) -> Self {
        let connect =
            Connect { clean_start: true, will: None, properties: Properties::new(), ..connect.clone() };
        Self { connection: 0, connect, packets: Vec::new(), stays: false }
    }

    fn standing(one: StandIn, stays: bool) -> Self {
        let StandIn { connection, connect, subscribes, .. } = one;
        let packets = subscribes.into_iter().map(ControlPacket::Subscribe).collect();
        Self { connection, connect, packets, stays }
    }
}

impl Cast {
    /// Begins to bring about what stands; nothing else is to be performed before [`is_priming`](Self::is_priming) is over.
    pub fn prime(&mut self, priming: Priming) {
        if priming.left_out > 0 {
            self.figures.warn(format!(
                "{} subscriptions and retained messages from before the start are left out: there are too many",
                priming.left_out
            ));
        }
        let newest = self.answers.newest().unwrap_or(ProtocolVersion::V5);
        self.preparation = Some(Preparation::new(priming, &self.run, newest));
        self.go_on_all();
    }

    pub fn is_priming(&self) -> bool {
        self.preparation.is_some()
    }

    /// Goes on with what is to be brought about: all of the stage before is.
    pub(super) fn prepare(&mut self) {
        let Some(mut preparation) = self.preparation.take() else { return };
        let Some(stage) = preparation.stages.pop_front() else { return };
        for task in stage {
            let number = self.cast_for(&task.connect, task.connection);
            self.assign(number, task, &mut preparation);
        }
        self.preparation = Some(preparation);
    }

    fn assign(&mut self, number: usize, task: Task, preparation: &mut Preparation) {
        let Task { connect, packets, stays, .. } = task;
        let seq = preparation.next_seq();
        self.queue_simply(number, seq, Doing::Connect(Box::new(connect)), Vec::new());
        let mut asked = Vec::new();
        for packet in packets {
            let seq = preparation.next_seq();
            let is_released =
                matches!(&packet, ControlPacket::Publish(publish) if publish.qos == QoS::ExactlyOnce);
            self.queue_simply(number, seq, Doing::Send(Box::new(packet)), Vec::new());
            if is_released {
                self.queue_simply(number, preparation.next_seq(), Doing::Release(seq), Vec::new());
            }
            asked.push(After::Answered(seq));
        }
        self.queue_simply(number, preparation.next_seq(), Doing::Settle, asked);
        if !stays {
            let disconnect = Disconnect { reason_code: ReasonCode::SUCCESS, properties: Properties::new() };
            for doing in [Doing::Disconnect(disconnect), Doing::End(End::Fin)] {
                self.queue_simply(number, preparation.next_seq(), doing, Vec::new());
            }
        }
        self.ready.push_back(number);
    }
}

impl Cast {
    fn queue_simply(&mut self, number: usize, seq: u64, doing: Doing, after: Vec<After>) {
        let act = Act { after, doing, common: Vec::new() };
        self.queue(number, seq, self.figures.position, None, act);
    }
}
