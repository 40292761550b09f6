//! How important a piece of work is: who is served first, and who is sent away first.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The classes of work, the least important first. Under overload a server sheds them in this order.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Reading back what is at rest.
    Scrub,
    /// Moving copies for evenness, or off a disk that is being emptied.
    Rebalance,
    /// Restoring lost redundancy.
    Repair,
    /// Reads and writes of clients.
    #[default]
    Foreground,
    /// What keeps the cluster together.
    Control,
}

impl Priority {
    /// All of them, the least important first.
    pub const ALL: [Priority; 5] = [
        Priority::Scrub,
        Priority::Rebalance,
        Priority::Repair,
        Priority::Foreground,
        Priority::Control,
    ];

    /// Its name, as requests carry it.
    pub fn name(self) -> &'static str {
        match self {
            Priority::Scrub => "scrub",
            Priority::Rebalance => "rebalance",
            Priority::Repair => "repair",
            Priority::Foreground => "foreground",
            Priority::Control => "control",
        }
    }

    /// The one with this name.
    pub fn named(name: &str) -> Option<Self> {
        Priority::ALL.into_iter().find(|priority| priority.name() == name)
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_the_order_is_the_order_of_shedding() {
        for priority in Priority::ALL {
            assert_eq!(Priority::named(priority.name()), Some(priority));
        }
        assert_eq!(Priority::named("vital"), None);
        assert!(Priority::ALL.is_sorted());
    }
}
