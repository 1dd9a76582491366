//! The test that the README shows, word for word.

use std::time::Duration;

use mockforge::Server;

#[tokio::test]
async fn a_device_says_hello() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::builder().port(0).start().await?;
    server.mocks().add_yaml("{topic: 'devices/+/get', response: {payload: {on: true}}}")?;

    // … your device connects to server.port(), or server.url(), and says hello; here the server does it itself …
    server.publish("devices/d1/hello", "hi").await?;

    let hello = server.messages().wait_for("devices/+/hello", Duration::from_secs(5)).await?;
    assert_eq!(hello.payload, "hi");
    // The same as mockforge::mqtt::metrics::get_broker_stats(), which is of the server started last.
    assert_eq!(server.stats().await.active_connections, 0);

    server.stop().await?; // or drop it: clients are disconnected, recordings completed, the port is free
    Ok(())
}

#[test]
fn the_readme_shows_it() {
    let source = include_str!("readme.rs");
    let shown = source.split("\n\n").skip(1).take_while(|part| !part.starts_with("#[test]"));
    let shown = shown.collect::<Vec<_>>().join("\n\n");
    assert!(include_str!("../README.md").contains(&format!("```rust\n{shown}\n```")), "{shown}");
}
