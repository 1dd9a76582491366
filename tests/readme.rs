//! The test that the README shows, word for word; by itself, since a process has one latest server.

use std::time::Duration;

use mockforge::{Server, mqtt::metrics};

#[tokio::test]
async fn a_device_says_hello() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::builder().port(0).start().await?;
    server.mocks().add_yaml("{topic: 'devices/+/get', response: {payload: {on: true}}}")?;

    // … your device connects to server.port(), or server.url(), and says hello; here the server does it itself …
    server.publish("devices/d1/hello", "hi").await?;

    let hello = server.messages().wait_for("devices/+/hello", Duration::from_secs(5)).await?;
    assert_eq!(hello.payload, "hi");
    assert_eq!(metrics::get_broker_stats().await.active_connections, 0); // of the server started last

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
