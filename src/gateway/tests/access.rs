//! Who may do what, over REST, gRPC and their streams.

use tonic::{Code, metadata::MetadataValue, transport::Channel};

use super::*;

const CALLERS: [(&str, &str, &str); 3] =
    [("eyes", "read", "r-token"), ("ci", "control", "c-token"), ("ops", "admin", "a-token")];

/// Status and reason of what a caller is answered.
async fn ask(server: &Server, method: &str, path: &str, token: Option<&str>) -> (u16, String) {
    let mut request = Request::builder().method(method).uri(format!("http://localhost:3000{path}"));
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let answer = server.gateway.http().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let status = answer.status();
    assert_eq!(answer.headers().contains_key("www-authenticate"), status == StatusCode::UNAUTHORIZED);
    assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
    if status.is_success() {
        return (status.as_u16(), String::new());
    }
    let body: Value = serde_json::from_str(&text(answer).await).unwrap_or_default();
    (status.as_u16(), body["details"][0]["reason"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn each_route_is_open_from_its_role_on() {
    let server = Server::start_with(tokens(&CALLERS), ApiLimits::default());
    let wrong = (401, "TOKEN_WRONG".to_owned());
    let missing = (401, "TOKEN_MISSING".to_owned());
    let low = (403, "ROLE_TOO_LOW".to_owned());
    let routes = server.gateway.rest.bindings().iter().map(|binding| {
        let path = binding.template.to_string().replace(['{', '}'], "");
        (binding.method.to_string(), path, binding.role)
    });
    let beside = ["/__mockforge", "/__mockforge/metrics"];
    let beside = beside.map(|path| ("GET".to_owned(), path.to_owned(), Role::Read));
    let mut refused = 0;
    for (method, path, needed) in routes.chain(beside) {
        let (method, path) = (method.as_str(), path.as_str());
        assert_eq!(ask(&server, method, path, None).await, missing, "{method} {path}");
        assert_eq!(ask(&server, method, path, Some("x-token")).await, wrong, "{method} {path}");
        for (token, role) in [("r-token", Role::Read), ("c-token", Role::Control)] {
            if role < needed {
                assert_eq!(ask(&server, method, path, Some(token)).await, low, "{method} {path}");
                refused += 1;
            }
        }
    }
    assert!(refused > 40, "{refused}");
    // What is allowed is answered, with whatever it is.
    for (method, path, token, status) in [
        ("GET", "/__mockforge/mqtt/stats", "r-token", 200),
        ("HEAD", "/__mockforge/mqtt/stats", "r-token", 200),
        ("GET", "/__mockforge/metrics", "r-token", 200),
        ("POST", "/__mockforge/chaos:reset", "c-token", 200),
        ("DELETE", "/__mockforge/webhooks/none", "a-token", 404),
        ("GET", "/__mockforge/nothing", "r-token", 404),
        ("POST", "/__mockforge/shutdown", "a-token", 200),
    ] {
        assert_eq!(ask(&server, method, path, Some(token)).await.0, status, "{method} {path}");
    }
    assert_eq!(ask(&server, "GET", "/__mockforge/health", None).await.0, 503);
}

async fn connect(address: SocketAddr) -> Channel {
    tonic::transport::Endpoint::new(format!("http://{address}")).unwrap().connect().await.unwrap()
}

fn with_token<T>(message: T, token: &str) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    let value = MetadataValue::try_from(format!("Bearer {token}")).unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

#[tokio::test]
async fn grpc_needs_the_same_roles_on_both_ports() {
    let server = Server::start_with(tokens(&CALLERS), ApiLimits::default());
    let (http, grpc) = (port().await, port().await);
    let addresses = [&http, &grpc].map(|port| port.listener.local_addr().unwrap());
    let stop = CancellationToken::new();
    let served =
        tokio::spawn(serve(server.gateway.clone(), Some(http), Some(grpc), stop.clone().cancelled_owned()));
    for address in addresses {
        let channel = connect(address).await;
        let mut admin = pb::admin_client::AdminClient::new(channel.clone());
        let mut chaos = pb::chaos_client::ChaosClient::new(channel);
        for (token, enable, shutdown) in [
            ("r-token", Code::PermissionDenied, Code::PermissionDenied),
            ("c-token", Code::Ok, Code::PermissionDenied),
        ] {
            let code = |answer: Result<_, Status>| answer.err().map_or(Code::Ok, |status| status.code());
            let answer = admin.get_server_info(with_token(pb::GetServerInfoRequest {}, token)).await;
            assert_eq!(code(answer.map(drop)), Code::Ok);
            let answer = chaos.enable_chaos(with_token(pb::EnableChaosRequest {}, token)).await;
            assert_eq!(code(answer.map(drop)), enable);
            let answer = admin.shutdown(with_token(pb::ShutdownRequest {}, token)).await;
            assert_eq!(code(answer.map(drop)), shutdown);
        }
        let status = admin.shutdown(with_token(pb::ShutdownRequest {}, "r-token")).await.unwrap_err();
        let info = status.get_details_error_info().unwrap();
        assert_eq!(
            (info.metadata["required_role"].as_str(), info.metadata["role"].as_str()),
            ("admin", "read")
        );
    }
    stop.cancel();
    served.await.unwrap();
}
