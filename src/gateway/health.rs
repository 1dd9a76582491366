//! `GET /__mockforge/health`: whether the process and each of its services can work.

use axum::response::Response;
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::{
    grpc::{SERVICES, is_serving},
    rest::json_response,
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
