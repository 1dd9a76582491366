//! Proxies beside a server's own listener.

use std::time::Duration;

use mockforge::{
    RunningServer, Server,
    control::{ControlError, pb},
};
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};

use crate::running::{start, start_as};

struct Device {
    client: AsyncClient,
    eventloop: EventLoop,
}

impl Device {
    async fn connect(address: &str, client_id: &str) -> Self {
        let (host, port) = address.rsplit_once(':').unwrap();
        let mut options = MqttOptions::new(client_id, host, port.parse().unwrap());
        options.set_keep_alive(Duration::from_secs(5));
        let (client, eventloop) = AsyncClient::new(options, 10);
        let mut device = Self { client, eventloop };
        assert!(matches!(device.next().await, Packet::ConnAck(_)));
        device
    }

    async fn next(&mut self) -> Packet {
        loop {
            if let Event::Incoming(packet) = self.eventloop.poll().await.unwrap() {
                return packet;
            }
        }
    }

    async fn subscribe(&mut self, filter: &str) {
        self.client.subscribe(filter, QoS::AtLeastOnce).await.unwrap();
        while !matches!(self.next().await, Packet::SubAck(_)) {}
    }

    async fn publish(&mut self, topic: &str, payload: &str) {
        self.client.publish(topic, QoS::AtLeastOnce, false, payload).await.unwrap();
        while !matches!(self.next().await, Packet::PubAck(_)) {}
    }

    async fn message(&mut self) -> (String, String) {
        loop {
            if let Packet::Publish(publish) = self.next().await {
                return (publish.topic, String::from_utf8(publish.payload.to_vec()).unwrap());
            }
        }
    }

    /// Until the connection ends.
    async fn ends(&mut self) {
        while self.eventloop.poll().await.is_ok() {}
    }
}

async fn add(server: &RunningServer, id: &str, upstream: &str) -> Result<pb::Proxy, ControlError> {
    let proxy = pb::Proxy { id: id.to_owned(), upstream: upstream.to_owned(), ..Default::default() };
    server.control().create_proxy(pb::CreateProxyRequest { proxy: Some(proxy) }).await
}

async fn update(server: &RunningServer, proxy: pb::Proxy, paths: &[&str]) -> Result<pb::Proxy, ControlError> {
    let update_mask = prost_types::FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() };
    let id = proxy.id.clone();
    let request = pb::UpdateProxyRequest { id, proxy: Some(proxy), update_mask: Some(update_mask) };
    server.control().update_proxy(request).await
}

async fn connections(server: &RunningServer, id: &str) -> Vec<pb::ProxyConnection> {
    let request = pb::ListConnectionsRequest { id: id.to_owned(), ..Default::default() };
    server.control().list_connections(request).await.unwrap().connections
}

fn names(proxies: &[pb::Proxy]) -> Vec<&str> {
    proxies.iter().map(|proxy| proxy.id.as_str()).collect()
}

async fn list(server: &RunningServer) -> Vec<pb::Proxy> {
    server.control().list_proxies(pb::ListProxiesRequest::default()).await.unwrap().proxies
}

#[tokio::test]
async fn each_stands_before_a_broker_of_its_own_and_all_are_recorded_together() {
    let (server, one, two) = (start().await, start().await, start().await);
    let first = add(&server, "", &one.url()).await.unwrap();
    let second = add(&server, "second", &two.url()).await.unwrap();
    assert_eq!(names(&list(&server).await), ["proxy-1", "second"]);
    let recording = server.recordings().start("both").await.unwrap();

    let mut via_first = Device::connect(&first.address, "a").await;
    let mut via_second = Device::connect(&second.address, "b").await;
    let mut direct = Device::connect(&server.address().to_string(), "c").await;
    via_first.subscribe("t").await;
    via_second.subscribe("t").await;
    direct.subscribe("t").await;
    one.publish("t", "one").await.unwrap();
    two.publish("t", "two").await.unwrap();
    server.publish("t", "own").await.unwrap();
    assert_eq!(via_first.message().await.1, "one");
    assert_eq!(via_second.message().await.1, "two");
    assert_eq!(direct.message().await.1, "own");

    let numbers: Vec<u64> = [connections(&server, "proxy-1").await, connections(&server, "second").await]
        .concat()
        .iter()
        .map(|connection| connection.connection)
        .collect();
    assert_eq!(numbers, [1, 2], "the third is the server's own");
    assert_eq!(connections(&server, "second").await[0].client_id, "b");
    let recording = recording.stop().await.unwrap();
    assert_eq!(recording.connections, 3);
}

#[tokio::test]
async fn a_mock_answers_where_its_message_came_through() {
    let (server, one, two) = (start().await, start().await, start().await);
    server.mocks().add_yaml("{topic: ask, response: {topic: answer, payload: here}}").unwrap();
    let first = add(&server, "one", &one.url()).await.unwrap();
    let second = add(&server, "two", &two.url()).await.unwrap();
    let mut via_first = Device::connect(&first.address, "a").await;
    let mut via_second = Device::connect(&second.address, "a").await;
    let mut direct = Device::connect(&server.address().to_string(), "a").await;
    for device in [&mut via_first, &mut via_second, &mut direct] {
        device.subscribe("#").await;
    }
    for device in [&mut via_first, &mut via_second, &mut direct] {
        device.client.publish("ask", QoS::AtMostOnce, false, "?").await.unwrap();
        assert_eq!(device.message().await.0, "ask");
        assert_eq!(device.message().await, ("answer".to_owned(), "here".to_owned()));
    }
    // Had an answer gone astray, it would stand before this.
    for (device, broker) in [(&mut via_first, &one), (&mut via_second, &two), (&mut direct, &server)] {
        broker.publish("end", "").await.unwrap();
        assert_eq!(device.message().await.0, "end");
    }
}

#[tokio::test]
async fn a_proxy_that_is_off_lets_nobody_in_and_comes_back_where_it_was() {
    let (server, broker) = (start().await, start().await);
    let proxy = add(&server, "p", &broker.url()).await.unwrap();
    let mut device = Device::connect(&proxy.address, "a").await;

    let off = pb::Proxy { id: "p".to_owned(), enabled: Some(false), ..Default::default() };
    let shown = update(&server, off, &["enabled"]).await.unwrap();
    assert_eq!((shown.enabled(), shown.address.as_str(), shown.listen), (false, "", proxy.address.clone()));
    device.ends().await;
    assert!(tokio::net::TcpStream::connect(&proxy.address).await.is_err());

    let on = pb::Proxy { id: "p".to_owned(), enabled: Some(true), ..Default::default() };
    assert_eq!(update(&server, on, &["enabled"]).await.unwrap().address, proxy.address);
    Device::connect(&proxy.address, "a").await.publish("t", "x").await;
}

#[tokio::test]
async fn another_upstream_takes_over_and_one_that_is_no_good_changes_nothing() {
    let (server, one, two) = (start().await, start().await, start().await);
    let proxy = add(&server, "p", &one.url()).await.unwrap();
    let mut device = Device::connect(&proxy.address, "a").await;
    let said = |upstream: &str| pb::Proxy {
        id: "p".to_owned(),
        upstream: upstream.to_owned(),
        ..Default::default()
    };
    let circle = format!("mqtt://{}", proxy.address);
    for (upstream, what) in [("http://a", "http"), (&*circle, "leads back to this proxy"), ("", "no host")] {
        let error = update(&server, said(upstream), &["upstream"]).await.unwrap_err();
        let ControlError::BadFields(fields) = &error else { panic!("{error}") };
        assert_eq!(fields[0].path, "proxy.upstream");
        assert!(fields[0].what.contains(what), "{error}");
    }
    device.publish("t", "still there").await;

    let shown = update(&server, said(&two.url()), &["upstream"]).await.unwrap();
    assert_eq!((shown.upstream, shown.address), (two.url(), proxy.address.clone()));
    device.ends().await;
    let mut device = Device::connect(&proxy.address, "a").await;
    device.subscribe("t").await;
    two.publish("t", "two").await.unwrap();
    assert_eq!(device.message().await.1, "two");
}

#[tokio::test]
async fn proxies_that_lead_in_a_circle_are_refused() {
    let server = start().await;
    let listen = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let first = add(&server, "first", &format!("mqtt://{listen}")).await.unwrap();
    let proxy = pb::Proxy {
        listen: listen.to_string(),
        upstream: format!("mqtt://{}", first.address),
        ..Default::default()
    };
    let error = server.control().create_proxy(pb::CreateProxyRequest { proxy: Some(proxy) }).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("leads back to this proxy"), "{error}");
    assert_eq!(names(&list(&server).await), ["first"]);
}

#[tokio::test]
async fn a_connection_is_closed_or_reset_by_its_number() {
    let (server, broker) = (start().await, start().await);
    let proxy = add(&server, "p", &broker.url()).await.unwrap();
    for mode in [pb::CloseMode::Fin, pb::CloseMode::Rst] {
        let mut device = Device::connect(&proxy.address, "a").await;
        let connection = connections(&server, "p").await[0].connection;
        let request = pb::CloseConnectionRequest { id: "p".to_owned(), connection, mode: mode.into() };
        server.control().close_connection(request.clone()).await.unwrap();
        device.ends().await;
        while !connections(&server, "p").await.is_empty() {
            tokio::task::yield_now().await;
        }
        let error = server.control().close_connection(request).await.unwrap_err();
        assert!(matches!(error, ControlError::ConnectionNotFound { .. }), "{error}");
    }
}

#[tokio::test]
async fn what_is_not_there_or_there_already_is_said() {
    let server = start_as(Server::builder().set("mqtt.limits.proxies", 1)).await;
    let missing = |error: ControlError| matches!(error, ControlError::ProxyNotFound { .. });
    let id = || "none".to_owned();
    assert!(missing(server.control().get_proxy(pb::GetProxyRequest { id: id() }).await.unwrap_err()));
    assert!(missing(server.control().delete_proxy(pb::DeleteProxyRequest { id: id() }).await.unwrap_err()));
    let taken = format!("mqtt://{}", server.address());
    let proxy = add(&server, "a", &taken).await.unwrap();
    assert!(matches!(add(&server, "b", &taken).await, Err(ControlError::TooManyProxies(1))));
    server.control().delete_proxy(pb::DeleteProxyRequest { id: "a".to_owned() }).await.unwrap();
    assert!(tokio::net::TcpStream::connect(&proxy.address).await.is_err());

    let listening = pb::Proxy {
        listen: server.address().to_string(),
        upstream: "mqtt://127.0.0.1:1".to_owned(),
        ..Default::default()
    };
    let error = server.control().create_proxy(pb::CreateProxyRequest { proxy: Some(listening) }).await;
    assert!(matches!(error, Err(ControlError::CannotListen { .. })), "{error:?}");
    for (proxy, path) in [
        (
            pb::Proxy { upstream: "mqtt://a".to_owned(), id: "a/b".to_owned(), ..Default::default() },
            "proxy.id",
        ),
        (
            pb::Proxy { upstream: "mqtt://a".to_owned(), listen: "x".to_owned(), ..Default::default() },
            "proxy.listen",
        ),
        (pb::Proxy::default(), "proxy.upstream"),
    ] {
        let error = server.control().create_proxy(pb::CreateProxyRequest { proxy: Some(proxy) }).await;
        let Err(ControlError::BadFields(fields)) = error else { panic!("{error:?}") };
        assert_eq!(fields[0].path, path);
    }
}

#[tokio::test]
async fn the_servers_own_proxy_is_shown_and_stays() {
    let broker = start().await;
    let server = start_as(Server::builder().upstream(&broker.url())).await;
    let shown = list(&server).await;
    assert_eq!((names(&shown), &shown[0].upstream), (vec!["default"], &broker.url()));
    let mut device = Device::connect(&shown[0].address, "a").await;
    let connection = connections(&server, "default").await[0].connection;
    let error = server.control().delete_proxy(pb::DeleteProxyRequest { id: "default".to_owned() }).await;
    assert!(matches!(error, Err(ControlError::OwnProxy)), "{error:?}");
    let close = pb::CloseConnectionRequest { id: "default".to_owned(), connection, mode: 0 };
    server.control().close_connection(close).await.unwrap();
    device.ends().await;
}

#[tokio::test]
async fn those_of_the_settings_are_there_from_the_start() {
    let broker = start().await;
    let yaml = format!("mqtt: {{proxies: [{{id: edge, listen: 0, upstream: '{}'}}]}}", broker.url());
    let server = start_as(Server::builder().config_text(&yaml)).await;
    let edge = &list(&server).await[0];
    assert!(edge.from_settings);
    Device::connect(&edge.address, "a").await.publish("t", "x").await;

    for (yaml, what) in [
        ("mqtt: {proxies: [{id: a, upstream: 'mqtt://a', listen: 70000}]}", "expected HOST:PORT or a port"),
        ("mqtt: {proxies: [{upstream: 'mqtt://a'}]}", "mqtt.proxies[0].id: is required"),
        ("mqtt: {proxies: [{id: a, upstream: 'mqtt://a', port: 1}]}", "mqtt.proxies[0].port: unknown"),
        ("mqtt: {proxies: [{id: a, upstream: 'ftp://a'}]}", "mqtt.proxies[0].upstream: "),
    ] {
        let error = Server::builder().config_text(yaml).start().await.unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}
