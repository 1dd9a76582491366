//! `GET /__mockforge`: what can be asked for over HTTP.

use axum::response::Response;
use serde_json::json;

use super::{METRICS_PATH, access::HEALTH_PATH, binding::Binding, openapi, rest::json_response};

pub const PATH: &str = "/__mockforge";
/// The same, as people and browsers may spell it.
pub const PATH_AS_FOLDER: &str = "/__mockforge/";

/// All routes, a line each, those of the contract with their rpcs.
pub fn index(bindings: &[Binding]) -> Response {
    let plain = [HEALTH_PATH, METRICS_PATH, openapi::PATH].map(|path| json!({"method": "GET", "path": path}));
    let of_rpcs = bindings.iter().map(|binding| {
        json!({
            "method": binding.method.as_str(),
            "path": binding.template.to_string(),
            "rpc": binding.rpc.full_name(),
        })
    });
    let routes: Vec<String> = plain.into_iter().chain(of_rpcs).map(|route| route.to_string()).collect();
    let version = env!("CARGO_PKG_VERSION");
    json_response(format!("{{\"version\":\"{version}\",\"routes\":[\n{}\n]}}", routes.join(",\n")))
}
