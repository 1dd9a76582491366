//! `log`: what goes into the log of a running server.

use super::{
    exit::{Exit, Failure},
    output::{self, Format, json},
    transport::Transport,
};
use crate::control::pb;

#[derive(Debug, clap::Args)]
pub struct LogArgs {
    /// What goes into the log from now on, such as debug or info,mockforge::net=trace; an empty text is what the settings say
    /// [default: says what does now]
    filter: Option<String>,
}

pub async fn run(args: LogArgs, transport: &Transport, format: Format) -> Result<Exit, Failure> {
    let mut admin = transport.admin();
    let answer = match args.filter {
        Some(filter) => admin.set_log_filter(pb::SetLogFilterRequest { filter }).await?,
        None => admin.get_log_filter(pb::GetLogFilterRequest {}).await?,
    };
    let answer = answer.into_inner();
    match format {
        Format::Text => output::line(&answer.filter)?,
        Format::Json => output::json_line(&json("LogFilter", &answer))?,
    }
    Ok(Exit::Passed)
}
