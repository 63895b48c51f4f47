//! `snowpit completions` and `snowpit man`: what a shell and `man` need, made
//! from the command line itself.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;

use super::Cli;

/// Print the completions of a shell.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  snowpit completions bash > /etc/bash_completion.d/snowpit\n  snowpit completions zsh > /usr/share/zsh/site-functions/_snowpit\n  snowpit completions fish > ~/.config/fish/completions/snowpit.fish"
)]
pub struct CompletionArgs {
    #[arg(value_enum)]
    shell: Shell,
}

/// Print the manual page, or write one for each command.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  snowpit man | man -l -\n  snowpit man --directory /usr/local/share/man/man1"
)]
pub struct ManArgs {
    /// Write `snowpit.1` and a page for each command there.
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
}

/// # Errors
/// Stdout cannot be written.
pub fn completions(args: &CompletionArgs) -> anyhow::Result<ExitCode> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "snowpit", &mut text);
    super::print(&String::from_utf8_lossy(&text))?;
    Ok(ExitCode::SUCCESS)
}

/// # Errors
/// Stdout or the directory cannot be written.
pub fn man(args: &ManArgs) -> anyhow::Result<ExitCode> {
    let command = Cli::command();
    match &args.directory {
        Some(directory) => clap_mangen::generate_to(command, directory).with_context(|| {
            format!(
                "the manual pages cannot be written to {}",
                directory.display()
            )
        })?,
        None => {
            let mut text = Vec::new();
            clap_mangen::Man::new(command).render(&mut text)?;
            super::print(&String::from_utf8_lossy(&text))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
