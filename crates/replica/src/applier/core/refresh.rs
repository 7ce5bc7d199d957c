//! Views that clients of this node look at are refreshed behind each command, so that they show what is natively shown: see
//! [`crate::views`]. Calls wait for them, and so they are to be brief. Where they take long, or fail, the refresher does it from
//! time to time instead.

use super::super::calls::Calls;
use super::super::window::{FENCE_INDEX, Kind};
use super::Core;
use crate::ActiveDatabase;
use rtdb_consensus::Position;
use rtdb_determinism::header::CallHeader;
use rtdb_determinism::{REFRESH, REFRESH_ALL, REFRESH_BRIEFLY};
use rtdb_protocol::reply::Outcome;

#[derive(Debug, Default)]
pub(super) struct Refreshes {
    /// A command is followed by one if fewer than so many are under way.
    max: usize,
    /// The last command that is followed by none.
    due: Position,
    /// Up to here it is known that one is due.
    told: Position,
    failed: bool,
}

impl Refreshes {
    /// None follows the command at `position`.
    pub(super) fn are_due(&mut self, position: Position) {
        self.due = self.due.max(position);
    }

    /// What is behind `position` is taken again, and outdates views again.
    pub(super) fn begin_behind(&mut self, position: Position) {
        (self.due, self.told) = (position, Position(position.0.saturating_sub(1)));
    }
}

impl Core {
    /// From now on a command is followed by a refresh if fewer than so many are under way.
    pub(in crate::applier) fn refresh_up_to(&mut self, max: usize) {
        self.refreshes.max = max;
    }

    /// Whether some refresh among the results has failed since it was asked.
    pub(in crate::applier) fn has_refresh_failed(&mut self) -> bool {
        std::mem::take(&mut self.refreshes.failed)
    }

    /// Whether a command has had results, or may have, that no refresh follows.
    pub(in crate::applier) fn is_refresh_due(&mut self) -> bool {
        let is_due = self.refreshes.due > self.refreshes.told;
        if self.first_open().is_none_or(|open| open > self.refreshes.due) {
            self.refreshes.told = self.refreshes.due;
        }
        is_due
    }

    /// A command has been taken: refreshes what its calls outdate.
    pub(super) fn refresh(&mut self, calls: &mut Calls) {
        // One without views may lack the reducer, too.
        let has_views = |active: &ActiveDatabase| !active.module.views().is_empty();
        let Some(active) = self.active.as_deref().filter(|active| has_views(active)) else {
            return;
        };
        let key = match active.refreshes_briefly {
            true => REFRESH_BRIEFLY,
            false => REFRESH_ALL,
        };
        let Some(last) = self.window.last() else { return };
        if matches!(last.kind, Kind::Answered(_) | Kind::Fence | Kind::Refresh) {
            return;
        }
        if self.window.refreshes() >= self.refreshes.max {
            return self.refreshes.are_due(last.position);
        }
        let refresh = last.behind(Kind::Refresh);
        let header = CallHeader {
            index: FENCE_INDEX,
            ..CallHeader::default()
        };
        calls.push(REFRESH, &[&header.encode(), &key.to_le_bytes()], 0);
        self.window.push(refresh);
    }

    /// What came of a refresh: if it failed, the refresher finds out which view it was, or that it only has to take longer.
    pub(super) fn refreshed(&mut self, outcome: &Outcome) {
        self.refreshes.failed |= !matches!(outcome, Outcome::Ok { .. });
    }
}
