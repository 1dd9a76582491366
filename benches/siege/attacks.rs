//! The attacks.

use std::{
    future::{Future, pending},
    net::SocketAddr,
    pin::Pin,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, sleep_until},
};

use super::{
    field::{Figures, Siege, at_once},
    layers, wire,
};

pub struct Attack {
    pub name: &'static str,
    pub about: &'static str,
    /// Variables of the server, without their prefix.
    pub settings: &'static [(&'static str, &'static str)],
    pub run: fn(Siege) -> Running,
}

type Running = Pin<Box<dyn Future<Output = Result<Figures>>>>;

const LAYERS: [(&str, &str); 2] = [("MQTT_TLS_ENABLED", "true"), ("MQTT_WEBSOCKET_ENABLED", "true")];

const MANY: (&str, &str) = ("MQTT_MAX_CONNECTIONS", "20000");

pub const ATTACKS: &[Attack] = &[
    Attack {
        name: "rest",
        about: "nobody",
        settings: &[],
        run: |siege| Box::pin(siege.measure(async |_| {})),
    },
    Attack {
        name: "held",
        about: "10,000 clients connect and stay",
        settings: &[MANY],
        run: |siege| Box::pin(held(siege)),
    },
    Attack {
        name: "held-tls",
        about: "the same with TLS",
        settings: &[MANY, LAYERS[0]],
        run: |siege| Box::pin(held_tls(siege)),
    },
    Attack {
        name: "held-ws",
        about: "the same over WebSocket",
        settings: &[MANY, LAYERS[1]],
        run: |siege| Box::pin(held_web_socket(siege)),
    },
    Attack {
        name: "connects",
        about: "5,000 clients a second connect and go",
        settings: &[MANY],
        run: |siege| Box::pin(siege.measure(connects)),
    },
    Attack {
        name: "rated",
        about: "the same, of which 50 a second and address are admitted, and 500 in all",
        settings: &[
            MANY,
            ("MQTT_LIMITS_CONNECT_RATE_PER_ADDRESS", "50"),
            ("MQTT_LIMITS_CONNECT_RATE", "500"),
        ],
        run: |siege| Box::pin(siege.measure(connects)),
    },
    Attack {
        name: "flood",
        about: "200 clients at once try to connect beyond the limit, again and again",
        settings: &[("MQTT_MAX_CONNECTIONS", "1000")],
        run: |siege| Box::pin(flood(siege)),
    },
    Attack {
        name: "slowloris",
        about: "2,000 clients send a byte of their CONNECT a second",
        settings: &[MANY],
        run: |siege| Box::pin(siege.measure(slowloris)),
    },
    Attack {
        name: "slow-tls",
        about: "the same with a ClientHello",
        settings: &[MANY, LAYERS[0]],
        run: |siege| {
            Box::pin(siege.measure(async |siege| drip(siege, siege.tls, &layers::client_hello()).await))
        },
    },
    Attack {
        name: "slow-ws",
        about: "the same with a request for WebSocket",
        settings: &[MANY, LAYERS[1]],
        run: |siege| {
            Box::pin(siege.measure(async |siege| {
                drip(siege, siege.web_socket, layers::upgrade(siege.web_socket).as_bytes()).await;
            }))
        },
    },
    Attack {
        name: "hellos",
        about: "64 clients at once begin a TLS handshake and leave when the server has signed, again and again",
        settings: &[MANY, LAYERS[0]],
        run: |siege| Box::pin(siege.measure(hellos)),
    },
    Attack {
        name: "silent",
        about: "5,000 clients connect and say nothing, or no more after CONNECT",
        settings: &[MANY],
        run: |siege| Box::pin(siege.measure(silent)),
    },
    Attack {
        name: "unread",
        about: "1,000 clients never read the 100 MB a second that they are sent",
        settings: &[MANY],
        run: |siege| Box::pin(unread(siege, None)),
    },
    Attack {
        name: "unread-qos1",
        about: "the same with QoS 1",
        settings: &[MANY],
        run: |siege| Box::pin(unread(siege, Some(1))),
    },
    Attack {
        name: "unacked",
        about: "50 clients send PINGREQ and QoS 1 as fast as they can and never read an answer",
        settings: &[MANY],
        run: |siege| Box::pin(siege.measure(unacked)),
    },
    Attack {
        name: "malformed",
        about: "64 clients at once send what is no packet, again and again",
        settings: &[MANY],
        run: |siege| Box::pin(siege.measure(malformed)),
    },
];

async fn held(siege: Siege) -> Result<Figures> {
    let held = at_once(10_000, 100, async |number| {
        let stream = siege.dial().await.ok()?;
        siege.login(stream, &format!("held-{number}"), 0).await
    })
    .await;
    siege
        .measure(async move |_| {
            let _held = held;
            pending::<()>().await;
        })
        .await
}

async fn held_tls(siege: Siege) -> Result<Figures> {
    let config = layers::tls();
    let held = at_once(10_000, 100, async |number| {
        let stream = siege.dial_to(siege.tls).await.ok()?;
        let stream = layers::handshake(config.clone(), stream).await.ok()?;
        siege.login(stream, &format!("held-{number}"), 0).await
    })
    .await;
    siege
        .measure(async move |_| {
            let _held = held;
            pending::<()>().await;
        })
        .await
}

async fn held_web_socket(siege: Siege) -> Result<Figures> {
    let held = at_once(10_000, 100, async |number| {
        let mut stream = siege.dial_to(siege.web_socket).await.ok()?;
        let connect = wire::connect(&format!("held-{number}"), 0);
        let answer = layers::ask(&mut stream, siege.web_socket, &connect).await.ok()?;
        let count = if answer == [0x20, 2, 0, 0] { &siege.counts.admitted } else { &siege.counts.refused };
        count.fetch_add(1, Relaxed);
        Some(stream)
    })
    .await;
    siege
        .measure(async move |_| {
            let _held = held;
            pending::<()>().await;
        })
        .await
}

/// Tries as many connections a second, each of which ends at once if it is let in.
async fn connects(siege: &Siege) {
    const A_SECOND: u32 = 5_000;
    let began = Instant::now();
    let paced = async |number: usize| {
        sleep_until((began + Duration::from_secs(1) * number as u32 / A_SECOND).into()).await;
        if let Ok(stream) = siege.dial().await
            && let Some(mut stream) = siege.login(stream, &format!("brief-{number}"), 0).await
        {
            let _ = stream.write_all(&[0xE0, 0]).await;
        }
    };
    at_once(usize::MAX, 1_000, paced).await;
}

async fn flood(siege: Siege) -> Result<Figures> {
    let held = at_once(998, 100, async |number| {
        let stream = siege.dial().await.ok()?;
        siege.login(stream, &format!("held-{number}"), 0).await
    })
    .await;
    siege
        .measure(async move |siege| {
            let _held = held;
            let again = async |_| {
                if let Ok(stream) = siege.dial().await {
                    siege.login(stream, "beyond", 0).await;
                }
            };
            at_once(usize::MAX, 200, again).await;
        })
        .await
}

async fn slowloris(siege: &Siege) {
    drip(siege, siege.target, &wire::connect(&"x".repeat(60_000), 0)).await;
}

/// Sends `bytes` one a second, and again from the start once the server had enough.
async fn drip(siege: &Siege, address: SocketAddr, bytes: &[u8]) {
    at_once(2_000, 2_000, async |number| {
        // Spread over a second.
        sleep(Duration::from_micros(number as u64 * 500)).await;
        loop {
            let Ok(mut stream) = siege.dial_to(address).await else { continue };
            for byte in bytes {
                if stream.write_all(&[*byte]).await.is_err() || is_cut(&stream) {
                    siege.counts.cut.fetch_add(1, Relaxed);
                    break;
                }
                sleep(Duration::from_secs(1)).await;
            }
        }
    })
    .await;
}

async fn hellos(siege: &Siege) {
    let hello = layers::client_hello();
    at_once(usize::MAX, 64, async |_| {
        let Ok(mut stream) = siege.dial_to(siege.tls).await else { return };
        if stream.write_all(&hello).await.is_ok() && matches!(stream.read(&mut [0; 4096]).await, Ok(1..)) {
            siege.counts.sent.fetch_add(1, Relaxed);
        }
    })
    .await;
}

/// Whether the server has ended the connection.
fn is_cut(stream: &TcpStream) -> bool {
    matches!(stream.try_read(&mut [0; 64]), Ok(0))
}

async fn silent(siege: &Siege) {
    at_once(5_000, 5_000, async |number| {
        // As many as the backlog takes.
        sleep(Duration::from_micros(number as u64 * 200)).await;
        let stream = siege.dial().await.ok()?;
        let mut stream = match number % 2 {
            0 => stream,
            _ => siege.login(stream, &format!("silent-{number}"), 3).await?,
        };
        siege.until_cut(&mut stream).await;
        // The client's half is never closed.
        Some(stream)
    })
    .await;
}

/// What cannot be read, so that what is sent gathers on our side of the network.
const RECEIVE_BUFFER: u32 = 4 << 10;

async fn unread(siege: Siege, qos: Option<u16>) -> Result<Figures> {
    let held = at_once(1_000, 100, async |number| {
        let small = |socket: &tokio::net::TcpSocket| socket.set_recv_buffer_size(RECEIVE_BUFFER);
        let stream = siege.dial_with(siege.target, small).await.ok()?;
        let mut stream = siege.login(stream, &format!("unread-{number}"), 0).await?;
        let filter = wire::subscribe("flood/#", qos.map_or(0, |qos| qos as u8));
        stream.write_all(&filter).await.ok()?;
        Some(stream)
    })
    .await;
    siege
        .measure(async move |siege| {
            let _held = held;
            let Ok(stream) = siege.dial().await else { return };
            let Some(stream) = siege.login(stream, "flooder", 0).await else { return };
            let (mut read, mut write) = stream.into_split();
            let began = Instant::now();
            let reading = async {
                let mut scratch = [0; 4096];
                while matches!(read.read(&mut scratch).await, Ok(1..)) {}
            };
            let writing = async {
                for number in 1..=u32::MAX {
                    sleep_until((began + Duration::from_millis(10) * number).into()).await;
                    let identifier = qos.map(|_| number as u16 | 1);
                    if write.write_all(&wire::publish("flood/x", identifier, &[b'x'; 1000])).await.is_err() {
                        return;
                    }
                    siege.counts.sent.fetch_add(1, Relaxed);
                }
            };
            tokio::join!(reading, writing);
        })
        .await
}

async fn unacked(siege: &Siege) {
    at_once(50, 50, async |number| {
        let stream = siege.dial().await.ok()?;
        let mut stream = siege.login(stream, &format!("unacked-{number}"), 0).await?;
        let mut packets = [0xC0, 0].repeat(1_000);
        for identifier in 1..1_000 {
            packets.extend(wire::publish("nobody/is/subscribed", Some(identifier), b"x"));
        }
        while stream.write_all(&packets).await.is_ok() {
            siege.counts.sent.fetch_add(2_000, Relaxed);
        }
        siege.counts.cut.fetch_add(1, Relaxed);
        Some(stream)
    })
    .await;
}

async fn malformed(siege: &Siege) {
    at_once(usize::MAX, 64, async |number| {
        let Ok(mut stream) = siege.dial().await else { return };
        let garbage: &[u8] = match number % 4 {
            0 => b"GET / HTTP/1.1\r\nHost: example\r\n\r\n",
            1 => b"\x10\xff\xff\xff\xff\x7f",
            2 => b"\x10\x0c\x00\x04MQTT\x09\x02\x00\x00\x00\x00",
            _ => {
                let Some(logged_in) = siege.login(stream, &format!("bad-{number}"), 0).await else { return };
                stream = logged_in;
                b"\x33\x05\x00\x01#\x00\x00\x00\x00"
            }
        };
        if stream.write_all(garbage).await.is_ok() {
            siege.until_cut(&mut stream).await;
        }
    })
    .await;
}
