//! Whether the process and each of its services can work: `GET /__mockforge/health`, and `grpc.health.v1`.

use axum::response::Response;
use futures_util::{FutureExt, StreamExt, stream};
use http::StatusCode;
use serde_json::{Map, Value, json};
use tonic::{Code, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_server::Health as HealthService,
};

use super::{
    grpc::{Answers, SERVICES, is_serving},
    rest::json_response,
    status::with_reason,
};
use crate::control::Control;

/// 200 while the server serves, 503 once it is stopping; the same words as `grpc.health.v1`.
pub fn health(control: &Control) -> Response {
    let word = |serving| if serving { "SERVING" } else { "NOT_SERVING" };
    let serving = !control.stop().is_cancelled();
    let services: Map<String, Value> = SERVICES
        .iter()
        .map(|service| ((*service).to_owned(), word(is_serving(control, service)).into()))
        .collect();
    let mut response = json_response(json!({"status": word(serving), "services": services}).to_string());
    if !serving {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}

/// `grpc.health.v1` of our services, and of all together as the empty name. Nothing changes before the server stops, which
/// ends what watches: a stream that went on would keep the server from ending.
pub struct Health(pub Control);

impl Health {
    /// `None` for a service that there is not.
    fn status(&self, service: &str) -> Option<ServingStatus> {
        let is_known = service.is_empty() || SERVICES.contains(&service);
        is_known.then(|| match is_serving(&self.0, service) {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        })
    }
}

#[tonic::async_trait]
impl HealthService for Health {
    async fn check(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        match self.status(&service) {
            Some(status) => Ok(tonic::Response::new(answer(status))),
            None => Err(with_reason(
                Code::NotFound,
                "SERVICE_NOT_FOUND",
                format!("there is no service {service:?}"),
            )),
        }
    }

    type WatchStream = Answers<HealthCheckResponse>;

    async fn watch(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<Self::WatchStream>, Status> {
        let service = request.into_inner().service;
        let first = self.status(&service).unwrap_or(ServingStatus::ServiceUnknown);
        let last = match first {
            ServingStatus::Serving => Some(Ok(answer(ServingStatus::NotServing))),
            _ => None,
        };
        let stopped = self.0.stop().clone().cancelled_owned();
        let at_the_end = stopped.map(move |()| stream::iter(last)).flatten_stream();
        let answers = stream::iter([Ok(answer(first))]).chain(at_the_end);
        Ok(tonic::Response::new(Box::pin(answers)))
    }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}
