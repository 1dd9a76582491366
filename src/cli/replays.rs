//! `replays …`: replays that the running server makes.

use std::time::Duration;

use super::{
    duration,
    exit::{Exit, Failure},
    listing::{self, PAGE},
    output::{self, Format, json, short},
    transport::Transport,
};
use crate::control::pb;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List replays: those that go on, and the last that ended
    #[command(visible_alias = "list")]
    Ls,
    /// Say where a replay stands, or how it went
    Show {
        /// Its id
        replay: String,
    },
    /// Let a replay stand still
    Pause {
        /// Its id
        replay: String,
    },
    /// Let a replay go on
    Resume {
        /// Its id
        replay: String,
    },
    /// Send the next message of one that stands still
    Step {
        /// Its id
        replay: String,
    },
    /// Send the next messages at once
    Burst {
        /// Its id
        replay: String,
        /// How many
        #[arg(value_parser = clap::value_parser!(u64).range(1..))]
        count: u64,
    },
    /// Go on from another place of the recording
    Seek {
        /// Its id
        replay: String,
        /// Since the recording began, such as 90s
        #[arg(value_parser = duration::parse)]
        position: Duration,
    },
    /// Change the speed
    Speed {
        /// Its id
        replay: String,
        /// Factor from 0.001 to 1000; max, or 0, does not wait
        #[arg(value_parser = parse_speed)]
        speed: f64,
    },
    /// End a replay
    Cancel {
        /// Its id
        replay: String,
    },
    /// Print the report of a replay that has ended
    Report {
        /// Its id
        replay: String,
        /// What it is written in
        #[arg(long = "format", value_name = "FORMAT", value_enum, default_value_t = Written::Text)]
        written: Written,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Written {
    Text,
    Json,
    Junit,
    Html,
}

impl From<Written> for pb::ReportFormat {
    fn from(written: Written) -> Self {
        match written {
            Written::Text => Self::Text,
            Written::Json => Self::Json,
            Written::Junit => Self::Junit,
            Written::Html => Self::Html,
        }
    }
}

fn parse_speed(text: &str) -> Result<f64, String> {
    if text == "max" {
        return Ok(0.0);
    }
    text.parse().map_err(|_| "expected a number, or max".to_owned())
}

pub async fn run(command: Command, transport: &Transport, format: Format) -> Result<Exit, Failure> {
    let mut replays = transport.replays();
    let replay = match command {
        Command::Ls => {
            list(transport, format).await?;
            return Ok(Exit::Passed);
        }
        Command::Report { replay, written } => {
            let request =
                pb::GetReplayReportRequest { id: replay, format: pb::ReportFormat::from(written).into() };
            let answer = replays.get_replay_report(request).await?.into_inner();
            match format {
                Format::Text => output::line(answer.report.trim_end())?,
                Format::Json => output::json_line(&json("GetReplayReportResponse", &answer))?,
            }
            return Ok(Exit::Passed);
        }
        Command::Show { replay } => replays.get_replay(pb::GetReplayRequest { id: replay }).await,
        Command::Pause { replay } => replays.pause_replay(pb::PauseReplayRequest { id: replay }).await,
        Command::Resume { replay } => replays.resume_replay(pb::ResumeReplayRequest { id: replay }).await,
        Command::Step { replay } => replays.step_replay(pb::StepReplayRequest { id: replay }).await,
        Command::Burst { replay, count } => {
            replays.burst_replay(pb::BurstReplayRequest { id: replay, count }).await
        }
        Command::Seek { replay, position } => {
            let position = Some(duration::to_proto(position));
            replays.seek_replay(pb::SeekReplayRequest { id: replay, position }).await
        }
        Command::Speed { replay, speed } => {
            replays.set_replay_speed(pb::SetReplaySpeedRequest { id: replay, speed: Some(speed) }).await
        }
        Command::Cancel { replay } => replays.cancel_replay(pb::CancelReplayRequest { id: replay }).await,
    };
    show(&replay?.into_inner(), format)?;
    Ok(Exit::Passed)
}

async fn list(transport: &Transport, format: Format) -> Result<(), Failure> {
    let replays = listing::every(async |page_token| {
        let request = pb::ListReplaysRequest { page_size: PAGE, page_token, ..Default::default() };
        let page = transport.replays().list_replays(request).await?.into_inner();
        Ok((page.replays, page.next_page_token))
    });
    listing::print(
        format,
        ("replays", "no replays"),
        &replays.await?,
        |replay| json("Replay", replay),
        ["ID", "RECORDING", "STATE", "SENT", "AT", "SPEED", "CREATED"],
        |replay| {
            let progress = replay.progress.unwrap_or_default();
            vec![
                replay.id.clone(),
                replay.recording_name.clone(),
                state(replay),
                sent(&progress),
                position(&progress),
                speed(&progress),
                output::time(replay.created_at.as_ref()),
            ]
        },
    )
}

fn show(replay: &pb::Replay, format: Format) -> Result<(), Failure> {
    if format == Format::Json {
        return Ok(output::json_line(&json("Replay", replay))?);
    }
    let progress = replay.progress.unwrap_or_default();
    let spec = replay.spec.clone().unwrap_or_default();
    let to = if replay.address.is_empty() { spec.target } else { format!("clients of {}", replay.address) };
    let rows = [
        ("id", replay.id.clone()),
        ("recording", replay.recording_name.clone()),
        ("to", to),
        ("state", state(replay)),
        ("sent", sent(&progress)),
        ("at", position(&progress)),
        ("speed", speed(&progress)),
        ("created", output::time(replay.created_at.as_ref())),
        ("error", replay.error.clone()),
    ];
    let told = rows.into_iter().filter(|(_, value)| !value.is_empty());
    let rows: Vec<_> = told.map(|(name, value)| vec![name.to_owned(), value]).collect();
    Ok(output::line(output::table(&rows))?)
}

/// `running`, `paused`, `completed: passed`
fn state(replay: &pb::Replay) -> String {
    let state = short(replay.state().as_str_name(), "REPLAY_STATE_");
    match replay.verdict() {
        pb::ReplayVerdict::Unspecified if replay.progress.is_some_and(|progress| progress.paused) => {
            "paused".to_owned()
        }
        pb::ReplayVerdict::Unspecified => state,
        verdict => format!("{state}: {}", short(verdict.as_str_name(), "REPLAY_VERDICT_")),
    }
}

fn sent(progress: &pb::ReplayProgress) -> String {
    match progress.total {
        Some(total) => format!("{} of {total}", progress.sent),
        None => progress.sent.to_string(),
    }
}

fn position(progress: &pb::ReplayProgress) -> String {
    duration::show(duration::from_proto(progress.position.as_ref()))
}

fn speed(progress: &pb::ReplayProgress) -> String {
    if progress.speed == 0.0 { "max".to_owned() } else { progress.speed.to_string() }
}
