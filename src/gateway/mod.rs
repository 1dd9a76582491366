//! gRPC and REST for the control plane: carry requests and answers, decide nothing.
//!
//! [`routes`] are the gRPC services, for a port or for a client in this process; [`Gateway`] adds REST, health and metrics
//! over HTTP and checks who may come in; [`serve`] answers on listeners.

mod access;
pub mod binding;
mod codec;
mod grpc;
mod health;
mod index;
pub mod json;
mod openapi;
mod port;
mod refusals;
mod rest;
mod seats;
mod status;
mod traced;
mod turns;

use std::{future::Future, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use tokio_util::task::TaskTracker;
use tonic::{Code, Status, service::Routes};
use tonic_web::GrpcWebLayer;
use tower::{Layer, ServiceExt};

pub use access::{Access, OtherHosts};
pub use binding::BadBinding;
pub use grpc::routes;
pub use port::Port;
pub use status::status_json;

use self::{
    access::{Connected, HEALTH_PATH, Permissions, rpc_unknown},
    openapi::OpenApi,
    port::{Admission, held},
    refusals::Refusals,
    rest::{Rest, method_not_allowed},
    status::{Refusal, with_reason},
    turns::Turns,
};
use crate::{
    auth::Role,
    config::ApiLimits,
    control::{Control, pb},
};

/// How long calls that are under way may take to end when the server stops.
const GRACE: Duration = Duration::from_secs(5);
const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
const METRICS_PATH: &str = "/__mockforge/metrics";

/// Everything that is answered over HTTP.
#[derive(Clone)]
pub struct Gateway {
    control: Control,
    routes: Routes,
    rest: Rest,
    openapi: OpenApi,
    access: Arc<Access>,
    permissions: Permissions,
    limits: ApiLimits,
    turns: Turns,
    refusals: Refusals,
}

impl Gateway {
    /// # Errors
    /// [`BadBinding`] when the proto files hold an rpc without a REST twin or a role, which a test rules out.
    pub fn new(control: Control, access: Access, limits: ApiLimits) -> Result<Self, BadBinding> {
        let pool = pb::pool();
        let routes = routes(control.clone(), limits.message_bytes);
        let rest = Rest::new(pool, control.clone(), &limits)?;
        let permissions = Permissions::new(pool).map_err(|rpc| BadBinding::Role { rpc })?;
        let (turns, refusals) = (Turns::new(&limits), Refusals::default());
        let asked = refusals.clone();
        control.metrics().attach_families(Box::new(move || asked.families()));
        Ok(Self {
            control,
            routes,
            rest,
            openapi: OpenApi::default(),
            access: Arc::new(access),
            permissions,
            limits,
            turns,
            refusals,
        })
    }

    /// For the HTTP port: REST, health and metrics, and gRPC too.
    pub fn http(&self) -> Router {
        Router::new().fallback(http).with_state(self.clone())
    }

    /// For the gRPC port.
    pub fn grpc(&self) -> Router {
        Router::new().fallback(grpc).with_state(self.clone())
    }

    async fn call(&self, request: Request) -> Response {
        let routes = self.routes.clone();
        let response = match is_grpc_web(request.headers()) {
            true => {
                let routes = ServiceExt::<http::Request<tonic::body::Body>>::map_response(routes, explained);
                GrpcWebLayer::new().layer(routes).oneshot(request).await.map(|answer| answer.map(Body::new))
            }
            false => routes.oneshot(request).await.map(|answer| explained(answer).map(Body::new)),
        };
        match response {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }

    /// What the caller may do, `None` for health; the connection is remembered to be his.
    fn let_in(&self, request: &Request) -> Result<Option<Role>, Status> {
        let role = self.access.check(request)?;
        if let (Some(role), Some(by)) = (role, request.extensions().get::<Connected>())
            && let Some(seat) = by.seat.upgrade()
        {
            seat.show(role.into());
        }
        Ok(role)
    }

    fn refuse(&self, status: Status, by: &Connected, is_grpc: bool) -> Response {
        self.refusals.note_status(&status, by.peer);
        if is_grpc { status.into_http() } else { safe(Refusal::from(status).into_response()) }
    }
}

/// Answers on both ports until `shutdown` completes; then calls under way have 5 s to end.
///
/// Streams end by themselves when the control plane's `stop` is cancelled.
pub async fn serve(
    gateway: Gateway,
    http: Option<Port>,
    grpc: Option<Port>,
    shutdown: impl Future<Output = ()>,
) {
    let stop = tokio_util::sync::CancellationToken::new();
    let admission =
        Admission::new(gateway.limits.clone(), gateway.access.tokens.clone(), gateway.refusals.clone());
    let connections = TaskTracker::new();
    let serve = |port: Option<Port>, router: Router| {
        let (admission, connections, stop) = (admission.clone(), connections.clone(), stop.clone());
        async move {
            match port {
                Some(port) => port.serve(router, admission, connections, stop).await,
                None => stop.cancelled().await,
            }
        }
    };
    let shut_down = async {
        shutdown.await;
        stop.cancel();
    };
    tokio::join!(serve(http, gateway.http()), serve(grpc, gateway.grpc()), shut_down);
    connections.close();
    if tokio::time::timeout(GRACE, connections.wait()).await.is_err() {
        tracing::debug!("calls that did not end were cut off");
    }
}

async fn http(State(gateway): State<Gateway>, mut request: Request) -> Response {
    if is_grpc(request.headers()) {
        return grpc(State(gateway), request).await;
    }
    if request.method() == Method::HEAD {
        // Answered like GET; axum leaves the body out.
        *request.method_mut() = Method::GET;
    }
    let by = request.extensions().get::<Connected>().cloned().unwrap_or_default();
    let begun = gateway.let_in(&request).and_then(|role| {
        let Some(role) = role else { return Ok(None) };
        let streams = gateway.rest.check(request.method(), request.uri().path(), role)?;
        gateway.turns.begin(role, streams).map(Some).ok_or_else(too_busy)
    });
    let turn = match begun {
        Ok(turn) => turn,
        Err(status) => return gateway.refuse(status, &by, false),
    };
    let answer = match (request.uri().path(), request.method()) {
        (HEALTH_PATH, &Method::GET) => health::health(&gateway.control),
        (index::PATH | index::PATH_AS_FOLDER, &Method::GET) => index::index(gateway.rest.bindings()),
        (openapi::PATH, &Method::GET) => gateway.openapi.answer(gateway.rest.bindings()),
        (METRICS_PATH, &Method::GET) => metrics(&gateway.control).await,
        (
            path @ (HEALTH_PATH | index::PATH | index::PATH_AS_FOLDER | openapi::PATH | METRICS_PATH),
            method,
        ) => method_not_allowed(path, method, &[Method::GET]),
        _ => gateway.rest.handle(request).await,
    };
    safe(answer).map(|body| held(body, turn))
}

async fn grpc(State(gateway): State<Gateway>, request: Request) -> Response {
    if !is_grpc(request.headers()) {
        return no_grpc();
    }
    let by = request.extensions().get::<Connected>().cloned().unwrap_or_default();
    let begun = gateway.let_in(&request).and_then(|role| {
        let Some(role) = role else { return Ok(None) };
        let streams = gateway.permissions.check(request.uri().path(), role)?;
        gateway.turns.begin(role, streams).map(Some).ok_or_else(too_busy)
    });
    match begun {
        Ok(Some(turn)) => gateway.call(request).await.map(|body| held(body, turn)),
        Ok(None) => gateway.call(request).await,
        Err(status) => gateway.refuse(status, &by, true),
    }
}

fn too_busy() -> Status {
    with_reason(Code::ResourceExhausted, "TOO_MANY_CALLS", "too many calls are under way")
}

/// Gives refusals of tonic's own their reasons: none of ours is without one.
fn explained(answer: http::Response<tonic::body::Body>) -> http::Response<tonic::body::Body> {
    let unexplained = Status::from_header_map(answer.headers()).filter(|status| status.details().is_empty());
    match unexplained {
        Some(status) if status.code() == Code::OutOfRange => {
            with_reason(status.code(), "MESSAGE_TOO_LONG", status.message()).into_http()
        }
        // Of a service that there is.
        Some(status) if status.code() == Code::Unimplemented && status.message().is_empty() => {
            rpc_unknown().into_http()
        }
        _ => answer,
    }
}

/// For what gRPC is not spoken by, as its specification says.
fn no_grpc() -> Response {
    let text = "gRPC is spoken here: the content type has to be application/grpc";
    let status = with_reason(Code::InvalidArgument, "NO_GRPC", text);
    safe(Refusal { status, http: Some(StatusCode::UNSUPPORTED_MEDIA_TYPE) }.into_response())
}

/// Tells browsers to take an answer for what it says it is, and to show it to nobody else's page.
fn safe(mut answer: Response) -> Response {
    let headers = answer.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CROSS_ORIGIN_RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    answer
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// As browsers speak it: trailers are part of the body, which may be base64.
fn is_grpc_web(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc-web"))
}

async fn metrics(control: &Control) -> Response {
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], control.metrics_text().await).into_response()
}

#[cfg(test)]
mod tests;
