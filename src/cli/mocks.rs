//! `mocks ls | show | add | rm | enable | disable | fire | reset | unmatched`, and `state ls | get | set | rm | reset`.

use std::{io::Read, path::PathBuf};

use super::{
    exit::{Exit, Failure},
    listing::{self, PAGE},
    output::{self, Format, json, short},
    transport::Transport,
};
use crate::{
    config::{ConfigError, read_mocks},
    control::{mock_message, pb},
};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List mocks in the order they were made
    #[command(visible_alias = "list")]
    Ls,
    /// Say what a mock is, and what became of it
    Show {
        /// Its id
        mock: String,
    },
    /// Add the mocks of a YAML file: a list of them, one alone, or a mockforge.yaml
    Add {
        /// The file; `-` reads standard input
        file: PathBuf,
        /// Put them in the place of mocks that have their ids
        #[arg(long)]
        replace: bool,
    },
    /// Remove mocks
    Rm {
        /// Their ids
        #[arg(required = true)]
        mocks: Vec<String>,
    },
    /// Switch mocks on
    Enable {
        /// Their ids
        #[arg(required = true)]
        mocks: Vec<String>,
    },
    /// Switch mocks off
    Disable {
        /// Their ids
        #[arg(required = true)]
        mocks: Vec<String>,
    },
    /// Fire a mock as if a message had come
    Fire {
        /// Its id
        mock: String,
        /// Topic of the message; without one, the mock's own
        #[arg(long)]
        topic: Option<String>,
        /// Payload of the message
        #[arg(long, default_value = "")]
        payload: String,
        /// Client identifier of the message
        #[arg(long, value_name = "ID", default_value = "")]
        client: String,
    },
    /// Put the mocks of the settings in the place of all there are, as they were at the start
    Reset,
    /// List the last messages that no mock matched, and which came nearest
    Unmatched {
        /// Only those on topics that match this filter
        #[arg(long, value_name = "FILTER", default_value = "")]
        topic: String,
    },
}

#[derive(Debug, clap::Subcommand)]
pub enum StateCommand {
    /// List values by scope, then by key
    #[command(visible_alias = "list")]
    Ls {
        /// Only of this scope: `global`, or `client:` and a client identifier
        #[arg(long, default_value = "")]
        scope: String,
    },
    /// Print a value
    Get {
        key: String,
        /// `global`, or `client:` and a client identifier
        #[arg(long, default_value = "global")]
        scope: String,
    },
    /// Write a value
    Set {
        key: String,
        /// JSON, or else a text
        #[arg(allow_hyphen_values = true)]
        value: String,
        /// `global`, or `client:` and a client identifier
        #[arg(long, default_value = "global")]
        scope: String,
    },
    /// Remove a value
    Rm {
        key: String,
        /// `global`, or `client:` and a client identifier
        #[arg(long, default_value = "global")]
        scope: String,
    },
    /// Remove all values, counters and walks
    Reset,
}

pub async fn run(command: Command, transport: &Transport, format: Format) -> Result<Exit, Failure> {
    match command {
        Command::Ls => list(&every(transport).await?, format)?,
        Command::Show { mock } => show(transport, mock, format).await?,
        Command::Add { file, replace } => add(transport, file, replace, format).await?,
        Command::Rm { mocks } => {
            for id in mocks {
                transport.mocks().delete_mock(pb::DeleteMockRequest { id: id.clone() }).await?;
                said(format, &format!("removed {id}"))?;
            }
        }
        Command::Enable { mocks } => switch(transport, mocks, true, format).await?,
        Command::Disable { mocks } => switch(transport, mocks, false, format).await?,
        Command::Fire { mock, topic, payload, client } => {
            let request = pb::FireMockRequest {
                id: mock,
                topic: topic.unwrap_or_default(),
                payload: payload.into(),
                client_id: client,
                properties: None,
            };
            let answer = transport.mocks().fire_mock(request).await?.into_inner();
            match format {
                Format::Json => output::json_line(&json("FireMockResponse", &answer))?,
                Format::Text => {
                    output::line(format!("{} scheduled", output::count(answer.scheduled, "message")))?
                }
            }
        }
        Command::Reset => {
            transport.mocks().reset_mocks(pb::ResetMocksRequest {}).await?;
            list(&every(transport).await?, format)?;
        }
        Command::Unmatched { topic } => unmatched(transport, topic, format).await?,
    }
    Ok(Exit::Passed)
}

pub async fn run_state(
    command: StateCommand,
    transport: &Transport,
    format: Format,
) -> Result<Exit, Failure> {
    let mut state = transport.state();
    match command {
        StateCommand::Ls { scope } => list_state(transport, scope, format).await?,
        StateCommand::Get { key, scope } => {
            let entry = state.get_state(pb::GetStateRequest { scope, key }).await?.into_inner();
            match format {
                Format::Json => output::json_line(&json("StateEntry", &entry))?,
                Format::Text => output::line(String::from_utf8_lossy(&entry.value))?,
            }
        }
        StateCommand::Set { key, value, scope } => {
            let request = pb::SetStateRequest { scope, key, value: value.into() };
            let entry = state.set_state(request).await?.into_inner();
            if format == Format::Json {
                output::json_line(&json("StateEntry", &entry))?;
            }
        }
        StateCommand::Rm { key, scope } => {
            state.delete_state(pb::DeleteStateRequest { scope, key }).await?;
        }
        StateCommand::Reset => {
            state.reset_state(pb::ResetStateRequest {}).await?;
        }
    }
    Ok(Exit::Passed)
}

/// Tells people what was done; programs see it by the exit code.
pub fn said(format: Format, text: &str) -> std::io::Result<()> {
    if format == Format::Text { output::line(text) } else { Ok(()) }
}

async fn every(transport: &Transport) -> Result<Vec<pb::Mock>, Failure> {
    listing::every(async |page_token| {
        let request = pb::ListMocksRequest { page_size: PAGE, page_token, enabled: None };
        let page = transport.mocks().list_mocks(request).await?.into_inner();
        Ok((page.mocks, page.next_page_token))
    })
    .await
}

fn list(mocks: &[pb::Mock], format: Format) -> Result<(), Failure> {
    let heading = ["ID", "ON", "TOPIC", "FIRED", "SENT", "FAILED", "LAST"];
    listing::print(format, ("mocks", "no mocks"), mocks, |mock| json("Mock", mock), heading, row)
}

fn row(mock: &pb::Mock) -> Vec<String> {
    let trigger = short(mock.on().as_str_name(), "MOCK_TRIGGER_");
    vec![
        mock.id.clone(),
        if mock.enabled() { trigger } else { format!("{trigger} (off)") },
        if mock.topic.is_empty() { "-".to_owned() } else { mock.topic.clone() },
        mock.fired.to_string(),
        mock.sent.to_string(),
        mock.failed.to_string(),
        output::time(mock.last_fired_at.as_ref()),
    ]
}

async fn show(transport: &Transport, id: String, format: Format) -> Result<(), Failure> {
    let mock = transport.mocks().get_mock(pb::GetMockRequest { id }).await?.into_inner();
    let text = json("Mock", &mock);
    match format {
        Format::Json => output::json_line(&text)?,
        Format::Text => {
            list(std::slice::from_ref(&mock), format)?;
            if !mock.last_error.is_empty() {
                output::line(format!("last error: {}", mock.last_error))?;
            }
            let value: serde_json::Value = serde_json::from_str(text.get()).map_err(anyhow::Error::from)?;
            output::line(serde_json::to_string_pretty(&value).map_err(anyhow::Error::from)?)?;
        }
    }
    Ok(())
}

async fn add(transport: &Transport, file: PathBuf, replace: bool, format: Format) -> Result<(), Failure> {
    let (name, text) = read_text(file)?;
    let specs = read_mocks(&name, &text)?;
    if !replace {
        let there = every(transport).await?;
        if let Some(taken) = specs.iter().find(|spec| there.iter().any(|mock| mock.id == spec.id)) {
            return Err(Failure::usage(format!(
                "a mock {:?} exists already; --replace puts another in its place",
                taken.id
            )));
        }
    }
    let mut added = Vec::new();
    for spec in specs {
        let mock = mock_message(spec);
        let id = mock.id.clone();
        let created = transport.mocks().create_mock(pb::CreateMockRequest { mock: Some(mock.clone()) }).await;
        let answer = match created {
            Err(status) if replace && status.code() == tonic::Code::AlreadyExists => {
                let request = pb::UpdateMockRequest { id, mock: Some(mock), update_mask: None };
                transport.mocks().update_mock(request).await?
            }
            created => created?,
        };
        added.push(answer.into_inner());
    }
    if format == Format::Text && added.is_empty() {
        return Err(Failure::usage(format!("{name} has no mocks")));
    }
    list(&added, format)
}

/// What errors call the file, and what it says; `-` is standard input.
pub fn read_text(file: PathBuf) -> Result<(String, String), Failure> {
    if file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        return Ok(("standard input".to_owned(), text));
    }
    match std::fs::read_to_string(&file) {
        Ok(text) => Ok((file.display().to_string(), text)),
        Err(error) => Err(ConfigError::Unreadable { path: file, error }.into()),
    }
}

async fn switch(
    transport: &Transport,
    ids: Vec<String>,
    enabled: bool,
    format: Format,
) -> Result<(), Failure> {
    for id in ids {
        let mock = Some(pb::Mock { enabled: Some(enabled), ..Default::default() });
        let update_mask = Some(prost_types::FieldMask { paths: vec!["enabled".to_owned()] });
        transport.mocks().update_mock(pb::UpdateMockRequest { id: id.clone(), mock, update_mask }).await?;
        said(format, &format!("{id} is {}", if enabled { "on" } else { "off" }))?;
    }
    Ok(())
}

async fn unmatched(transport: &Transport, topic: String, format: Format) -> Result<(), Failure> {
    let messages = listing::every(async |page_token| {
        let request = pb::ListUnmatchedRequest { topic: topic.clone(), page_size: PAGE, page_token };
        let page = transport.mocks().list_unmatched(request).await?.into_inner();
        Ok((page.messages, page.next_page_token))
    });
    let heading = ["LAST", "COUNT", "TOPIC", "CLIENT", "NEAREST", "DIFFERENCE"];
    let shown = |message: &pb::UnmatchedMessage| json("UnmatchedMessage", message);
    let none = "every message matched a mock";
    listing::print(format, ("messages", none), &messages.await?, shown, heading, |message| {
        vec![
            output::time(message.at.as_ref()),
            message.count.to_string(),
            message.topic.clone(),
            message.client_id.clone(),
            if message.nearest.is_empty() { "-".to_owned() } else { message.nearest.clone() },
            message.difference.clone(),
        ]
    })
}

async fn list_state(transport: &Transport, scope: String, format: Format) -> Result<(), Failure> {
    let entries = listing::every(async |page_token| {
        let request = pb::ListStateRequest { scope: scope.clone(), page_size: PAGE, page_token };
        let page = transport.state().list_state(request).await?.into_inner();
        Ok((page.entries, page.next_page_token))
    });
    let entries = entries.await?;
    let heading = ["SCOPE", "KEY", "VALUE"];
    let shown = |entry: &pb::StateEntry| json("StateEntry", entry);
    listing::print(format, ("entries", "no state"), &entries, shown, heading, |entry| {
        vec![entry.scope.clone(), entry.key.clone(), String::from_utf8_lossy(&entry.value).into_owned()]
    })
}
