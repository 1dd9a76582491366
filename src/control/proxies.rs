//! The rpcs of `Proxies`, and the proxies that run beside the server's own listener.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::future::join_all;
use tracing::Instrument;

use super::{
    Control, ControlError, MqttServer, ProxyServer, blocking, fields::Fields, mask, page::PageRequest, pb,
    server::Outcomes, time,
};
use crate::{
    config::{OWN_PROXY, ProxySpec, check_proxies},
    field::BadField,
    net::{
        Asking, Ending, MqttUrl, ProxiedClient, ProxyHandle, Reply, bind, leads_to, prepare,
        tls::{TlsError, TlsFiles},
    },
    packet::{ProtocolVersion, ReasonCode},
    session::ConnectionId,
};

/// Starts a proxy, called by its id, for what a listener accepts.
pub type SpawnProxy = Box<dyn Fn(TcpListener, MqttUrl, &Arc<str>) -> io::Result<ProxyHandle> + Send + Sync>;

/// What proxies are made with.
pub struct ProxyParts {
    pub spawn: SpawnProxy,
    /// Who is asked about messages of our own.
    pub asking: Asking,
    /// Proxies at most.
    pub max: usize,
    /// Where the server itself listens for MQTT.
    pub listeners: Vec<SocketAddr>,
    /// The proxy that the server itself is.
    pub own: Option<(SocketAddr, ProxyHandle)>,
}

/// The proxies of a server; clones share them.
#[derive(Clone)]
pub struct Proxies {
    inner: Arc<Inner>,
}

struct Inner {
    parts: ProxyParts,
    /// Held while they are changed, which may take seconds; whether they were shut down.
    changes: tokio::sync::Mutex<bool>,
    /// In the order they were made.
    held: Mutex<Vec<Held>>,
}

/// One proxy.
#[derive(Clone)]
struct Held {
    id: Arc<str>,
    /// With the port that was taken where any was asked for.
    spec: ProxySpec,
    url: MqttUrl,
    from_settings: bool,
    /// While it is switched on.
    running: Option<Running>,
}

#[derive(Clone)]
struct Running {
    address: SocketAddr,
    handle: ProxyHandle,
    server: Arc<ProxyServer>,
    /// What its upstream is believed by.
    certificates: Option<Arc<dyn TlsFiles>>,
}

impl Proxies {
    pub fn new(parts: ProxyParts) -> Self {
        Self {
            inner: Arc::new(Inner { parts, changes: tokio::sync::Mutex::default(), held: Mutex::default() }),
        }
    }

    fn held(&self) -> MutexGuard<'_, Vec<Held>> {
        self.inner.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, id: &str) -> Result<Held, ControlError> {
        let found = self.held().iter().find(|held| *held.id == *id).cloned();
        found.ok_or_else(|| ControlError::ProxyNotFound { id: id.to_owned() })
    }

    /// One that runs, the server's own included.
    fn handle(&self, id: &str) -> Result<Option<ProxyHandle>, ControlError> {
        match &self.inner.parts.own {
            Some((_, own)) if id == OWN_PROXY => Ok(Some(own.clone())),
            _ => Ok(self.find(id)?.running.map(|running| running.handle)),
        }
    }

    fn shown_own(&self) -> Option<pb::Proxy> {
        let (address, handle) = self.inner.parts.own.as_ref()?;
        let spec = ProxySpec {
            id: OWN_PROXY.to_owned(),
            listen: address.to_string(),
            upstream: handle.upstream().to_string(),
            enabled: true,
        };
        Some(shown(&spec, Some((*address, handle)), true))
    }

    /// In the order they were made, the server's own first.
    fn list(&self) -> Vec<pb::Proxy> {
        self.shown_own().into_iter().chain(self.held().iter().map(Held::shown)).collect()
    }

    /// What upstreams are believed by.
    pub(super) fn certificates(&self) -> Vec<Arc<dyn TlsFiles>> {
        let held = self.held();
        held.iter().filter_map(|held| held.running.as_ref()?.certificates.clone()).collect()
    }

    /// For changes, one after the other.
    ///
    /// # Errors
    /// [`ControlError::Stopping`] once they were shut down.
    async fn changing(&self) -> Result<tokio::sync::MutexGuard<'_, bool>, ControlError> {
        let is_shut_down = self.inner.changes.lock().await;
        if *is_shut_down { Err(ControlError::Stopping) } else { Ok(is_shut_down) }
    }

    async fn create(
        &self,
        mut spec: ProxySpec,
        url: MqttUrl,
        from_settings: bool,
    ) -> Result<Held, ControlError> {
        let _changing = self.changing().await?;
        {
            let held = self.held();
            let is_taken = |id: &str| held.iter().any(|held| *held.id == *id);
            if held.len() >= self.inner.parts.max {
                return Err(ControlError::TooManyProxies(self.inner.parts.max));
            }
            if spec.id.is_empty() {
                let free = (1..).map(|number| format!("proxy-{number}")).find(|id| !is_taken(id));
                spec.id = free.expect("there are more numbers than proxies");
            } else if is_taken(&spec.id) {
                return Err(ControlError::ProxyExists { id: spec.id });
            }
        }
        let id: Arc<str> = spec.id.as_str().into();
        let running = match spec.enabled {
            true => Some(self.start(&id, &spec, &url).await?),
            false => None,
        };
        keep_port(&mut spec, running.as_ref());
        let held = Held { id, spec, url, from_settings, running };
        self.held().push(held.clone());
        Ok(held)
    }

    /// Makes it what `change` says, which sees it as it is then; to the end, even if whoever asked goes away meanwhile.
    async fn update(
        &self,
        id: &str,
        change: impl FnOnce(&Held) -> Result<(ProxySpec, MqttUrl), ControlError> + Send + 'static,
    ) -> Result<Held, ControlError> {
        let (proxies, id) = (self.clone(), id.to_owned());
        let changed = async move {
            let _changing = proxies.changing().await?;
            let before = proxies.find(&id)?;
            let (spec, url) = change(&before)?;
            proxies.put_in_place(before, spec, url).await
        };
        tokio::spawn(changed.in_current_span())
            .await
            .unwrap_or_else(|panic| Err(ControlError::Internal(panic.to_string())))
    }

    async fn put_in_place(
        &self,
        before: Held,
        mut spec: ProxySpec,
        url: MqttUrl,
    ) -> Result<Held, ControlError> {
        let is_elsewhere = spec.listen != before.spec.listen || url != before.url;
        let running = match (before.running.clone(), spec.enabled) {
            (None, false) => None,
            (None, true) => Some(self.start(&before.id, &spec, &url).await?),
            (Some(running), false) => {
                running.handle.shut_down().await;
                None
            }
            (Some(running), true) if is_elsewhere => Some(self.restart(&before, running, &spec, &url).await?),
            (running @ Some(_), true) => running,
        };
        keep_port(&mut spec, running.as_ref());
        let held = Held { id: before.id, spec, url, from_settings: before.from_settings, running };
        self.put(held.clone());
        Ok(held)
    }

    /// Takes the address over from the one that runs; if that fails, it goes on as it was.
    async fn restart(
        &self,
        before: &Held,
        running: Running,
        spec: &ProxySpec,
        url: &MqttUrl,
    ) -> Result<Running, ControlError> {
        // What can be said before anybody is disconnected.
        self.check_upstream(&before.id, url, running.address).await?;
        self.put(Held { running: None, ..before.clone() });
        running.handle.shut_down().await;
        match self.start(&before.id, spec, url).await {
            Ok(running) => Ok(running),
            Err(error) => {
                let again = self.start(&before.id, &before.spec, &before.url).await;
                if let Err(error) = &again {
                    tracing::error!(proxy = %before.id, %error, "the proxy cannot be switched on as it was");
                }
                self.put(Held { running: again.ok(), ..before.clone() });
                Err(error)
            }
        }
    }

    fn put(&self, proxy: Held) {
        let mut held = self.held();
        if let Some(place) = held.iter_mut().find(|held| held.id == proxy.id) {
            *place = proxy;
        }
    }

    async fn delete(&self, id: &str) -> Result<(), ControlError> {
        let _changing = self.changing().await?;
        self.remove(id).await
    }

    async fn remove(&self, id: &str) -> Result<(), ControlError> {
        let found = self.find(id)?;
        self.held().retain(|held| *held.id != *id);
        if let Some(running) = found.running {
            running.handle.shut_down().await;
        }
        Ok(())
    }

    async fn start(&self, id: &Arc<str>, spec: &ProxySpec, url: &MqttUrl) -> Result<Running, ControlError> {
        let (host, port) =
            spec.listen_address().map_err(|what| ControlError::bad_field("proxy.listen", what))?;
        let cannot = |error: &io::Error| ControlError::CannotListen {
            address: format!("{host}:{port}"),
            what: error.to_string(),
        };
        let listener = {
            let host = host.clone();
            blocking(move || Ok(bind(&host, port))).await?.map_err(|error| cannot(&error))?
        };
        let address = listener.local_addr().map_err(|error| cannot(&error))?;
        let certificates = self.check_upstream(id, url, address).await?;
        let handle = (self.inner.parts.spawn)(listener, url.clone(), id).map_err(|error| cannot(&error))?;
        let asking = self.inner.parts.asking.clone();
        let server = Arc::new(ProxyServer::new(handle.clone(), asking, Some(Arc::clone(id))));
        Ok(Running { address, handle, server, certificates })
    }

    /// Whether a proxy may have this upstream: it must not lead back to it, through others or not. Reads the files that the
    /// URL names.
    async fn check_upstream(
        &self,
        id: &Arc<str>,
        url: &MqttUrl,
        listens_on: SocketAddr,
    ) -> Result<Option<Arc<dyn TlsFiles>>, ControlError> {
        let refuse = |what: String| ControlError::bad_field("proxy.upstream", what);
        let others: Vec<(Arc<str>, SocketAddr, MqttUrl)> = {
            let held = self.held();
            let others = held.iter().filter(|held| held.id != *id);
            let running = others.filter_map(|held| {
                Some((Arc::clone(&held.id), held.running.as_ref()?.address, held.url.clone()))
            });
            running.collect()
        };
        let read: Result<_, TlsError> = prepare(url).await;
        let read = read.map_err(|error| refuse(error.to_string()))?;
        let own = self.inner.parts.own.as_ref();
        let mut url = url.clone();
        // Each step is to another proxy, so there are no more of them.
        for _ in 0..=others.len() + 1 {
            if leads_to(&url, listens_on).await {
                return Err(refuse(format!("{url} leads back to this proxy, which listens on {listens_on}")));
            }
            let mut next = None;
            for (_, address, upstream) in &others {
                if leads_to(&url, *address).await {
                    next = Some(upstream.clone());
                }
            }
            if let Some((_, own)) = own {
                for address in &self.inner.parts.listeners {
                    if leads_to(&url, *address).await {
                        next = Some(own.upstream().clone());
                    }
                }
            }
            match next {
                Some(next) => url = next,
                None => break,
            }
        }
        Ok(read.map(|tls| tls as Arc<dyn TlsFiles>))
    }

    /// Puts the proxies of the settings into force: those that are not there any more go, those that are otherwise change, and
    /// the rest goes on. Those made over the API stay.
    ///
    /// # Errors
    /// What [`check`](Self::check) says, and then nothing has changed; an address that cannot be listened on.
    pub async fn set(&self, specs: &[ProxySpec]) -> Result<(), ControlError> {
        let urls = self.check(specs)?;
        let of_settings = |held: &Held| held.from_settings;
        let before: Vec<Held> = self.held().iter().filter(|held| of_settings(held)).cloned().collect();
        for held in before.iter().filter(|held| !specs.iter().any(|spec| *held.id == *spec.id)) {
            self.delete(&held.id).await?;
        }
        for (position, (spec, url)) in specs.iter().zip(urls).enumerate() {
            let outcome = match before.iter().find(|held| *held.id == *spec.id) {
                Some(held) => {
                    let spec = spec.clone();
                    self.update(&held.id, move |before| Ok((keeping_port(spec, before), url))).await
                }
                None => self.create(spec.clone(), url, true).await,
            };
            outcome.map_err(|error| in_settings(position, error))?;
        }
        Ok(())
    }

    /// Whether the settings may have these proxies, as far as that shows without listening.
    ///
    /// # Errors
    /// Which field of which is wrong; an id that one made over the API has.
    pub fn check(&self, specs: &[ProxySpec]) -> Result<Vec<MqttUrl>, ControlError> {
        check_proxies(specs).map_err(|(position, wrong)| in_settings(position, of_proxy(wrong)))?;
        let held = self.held();
        let of_api = held.iter().filter(|held| !held.from_settings);
        let of_api: Vec<&Held> = of_api.collect();
        if specs.len() + of_api.len() > self.inner.parts.max {
            return Err(ControlError::TooManyProxies(self.inner.parts.max));
        }
        let checked = specs.iter().enumerate().map(|(position, spec)| {
            if of_api.iter().any(|held| *held.id == *spec.id) {
                let what = format!("{:?} is the id of a proxy made over the API", spec.id);
                return Err(in_settings(position, ControlError::bad_field("proxy.id", what)));
            }
            let url: Result<MqttUrl, _> = spec.upstream.parse();
            url.map_err(|error| in_settings(position, ControlError::bad_field("proxy.upstream", error)))
        });
        checked.collect()
    }

    /// Ends all of them.
    pub async fn shut_down(&self) {
        let mut is_shut_down = self.inner.changes.lock().await;
        *is_shut_down = true;
        let running: Vec<Running> = self.held().iter_mut().filter_map(|held| held.running.take()).collect();
        join_all(running.iter().map(|running| running.handle.shut_down())).await;
    }

    /// Publishes what mocks answer to where that belongs, in their order: to the upstream of a proxy, or as `own` does.
    pub async fn publish_all(&self, own: &dyn MqttServer, replies: Vec<Reply>) -> Outcomes {
        let mut under_way = Vec::new();
        let mut replies = replies.into_iter().peekable();
        while let Some((via, first)) = replies.next() {
            let mut run = vec![first];
            while let Some((_, next)) = replies.next_if(|(other, _)| *other == via) {
                run.push(next);
            }
            let outcomes: Outcomes = match &via {
                None => own.publish_all(run).await,
                Some(id) => match self.find(id).ok().and_then(|held| held.running) {
                    Some(running) => running.server.publish_all(run).await,
                    None => {
                        let gone = format!("proxy {id} is not running any more");
                        Box::pin(std::future::ready(vec![Err(gone); run.len()]))
                    }
                },
            };
            under_way.push(outcomes);
        }
        Box::pin(async move { join_all(under_way).await.concat() })
    }
}

impl Held {
    fn shown(&self) -> pb::Proxy {
        let running = self.running.as_ref().map(|running| (running.address, &running.handle));
        shown(&self.spec, running, self.from_settings)
    }
}

/// So that it comes back where it was.
fn keep_port(spec: &mut ProxySpec, running: Option<&Running>) {
    if let Some(running) = running {
        spec.listen = running.address.to_string();
    }
}

/// Where it does not say which port, it stays.
fn keeping_port(mut spec: ProxySpec, before: &Held) -> ProxySpec {
    if matches!(spec.listen_address(), Ok((_, 0))) {
        spec.listen.clone_from(&before.spec.listen);
    }
    spec
}

fn shown(spec: &ProxySpec, running: Option<(SocketAddr, &ProxyHandle)>, from_settings: bool) -> pb::Proxy {
    let stats = running.map(|(_, handle)| handle.stats()).unwrap_or_default();
    pb::Proxy {
        id: spec.id.clone(),
        listen: spec.listen.clone(),
        // Without the password.
        upstream: spec.upstream.parse::<MqttUrl>().map(|url| url.to_string()).unwrap_or_default(),
        enabled: Some(spec.enabled),
        address: running.map(|(address, _)| address.to_string()).unwrap_or_default(),
        from_settings,
        connections: stats.clients_connected,
        upstream_failures: stats.upstream_failures,
    }
}

fn of_proxy(wrong: Vec<BadField>) -> ControlError {
    let in_request = |field: BadField| BadField { path: format!("proxy.{}", field.path), ..field };
    ControlError::BadFields(wrong.into_iter().map(in_request).collect())
}

/// An error about a field of `proxy`, as one about the settings.
fn in_settings(position: usize, error: ControlError) -> ControlError {
    let ControlError::BadFields(fields) = error else {
        return ControlError::bad_field(format!("mqtt.proxies[{position}]"), error);
    };
    let of_settings = |field: BadField| {
        let path = field.path.strip_prefix("proxy").unwrap_or(&field.path);
        BadField { path: format!("mqtt.proxies[{position}]{path}"), ..field }
    };
    ControlError::BadFields(fields.into_iter().map(of_settings).collect())
}

impl Control {
    pub async fn create_proxy(&self, request: pb::CreateProxyRequest) -> Result<pb::Proxy, ControlError> {
        let proxies = self.proxies()?;
        let (spec, url) = self.checked_proxy(request.proxy)?;
        Ok(proxies.create(spec, url, false).await?.shown())
    }

    pub async fn get_proxy(&self, request: pb::GetProxyRequest) -> Result<pb::Proxy, ControlError> {
        Fields::require(&[("id", &request.id)])?;
        let proxies = self.proxies()?;
        match proxies.shown_own().filter(|own| own.id == request.id) {
            Some(own) => Ok(own),
            None => Ok(proxies.find(&request.id)?.shown()),
        }
    }

    pub async fn list_proxies(
        &self,
        request: pb::ListProxiesRequest,
    ) -> Result<pb::ListProxiesResponse, ControlError> {
        let page = PageRequest::new("proxies", request.page_size, &request.page_token)?;
        // In the order they were made, which a token cannot know of ids: so it counts.
        let page = page.cut_in_order(self.proxies()?.list(), |proxy| proxy);
        Ok(pb::ListProxiesResponse {
            proxies: page.items,
            next_page_token: page.next,
            total_size: page.total,
        })
    }

    pub async fn update_proxy(&self, request: pb::UpdateProxyRequest) -> Result<pb::Proxy, ControlError> {
        Fields::require(&[("id", &request.id)])?;
        let proxies = self.changeable(&request.id)?;
        proxies.find(&request.id)?;
        let said = request.proxy.unwrap_or_default();
        if !said.id.is_empty() && said.id != request.id {
            let what = format!("is {:?}, the proxy's is {:?}", said.id, request.id);
            return Err(ControlError::bad_field("proxy.id", what));
        }
        let all = || ["listen", "upstream", "enabled"].map(str::to_owned).to_vec();
        let mask = mask::said(request.update_mask.as_ref());
        let mask = mask.filter(|mask| mask.paths.iter().all(|path| path != "*"));
        let paths = mask.map_or_else(all, |mask| mask.paths.clone());
        let mut url = None;
        let mut fields = Fields::new();
        for (position, path) in paths.iter().enumerate() {
            match &**path {
                "listen" | "enabled" => {}
                "upstream" => url = self.broker_url(&mut fields, "proxy.upstream", &said.upstream),
                other => fields.refuse(
                    format!("update_mask.paths[{position}]"),
                    format_args!("{other:?} cannot be changed; listen, upstream and enabled can"),
                ),
            }
        }
        fields.finish()?;
        let change = move |before: &Held| {
            let mut spec = before.spec.clone();
            for path in &paths {
                match &**path {
                    "listen" => spec.listen.clone_from(&said.listen),
                    "enabled" => spec.enabled = said.enabled.unwrap_or(true),
                    _ => spec.upstream.clone_from(&said.upstream),
                }
            }
            spec.check().map_err(of_proxy)?;
            Ok((keeping_port(spec, before), url.unwrap_or_else(|| before.url.clone())))
        };
        Ok(proxies.update(&request.id, change).await?.shown())
    }

    pub async fn delete_proxy(&self, request: pb::DeleteProxyRequest) -> Result<(), ControlError> {
        Fields::require(&[("id", &request.id)])?;
        self.changeable(&request.id)?.delete(&request.id).await
    }

    pub async fn list_connections(
        &self,
        request: pb::ListConnectionsRequest,
    ) -> Result<pb::ListConnectionsResponse, ControlError> {
        Fields::require(&[("id", &request.id)])?;
        let page = PageRequest::new("connections", request.page_size, &request.page_token)?;
        let handle = self.proxies()?.handle(&request.id)?;
        let clients = handle.map(|handle| handle.clients()).unwrap_or_default();
        let page = page.cut(clients, |client| format!("{:020}", client.connection.0), shown_connection);
        Ok(pb::ListConnectionsResponse {
            connections: page.items,
            next_page_token: page.next,
            total_size: page.total,
        })
    }

    pub async fn close_connection(&self, request: pb::CloseConnectionRequest) -> Result<(), ControlError> {
        let mut fields = Fields::new();
        fields.required("id", &request.id);
        if request.connection == 0 {
            fields.refuse("connection", "is required");
        }
        let mode = fields.choice("mode", request.mode);
        fields.finish()?;
        let how = match mode {
            Some(pb::CloseMode::Rst) => Ending::Reset,
            _ => Ending::Disconnect(ReasonCode::ADMINISTRATIVE_ACTION),
        };
        let handle = self.proxies()?.handle(&request.id)?;
        match handle.is_some_and(|handle| handle.close(ConnectionId(request.connection), how)) {
            true => Ok(()),
            false => {
                Err(ControlError::ConnectionNotFound { proxy: request.id, connection: request.connection })
            }
        }
    }

    /// Ends the proxies beside the server's own listener, and their connections.
    pub async fn shut_down_proxies(&self) {
        if let Some(proxies) = &self.parts().proxies {
            proxies.shut_down().await;
        }
    }

    pub(super) fn proxies(&self) -> Result<&Proxies, ControlError> {
        self.server()?;
        self.parts().proxies.as_ref().ok_or(ControlError::NoServer)
    }

    /// All but the server's own can be changed.
    fn changeable(&self, id: &str) -> Result<&Proxies, ControlError> {
        let proxies = self.proxies()?;
        match proxies.shown_own().is_some_and(|own| own.id == id) {
            true => Err(ControlError::OwnProxy),
            false => Ok(proxies),
        }
    }

    fn checked_proxy(&self, proxy: Option<pb::Proxy>) -> Result<(ProxySpec, MqttUrl), ControlError> {
        let Some(proxy) = proxy else { return Err(ControlError::bad_field("proxy", "is required")) };
        let spec = ProxySpec {
            id: proxy.id,
            listen: proxy.listen,
            upstream: proxy.upstream,
            enabled: proxy.enabled.unwrap_or(true),
        };
        spec.check().map_err(of_proxy)?;
        let mut fields = Fields::new();
        let url = self.broker_url(&mut fields, "proxy.upstream", &spec.upstream);
        fields.finish()?;
        Ok((spec, url.ok_or_else(super::broker::unchecked)?))
    }
}

fn shown_connection(client: ProxiedClient) -> pb::ProxyConnection {
    let identity = client.identity.as_ref();
    pb::ProxyConnection {
        connection: client.connection.0,
        peer: client.peer.to_string(),
        client_id: identity.map(|who| who.client_identifier.clone()).unwrap_or_default(),
        protocol: identity.map_or(0, |who: &crate::relay::Identity| who.protocol as i32),
        username: identity.and_then(|who| who.username.clone()).unwrap_or_default(),
        connected_at: Some(time::timestamp_of_instant(client.connected_at)),
        subscriptions: client.subscriptions as u64,
    }
}

// The numbers of the contract are those on the wire.
const _: () = assert!(ProtocolVersion::V5 as i32 == pb::ProtocolVersion::V50 as i32);
