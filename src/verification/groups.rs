//! Shared subscriptions: what any subscriber of a group gets, any other could have got.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{Owner, Session, allowance::Allowance};
use crate::packet::{TopicFilter, TopicName};

/// Groups of one session; each delivery to it is looked for in all of them.
const GROUPS_MAX: usize = 1000;
/// Of a group, beside its filter.
const GROUP_BYTES: usize = 192;

/// Who shares with whom. Nobody leaves: what is on its way when a client unsubscribes would be somebody else's.
#[derive(Default)]
pub struct Groups {
    of_sessions: HashMap<Arc<Session>, Vec<(TopicFilter, Owner)>>,
    /// With a subscriber that is in scope.
    in_scope: HashSet<Owner>,
}

impl Groups {
    pub fn join(
        &mut self,
        session: &Arc<Session>,
        filter: &TopicFilter,
        is_in_scope: bool,
        allowance: &mut Allowance,
    ) {
        let Some(name) = filter.share_name() else { return };
        let groups = self.of_sessions.entry(session.clone()).or_default();
        if groups.iter().any(|(known, _)| known == filter) {
            return;
        }
        if groups.len() == GROUPS_MAX {
            return allowance.use_up();
        }
        allowance.take(GROUP_BYTES + 4 * filter.as_str().len());
        let owner = Owner::Group { name: name.into(), filter: filter.pattern().into() };
        if is_in_scope {
            self.in_scope.insert(owner.clone());
        }
        groups.push((filter.clone(), owner));
    }

    /// That a delivery to `session` was perhaps made to.
    pub fn of(&self, session: &Arc<Session>, topic: Option<&TopicName>) -> Option<Owner> {
        let (groups, topic) = (self.of_sessions.get(session)?, topic?);
        groups.iter().find(|(filter, _)| filter.matches(topic)).map(|(_, owner)| owner.clone())
    }

    pub fn is_in_scope(&self, group: &Owner) -> bool {
        self.in_scope.contains(group)
    }
}
