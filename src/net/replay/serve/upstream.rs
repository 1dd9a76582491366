//! The target's part: what no recorded client did goes there, and what it answers comes back.

use std::{future::Future, pin::Pin, time::Duration};

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use crate::{
    net::{Client, ClientError, ClientOptions, Publisher},
    packet::{Ack, ControlPacket, Properties, Property, Publish, QoS, ReasonCode, Suback, Unsuback},
};

/// Packets that wait for the target, of one client.
const ASKED_MAX: usize = 100;
/// Answers, and messages, that wait for the client: the target waits meanwhile.
const ANSWERS_MAX: usize = 64;
/// How long the target may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a target that could not be reached is left alone.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// A client's connection to the target, made when there is something to ask.
pub struct Upstream {
    asked: mpsc::Sender<ControlPacket>,
    answers: mpsc::Receiver<Answered>,
    /// Apart from the answers, which a client that takes no messages right now still needs.
    messages: mpsc::Receiver<Box<Publish>>,
}

/// What comes from the target.
pub enum Answered {
    /// With the client's own Packet Identifier.
    Packet(ControlPacket),
    Message(Box<Publish>),
    /// The connection to it has ended.
    Lost(ClientError),
    /// A packet was not answered.
    Failed(Box<Failed>),
}

/// A client's packet, and why the target did not answer it.
pub struct Failed {
    pub packet: ControlPacket,
    pub error: NotAsked,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum NotAsked {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the target did not answer within {} s", ANSWER_TIMEOUT.as_secs())]
    Silent,
    #[error("nobody asks it any more")]
    Closed,
}

impl NotAsked {
    /// Whether there is no connection at all.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Client(ClientError::Unreachable { .. } | ClientError::Refused { .. }))
    }
}

type Answering = Pin<Box<dyn Future<Output = Answered> + Send>>;

impl Upstream {
    pub fn new(options: ClientOptions) -> Self {
        let (asked, to_ask) = mpsc::channel(ASKED_MAX);
        let (answer, answers) = mpsc::channel(ANSWERS_MAX);
        let (message, messages) = mpsc::channel(ANSWERS_MAX);
        let asking = Asking { options, answer, message, running: FuturesUnordered::new(), failed: None };
        tokio::spawn(asking.run(to_ask));
        Self { asked, answers, messages }
    }

    /// Passes `packet` on; its answer comes later. There has to be [room](Self::has_room).
    ///
    /// # Errors
    /// When nobody asks any more; the packet comes back.
    pub fn ask(&self, packet: ControlPacket) -> Result<(), Box<Failed>> {
        self.asked.try_send(packet).map_err(|error| {
            let packet = error.into_inner();
            Box::new(Failed { packet, error: NotAsked::Closed })
        })
    }

    /// Whether another packet may wait.
    pub fn has_room(&self) -> bool {
        self.asked.is_closed() || self.asked.capacity() > 0
    }

    /// What comes next, messages only if it `takes_messages`; `None` once there is room, if it `wants_room`. Can be given up
    /// at any time.
    pub async fn next(&mut self, takes_messages: bool, wants_room: bool) -> Option<Answered> {
        tokio::select! {
            biased;
            Some(answered) = self.answers.recv() => Some(answered),
            Some(message) = self.messages.recv(), if takes_messages => Some(Answered::Message(message)),
            _ = self.asked.reserve(), if wants_room => None,
            else => std::future::pending().await,
        }
    }
}

struct Asking {
    options: ClientOptions,
    answer: mpsc::Sender<Answered>,
    message: mpsc::Sender<Box<Publish>>,
    running: FuturesUnordered<Answering>,
    /// Why there was no connection, and when.
    failed: Option<(ClientError, Instant)>,
}

impl Asking {
    async fn run(mut self, mut to_ask: mpsc::Receiver<ControlPacket>) {
        let mut client = None;
        loop {
            let answered = tokio::select! {
                packet = to_ask.recv(), if self.running.len() < ASKED_MAX => {
                    let Some(packet) = packet else { break };
                    self.ask(&mut client, packet).await
                }
                Some(answered) = self.running.next(), if !self.running.is_empty() => Some(answered),
                passed = pass_message(client.as_mut(), &self.message) => match passed {
                    Ok(()) => None,
                    Err(error) => {
                        // What was asked over it is told to have failed; what comes next connects anew.
                        client = None;
                        Some(Answered::Lost(error))
                    }
                },
            };
            if let Some(answered) = answered
                && self.answer.send(answered).await.is_err()
            {
                break;
            }
        }
        if let Some(client) = client {
            let _ = client.disconnect(ReasonCode::SUCCESS).await;
        }
    }

    /// Passes `packet` on, in its order, and waits for the answer beside; answers at once if that fails.
    async fn ask(&mut self, client: &mut Option<Client>, packet: ControlPacket) -> Option<Answered> {
        let publisher = match self.connected(client).await {
            Ok(publisher) => publisher,
            Err(error) => return Some(failed(packet, error.into())),
        };
        let mut answering: Answering = match packet {
            ControlPacket::Publish(publish) => {
                let sent = timeout(ANSWER_TIMEOUT, publisher.publish(passed(&publish))).await;
                let receipt = match sent {
                    Ok(Ok(receipt)) => receipt,
                    Ok(Err(error)) => return Some(failed(ControlPacket::Publish(publish), error.into())),
                    Err(_) => return Some(failed(ControlPacket::Publish(publish), NotAsked::Silent)),
                };
                if publish.qos == QoS::AtMostOnce {
                    return None;
                }
                Box::pin(async move {
                    let acked = within(receipt.acked()).await;
                    let packet = ControlPacket::Publish(publish.clone());
                    answered(packet, acked.map(|reason_code| acknowledgement(&publish, reason_code)))
                })
            }
            ControlPacket::Subscribe(subscribe) => Box::pin(async move {
                let (subscriptions, properties) =
                    (subscribe.subscriptions.clone(), subscribe.properties.clone());
                let answer = within(publisher.subscribe(subscriptions, properties)).await;
                let packet_identifier = subscribe.packet_identifier;
                let suback = answer.map(|suback| Suback { packet_identifier, ..suback });
                answered(ControlPacket::Subscribe(subscribe), suback.map(ControlPacket::Suback))
            }),
            ControlPacket::Unsubscribe(unsubscribe) => Box::pin(async move {
                let answer = within(publisher.unsubscribe(unsubscribe.filters.clone())).await;
                let packet_identifier = unsubscribe.packet_identifier;
                let unsuback = answer.map(|unsuback| Unsuback { packet_identifier, ..unsuback });
                answered(ControlPacket::Unsubscribe(unsubscribe), unsuback.map(ControlPacket::Unsuback))
            }),
            _ => return None,
        };
        // A first look sends it, before what is asked next.
        match (&mut answering).now_or_never() {
            Some(answered) => Some(answered),
            None => {
                self.running.push(answering);
                None
            }
        }
    }

    async fn connected(&mut self, client: &mut Option<Client>) -> Result<Publisher, ClientError> {
        if let Some(client) = client {
            return Ok(client.publisher());
        }
        if let Some((error, at)) = &self.failed
            && at.elapsed() < RETRY_AFTER
        {
            return Err(error.clone());
        }
        match Client::connect(self.options.clone()).await {
            Ok(connected) => Ok(client.insert(connected).publisher()),
            Err(error) => {
                self.failed = Some((error.clone(), Instant::now()));
                Err(error)
            }
        }
    }
}

/// Passes the next message on once there is room for it.
async fn pass_message(
    client: Option<&mut Client>,
    messages: &mpsc::Sender<Box<Publish>>,
) -> Result<(), ClientError> {
    match (client, messages.reserve().await) {
        (Some(client), Ok(room)) => {
            room.send(Box::new(client.next_message().await?));
            Ok(())
        }
        // Where nobody takes it, nobody asks any more either.
        (None, _) | (_, Err(_)) => std::future::pending().await,
    }
}

async fn within<T>(answer: impl Future<Output = Result<T, ClientError>>) -> Result<T, NotAsked> {
    match timeout(ANSWER_TIMEOUT, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(NotAsked::Silent),
    }
}

fn answered(packet: ControlPacket, answer: Result<ControlPacket, NotAsked>) -> Answered {
    match answer {
        Ok(answer) => Answered::Packet(answer),
        Err(error) => failed(packet, error),
    }
}

fn failed(packet: ControlPacket, error: NotAsked) -> Answered {
    Answered::Failed(Box::new(Failed { packet, error }))
}

/// `publish` for another connection: an alias means nothing there.
fn passed(publish: &Publish) -> Publish {
    let mut publish = Publish { dup: false, ..publish.clone() };
    publish.properties.retain(|property| !matches!(property, Property::TopicAlias(_)));
    publish
}

/// The first answer to `publish` of QoS 1 or 2, with what the target said in the end.
pub fn acknowledgement(publish: &Publish, reason_code: ReasonCode) -> ControlPacket {
    let packet_identifier = publish.packet_identifier.expect("a message of QoS 1 or 2 has one");
    let ack = Ack { packet_identifier, reason_code, properties: Properties::new() };
    match publish.qos {
        QoS::ExactlyOnce => ControlPacket::Pubrec(ack),
        QoS::AtMostOnce | QoS::AtLeastOnce => ControlPacket::Puback(ack),
    }
}
