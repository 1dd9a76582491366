//! gRPC and REST for the control plane: carry requests and answers, decide nothing.
//!
//! [`routes`] are the gRPC services, for a port or for a client in this process; [`Gateway`] adds REST, health and metrics
//! over HTTP and checks who may come in; [`serve`] answers on listeners.

mod access;
mod binding;
mod codec;
mod grpc;
mod health;
mod index;
pub mod json;
mod rest;
mod status;

use std::{future::Future, io, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    response::{IntoResponse, Response},
    serve::{Listener, ListenerExt},
};
use http::{HeaderMap, HeaderValue, Method, header};
use prost_reflect::DescriptorPool;
use tokio::net::TcpListener;
use tonic::{Status, service::Routes};
use tower::ServiceExt;

pub use access::Access;
pub use binding::BadBinding;
pub use grpc::routes;

use self::{rest::Rest, status::Refusal};
use crate::control::{Control, pb};

/// How long calls that are under way may take to end when the server stops.
const GRACE: Duration = Duration::from_secs(5);
const METRICS_PATH: &str = "/__mockforge/metrics";

/// Everything that is answered over HTTP.
#[derive(Clone)]
pub struct Gateway {
    control: Control,
    routes: Routes,
    rest: Rest,
    access: Access,
}

impl Gateway {
    /// # Errors
    /// [`BadBinding`] when the proto files hold an rpc without a REST twin, which a test rules out.
    pub fn new(control: Control, access: Access) -> Result<Self, BadBinding> {
        let pool = DescriptorPool::decode(pb::DESCRIPTORS).expect("build.rs wrote the descriptors");
        let routes = routes(control.clone());
        let rest = Rest::new(&pool, routes.clone())?;
        Ok(Self { control, routes, rest, access })
    }

    /// For the HTTP port: REST, health and metrics, and gRPC too.
    pub fn http(&self) -> Router {
        Router::new().fallback(http).with_state(self.clone())
    }

    /// For the gRPC port.
    pub fn grpc(&self) -> Router {
        Router::new().fallback(grpc_only).with_state(self.clone())
    }

    async fn call(&self, request: Request) -> Response {
        match self.routes.clone().oneshot(request).await {
            Ok(response) => response.map(axum::body::Body::new),
            Err(never) => match never {},
        }
    }
}

/// Answers on both ports until `shutdown` completes; then calls under way have 5 s to end.
///
/// Streams end by themselves when the control plane's `stop` is cancelled.
///
/// # Errors
/// Those of the listeners.
pub async fn serve(
    gateway: Gateway,
    http: Option<TcpListener>,
    grpc: Option<TcpListener>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let stop = tokio_util::sync::CancellationToken::new();
    let port = |listener: Option<TcpListener>, router: Router| {
        let stop = stop.clone();
        async move {
            let Some(listener) = listener else {
                stop.cancelled().await;
                return Ok(());
            };
            // Answers are written whole; waiting for more only delays them.
            let listener = listener.tap_io(|stream| {
                let _ = stream.set_nodelay(true);
            });
            tracing::debug!(address = ?Listener::local_addr(&listener), "control plane listens");
            axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
        }
    };
    let ports = async { tokio::try_join!(port(http, gateway.http()), port(grpc, gateway.grpc())) };
    tokio::pin!(ports);
    tokio::select! {
        result = &mut ports => return result.map(drop),
        () = shutdown => stop.cancel(),
    }
    match tokio::time::timeout(GRACE, ports).await {
        Ok(result) => result.map(drop),
        Err(_) => {
            tracing::debug!("calls that did not end were cut off");
            Ok(())
        }
    }
}

async fn http(State(gateway): State<Gateway>, mut request: Request) -> Response {
    let is_grpc = is_grpc(request.headers());
    if let Err(status) = gateway.access.check(&request) {
        return refuse(status, is_grpc);
    }
    if is_grpc {
        return gateway.call(request).await;
    }
    if request.method() == Method::HEAD {
        // Answered like GET; axum leaves the body out.
        *request.method_mut() = Method::GET;
    }
    match (request.method(), request.uri().path()) {
        (&Method::GET, access::HEALTH_PATH) => health::health(&gateway.control),
        (&Method::GET, index::PATH | index::PATH_AS_FOLDER) => index::index(gateway.rest.bindings()),
        (&Method::GET, METRICS_PATH) => metrics(&gateway.control).await,
        _ => gateway.rest.handle(request).await,
    }
}

async fn grpc_only(State(gateway): State<Gateway>, request: Request) -> Response {
    match gateway.access.check(&request) {
        Ok(()) => gateway.call(request).await,
        Err(status) => refuse(status, true),
    }
}

fn refuse(status: Status, is_grpc: bool) -> Response {
    if is_grpc { status.into_http() } else { Refusal::from(status).into_response() }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

async fn metrics(control: &Control) -> Response {
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], control.metrics_text().await).into_response()
}

#[cfg(test)]
mod tests;
