//! What the pictures and the tests look at.

use crate::browser::recorded::Take;

/// In the order of the keys.
pub const VIEWS: [&str; 5] = ["now", "incident", "locks", "routes", "history"];

/// Three servers in trouble and one that is well.
pub const SCENE: [Take; 4] = [
    Take {
        capture: "avalanche",
        target: "registry",
        until: 76.0,
    },
    Take {
        capture: "orphan",
        target: "gateway",
        until: 7.1,
    },
    Take {
        capture: "kinds",
        target: "orders",
        until: 41.2,
    },
    Take {
        capture: "normal",
        target: "reports",
        until: 20.0,
    },
];
