//! Wiring only: channels, tasks, shutdown order.
