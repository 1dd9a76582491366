//! `proxies ls | add | show | update | enable | disable | rm | connections | close`.

use super::{
    exit::{Exit, Failure},
    listing::{self, PAGE},
    mocks::said,
    output::{self, Format, json},
    transport::Transport,
};
use crate::control::pb;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List proxies in the order they were made, the server's own first
    #[command(visible_alias = "list")]
    Ls,
    /// Add a proxy, which listens from now on, and say where
    Add {
        /// The broker behind it: mqtt://host:port, or mqtts://, ws://, wss://
        upstream: String,
        /// Where it listens: HOST:PORT, or a port of 127.0.0.1; 0 takes a free one
        #[arg(long, default_value = "0")]
        listen: String,
        /// Its id [default: a free proxy-1, proxy-2 ...]
        #[arg(long, default_value = "")]
        id: String,
    },
    /// Say what a proxy is
    Show {
        /// Its id
        proxy: String,
    },
    /// Give a proxy another broker, or another address; its connections end
    Update {
        /// Its id
        proxy: String,
        /// The broker behind it
        #[arg(long, required_unless_present = "listen")]
        upstream: Option<String>,
        /// Where it listens
        #[arg(long)]
        listen: Option<String>,
    },
    /// Have proxies listen again
    Enable {
        /// Their ids
        #[arg(required = true)]
        proxies: Vec<String>,
    },
    /// Have proxies listen no more, and end their connections
    Disable {
        /// Their ids
        #[arg(required = true)]
        proxies: Vec<String>,
    },
    /// Remove proxies, and end their connections
    Rm {
        /// Their ids
        #[arg(required = true)]
        proxies: Vec<String>,
    },
    /// List the open connections of a proxy
    Connections {
        /// Its id
        proxy: String,
    },
    /// End a connection, to its client and to the broker
    Close {
        /// Id of the proxy
        proxy: String,
        /// Number of the connection
        connection: u64,
        /// Reset it
        #[arg(long)]
        rst: bool,
    },
}

pub async fn run(command: Command, transport: &Transport, format: Format) -> Result<Exit, Failure> {
    match command {
        Command::Ls => list(&every(transport).await?, format)?,
        Command::Add { upstream, listen, id } => {
            let proxy = pb::Proxy { id, listen, upstream, ..Default::default() };
            let request = pb::CreateProxyRequest { proxy: Some(proxy) };
            say("added", &transport.proxies().create_proxy(request).await?.into_inner(), format)?;
        }
        Command::Show { proxy } => show(transport, proxy, format).await?,
        Command::Update { proxy, upstream, listen } => {
            let mask = [("upstream", upstream.is_some()), ("listen", listen.is_some())];
            let mask = mask.into_iter().filter(|(_, is_said)| *is_said).map(|(path, _)| path);
            let changed = pb::Proxy {
                listen: listen.unwrap_or_default(),
                upstream: upstream.unwrap_or_default(),
                ..Default::default()
            };
            let changed = update(transport, proxy, changed, mask).await?;
            say("changed", &changed, format)?;
        }
        Command::Enable { proxies } => switch(transport, proxies, true, format).await?,
        Command::Disable { proxies } => switch(transport, proxies, false, format).await?,
        Command::Rm { proxies } => {
            for id in proxies {
                transport.proxies().delete_proxy(pb::DeleteProxyRequest { id: id.clone() }).await?;
                said(format, &format!("removed {id}"))?;
            }
        }
        Command::Connections { proxy } => connections(transport, proxy, format).await?,
        Command::Close { proxy, connection, rst } => {
            let mode = if rst { pb::CloseMode::Rst } else { pb::CloseMode::Fin };
            let request = pb::CloseConnectionRequest { id: proxy, connection, mode: mode.into() };
            transport.proxies().close_connection(request).await?;
            said(format, &format!("closed {connection}"))?;
        }
    }
    Ok(Exit::Passed)
}

/// All of them, the server's own first.
pub async fn every(transport: &Transport) -> Result<Vec<pb::Proxy>, Failure> {
    listing::every(async |page_token| {
        let request = pb::ListProxiesRequest { page_size: PAGE, page_token };
        let page = transport.proxies().list_proxies(request).await?.into_inner();
        Ok((page.proxies, page.next_page_token))
    })
    .await
}

fn list(proxies: &[pb::Proxy], format: Format) -> Result<(), Failure> {
    let heading = ["ID", "LISTENS ON", "UPSTREAM", "CONNECTIONS", "UNREACHABLE"];
    let row = |proxy: &pb::Proxy| {
        vec![
            proxy.id.clone(),
            place(proxy),
            proxy.upstream.clone(),
            proxy.connections.to_string(),
            proxy.upstream_failures.to_string(),
        ]
    };
    listing::print(format, ("proxies", "no proxies"), proxies, |proxy| json("Proxy", proxy), heading, row)
}

/// Where it listens, or would.
pub fn place(proxy: &pb::Proxy) -> String {
    if proxy.enabled() { proxy.address.clone() } else { format!("{} (off)", proxy.listen) }
}

fn say(what: &str, proxy: &pb::Proxy, format: Format) -> Result<(), Failure> {
    match format {
        Format::Json => output::json_line(&json("Proxy", proxy))?,
        Format::Text => {
            output::line(format!("{what} {}: {} before {}", proxy.id, place(proxy), proxy.upstream))?;
        }
    }
    Ok(())
}

async fn show(transport: &Transport, id: String, format: Format) -> Result<(), Failure> {
    let proxy = transport.proxies().get_proxy(pb::GetProxyRequest { id }).await?.into_inner();
    match format {
        Format::Json => output::json_line(&json("Proxy", &proxy))?,
        Format::Text => {
            let from = if proxy.from_settings { "settings" } else { "API" };
            let rows = [
                ("id", proxy.id.clone()),
                ("listens on", place(&proxy)),
                ("upstream", proxy.upstream.clone()),
                ("connections", proxy.connections.to_string()),
                ("unreachable", proxy.upstream_failures.to_string()),
                ("from", from.to_owned()),
            ];
            let rows: Vec<Vec<String>> =
                rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
            output::line(output::table(&rows))?;
        }
    }
    Ok(())
}

async fn update<'a>(
    transport: &Transport,
    id: String,
    proxy: pb::Proxy,
    mask: impl Iterator<Item = &'a str>,
) -> Result<pb::Proxy, Failure> {
    let update_mask = prost_types::FieldMask { paths: mask.map(str::to_owned).collect() };
    let request = pb::UpdateProxyRequest { id, proxy: Some(proxy), update_mask: Some(update_mask) };
    Ok(transport.proxies().update_proxy(request).await?.into_inner())
}

async fn switch(
    transport: &Transport,
    ids: Vec<String>,
    enabled: bool,
    format: Format,
) -> Result<(), Failure> {
    for id in ids {
        let proxy = pb::Proxy { enabled: Some(enabled), ..Default::default() };
        let proxy = update(transport, id, proxy, ["enabled"].into_iter()).await?;
        say(if enabled { "enabled" } else { "disabled" }, &proxy, format)?;
    }
    Ok(())
}

async fn connections(transport: &Transport, id: String, format: Format) -> Result<(), Failure> {
    let connections = listing::every(async |page_token| {
        let request = pb::ListConnectionsRequest { id: id.clone(), page_size: PAGE, page_token };
        let page = transport.proxies().list_connections(request).await?.into_inner();
        Ok((page.connections, page.next_page_token))
    })
    .await?;
    let heading = ["CONNECTION", "CLIENT", "PEER", "USER", "SUBSCRIPTIONS"];
    let row = |connection: &pb::ProxyConnection| {
        let dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
        vec![
            connection.connection.to_string(),
            dash(&connection.client_id),
            connection.peer.clone(),
            dash(&connection.username),
            connection.subscriptions.to_string(),
        ]
    };
    listing::print(
        format,
        ("connections", "no connections"),
        &connections,
        |connection| json("ProxyConnection", connection),
        heading,
        row,
    )
}
