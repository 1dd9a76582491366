//! The rpcs of `Admin`: the server itself.

use std::path::{self, Path, PathBuf};

use super::{
    Control, ControlError, ControlStream,
    fields::Fields,
    pb, time,
    watch::{self, EventFilter},
};
use crate::{
    broker::Durability,
    log::{self, LogError},
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

    pub async fn get_log_filter(&self, _: pb::GetLogFilterRequest) -> Result<pb::LogFilter, ControlError> {
        Ok(pb::LogFilter { filter: log::filter().ok_or(ControlError::NoLog)? })
    }

    pub async fn set_log_filter(
        &self,
        request: pb::SetLogFilterRequest,
    ) -> Result<pb::LogFilter, ControlError> {
        let filter = log::set_filter(&request.filter).map_err(|error| match error {
            LogError::BadFilter(what) => ControlError::bad_field("filter", what),
            LogError::NotOurs => ControlError::NoLog,
        })?;
        tracing::info!(filter, "the log was asked for otherwise");
        Ok(pb::LogFilter { filter })
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
