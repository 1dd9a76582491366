//! The test that the README shows, word for word; by itself, since a process has one latest server.

use mockforge::{Config, Server, config::Sources, mqtt::metrics};

#[tokio::test]
async fn a_device_says_hello() -> Result<(), Box<dyn std::error::Error>> {
    let mut config = Config::load(Sources::default())?; // the defaults: no file, no environment
    config.mqtt.enabled = true;
    config.mqtt.port = 0;
    config.http.enabled = false;
    config.grpc.enabled = false;
    let server = Server::bind(config).await?;
    let port = server.addresses().mqtt.expect("MQTT is enabled").port();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(server.run(async move { _ = stopped.await }));

    // … point your device at `port`, let it talk …
    assert_ne!(port, 0);
    let stats = metrics::get_broker_stats().await; // of the server started last
    assert_eq!(stats.active_connections, 0);

    drop(stop); // clients are disconnected, recordings completed
    running.await??;
    Ok(())
}

#[test]
fn the_readme_shows_it() {
    let source = include_str!("readme.rs");
    let shown = source.split("\n\n").skip(1).take_while(|part| !part.starts_with("#[test]"));
    let shown = shown.collect::<Vec<_>>().join("\n\n");
    assert!(include_str!("../README.md").contains(&format!("```rust\n{shown}\n```")), "{shown}");
}
