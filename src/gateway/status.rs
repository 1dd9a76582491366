//! Errors over REST: `google.rpc.Status` as JSON, with the HTTP status that fits its code.

use std::sync::LazyLock;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::json::{self, FieldError};
use crate::control::{ControlError, ERROR_DOMAIN};

/// What an error's details consist of: the messages of `google.rpc`.
///
/// A constant of the program, decoded once.
static DETAILS: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(tonic_types::pb::FILE_DESCRIPTOR_SET).unwrap_or_else(|_| DescriptorPool::new())
});

/// A refusal that programs know by its reason.
pub fn with_reason(code: Code, reason: &str, text: impl Into<String>) -> Status {
    let details = ErrorDetails::with_error_info(reason, ERROR_DOMAIN, []);
    Status::with_error_details(code, text, details)
}

/// A refusal on its way to an HTTP client.
#[derive(Debug)]
pub struct Refusal {
    pub status: Status,
    /// Instead of the one that fits the status's code.
    pub http: Option<StatusCode>,
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self { status, http: None }
    }
}

impl From<FieldError> for Refusal {
    fn from(error: FieldError) -> Self {
        Status::from(ControlError::bad_field(error.path, error.what)).into()
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let json = HeaderValue::from_static("application/json");
        let code = self.http.unwrap_or_else(|| http_status(self.status.code()));
        let mut response =
            (code, [(header::CONTENT_TYPE, json)], status_json(&self.status) + "\n").into_response();
        if code == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer realm=\"mockforge\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

/// The `google.rpc.Status` of an error, as JSON.
pub fn status_json(status: &Status) -> String {
    let details: Vec<Value> = tonic_types::Status::decode(status.details())
        .map(|status| status.details.iter().filter_map(detail_json).collect())
        .unwrap_or_default();
    json!({"code": i32::from(status.code()), "message": status.message(), "details": details}).to_string()
}

fn detail_json(detail: &prost_types::Any) -> Option<Value> {
    let name = detail.type_url.rsplit('/').next()?;
    let message = DynamicMessage::decode(DETAILS.get_message_by_name(name)?, &*detail.value).ok()?;
    let mut value: Value = serde_json::from_str(&json::write(&message)).ok()?;
    value.as_object_mut()?.insert("@type".to_owned(), detail.type_url.clone().into());
    Some(value)
}

/// As google.rpc.Code documents it.
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::Internal | Code::Unknown | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn a_bad_field_is_told_with_reason_and_path() {
        let status = ControlError::bad_field("properties.response_topic", "wildcard '#' in a topic name");
        let text = status_json(&status.into());
        expect![[r##"
            {
              "code": 3,
              "details": [
                {
                  "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                  "domain": "mockforge",
                  "metadata": {},
                  "reason": "BAD_FIELD"
                },
                {
                  "@type": "type.googleapis.com/google.rpc.BadRequest",
                  "field_violations": [
                    {
                      "description": "wildcard '#' in a topic name",
                      "field": "properties.response_topic",
                      "reason": ""
                    }
                  ]
                }
              ],
              "message": "properties.response_topic: wildcard '#' in a topic name"
            }"##]]
        .assert_eq(&serde_json::to_string_pretty(&serde_json::from_str::<Value>(&text).unwrap()).unwrap());
    }
}
