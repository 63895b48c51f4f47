//! One file a subcommand, thin.
