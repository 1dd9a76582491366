//! The rpcs of `Admin`: the server itself.

use std::path::{self, Path, PathBuf};

use tokio::task::spawn_blocking;

use super::{
    Control, ControlError, ControlStream,
    fields::Fields,
    pb, time,
    watch::{self, EventFilter},
};
use crate::{
    broker::Durability,
    config::Config,
    fault::ChaosError,
    field::BadField,
    net::tls::{TlsError, reload},
};

impl Control {
    pub async fn get_server_info(&self, _: pb::GetServerInfoRequest) -> Result<pb::ServerInfo, ControlError> {
        let parts = self.parts();
        let source = parts.server.as_ref().map(|server| server.source());
        let text = |address: Option<std::net::SocketAddr>| {
            address.map(|address| address.to_string()).unwrap_or_default()
        };
        let mode = match &source {
            None => pb::ServerMode::Unspecified,
            Some(source) if source.upstream.is_some() => pb::ServerMode::Proxy,
            Some(_) => pb::ServerMode::Broker,
        };
        Ok(pb::ServerInfo {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mode: mode.into(),
            upstream: source.and_then(|source| source.upstream).unwrap_or_default(),
            mqtt_address: text(parts.addresses.mqtt),
            mqtts_address: text(parts.addresses.mqtts),
            ws_address: text(parts.addresses.ws),
            wss_address: text(parts.addresses.wss),
            http_address: text(parts.addresses.http),
            grpc_address: text(parts.addresses.grpc),
            http_tls: parts.addresses.http_tls,
            grpc_tls: parts.addresses.grpc_tls,
            started_at: Some(time::timestamp(self.started_at())),
            uptime: Some(time::duration(self.uptime())),
            pid: std::process::id(),
            store_path: absolute(&parts.store.path).display().to_string(),
            seed: parts.chaos.seed(),
            durability: parts.durability.map(Durability::name).unwrap_or_default().to_owned(),
        })
    }

    pub async fn watch_events(
        &self,
        request: pb::WatchEventsRequest,
    ) -> Result<ControlStream<pb::ServerEvent>, ControlError> {
        let mut fields = Fields::new();
        let filter = EventFilter::checked(&mut fields, &request);
        fields.finish()?;
        Ok(self.until_stopped(watch::events(self.clone(), filter)))
    }

    /// Puts what of the settings can change while a server runs into force: users and access rules, tokens of callers, mocks, in the place of
    /// all there are, and webhooks and rules of chaos, beside those made over the API.
    ///
    /// # Errors
    /// Why they are refused. Settings that were loaded are good by themselves.
    pub async fn apply_settings(&self, config: &Config) -> Result<(), ControlError> {
        let bad_chaos = |error| match error {
            ChaosError::Bad(fields) => {
                let in_settings =
                    |field: BadField| BadField { path: format!("mqtt.chaos.{}", field.path), ..field };
                ControlError::BadFields(fields.into_iter().map(in_settings).collect())
            }
            other => ControlError::bad_field("mqtt.chaos", other),
        };
        let (tokens, in_force) = (&config.api.tokens, &self.parts().tokens);
        // The listeners stay where they are, and may be open to a network.
        if tokens.is_empty() && !in_force.get().is_empty() {
            return Err(ControlError::bad_field(
                "api_tokens",
                "no token is left: letting everybody in takes a restart",
            ));
        }
        // Before anything changes.
        self.chaos()?.check(&config.mqtt.chaos).map_err(bad_chaos)?;
        in_force.set(tokens.clone());
        self.server()?.set_access(config.mqtt.access.clone()).await?;
        let webhooks = self.webhooks()?.replace_all(config.mqtt.webhooks.clone());
        webhooks.map_err(|error| ControlError::bad_field("mqtt.webhooks", error))?;
        self.chaos()?.set(&config.mqtt.chaos).map_err(bad_chaos)?;
        let mocks = self.mocks()?.set(config.mqtt.mocks.clone());
        mocks.map_err(|(position, error)| ControlError::bad_field(format!("mqtt.mocks[{position}]"), error))
    }

    /// Reads the files of certificates, keys and authorities again: connections go on, the next ones see what is new. Returns
    /// for how many listeners and upstreams there were any.
    ///
    /// # Errors
    /// The first file that is wrong; then all stays as it was.
    pub async fn reload_certificates(&self) -> Result<usize, TlsError> {
        let certificates = self.parts().certificates.clone();
        let read = move || reload(certificates.iter().map(|files| &**files)).map(|()| certificates.len());
        match spawn_blocking(read).await {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }

    pub async fn shutdown(&self, _: pb::ShutdownRequest) -> Result<pb::ShutdownResponse, ControlError> {
        self.server()?;
        tracing::info!("asked to shut down");
        self.parts().stop.cancel();
        Ok(pb::ShutdownResponse {})
    }
}

/// Whoever asks may be in another working directory.
fn absolute(path: &Path) -> PathBuf {
    path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
