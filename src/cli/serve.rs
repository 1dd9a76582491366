//! `serve`: a broker or a proxy until it is told to end.

use std::{path::Path, time::Duration};

use tonic::{Code, Status};
use tracing::{error, info, warn};

use super::{
    broker::describe,
    duration,
    edits::RedactionArgs,
    exit::{Exit, Failure},
    host::{Host, name_port_flags},
    output::{self, Format, json},
    proxies, record, session_file,
    signal::{HangUp, Signals, UserSignal},
    size,
    target::TrustArgs,
    transfer::say,
    transport::Transport,
};
use crate::{
    config::{Config, Flag, OWN_PROXY},
    control::{Control, ReadAgain, pb},
    fault::settings_rules,
    recorder::Reason,
    recording::{RecordingFormat, RingLimits},
};

#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    /// Serve MQTT
    #[arg(long)]
    mqtt: bool,
    /// Port of the MQTT listener; 0 takes a free one
    #[arg(long, value_name = "PORT")]
    mqtt_port: Option<String>,
    /// Address of the MQTT listener
    #[arg(long, value_name = "HOST")]
    mqtt_host: Option<String>,
    /// Serve MQTT over TLS, too
    #[arg(long)]
    mqtt_tls: bool,
    /// Port of MQTT over TLS; 0 takes a free one
    #[arg(long, value_name = "PORT")]
    mqtt_tls_port: Option<String>,
    /// Serve MQTT over WebSocket, too
    #[arg(long)]
    mqtt_ws: bool,
    /// Port of MQTT over WebSocket; 0 takes a free one
    #[arg(long, value_name = "PORT")]
    mqtt_ws_port: Option<String>,
    /// Be a proxy before this broker: mqtt://host:port, or mqtts://, ws://, wss://
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    #[command(flatten)]
    trust: TrustArgs,
    /// Keep Sessions and retained messages over a restart: none, relaxed or strict
    #[arg(long, value_name = "HOW")]
    durability: Option<String>,
    /// Draw random values from this number, so that they are the same again
    #[arg(long, value_name = "N")]
    seed: Option<String>,
    /// Inject the faults of a recording again, in place of what rules say: its name or id in the store, or a file
    #[arg(long, value_name = "RECORDING")]
    chaos_from: Option<String>,
    /// Record everything under this name until the server ends
    #[arg(long, value_name = "NAME")]
    record: Option<String>,
    /// Keep what passed last in so much memory, such as 64MiB (at least 64KiB), to be written down when asked to: by `recordings snapshot`,
    /// SIGUSR1, or what recorder.ring_triggers says
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    ring: Option<u64>,
    /// How far back that goes at most [default: 10m]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    ring_duration: Option<Duration>,
    #[command(flatten)]
    redaction: RedactionArgs,
    /// Port of the HTTP interface; 0 takes a free one
    #[arg(long, value_name = "PORT")]
    http_port: Option<String>,
    /// Address of the HTTP interface
    #[arg(long, value_name = "HOST")]
    http_host: Option<String>,
    /// Port of the gRPC interface; 0 takes a free one
    #[arg(long, value_name = "PORT")]
    grpc_port: Option<String>,
    /// Address of the gRPC interface
    #[arg(long, value_name = "HOST")]
    grpc_host: Option<String>,
    /// Let others reach HTTP and gRPC without a token
    #[arg(long)]
    insecure_api: bool,
    /// Folder of the recordings
    #[arg(long, value_name = "FOLDER")]
    store: Option<String>,
}

impl ServeArgs {
    /// What the flags say of settings.
    pub fn flags(&self) -> Vec<Flag> {
        let switch = |on: bool| on.then(|| "true".to_owned());
        let said = [
            ("mqtt.enabled", "--mqtt", switch(self.mqtt)),
            ("mqtt.port", "--mqtt-port", self.mqtt_port.clone()),
            ("mqtt.host", "--mqtt-host", self.mqtt_host.clone()),
            ("mqtt.tls.enabled", "--mqtt-tls", switch(self.mqtt_tls)),
            ("mqtt.tls.port", "--mqtt-tls-port", self.mqtt_tls_port.clone()),
            ("mqtt.websocket.enabled", "--mqtt-ws", switch(self.mqtt_ws)),
            ("mqtt.websocket.port", "--mqtt-ws-port", self.mqtt_ws_port.clone()),
            ("mqtt.upstream", "--upstream", self.upstream.clone()),
            ("mqtt.durability", "--durability", self.durability.clone()),
            ("mqtt.seed", "--seed", self.seed.clone()),
            ("recorder.ring_bytes", "--ring", self.ring.map(|size| size.to_string())),
            (
                "recorder.ring_duration_secs",
                "--ring-duration",
                self.ring_duration.map(|duration| duration.as_secs().to_string()),
            ),
            ("http.port", "--http-port", self.http_port.clone()),
            ("http.host", "--http-host", self.http_host.clone()),
            ("grpc.port", "--grpc-port", self.grpc_port.clone()),
            ("grpc.host", "--grpc-host", self.grpc_host.clone()),
            ("insecure_api", "--insecure-api", switch(self.insecure_api)),
            ("store.path", "--store", self.store.clone()),
        ];
        let flag = |(key, name, value): (_, _, Option<String>)| Some(Flag { key, name, value: value? });
        said.into_iter().filter_map(flag).chain(self.trust.flags()).collect()
    }
}

const PORT_FLAGS: &str = "--mqtt-port, --http-port or --grpc-port; 0 takes a free one";

pub async fn run(
    args: ServeArgs,
    config: Config,
    format: Format,
    signals: &Signals,
) -> Result<Exit, Failure> {
    if !config.mqtt.enabled {
        return Err(Failure::usage(
            "there is nothing to serve: add --mqtt, or set mqtt.enabled in mockforge.yaml or \
             MOCKFORGE_MQTT_ENABLED=true",
        ));
    }
    if args.ring_duration.is_some() && config.recorder.ring.is_none() {
        return Err(Failure::usage(
            "--ring-duration is for --ring SIZE, or recorder.ring_bytes: neither is there",
        ));
    }
    let began_with = config.clone();
    let ring = config.recorder.ring.as_ref().map(|ring| ring.limits);
    let started = Host::start(config, async |control: &Control| prepare(control, &args, signals).await).await;
    let (mut host, Prepared { script, recording }) =
        started.map_err(|failure| name_port_flags(failure, PORT_FLAGS))?;
    match format {
        Format::Json => output::json_line(&json("ServerInfo", host.info()))?,
        Format::Text => {
            output::line(describe(host.info()))?;
            for proxy in proxies::every(host.transport()).await?.iter().filter(|proxy| proxy.id != OWN_PROXY)
            {
                output::line(format!(
                    "proxy {}  {} before {}",
                    proxy.id,
                    proxies::place(proxy),
                    proxy.upstream
                ))?;
            }
            let rules = chaos_rules(&began_with);
            if began_with.mqtt.chaos.enabled && rules > 0 && script.is_none() {
                output::line(format!("chaos is on, with {}", output::count(rules, "rule")))?;
            }
            if let Some((faults, name)) = &script {
                output::line(format!("injecting the {} of {name} again", output::count(*faults, "fault")))?;
            }
            if let Some(recording) = &recording {
                output::line(format!("recording {}", recording.name))?;
            }
            if let Some(RingLimits { bytes, duration }) = ring {
                let (size, duration) = (output::bytes(bytes as u64), duration::show(duration));
                output::line(format!("keeping the last {duration}, up to {size}, for snapshots"))?;
            }
        }
    }
    let refused = |error| Failure::new(Exit::Failed, error);
    let mut hang_up = HangUp::new().map_err(refused)?;
    let mut user_signal = UserSignal::new().map_err(refused)?;
    loop {
        tokio::select! {
            () = signals.asked() => break,
            // Somebody asked for it over the API, or it failed.
            () = host.ended() => break,
            () = user_signal.recv() => drop(tokio::spawn(snapshot(host.control().clone()))),
            () = hang_up.recv() => {
                read_settings_again(host.control()).await;
                reload_certificates(host.control()).await;
            }
        }
    }
    // Traffic first, so that the recording holds all of it.
    host.stop_traffic().await;
    let exit = match recording {
        Some(recording) => finish(&host, recording, format).await,
        None => Ok(Exit::Passed),
    };
    host.stop().await?;
    exit
}

async fn snapshot(control: Control) {
    // What became of it is in the log.
    if let Err(error) = control.snapshot(None, None, Reason::Said("SIGUSR1".to_owned())).await {
        error!(%error, "no snapshot was written");
    }
}

/// What is in force for the first client.
struct Prepared {
    /// How many faults are injected again, and of which recording.
    script: Option<(u64, String)>,
    recording: Option<pb::Recording>,
}

async fn prepare(control: &Control, args: &ServeArgs, signals: &Signals) -> Result<Prepared, Failure> {
    let script = match &args.chaos_from {
        Some(from) => Some((load_script(control, from, signals).await?, from.clone())),
        None => None,
    };
    let redaction = args.redaction.redaction()?;
    match (&redaction, control.has_ring()) {
        (None, _) => {}
        (Some(redaction), true) => {
            let set = control.redact_snapshots(redaction.clone());
            set.map_err(|error| Failure::from(Status::from(error)).context("--redact"))?;
        }
        (Some(_), false) if args.record.is_some() => {}
        (Some(_), false) => {
            return Err(Failure::usage("--redact is for --record and --ring, and neither is there"));
        }
    }
    let recording = match &args.record {
        Some(name) => {
            let request = pb::StartRecordingRequest { name: name.clone(), redaction, ..Default::default() };
            Some(record::start(&Transport::to_server(control), request).await?)
        }
        None => None,
    };
    Ok(Prepared { script, recording })
}

async fn load_script(control: &Control, from: &str, signals: &Signals) -> Result<u64, Failure> {
    let loaded = match RecordingFormat::of_path(Path::new(from)).is_some() {
        true => control.load_script(session_file::open(Path::new(from), None, signals).await?).await,
        false => control.load_stored_script(from).await,
    };
    loaded.map_err(|error| Failure::from(Status::from(error)).context(format!("--chaos-from {from}")))
}

async fn reload_certificates(control: &Control) {
    match control.reload_certificates().await {
        Ok(0) => {}
        Ok(endpoints) => info!(endpoints, "the certificates were read again"),
        Err(error) => error!(%error, "the certificates were read again, and are refused: the old ones stay"),
    }
}

/// Settings that are not good change nothing, and those of a file that is gone neither.
async fn read_settings_again(control: &Control) {
    match control.read_settings_again().await {
        Ok(ReadAgain { config, at_next_start }) => {
            let (mocks, webhooks) = (config.mqtt.mocks.len(), config.mqtt.webhooks.len());
            let rules = chaos_rules(&config);
            let file = config.file.as_deref().unwrap_or(Path::new("-")).display();
            info!(%file, mocks, webhooks, rules, "the settings were read again");
            for key in at_next_start {
                warn!(key, "has changed; that takes effect at the next start");
            }
        }
        Err(error) => error!("the settings were read again, and are refused: {error}"),
    }
}

/// Rules of chaos that the settings have, those that keys are short for included.
fn chaos_rules(config: &Config) -> u64 {
    settings_rules(&config.mqtt.chaos).map_or(0, |rules| rules.len() as u64)
}

async fn finish(host: &Host, recording: pb::Recording, format: Format) -> Result<Exit, Failure> {
    let request = pb::GetRecordingRequest { id: recording.id.clone() };
    let there = host.transport().recordings().get_recording(request).await;
    if there.is_err_and(|status| status.code() == Code::NotFound) {
        info!(name = %recording.name, "the recording was ended and deleted while the server ran");
        return Ok(Exit::Passed);
    }
    let recording = record::stop(host.transport(), recording.id).await?;
    say(&recording.notes);
    if format == Format::Text {
        output::line(record::describe(&recording))?;
    }
    Ok(if recording.state() == pb::RecordingState::Failed { Exit::Damaged } else { Exit::Passed })
}
