//! `when`: what has to hold of an occasion beside its topic.

use super::{
    NthSpec, OneOrMore, State, WhenSpec, payload_tests::PayloadTests, subject::Subject, value_test::ValueTest,
};
use crate::{field::Checks, packet::QoS, recording::NamePattern};

/// Conditions that were checked; none of them always holds.
#[derive(Clone, Debug, Default)]
pub struct Condition {
    client: Option<NamePattern>,
    qos: Vec<QoS>,
    retain: Option<bool>,
    payload: PayloadTests,
    user: Vec<(String, ValueTest)>,
    state: Vec<(String, ValueTest)>,
    nth: Option<NthSpec>,
}

impl Condition {
    pub fn new(spec: &WhenSpec) -> Result<Self, Checks> {
        let mut checks = Checks::default();
        let mut condition = Self {
            client: spec.client.as_ref().map(NamePattern::new),
            retain: spec.retain,
            nth: spec.nth,
            ..Self::default()
        };
        let qos = match &spec.qos {
            None => &[][..],
            Some(OneOrMore::One(qos)) => std::slice::from_ref(qos),
            Some(OneOrMore::More(several)) => several,
        };
        condition.qos = qos.iter().filter_map(|&qos| checks.keep("qos", QoS::try_from(qos))).collect();
        match PayloadTests::new(&spec.payload) {
            Ok(tests) => condition.payload = tests,
            Err(bad) => checks.adopt("payload", bad),
        }
        for (tests, into, name) in
            [(&spec.user, &mut condition.user, "user"), (&spec.state, &mut condition.state, "state")]
        {
            for (key, test) in tests {
                let test = adopt(&mut checks, &format!("{name}.{key}"), ValueTest::new(test));
                into.extend(test.map(|test| (key.clone(), test)));
            }
        }
        if let Some(NthSpec::One(0)) = spec.nth {
            checks.refuse("nth", "counts from 1");
        }
        if let Some(NthSpec::Among(among)) = spec.nth {
            if among.every == Some(0) {
                checks.refuse("nth.every", "is at least 1");
            }
            if among.first.is_none() && among.after.is_none() && among.every.is_none() {
                checks.refuse("nth", "says none of first, after and every");
            }
        }
        if checks.is_empty() { Ok(condition) } else { Err(checks) }
    }

    /// Whether everything but `nth` holds.
    ///
    /// # Errors
    /// What does not, for people.
    pub fn check(&self, subject: &Subject<'_>, state: &State) -> Result<(), String> {
        self.check_message(subject)?;
        self.check_state(subject, state)
    }

    /// The part of [`check`](Self::check) that needs no state.
    ///
    /// # Errors
    /// What does not hold, for people.
    pub fn check_message(&self, subject: &Subject<'_>) -> Result<(), String> {
        let occasion = subject.occasion;
        if let Some(client) = &self.client
            && !client.matches(&occasion.client_identifier)
        {
            return Err(format!("the client is {:?}, not {:?}", occasion.client_identifier, client.as_str()));
        }
        if !self.qos.is_empty() && !self.qos.contains(&occasion.qos) {
            let wanted: Vec<String> = self.qos.iter().map(QoS::to_string).collect();
            return Err(format!("the QoS is {}, not {}", occasion.qos, wanted.join(" or ")));
        }
        if let Some(retain) = self.retain
            && retain != occasion.retain
        {
            return Err(format!("retain is {}, not {retain}", occasion.retain));
        }
        self.payload.check(subject.payload())?;
        for (name, test) in &self.user {
            test.check_texts(subject.user(name))
                .map_err(|difference| format!("user property {name} {difference}"))?;
        }
        Ok(())
    }

    /// Whether there is anything for [`check_state`](Self::check_state) to look at.
    pub fn reads_state(&self) -> bool {
        !self.state.is_empty()
    }

    /// The other part of [`check`](Self::check).
    ///
    /// # Errors
    /// What does not hold, for people.
    pub fn check_state(&self, subject: &Subject<'_>, state: &State) -> Result<(), String> {
        for (key, test) in &self.state {
            test.check(state.find(&subject.occasion.client_identifier, key))
                .map_err(|difference| format!("state {key} {difference}"))?;
        }
        Ok(())
    }

    /// Whether the `count`-th occasion, from 1, that all else holds for is one of those asked for.
    pub fn is_turn(&self, count: u64) -> bool {
        match self.nth {
            None => true,
            Some(NthSpec::One(nth)) => count == nth,
            Some(NthSpec::Among(among)) => {
                among.first.is_none_or(|first| count <= first)
                    && among.after.is_none_or(|after| count > after)
                    && among.every.is_none_or(|every| count.is_multiple_of(every))
            }
        }
    }
}

/// What was made of a part, after noting what is wrong with it.
pub fn adopt<T>(checks: &mut Checks, path: &str, result: Result<T, Checks>) -> Option<T> {
    result.map_err(|bad| checks.adopt(path, bad)).ok()
}

/// What is wrong with a JSONPath, as people read it.
pub fn bad_path(path: &str, error: &serde_json_path::ParseError) -> String {
    if !path.starts_with('$') {
        return format!("{path:?} is no JSONPath: one begins with $");
    }
    // Counted from 0, whatever the library says.
    let column = error.position() + 1;
    match error.message() {
        "parser error" => format!("{path:?} is no JSONPath: it cannot be read from column {column} on"),
        message => format!("{path:?} is no JSONPath: {message} at column {column}"),
    }
}
