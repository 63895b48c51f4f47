//! The edges out.
