//! The command line: builds requests from arguments and prints answers. It decides nothing.

mod broker;
mod cassette;
mod certs;
mod chaos;
mod child;
mod compare;
mod config;
mod duration;
mod edits;
mod event_filter;
mod events;
mod exit;
mod file;
mod host;
mod init;
mod input;
mod keys;
mod listing;
mod log;
mod manual;
mod messages;
mod mocks;
mod output;
mod passwd;
mod place;
mod progress;
mod proxies;
mod record;
mod recordings;
mod replay;
mod replays;
mod report;
mod scenario;
mod serve;
mod session_file;
mod signal;
mod size;
mod summary;
mod target;
mod transfer;
mod transport;
mod webhooks;

use std::path::PathBuf;

pub use self::exit::{Exit, Failure};
use self::{output::Format, place::Place, signal::Signals, transport::Transport};
use crate::{
    config::{Config, ConfigFile, Flag, Sources},
    control::pb::{self, ServerInfo},
};

/// Tests MQTT systems with real traffic: a test broker, a recording proxy and a replayer
#[derive(Debug, clap::Parser)]
#[command(name = "mockforge", version, propagate_version = true)]
pub struct Arguments {
    /// What is printed: text for people, json for programs
    #[arg(short = 'o', long = "output-format", value_name = "FORMAT", global = true, default_value = "text", value_parser = output::parse_format, help_heading = GLOBAL)]
    format: Format,
    /// The settings file [default: mockforge.yaml here or in one of five parent folders]
    #[arg(long, value_name = "FILE", global = true, help_heading = GLOBAL)]
    config: Option<PathBuf>,
    /// The running server to talk to, host:port of its gRPC or HTTP interface, with https:// before it where that is behind
    /// TLS [default: what the settings say]
    #[arg(long, value_name = "ADDR", global = true, help_heading = GLOBAL)]
    server: Option<String>,
    /// The token to send to it; others on this machine can read it here, MOCKFORGE_CLIENT_TOKEN they can't
    #[arg(long, value_name = "TOKEN", global = true, help_heading = GLOBAL)]
    token: Option<String>,
    /// The CA of its certificate, a PEM file [default: whom the system trusts]
    #[arg(long, value_name = "FILE", global = true, help_heading = GLOBAL)]
    server_cacert: Option<PathBuf>,
    /// The certificate to show to it, a PEM file
    #[arg(long, value_name = "FILE", global = true, help_heading = GLOBAL)]
    server_cert: Option<PathBuf>,
    /// The certificate's key, a PEM file
    #[arg(long, value_name = "FILE", global = true, help_heading = GLOBAL)]
    server_key: Option<PathBuf>,
    /// Believe any server, whatever its certificate: whoever is in between can read and change everything
    #[arg(long, global = true, help_heading = GLOBAL)]
    server_insecure: bool,
    /// Log level or filter, such as debug or info,mockforge::net=trace
    #[arg(long, value_name = "FILTER", global = true, help_heading = GLOBAL)]
    log: Option<String>,
    /// How its lines look: text for people, json for programs
    #[arg(long, value_name = "FORMAT", global = true, help_heading = GLOBAL)]
    log_format: Option<String>,
    /// Log more; twice, everything
    #[arg(short, long, action = clap::ArgAction::Count, global = true, conflicts_with = "log", help_heading = GLOBAL)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

/// Over the options that every command takes.
const GLOBAL: &str = "Global options";

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Run a broker, or a proxy before one
    Serve(serve::ServeArgs),
    /// Record, replay, look into and talk to MQTT
    #[command(subcommand)]
    Mqtt(Mqtt),
    /// Recordings of the running server, or of the store's folder when none runs
    #[command(subcommand)]
    Recordings(recordings::Command),
    /// What answers by itself in the running server
    #[command(subcommand)]
    Mocks(mocks::Command),
    /// What mocks of the running server remember
    #[command(subcommand)]
    State(mocks::StateCommand),
    /// HTTP requests that the running server makes of messages
    #[command(subcommand)]
    Webhooks(webhooks::Command),
    /// Proxies of the running server, each on a port of its own before a broker of its own
    #[command(subcommand)]
    Proxies(proxies::Command),
    /// Networks, brokers and clients that misbehave, in the running server
    #[command(subcommand)]
    Chaos(chaos::Command),
    /// Replays that the running server makes
    #[command(subcommand)]
    Replays(replays::Command),
    /// Print what happens in the running server, as it happens
    Events(events::EventsArgs),
    /// What goes into the running server's log, or has to from now on
    Log(log::LogArgs),
    /// What passed through the running server: wait for messages, verify, count and find them
    #[command(subcommand)]
    Messages(messages::Command),
    /// Stop the running server, as SIGTERM does
    Shutdown,
    /// Make a clean start in the running server; connections stay
    Reset(messages::ResetArgs),
    /// Many clients, what they do, and what they are expected to see
    #[command(subcommand)]
    Scenario(scenario::Command),
    /// Make certificates for development: an authority, a server and a client
    Certs(certs::CertsArgs),
    /// Passwords of users, for mqtt.password_file and mqtt.users
    Passwd(passwd::PasswdArgs),
    /// Settings of file, environment and flags
    #[command(subcommand)]
    Config(config::Command),
    /// Write a settings file to begin with, and its schema for editors
    Init(init::InitArgs),
    /// Print what a shell reads to complete commands
    Completions {
        /// bash, zsh, fish, powershell or elvish
        shell: clap_complete::Shell,
    },
    /// Write manual pages
    Man(manual::ManArgs),
}

#[derive(Debug, clap::Subcommand)]
enum Mqtt {
    /// Capture traffic into a file
    Record(record::RecordArgs),
    /// Play a recording again, to any broker
    Replay(Box<replay::ReplayArgs>),
    /// Play a recording again as its clients, and compare what comes back
    Verify(Box<replay::ReplayArgs>),
    /// Run a command with a broker that is recorded the first time and played from then on
    Cassette(cassette::CassetteArgs),
    /// Say whether a server runs, and how it is
    Status,
    /// Figures of the running server
    Stats,
    /// Clients of the running server
    Clients(broker::ClientsArgs),
    /// Close the connection of a client of the running server
    Disconnect(broker::DisconnectArgs),
    /// Topics of the last messages, and of those that are retained
    Topics {
        /// Only topics that match one of these Topic Filters [default: all]
        #[arg(value_name = "FILTER")]
        filters: Vec<String>,
    },
    /// Retained messages of the running broker
    #[command(subcommand)]
    Retained(broker::Retained),
    /// Publish a message through the running server
    Publish(broker::PublishArgs),
    /// Print messages of the running server as they come
    Subscribe(broker::SubscribeArgs),
    /// They are not only of MQTT, and have commands of their own
    #[command(hide = true)]
    Recordings {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
}

impl Arguments {
    /// Whether what is said is for programs.
    pub fn asks_for_json(&self) -> bool {
        self.format == Format::Json
    }
}

/// Runs the one command that was typed. Logs go to standard error, results to standard output.
///
/// # Errors
/// With the exit code that stands for what went wrong.
pub async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    // Before settings are read, which may name a file that is to be made, or be wrong.
    match arguments.command {
        Command::Passwd(args) => return passwd::run(args).await,
        Command::Init(args) => return init::run(&args, arguments.format),
        Command::Completions { shell } => return manual::completions(shell),
        Command::Man(args) => return manual::man(&args),
        Command::Config(config::Command::Schema) => return config::print_schema(),
        _ => {}
    }
    let config = Config::load(arguments.sources())?;
    crate::log::start(arguments.log_filter(&config), config.log.format, output::is_terminal())
        .map_err(|error| Failure::usage(format!("log.level: {error}")))?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let (format, server) = (arguments.format, arguments.server.as_deref());
    if let Command::Mqtt(Mqtt::Cassette(args)) = arguments.command {
        // Before signals are ours: they are the command's.
        return cassette::run(args, server, config, format).await;
    }
    let refused = |error| Failure::new(Exit::Failed, error);
    let signals = Signals::install().map_err(refused)?;
    match arguments.command {
        Command::Serve(_) if server.is_some() => {
            Err(Failure::usage("serve starts a server; --server is for talking to one"))
        }
        Command::Serve(_) if arguments.token.is_some() => Err(Failure::usage(
            "--token is for talking to a server; callers of this one are known by api_token and api_tokens",
        )),
        Command::Serve(args) => serve::run(args, config, format, &signals).await,
        Command::Mqtt(command) => mqtt(command, server, config, format, &signals).await,
        Command::Recordings(command) => {
            let (transport, place) = match server {
                Some(_) => of_server(Transport::connect(server, &config).await?),
                None if command.asks_server() => of_server(Transport::connect(None, &config).await?),
                None if command.adds() => host::find_or_store_to_add(&config).await?,
                None => host::find_or_store_alone(&config).await?,
            };
            let outcome = recordings::run(command, &transport, &place, format, &signals).await;
            transport.close().await;
            outcome
        }
        Command::Mocks(command) => {
            let (transport, _) = Transport::connect(server, &config).await?;
            mocks::run(command, &transport, format).await
        }
        Command::State(command) => {
            let (transport, _) = Transport::connect(server, &config).await?;
            mocks::run_state(command, &transport, format).await
        }
        Command::Webhooks(command) => {
            let (transport, _) = Transport::connect(server, &config).await?;
            webhooks::run(command, &transport, format).await
        }
        Command::Proxies(command) => {
            let (transport, _) = Transport::connect(server, &config).await?;
            proxies::run(command, &transport, format).await
        }
        Command::Chaos(command) => {
            let (transport, _) = Transport::connect(server, &config).await?;
            chaos::run(command, &transport, format, &signals).await
        }
        Command::Replays(command) => {
            let (transport, _) = Transport::connect(server, &config).await?;
            replays::run(command, &transport, format).await
        }
        Command::Events(args) => {
            let (transport, _) = Transport::connect(server, &config).await?;
            events::run(args, &transport, format, &signals).await
        }
        Command::Shutdown => {
            let (transport, _) = Transport::connect(server, &config).await?;
            transport.admin().shutdown(pb::ShutdownRequest {}).await?;
            Ok(Exit::Passed)
        }
        Command::Log(args) => {
            let (transport, _) = Transport::connect(server, &config).await?;
            log::run(args, &transport, format).await
        }
        Command::Messages(command) => {
            let (transport, _) = Transport::connect(server, &config).await?;
            messages::run(command, &transport, format, &signals).await
        }
        Command::Reset(args) => {
            let (transport, _) = Transport::connect(server, &config).await?;
            messages::reset(args, &transport, format).await
        }
        Command::Scenario(command) => scenario::run(command, server, config, format, &signals).await,
        Command::Certs(args) => certs::run(args, &config, format),
        Command::Config(command) => config::run(command, server, &config, format).await,
        Command::Passwd(_) | Command::Init(_) | Command::Completions { .. } | Command::Man(_) => {
            unreachable!("they need no settings")
        }
    }
}

fn of_server((transport, info): (Transport, ServerInfo)) -> (Transport, Place) {
    (transport, Place::Server { store: info.store_path })
}

async fn mqtt(
    command: Mqtt,
    server: Option<&str>,
    config: Config,
    format: Format,
    signals: &Signals,
) -> Result<Exit, Failure> {
    match command {
        Mqtt::Record(args) => return record::run(args, server, config, format, signals).await,
        Mqtt::Replay(args) => return replay::run(*args, server, &config, format, signals).await,
        Mqtt::Verify(args) => return replay::run(args.verifying(), server, &config, format, signals).await,
        Mqtt::Recordings { words } => {
            let command = [&["mockforge", "recordings"].map(str::to_owned)[..], &words].concat().join(" ");
            return Err(Failure::usage(format!("recordings have commands of their own: `{command}`")));
        }
        _ => {}
    }
    let (transport, info) = Transport::connect(server, &config).await?;
    match command {
        Mqtt::Status => broker::status(&transport, &info, format).await,
        Mqtt::Stats => broker::stats(&transport, format).await,
        Mqtt::Clients(args) => broker::clients(&transport, &args, format).await,
        Mqtt::Disconnect(args) => broker::disconnect(&transport, args, format).await,
        Mqtt::Topics { filters } => broker::topics(&transport, filters, format).await,
        Mqtt::Retained(command) => broker::retained(&transport, command, format).await,
        Mqtt::Publish(args) => broker::publish(&transport, args, format).await,
        Mqtt::Subscribe(args) => broker::subscribe(&transport, args, format, signals).await,
        Mqtt::Record(_) | Mqtt::Replay(_) | Mqtt::Verify(_) | Mqtt::Cassette(_) | Mqtt::Recordings { .. } => {
            unreachable!("they need no server, or find it")
        }
    }
}

impl Arguments {
    fn sources(&self) -> Sources {
        let mut flags = match &self.command {
            Command::Serve(args) => args.flags(),
            Command::Mqtt(Mqtt::Record(args)) => args.flags(),
            _ => Vec::new(),
        };
        // Settings' paths start at their file's folder; those that are typed, here.
        let path = |path: &Option<PathBuf>| {
            let path = path.as_ref()?;
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            Some(path.to_string_lossy().into_owned())
        };
        let said = [
            ("client.token", "--token", self.token.clone()),
            ("client.tls.ca_path", "--server-cacert", path(&self.server_cacert)),
            ("client.tls.cert_path", "--server-cert", path(&self.server_cert)),
            ("client.tls.key_path", "--server-key", path(&self.server_key)),
            ("client.tls.insecure", "--server-insecure", self.server_insecure.then(|| "true".to_owned())),
        ];
        flags.extend(
            said.into_iter().filter_map(|(key, name, value)| Some(Flag { key, name, value: value? })),
        );
        let level = match self.verbose {
            0 => self.log.clone().map(|filter| ("--log", filter)),
            1 => Some(("-v", "debug".to_owned())),
            _ => Some(("-vv", "trace".to_owned())),
        };
        flags.extend(level.map(|(name, value)| Flag { key: "log.level", name, value }));
        let log_format = self.log_format.clone();
        flags.extend(log_format.map(|value| Flag { key: "log.format", name: "--log-format", value }));
        let mut sources = Sources::of_process(self.config.clone(), flags);
        if self.works_without_settings_file() && self.config.is_none() {
            sources.file = ConfigFile::None;
        }
        sources
    }

    /// Unless told otherwise, only `serve` says what goes on.
    fn log_filter<'a>(&self, config: &'a Config) -> &'a str {
        let serves = matches!(&self.command, Command::Serve(_));
        if serves || config.is_said("log.level") { &config.log.level } else { "warn" }
    }

    /// So that a settings file for another version or another purpose is no hindrance.
    fn works_without_settings_file(&self) -> bool {
        matches!(
            &self.command,
            Command::Mqtt(Mqtt::Replay(args) | Mqtt::Verify(args)) if !args.needs_settings_file()
        ) || matches!(&self.command, Command::Mqtt(Mqtt::Cassette(_)))
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_of_the_guide_is_taken_as_printed() {
        for line in [
            "mockforge serve --mqtt",
            "mockforge serve --mqtt --mqtt-port 1884",
            "mockforge serve --mqtt --mqtt-tls",
            "mockforge mqtt record --output mqtt-session.json",
            "mockforge mqtt replay --input mqtt-session.json --speed 2.0",
            "mockforge mqtt status",
        ] {
            parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn global_options_may_stand_anywhere() {
        assert_eq!(
            parse("mockforge --server a:1 recordings export b").unwrap().server,
            parse("mockforge recordings export b --server a:1").unwrap().server,
        );
        for line in ["mockforge -o json mqtt status", "mockforge mqtt status -o json"] {
            assert_eq!(parse(line).unwrap().format, Format::Json, "{line}");
        }
    }

    #[test]
    fn a_wrong_flag_is_exit_code_2() {
        for line in [
            "mockforge mqtt replay --input a --speed fast",
            "mockforge mqtt replay",
            "mockforge mqtt replay --input a --recording b",
            "mockforge mqtt record",
            "mockforge mqtt replay --input a --loop 0",
            "mockforge mqtt replay --input a --topic a/#/b",
            "mockforge certs --days 826",
            "mockforge mqtt record --output a --duration 30",
            "mockforge mqtt publish a b --qos 3",
            "mockforge recordings export a -o a.json",
            "mockforge nonsense",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn a_file_behind_o_is_told_from_a_format() {
        let error = parse("mockforge recordings export a -o a.json").unwrap_err().to_string();
        assert!(error.contains("expected text or json; the file to write is --output a.json"), "{error}");
    }

    #[test]
    fn replaying_a_file_needs_no_settings_file() {
        assert!(parse("mockforge mqtt replay --input a").unwrap().works_without_settings_file());
        assert!(!parse("mockforge mqtt replay --recording a").unwrap().works_without_settings_file());
    }

    #[test]
    fn commands_that_do_not_serve_log_warnings_only() {
        let config = Config::default();
        assert_eq!(parse("mockforge serve --mqtt").unwrap().log_filter(&config), "info");
        assert_eq!(parse("mockforge mqtt replay --input a").unwrap().log_filter(&config), "warn");
        let arguments = parse("mockforge mqtt replay --input a -v").unwrap();
        let config = Config::load(Sources { environment: Vec::new(), ..arguments.sources() }).unwrap();
        assert_eq!(arguments.log_filter(&config), "debug");
    }

    #[tokio::test]
    async fn what_does_not_go_together_is_refused_by_name() {
        for (line, text) in [
            (
                "mockforge mqtt replay --input a --mode publish --verify payload",
                "--verify needs --mode client: publishing alone receives nothing",
            ),
            (
                "mockforge mqtt replay --input a --junit b.xml",
                "--rules, --settle, --junit, --json and --html need --verify",
            ),
            ("mockforge mqtt replay --input a --causality none", "--causality is for --mode client"),
            (
                "mockforge mqtt replay --input a --mode client --on-miss fail",
                "--on-miss is for --mode server",
            ),
            (
                "mockforge mqtt replay --input a --mode server --target mqtt://b",
                "--target is asked in mode server only with --on-miss passthrough",
            ),
            (
                "mockforge mqtt replay --input a --mode server --loop 2",
                "--loop is not for --mode server, where clients come when they do",
            ),
            ("mockforge mqtt replay --input a --seed 7", "--seed is for copies, with --multiply"),
            (
                "mockforge mqtt recordings show a --events",
                "recordings have commands of their own: `mockforge recordings show a --events`",
            ),
            (
                "mockforge mqtt replay --input a --server b",
                "--input is played by this process; with --server, say --recording",
            ),
            (
                "mockforge mqtt record --output a --server b --upstream mqtt://c",
                "--server records a running server; --upstream, --listen and --store start one: say one or the other",
            ),
        ] {
            let arguments = parse(line).unwrap();
            let server = arguments.server.as_deref();
            let Command::Mqtt(command) = arguments.command else { unreachable!("it was typed") };
            let signals = Signals::install().unwrap();
            let failure = mqtt(command, server, Config::default(), Format::Text, &signals).await.unwrap_err();
            assert_eq!((failure.exit, failure.error.to_string().as_str()), (Exit::Usage, text), "{line}");
        }
    }
}
