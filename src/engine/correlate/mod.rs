//! Which endpoint is behind it: sessions by route, and the part of a rise that
//! each route explains.
//!
//! Invariants: everything kept here is bounded however many names come in, and
//! a route is only named when the evidence is direct. Not naming anybody is an
//! answer; accusing the wrong route is not.

pub mod applications;
pub mod attribution;
pub mod coefficients;
pub mod combined;
pub mod confidence;
pub mod endpoints;
pub mod growth;
pub mod mix;
pub mod parts;
pub mod routes;
pub mod services;
pub mod sessions;
pub mod window;

pub use mix::Mix;
pub use routes::sessions_by_route;
pub use services::Services;
