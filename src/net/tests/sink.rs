//! A receiver of HTTP requests that does what a test tells it to.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    sync::{Semaphore, mpsc},
};
use tokio_rustls::TlsAcceptor;

use super::soon;

/// What a receiver does about a request.
pub enum Reply {
    /// These bytes, as they are.
    Raw(Vec<u8>),
    /// Success, once there is a permit.
    Once(Arc<Semaphore>),
    /// Nothing, as long as the client waits.
    Never,
}

/// A request that came in.
#[derive(Debug)]
pub struct Received {
    pub head: String,
    pub body: String,
}

impl Received {
    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).expect("the header is there").1
    }
}

/// A receiver that does what it is told.
pub struct Sink {
    pub url: String,
    pub requests: mpsc::UnboundedReceiver<Received>,
    pub connections: Arc<AtomicUsize>,
}

pub type Script = Arc<dyn Fn(usize) -> Reply + Send + Sync>;

impl Sink {
    /// `script` is asked about each request, from 0.
    pub async fn start(script: impl Fn(usize) -> Reply + Send + Sync + 'static) -> Self {
        Self::listen(Arc::new(script), None).await
    }

    pub async fn listen(script: Script, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (sender, requests) = mpsc::unbounded_channel();
        let connections = Arc::new(AtomicUsize::new(0));
        let scheme = if tls.is_some() { "https" } else { "http" };
        let (accepted, numbers) = (Arc::clone(&connections), Arc::new(AtomicUsize::new(0)));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                accepted.fetch_add(1, SeqCst);
                let (script, sender, numbers) = (Arc::clone(&script), sender.clone(), Arc::clone(&numbers));
                match tls.clone() {
                    None => drop(tokio::spawn(receive(stream, script, sender, numbers))),
                    Some(tls) => drop(tokio::spawn(async move {
                        // Clients that do not trust the certificate leave here.
                        if let Ok(stream) = tls.accept(stream).await {
                            receive(stream, script, sender, numbers).await;
                        }
                    })),
                }
            }
        });
        Self { url: format!("{scheme}://{address}/hook"), requests, connections }
    }

    pub async fn next(&mut self) -> Received {
        soon(self.requests.recv()).await.expect("a receiver never ends")
    }
}

async fn receive(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    script: Script,
    sender: mpsc::UnboundedSender<Received>,
    numbers: Arc<AtomicUsize>,
) {
    let mut buffer = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                return;
            }
        };
        let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
        let len = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let len: usize = len.map_or(0, |len| len.parse().expect("a length"));
        while buffer.len() < end + len {
            if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let body = String::from_utf8_lossy(&buffer[end..end + len]).into_owned();
        buffer.drain(..end + len);
        let reply = script(numbers.fetch_add(1, SeqCst));
        // The test may be over.
        let _ = sender.send(Received { head, body });
        let answer = match reply {
            Reply::Raw(bytes) => bytes,
            Reply::Once(permits) => {
                permits.acquire().await.expect("it is never closed").forget();
                b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()
            }
            Reply::Never => {
                let _ = stream.read_buf(&mut buffer).await;
                return;
            }
        };
        if stream.write_all(&answer).await.is_err() {
            return;
        }
    }
}

pub fn status(line: &str) -> Reply {
    Reply::Raw(format!("HTTP/1.1 {line}\r\ncontent-length: 2\r\n\r\nhi").into_bytes())
}

pub fn ok() -> Reply {
    status("200 OK")
}
