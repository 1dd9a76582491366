//! What a replay is told while it runs: by an rpc each, or by commands both ways over one stream.

use std::{sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt, stream};

use super::{
    Control, ControlError, ControlStream,
    fields::Fields,
    pb::{self, control_replay_request::Command as Asked, control_replay_response::Event as Told},
    replays::{Running, Watching, checked_speed},
};
use crate::net::replay::Command;

impl Control {
    pub async fn pause_replay(&self, request: pb::PauseReplayRequest) -> Result<pb::Replay, ControlError> {
        self.tell_replay(&request.id, Asked::Pause(())).await
    }

    pub async fn resume_replay(&self, request: pb::ResumeReplayRequest) -> Result<pb::Replay, ControlError> {
        self.tell_replay(&request.id, Asked::Resume(())).await
    }

    pub async fn step_replay(&self, request: pb::StepReplayRequest) -> Result<pb::Replay, ControlError> {
        self.tell_replay(&request.id, Asked::Step(())).await
    }

    pub async fn burst_replay(&self, request: pb::BurstReplayRequest) -> Result<pb::Replay, ControlError> {
        self.tell_replay(&request.id, Asked::Burst(request.count)).await
    }

    pub async fn seek_replay(&self, request: pb::SeekReplayRequest) -> Result<pb::Replay, ControlError> {
        let position = request.position.ok_or_else(|| ControlError::bad_field("position", "is required"))?;
        self.tell_replay(&request.id, Asked::Seek(position)).await
    }

    pub async fn set_replay_speed(
        &self,
        request: pb::SetReplaySpeedRequest,
    ) -> Result<pb::Replay, ControlError> {
        let speed = request.speed.ok_or_else(|| ControlError::bad_field("speed", "is required"))?;
        self.tell_replay(&request.id, Asked::SetSpeed(speed)).await
    }

    async fn tell_replay(&self, id: &str, asked: Asked) -> Result<pb::Replay, ControlError> {
        let replay = self.inner.replays.find(id)?;
        replay.tell(asked).await?;
        Ok(replay.shown())
    }

    pub async fn control_replay<E: Send + 'static>(
        &self,
        requests: impl Stream<Item = Result<pb::ControlReplayRequest, E>> + Send + Unpin + 'static,
    ) -> Result<ControlStream<pb::ControlReplayResponse>, ControlError> {
        // Who breaks off has no more to say.
        let mut requests = requests
            .take_while(|request| std::future::ready(request.is_ok()))
            .filter_map(|request| std::future::ready(request.ok()));
        let first = requests.next().await;
        let first = first.ok_or_else(|| ControlError::bad_field("command", "is required"))?;
        let replay = match first.command {
            Some(Asked::Attach(id)) => self.inner.replays.find(&id)?,
            Some(Asked::Create(spec)) => {
                let created = self.create_replay(pb::CreateReplayRequest { spec: Some(spec) }).await?;
                self.inner.replays.find(&created.id)?
            }
            _ => return Err(ControlError::bad_field("command", "is attach or create, first of all")),
        };
        let steering = Steering {
            watching: Watching::new(replay),
            requests: Some(Box::pin(requests)),
            greeting: Some(acknowledged(first.command_id)),
        };
        // Not `until_stopped`: a replay that the stop cancels is told to its end.
        Ok(Box::pin(stream::unfold(Some(steering), |steering| async move {
            let mut steering = steering?;
            let event = steering.next().await;
            let is_last = matches!(event, Told::Ended(_));
            Some((Ok(pb::ControlReplayResponse { event: Some(event) }), (!is_last).then_some(steering)))
        })))
    }
}

/// One who drives a replay.
struct Steering {
    watching: Watching,
    /// `None` once there are no more.
    requests: Option<std::pin::Pin<Box<dyn Stream<Item = pb::ControlReplayRequest> + Send>>>,
    greeting: Option<Told>,
}

impl Steering {
    /// What happens next. A command is read when what came before was taken: who does not listen is not listened to.
    async fn next(&mut self) -> Told {
        if let Some(greeting) = self.greeting.take() {
            return greeting;
        }
        let replay = self.watching.replay.clone();
        loop {
            let requests = &mut self.requests;
            let asked = async {
                match requests {
                    Some(requests) => requests.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                asked = asked => match asked {
                    Some(request) => return answer(&replay, request).await,
                    None => self.requests = None,
                },
                (shown, is_last) = self.watching.next() => {
                    return if is_last { Told::Ended(shown) } else { Told::Changed(shown) };
                }
            }
        }
    }
}

fn acknowledged(command_id: u64) -> Told {
    Told::Acknowledged(pb::ReplayCommandAcknowledged { command_id })
}

async fn answer(replay: &Arc<Running>, request: pb::ControlReplayRequest) -> Told {
    let told = match request.command {
        Some(asked) => replay.tell(asked).await,
        None => Err(ControlError::bad_field("command", "is required")),
    };
    match told {
        Ok(()) => acknowledged(request.command_id),
        Err(error) => Told::Refused(pb::ReplayCommandRefused {
            command_id: request.command_id,
            code: error.code() as i32,
            reason: error.reason().to_owned(),
            message: error.to_string(),
        }),
    }
}

impl Running {
    /// Has it do as asked, or says why not.
    async fn tell(&self, asked: Asked) -> Result<(), ControlError> {
        if self.has_ended() {
            return Err(ControlError::ReplayEnded { id: self.id.clone() });
        }
        let command = match asked {
            Asked::Pause(()) => Command::Pause,
            Asked::Resume(()) => Command::Resume,
            Asked::Step(()) => Command::Burst(1),
            Asked::Burst(0) => return Err(ControlError::bad_field("count", "is at least 1")),
            Asked::Burst(count) => Command::Burst(count),
            Asked::Seek(position) => Command::Seek(self.checked_place(&position).await?),
            Asked::SetSpeed(speed) => {
                let mut fields = Fields::new();
                let speed = checked_speed(&mut fields, "speed", Some(speed));
                fields.finish()?;
                Command::SetSpeed(speed)
            }
            Asked::Cancel(()) => {
                self.handle.cancel();
                return Ok(());
            }
            Asked::Attach(_) | Asked::Create(_) => {
                return Err(ControlError::bad_field("command", "attach and create come first, and once"));
            }
        };
        // Under the lock, so that what is said last is what is shown.
        let mut course = self.course();
        match command {
            Command::Pause => course.is_paused = true,
            Command::Resume => course.is_paused = false,
            Command::SetSpeed(speed) => course.speed = speed,
            Command::Burst(_) | Command::Seek(_) => {}
        }
        self.handle.command(command);
        Ok(())
    }

    /// A place in the recording, which may have to be read first.
    async fn checked_place(&self, position: &prost_types::Duration) -> Result<Duration, ControlError> {
        if self.spec.mode() == pb::ReplayMode::Server {
            return Err(ControlError::WrongMode(
                "a replay as the server goes where its clients go: it cannot seek",
            ));
        }
        if self.spec.verify.is_some() {
            return Err(ControlError::WrongMode(
                "a replay that is verified cannot seek: what is left out could not come",
            ));
        }
        let mut fields = Fields::new();
        let place = fields.duration("position", Some(position));
        fields.finish()?;
        let place = place.unwrap_or_default();
        let mut progress = self.handle.progress();
        // Its thread has ended where it cannot be waited for.
        let read = progress.wait_for(|progress| progress.end.is_some()).await;
        let end = read.ok().and_then(|progress| progress.end);
        match end {
            None => Err(ControlError::ReplayEnded { id: self.id.clone() }),
            Some(end) if place > end => Err(ControlError::bad_field(
                "position",
                format_args!("is behind the end of what is played, at {end:?}"),
            )),
            Some(_) => Ok(place),
        }
    }
}
