//! A port of the control plane: whom it accepts, and how long each may take for what.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
};
use http::Request;
use hyper::{body::Frame, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{Instant, Sleep, sleep_until, timeout, timeout_at},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;
use tracing::{debug, warn};

use super::{
    access::Connected,
    refusals::{MADE_ROOM, Refusals, TLS_FAILED, TOO_MANY_CONNECTIONS},
    seats::{Seat, Seats, Shown},
};
use crate::{
    config::ApiLimits,
    control::TokensInForce,
    net::tls::{ServerTls, certificate_names, explain},
};

/// For a caller that is told to go to take what was written to it.
const GOODBYE: Duration = Duration::from_secs(2);

/// How often the peer of an HTTP/2 connection is asked whether it is still there, and how long it may take to say so.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Until the kernel asks a silent peer, for those that left without a word.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// When the system is out of descriptors or memory, accepting would fail again at once.
const OUT_OF_RESOURCES_PAUSE: Duration = Duration::from_millis(100);

/// Streams that were opened and reset before they were handled, as in a rapid reset flood; h2's default.
const PENDING_RESETS_MAX: usize = 20;

/// What the first byte of a TLS connection is: a record of a handshake [RFC 8446 section 5.1].
const TLS_HANDSHAKE: u8 = 0x16;

/// A listener of the control plane.
pub struct Port {
    pub listener: TcpListener,
    /// With it, nothing else is spoken there.
    pub tls: Option<Arc<ServerTls>>,
}

/// Of both ports together.
#[derive(Clone)]
pub struct Admission {
    limits: ApiLimits,
    tokens: TokensInForce,
    seats: Arc<Seats>,
    refusals: Refusals,
}

impl Admission {
    pub fn new(limits: ApiLimits, tokens: TokensInForce, refusals: Refusals) -> Self {
        Self { seats: Seats::new(limits.connections), limits, tokens, refusals }
    }

    /// `None` when there is no seat: then nothing is read and nothing answered.
    fn admit(&self, peer: SocketAddr) -> Option<Arc<Seat>> {
        let shown = if self.tokens.get().is_empty() { Shown::Enough } else { Shown::Nothing };
        let seat = self.seats.take(shown);
        if seat.is_none() {
            let error = "there are as many connections as may be (http.limits.connections)";
            self.refusals.note(TOO_MANY_CONNECTIONS, Some(peer), error);
        }
        seat.map(Arc::new)
    }
}

impl Port {
    /// Accepts until `stop` is cancelled. Connections are tasks of `connections`, and end by themselves when their calls have
    /// been answered.
    pub async fn serve(
        self,
        router: Router,
        admission: Admission,
        connections: TaskTracker,
        stop: CancellationToken,
    ) {
        let builder = Arc::new(builder(&admission.limits));
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    if !is_of_the_peer(&error) {
                        warn!(%error, "the control plane can't accept connections");
                        tokio::time::sleep(OUT_OF_RESOURCES_PAUSE).await;
                    }
                    continue;
                }
            };
            let Some(seat) = admission.admit(peer) else { continue };
            let (router, admission, builder) = (router.clone(), admission.clone(), Arc::clone(&builder));
            let (tls, stop) = (self.tls.clone(), stop.clone());
            connections.spawn(async move {
                let calls = Calls { builder: &builder, router: &router, admission: &admission, seat: &seat };
                let served = tokio::select! {
                    served = serve_connection(stream, peer, tls, calls, stop) => served,
                    () = seat.lost() => {
                        admission.refusals.note(MADE_ROOM, Some(peer), "another needed the connection more");
                        return;
                    }
                };
                if let Err(error) = served {
                    debug!(%peer, error, "a connection to the control plane ended");
                }
            });
        }
    }
}

/// The peer went before it was accepted.
fn is_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

fn builder(limits: &ApiLimits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_headers(limits.headers)
        .max_buf_size(limits.header_bytes);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(limits.streams)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX));
    builder
}

async fn serve_connection(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<Arc<ServerTls>>,
    calls: Calls<'_>,
    stop: CancellationToken,
) -> Result<(), String> {
    let began = Instant::now();
    // Answers are written whole; waiting for more only delays them.
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE));
    let connected = Connected { peer: Some(peer), seat: Arc::downgrade(calls.seat), ..Connected::default() };
    let limits = &calls.admission.limits;
    let Some(tls) = tls else {
        let stream = Patient::new(stream, limits.idle_timeout);
        return calls.answer(stream, connected, began, stop).await;
    };
    let handshake = tokio::select! {
        handshake = timeout_at(began + limits.head_timeout, shake_hands(stream, &tls, limits)) => handshake,
        () = stop.cancelled() => return Ok(()),
    };
    let handshake = handshake.map_err(|_| "the TLS handshake took too long".to_owned()).flatten();
    let stream =
        handshake.inspect_err(|error| calls.admission.refusals.note(TLS_FAILED, Some(peer), error))?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let name = certificate.and_then(certificate_names).and_then(|names| names.common_name);
    let connected = Connected { is_tls: true, certificate: name.map(Arc::from), ..connected };
    calls.answer(stream, connected, Instant::now(), stop).await
}

async fn shake_hands(
    mut stream: TcpStream,
    tls: &ServerTls,
    limits: &ApiLimits,
) -> Result<TlsStream<Patient<TcpStream>>, String> {
    let mut first = [0];
    if stream.peek(&mut first).await.map_err(|error| error.to_string())? == 1 && first[0] != TLS_HANDSHAKE {
        refuse_plain(&mut stream).await;
        return Err("the caller spoke no TLS".to_owned());
    }
    let stream = Patient::new(stream, limits.idle_timeout);
    TlsAcceptor::from(tls.config()).accept(stream).await.map_err(|error| {
        let of_tls = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
        of_tls.map_or_else(|| error.to_string(), explain)
    })
}

/// Tells whoever speaks HTTP what is spoken here.
async fn refuse_plain(stream: &mut TcpStream) {
    const ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 35\r\n\
        Connection: close\r\n\r\nthis port speaks TLS: use https://\n";
    let goodbye = async {
        if stream.write_all(ANSWER).await.is_ok() && stream.shutdown().await.is_ok() {
            // What is unread when a socket closes resets the connection, and the answer is lost.
            let mut rest = [0; 1024];
            while stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
        }
    };
    let _ = timeout(GOODBYE, goodbye).await;
}

/// What answers calls, and within which limits.
#[derive(Clone, Copy)]
struct Calls<'a> {
    builder: &'a auto::Builder<TokioExecutor>,
    router: &'a Router,
    admission: &'a Admission,
    seat: &'a Arc<Seat>,
}

impl Calls<'_> {
    /// Answers the calls of a connection until its end, or until it was idle for too long.
    async fn answer<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
        self,
        stream: S,
        connected: Connected,
        began: Instant,
        stop: CancellationToken,
    ) -> Result<(), String> {
        let (activity, mut activities) =
            watch::channel(Activity { under_way: 0, since: began, has_asked: false });
        let service = service_fn(|request: Request<hyper::body::Incoming>| {
            let call = Call::begin(&activity);
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(connected.clone());
            let answer = self.router.clone().oneshot(request);
            async move { answer.await.map(|answer| answer.map(|body| held(body, call))) }
        });
        let mut connection = pin!(self.builder.serve_connection(TokioIo::new(stream), service));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.ends(&mut activities, began) => {
                connection.as_mut().graceful_shutdown();
                timeout(GOODBYE, connection).await.unwrap_or(Ok(()))
            }
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        ended.map_err(|error| error.to_string())
    }

    /// Completes when a connection is to end, though its caller did not end it.
    async fn ends(self, activities: &mut watch::Receiver<Activity>, began: Instant) {
        let limits = &self.admission.limits;
        // Health is for everybody, but whoever asks for nothing else has it no longer than others may be idle.
        let outstays = async {
            sleep_until(began + limits.idle_timeout).await;
            if !self.seat.is_strangers() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = idle(activities, limits) => {}
            () = outstays => {}
            // Whoever was let in by one that is gone goes as well.
            () = self.admission.tokens.changed() => {}
        }
    }
}

/// How busy a connection is.
struct Activity {
    /// Calls that were asked and not yet answered to the end.
    under_way: usize,
    /// Of the last change.
    since: Instant,
    has_asked: bool,
}

/// Completes when a connection was idle for too long.
async fn idle(activities: &mut watch::Receiver<Activity>, limits: &ApiLimits) {
    loop {
        let deadline = {
            let activity = activities.borrow_and_update();
            let limit = if activity.has_asked { limits.idle_timeout } else { limits.head_timeout };
            (activity.under_way == 0).then(|| activity.since + limit)
        };
        let changed = match deadline {
            Some(deadline) => timeout_at(deadline, activities.changed()).await,
            None => Ok(activities.changed().await),
        };
        match changed {
            Ok(Ok(())) => {}
            // The connection has the sender.
            Ok(Err(_)) => std::future::pending().await,
            Err(_) => return,
        }
    }
}

/// A call that is under way.
struct Call(watch::Sender<Activity>);

impl Call {
    fn begin(activity: &watch::Sender<Activity>) -> Self {
        activity.send_modify(|activity| {
            activity.under_way += 1;
            activity.has_asked = true;
        });
        Self(activity.clone())
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.send_modify(|activity| {
            activity.under_way -= 1;
            activity.since = Instant::now();
        });
    }
}

/// The body of an answer, with what is given back when it was sent or is given up.
pub fn held(body: Body, guard: impl Send + Unpin + 'static) -> Body {
    Body::new(Held { body, _guard: guard })
}

struct Held<G> {
    body: Body,
    _guard: G,
}

impl<G: Unpin> HttpBody for Held<G> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

/// A stream whose peer takes what is written to it within a time, or is let go.
struct Patient<S> {
    stream: S,
    limit: Duration,
    /// Runs while nothing can be written.
    waits: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    fn new(stream: S, limit: Duration) -> Self {
        Self { stream, limit, waits: None }
    }

    fn watched<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waits = None;
            return written;
        }
        let limit = self.limit;
        let waits = self.waits.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + limit)));
        ready!(waits.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer reads nothing")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.watched(context, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(context, slices);
        this.watched(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(context);
        this.watched(context, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let ended = Pin::new(&mut this.stream).poll_shutdown(context);
        this.watched(context, ended)
    }
}
