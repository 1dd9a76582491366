//! Which session each connection belongs to.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{Identity, Scope, Session, allowance::Allowance};
use crate::packet::Connect;

/// Of an open connection, with what recordings know of it, or of a client, beside the names.
const LINE_BYTES: usize = 512;
/// Bytes of connections that have ended and may still be stood for; those beyond are forgotten, the lowest numbers first.
const ENDED_BYTES_MAX: usize = 16 << 20;

type Names = Box<dyn Fn(&str) -> String + Send>;

/// Whose a connection is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub session: Arc<Session>,
    pub is_in_scope: bool,
}

/// The sessions of one stream's connections.
#[derive(Default)]
pub struct Lines {
    identity: Identity,
    names: Option<Names>,
    by_connection: HashMap<u32, Line>,
    /// Clean starts of each client so far.
    epochs: HashMap<String, u32>,
    nameless: u32,
    /// Connections so far of whom it is not known who they are: neither CONNECT nor identifier.
    unheard: u32,
    /// What clients without identifier are called, by connection, where that is not by the order of their CONNECTs.
    called: HashMap<u32, String>,
    ended: BTreeMap<u32, Line>,
    ended_bytes: usize,
    /// Connections without CONNECT so far, if they are of clients without identifier.
    reserved: HashMap<u32, Line>,
    /// What connections without CONNECT so far stand for on the other side.
    stand_ins: HashMap<u32, StandsFor>,
}

/// A connection of the other side, as far as it is known.
#[derive(Clone, Debug)]
pub enum StandsFor {
    Known(Line),
    /// Its client has not said who it is; this is what it is called if it never does.
    Unheard(Line),
}

impl Lines {
    pub fn new(identity: Identity) -> Self {
        Self { identity, ..Self::default() }
    }

    pub fn rename(&mut self, names: impl Fn(&str) -> String + Send + 'static) {
        self.names = Some(Box::new(names));
    }

    /// Names the client of `connection`, should it have no identifier.
    pub fn call(&mut self, connection: u32, name: String) {
        self.called.insert(connection, name);
    }

    /// Whether anything is known of who is there.
    pub fn knows(&self, connection: u32) -> bool {
        self.by_connection.contains_key(&connection) || self.stand_ins.contains_key(&connection)
    }

    /// A client says who it is. A session begins where it asks for one: what the server makes of that is judged, and must
    /// not shift the rest.
    pub fn connected(
        &mut self,
        connection: u32,
        connect: &Connect,
        scope: &Scope,
        allowance: &mut Allowance,
    ) -> Line {
        let sent = connect.client_identifier.as_str();
        let line = match self.stand_ins.remove(&connection) {
            Some(StandsFor::Known(line)) => {
                self.epochs.insert(line.session.client.clone(), line.session.epoch);
                line
            }
            Some(StandsFor::Unheard(line)) if sent.is_empty() => line,
            _ => match self.reserved.remove(&connection).filter(|_| sent.is_empty()) {
                Some(line) => line,
                None => {
                    let name = self.name(connection, sent, true);
                    self.begin(sent, name, connect.clean_start, scope, allowance)
                }
            },
        };
        self.called.remove(&connection);
        self.open(connection, &line, allowance);
        line
    }

    /// Whose the connection is; its client is as good as known if the recording began too late to hear it.
    pub fn line(&mut self, connection: u32, client: &str, scope: &Scope, allowance: &mut Allowance) -> Line {
        if let Some(line) = self.by_connection.get(&connection) {
            return line.clone();
        }
        let line = match self.stand_ins.remove(&connection) {
            Some(StandsFor::Known(line) | StandsFor::Unheard(line)) => line,
            None => {
                let name = self.name(connection, client, false);
                self.begin(client, name, false, scope, allowance)
            }
        };
        self.open(connection, &line, allowance);
        line
    }

    pub fn closed(&mut self, connection: u32, allowance: &mut Allowance) {
        self.stand_ins.remove(&connection);
        self.called.remove(&connection);
        let Some(line) = self.by_connection.remove(&connection) else { return };
        allowance.give_back(LINE_BYTES + line.session.client.len());
        self.ended_bytes += size(&line);
        if let Some(before) = self.ended.insert(connection, line) {
            self.ended_bytes -= size(&before);
        }
        while self.ended_bytes > ENDED_BYTES_MAX {
            let Some((_, line)) = self.ended.pop_first() else { return };
            self.ended_bytes -= size(&line);
        }
    }

    /// What a connection of the other side stands for if it stands for this one.
    pub fn stood_for(&mut self, connection: u32, scope: &Scope, allowance: &mut Allowance) -> StandsFor {
        let known = self.by_connection.get(&connection).or_else(|| self.ended.get(&connection));
        if let Some(line) = known {
            return StandsFor::Known(line.clone());
        }
        if let Some(line) = self.reserved.get(&connection) {
            return StandsFor::Unheard(line.clone());
        }
        let name = self.name(connection, "", true);
        let line = self.begin("", name, true, scope, allowance);
        self.reserved.insert(connection, line.clone());
        StandsFor::Unheard(line)
    }

    /// Says what `connection` stands for, before its client does.
    pub fn stand(&mut self, connection: u32, stands_for: StandsFor) {
        self.stand_ins.insert(connection, stands_for);
    }

    fn open(&mut self, connection: u32, line: &Line, allowance: &mut Allowance) {
        if let Some(before) = self.by_connection.insert(connection, line.clone()) {
            allowance.give_back(LINE_BYTES + before.session.client.len());
        }
        allowance.take(LINE_BYTES + line.session.client.len());
    }

    /// A connection of the client that calls itself `sent`, and is called `client` here.
    fn begin(
        &mut self,
        sent: &str,
        client: String,
        is_clean: bool,
        scope: &Scope,
        allowance: &mut Allowance,
    ) -> Line {
        let is_in_scope = scope.has_client(if sent.is_empty() { "" } else { &client });
        let epoch = self.epochs.entry(client.clone()).or_insert_with(|| {
            allowance.take(LINE_BYTES + client.len());
            0
        });
        if is_clean || *epoch == 0 {
            *epoch += 1;
        }
        let epoch = match self.identity {
            Identity::Session => *epoch,
            Identity::Client => 1,
        };
        Line { session: Arc::new(Session { client, epoch }), is_in_scope }
    }

    /// What the client that calls itself `sent` is called here. Whoever never says who it is does not count among those who
    /// do.
    fn name(&mut self, connection: u32, sent: &str, is_heard: bool) -> String {
        if !sent.is_empty() {
            return self.names.as_ref().map_or_else(|| sent.to_owned(), |names| names(sent));
        }
        if let Some(name) = self.called.get(&connection) {
            return name.clone();
        }
        let (sign, count) = if is_heard { ('#', &mut self.nameless) } else { ('?', &mut self.unheard) };
        *count += 1;
        format!("{sign}{count}")
    }
}

fn size(line: &Line) -> usize {
    size_of::<(u32, Line)>() + size_of::<Session>() + line.session.client.len()
}
